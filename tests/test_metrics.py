"""Metrics: what is counted, by several worker processes, and what the database is asked."""

import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import trustme
from build import a_request, an_envelope
from process import free_port

from station import config, log, store
from station.http import certificate, metrics
from station.store import deliveries, flows, outgoing, tables

EC, OTHER = "77777777777", "88888888888"
REGISTRY = f"""
[[ec]]
id = "{EC}"
[[ec]]
id = "{OTHER}"
reconcile = false
"""
HEADERS = {"Content-Type": "text/xml"}


def samples(text):
    """The values by name with labels, as they stand in the text."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.fixture
def engine(database_url):
    engine = store.connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def settings():
    return config.Settings(ec=(config.Ec(id=EC), config.Ec(id=OTHER, reconcile=False)))


def test_several_workers(serve, database_url):
    """Whichever of three workers is asked, the answer adds up what all of them did; the public door has no metrics."""
    health = f"127.0.0.1:{free_port()}"
    server = serve(
        database_url, config=REGISTRY, options=("--workers", "3"), STATION_SERVER_HEALTH_LISTEN=health,
    )  # fmt: skip
    documents = [an_envelope(a_request()) for _ in range(20)]
    for document in [*documents, *documents[:5], an_envelope(a_request(idPA="11111111111"))]:
        httpx.post(server.url, content=document, headers=HEADERS)  # a connection each: they spread over the workers
    assert httpx.post(server.url, content=b"<broken", headers=HEADERS).status_code == 400
    for _ in range(6):
        answer = httpx.get(f"http://{health}/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        found = samples(answer.text)
        total = "station_requests_total{" + f'ec="{EC}",operation="paSendRTV2",result='
        assert found[total + '"stored"}'] == 20
        assert found[total + '"duplicate"}'] == 5
        assert found['station_requests_total{ec="other",operation="paSendRTV2",result="refused"}'] == 1
        assert found['station_faults_total{fault_code="PAA_ID_DOMINIO_ERRATO"}'] == 1
        assert found['station_push_seconds_count{operation="paSendRTV2"}'] == 26
        assert found['station_push_seconds_bucket{le="15.0",operation="paSendRTV2"}'] == 26
        assert found['station_http_answers_total{status="400"}'] == 1
    assert 'station_push_seconds_bucket{le="2.0",operation="paSendRTV2"}' in found
    assert httpx.get(server.url.replace("/paForNode", "/metrics")).status_code == 404
    pools = "station_database_connections_max"
    deadline = time.monotonic() + 60
    while samples(httpx.get(f"http://{health}/metrics").text).get(pools) != 27 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert samples(httpx.get(f"http://{health}/metrics").text)[pools] == 27  # three workers of eight threads and one


def test_slow_database(serve, postgres_url):
    """While metrics wait for the database, whether the process lives is answered; in the end so are the metrics."""
    from sqlalchemy import text

    health = f"127.0.0.1:{free_port()}"
    serve(postgres_url, STATION_SERVER_HEALTH_LISTEN=health)
    engine = store.connect(postgres_url)
    with ThreadPoolExecutor(1) as pool, engine.begin() as connection:
        connection.execute(text("LOCK TABLE refused IN ACCESS EXCLUSIVE MODE"))
        asked = pool.submit(httpx.get, f"http://{health}/metrics", timeout=60)
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while not connection.execute(waiting).scalar():
            assert not asked.done()
        assert httpx.get(f"http://{health}/live").status_code == 200
        found = samples(asked.result().text)
    engine.dispose()
    assert found["station_database_up"] == 0
    assert "station_database_connections_max" in found


def test_worker_ended(serve, sqlite_url, tmp_path):
    """The counts of an ended worker stay, its connections are gone; the shared folder ends with the server."""
    health = f"127.0.0.1:{free_port()}"
    shared = tmp_path / "run"
    shared.mkdir()
    over = {"STATION_SERVER_HEALTH_LISTEN": health, "STATION_SERVER_WORKERS": "1", "RUNTIME_DIRECTORY": str(shared)}
    server = serve(sqlite_url, **over)
    httpx.post(server.url, content=an_envelope(a_request()), headers=HEADERS)
    for number, signal in enumerate(("-KILL", "-TERM"), 2):
        worker = re.findall(r"Booting worker with pid: (\d+)", server.log)[-1]
        subprocess.run(["kill", signal, worker], check=True)
        deadline = time.monotonic() + 60
        found = {}
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                found = samples(httpx.get(f"http://{health}/metrics").text)
            if server.log.count("Booting worker") == number and "station_database_connections_max" in found:
                break
            time.sleep(0.1)
        assert found['station_requests_total{ec="other",operation="paSendRTV2",result="stored"}'] == 1
        assert found["station_database_connections_max"] == 9
    assert len(list(shared.iterdir())) == 1
    server.stop()
    assert list(shared.iterdir()) == []


def test_not_counted(settings, capsys, monkeypatch):
    """A count that cannot be written is told once and fails nobody."""
    log.configure("json")
    told = metrics.Metrics(settings, store.connect("postgresql://station@127.0.0.1:9/station"))

    def full(*_):
        raise OSError

    monkeypatch.setattr(told, "_answers_by", full)
    told.answered({}, 200, 0.1)
    told.answered({}, 200, 0.1)
    assert "".join(capsys.readouterr()).count("metrics_not_counted") == 1


def test_levels(engine, settings):
    """What the database knows stands there for each EC: last push and walk, what is open, what was fetched."""
    told = metrics.Metrics(settings, engine)
    walked = datetime(2026, 7, 1, 12, tzinfo=UTC)
    arrived = datetime.now(UTC)
    with store.transaction(engine) as connection:
        store.runs.set_watermark(connection, EC, walked, walked_at=walked)
    push(engine, settings, "push")
    push(engine, settings, "reconcile")
    push(engine, settings, "push", idPA="99999999999")
    found = samples(told.text())
    assert found["station_database_up"] == 1
    assert found['station_refused_open{fault_code="PAA_ID_DOMINIO_ERRATO"}'] == 1
    assert abs(found[f'station_last_push_timestamp_seconds{{ec="{EC}"}}'] - arrived.timestamp()) < 60
    assert found[f'station_last_push_timestamp_seconds{{ec="{OTHER}"}}'] == 0
    assert found[f'station_reconcile_walked_timestamp_seconds{{ec="{EC}"}}'] == walked.timestamp()
    assert f'station_reconcile_walked_timestamp_seconds{{ec="{OTHER}"}}' not in found  # not to be walked
    assert found[f'station_reconcile_fetched_last_day{{ec="{EC}"}}'] == 1
    assert found[f'station_reconcile_fetched_last_day{{ec="{OTHER}"}}'] == 0


SECRET = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def test_deliveries(engine):
    """How far each configured destination is, also where it was never served; no other becomes a label."""
    webhook = {"kind": "webhook", "url": "https://x.invalid/", "secret": SECRET}
    feed = {"name": "portal", "kind": "feed", "keys": ["sha256:" + "0" * 64]}
    folder = {"name": "night", "kind": "folder", "path": "/x", "at": "02:30"}
    destinations = [webhook | {"name": "erp"}, webhook | {"name": "new"}, feed, folder]
    settings = config.Settings.model_validate({"destination": destinations})
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    push(engine, settings, "push")
    push(engine, settings, "push")
    with store.transaction(engine) as connection:
        outgoing.number_outbox(connection, at=long_ago, limit=10)
        for name, kind, position in (("erp", "webhook", 0), ("portal", "feed", 1), ("old", "webhook", 2)):
            deliveries.register(connection, name, kind, position=position, at=long_ago)
        deliveries.register(connection, "night", "folder", position=2, at=long_ago)
        for number, state in ((1, "failed"), (2, "open")):
            row = {"destination": "erp", "number": number, "state": state, "attempts": 1, "next_attempt_at": long_ago}
            connection.execute(tables.delivery.insert(), [row])
        deliveries.change(connection, "erp", {"position": 2, "state": "paused", "last_success_at": long_ago})
        deliveries.count(connection, "erp", "refused")
    push(engine, settings, "push")
    text = metrics.Metrics(settings, engine).text()
    found = {name: value for name, value in samples(text).items() if "{destination=" in name or "outbox" in name}
    assert '"old"' not in text
    label = '{destination="erp"'
    assert found.pop("station_outbox_rows") == 1
    assert 0 <= found.pop("station_outbox_oldest_seconds") < 60
    assert found.pop(f"station_delivery_oldest_open_seconds{label}}}") == pytest.approx(7200, abs=60)
    assert found.pop('station_feed_lag_seconds{destination="portal"}') == pytest.approx(7200, abs=60)
    assert found.pop(f"station_destination_success_timestamp_seconds{label}}}") == pytest.approx(long_ago.timestamp())
    night = found.pop('station_folder_file_timestamp_seconds{destination="night"}')
    assert night == pytest.approx(long_ago.timestamp())
    assert found.pop(f'station_delivery_attempts_total{label},result="refused"}}') == 1
    expected = {"erp": 1, "new": 0, "portal": 1, "night": 1}
    assert {name: found.pop(f'station_destination_served{{destination="{name}"}}') for name in expected} == expected
    assert found.pop(f"station_deliveries_open{label}}}") == 1
    assert found.pop(f"station_deliveries_failed{label}}}") == 1
    assert found.pop(f"station_destination_paused{label}}}") == 1
    assert found.pop('station_destination_behind_numbers{destination="portal"}') == 1
    assert set(found.values()) == {0}


def test_no_destination(engine, settings):
    """Without a destination the outbox may grow, and raises no alarm."""
    push(engine, settings, "push")
    assert "outbox" not in metrics.Metrics(settings, engine).text()


def test_walk_of_flows(engine, settings):
    """Of ECs with a key: when they were walked, whether there is a gap, and flows that cannot be read."""
    own = settings.model_copy(update={"ec": (config.Ec(id=EC, fdr_key="key"), config.Ec(id=OTHER))})
    walked = datetime(2026, 7, 1, 12, tzinfo=UTC)
    key = {"id_pa": EC, "psp_id": "P", "revision": 1, "published": walked, "flow_date": walked, "listed_at": walked}
    with store.transaction(engine) as connection:
        flows.set_walked(connection, EC, walked)
        flows.note_gap(connection, EC, walked, datetime.now(UTC))
        flows.list_new(connection, [key | {"fdr": name} for name in ("1", "2")])
    found = samples(metrics.Metrics(own, engine).text())
    assert {name: value for name, value in found.items() if "_fdr_" in name} == {
        f'station_fdr_walked_timestamp_seconds{{ec="{EC}"}}': walked.timestamp(),
        f'station_fdr_gap{{ec="{EC}"}}': 1,
        f'station_fdr_flows_unread{{ec="{EC}"}}': 2,
        f'station_fdr_missing{{ec="{EC}"}}': 0,
        f'station_fdr_missing_euro{{ec="{EC}"}}': 0,
    }
    assert not [name for name in samples(metrics.Metrics(settings, engine).text()) if "_fdr_" in name]


def push(engine, settings, source, **over):
    from station import contract
    from station.intake import Intake, Origin
    from station.receipt import Source

    document = contract.parse(an_envelope(a_request(**over)), None)
    Intake(engine, settings).accept(document, contract.request_element(document.root), Origin(Source(source)))


def test_open_registry(engine):
    """Without a registry the last push of all stands under `other`, and no EC a sender names becomes a label."""
    open_ = config.Settings()
    told = metrics.Metrics(open_, engine)
    push(engine, open_, "push")
    told.answered({"operation": "paSendRTV2", "result": "stored", "id_pa": EC, "flags": ["stand_in"]}, 200, 0.1)
    text = told.text()
    assert EC not in text
    found = samples(text)
    assert found['station_last_push_timestamp_seconds{ec="other"}'] > 0
    assert found['station_flags_total{flag="stand_in"}'] == 1


def test_database_away(settings):
    """A database that does not answer is told as such, and what is counted is told all the same."""
    told = metrics.Metrics(settings, store.connect("postgresql://station@127.0.0.1:9/station"))
    notes = {"operation": "paSendRTV2", "result": "store_error", "id_pa": EC, "reason": "OperationalError 57P01"}
    told.answered(notes, 503, 0.1)
    found = samples(told.text())
    assert found["station_database_up"] == 0
    assert found['station_store_errors_total{reason="OperationalError"}'] == 1
    assert not [name for name in found if name.startswith("station_refused_open")]


def test_counters_begin_at_zero(settings):
    """What alerts and dashboards take the increase of is there before its first event; no EC is named for it."""
    found = samples(metrics.Metrics(settings, store.connect("postgresql://station@127.0.0.1:9/station")).text())
    for name in (
        'station_http_answers_total{status="500"}', 'station_http_answers_total{status="503"}',
        'station_faults_total{fault_code="PAA_SYSTEM_ERROR"}',
        'station_faults_total{fault_code="PAA_RECEIPT_DUPLICATA"}',
        'station_flags_total{flag="second_receipt"}', 'station_push_seconds_count{operation="paSendRTV2"}',
        'station_push_seconds_bucket{le="10.0",operation="paSendRT"}',
    ):  # fmt: skip
        assert found[name] == 0


def test_turned_away(settings):
    """Requests that were turned away count as answers 503."""
    told = metrics.Metrics(settings, store.connect("postgresql://station@127.0.0.1:9/station"))
    told.turned_away(3)
    found = samples(told.text())
    assert found["station_turned_away_total"] == 3
    assert found['station_http_answers_total{status="503"}'] == 3


def test_certificate_end(tmp_path, sqlite_url):
    """The end of the certificate that ends first stands there, for each file."""
    for name, days in (("long", 400), ("short", 20)):
        end = datetime.now(UTC) + timedelta(days=days)
        issued = trustme.CA().issue_cert("station.example.invalid", not_after=end)
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
    both = tmp_path / "both.pem"
    both.write_text("leaf\n" + (tmp_path / "long.pem").read_text() + (tmp_path / "short.pem").read_text())
    told = metrics.Metrics(config.Settings(tls=config.Tls(certificate=both)), store.connect(sqlite_url))
    end = samples(told.text())['station_certificate_end_timestamp_seconds{file="certificate"}']
    assert 19 < (end - time.time()) / 86400 < 21
    assert certificate.first_end(tmp_path / "long.pem").timestamp() > end
    assert certificate.first_end(tmp_path / "missing.pem") is None
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    assert certificate.first_end(tmp_path / "broken.pem") is None
