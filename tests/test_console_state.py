"""Stato: whether all is well, and what each user learns of it."""

from datetime import UTC, datetime, timedelta

import pytest
from build import EC, OTHER_EC, a_request
from console import Site
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import insert, update

from station import store
from station.store import tables

NOW = datetime.now(UTC).replace(microsecond=0)
GRANTS = [
    {"user": "anna", "ecs": [EC], "role": "reader"},
    {"user": "ada", "ecs": [EC], "role": "admin"},
    {"user": "bruno", "ecs": ["*"], "role": "admin"},
]
ECS = [{"id": EC, "name": "Comune di Prova"}, {"id": OTHER_EC, "name": "Altro Comune", "reconcile": False}]


def a_site(database_url, **settings):
    return Site(database_url, ec=ECS, grant=GRANTS, **settings)


def receive(site, id_pa, at):
    found = site.push(a_request(idPA=id_pa))
    with store.transaction(site.engine) as connection:
        query = update(tables.receipt).filter_by(receipt_id=found.receipt.receipt_id)
        connection.execute(query.values(received_at=at))


def walked(site, id_pa, at):
    with store.transaction(site.engine) as connection:
        row = {"id_pa": id_pa, "watermark": at, "walked_at": at}
        connection.execute(insert(tables.reconcile_ec), row)


def a_certificate(file, days):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ricevute.example.it")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(NOW - timedelta(days=9)).not_valid_after(NOW + timedelta(days=days))
    file.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return str(file)


def test_all_is_well(database_url):
    """Where nothing is wrong, one sentence says so."""
    site = a_site(database_url)
    walked(site, EC, NOW)
    receive(site, EC, NOW)
    page = site.browser("anna").get("/stato")
    assert page.status == 200
    assert "Tutto funziona" in page.words
    assert "Riconciliazione delle ricevute" in page.words
    assert "In orario" in page.words
    assert ("SQLite" if database_url.startswith("sqlite") else "PostgreSQL") in page.words
    site.close()


def test_what_is_wrong(sqlite_url):
    """Late jobs with the last error, silence: each in words, of the user's ECs only."""
    site = a_site(sqlite_url)
    walked(site, EC, NOW - timedelta(days=3))
    run = {
        "id_pa": EC,
        "run_id": "1",
        "kind": "window",
        "outcome": "failed",
        "started_at": NOW,
        "error": "401 <b>key</b>",
    }
    counts = {column.name: 0 for column in tables.reconcile_run.c if not column.nullable and column.name not in run}
    with store.transaction(site.engine) as connection:
        connection.execute(insert(tables.reconcile_run), counts | {"window_from": NOW, "window_to": NOW} | run)
    receive(site, EC, NOW - timedelta(days=4))
    receive(site, OTHER_EC, NOW - timedelta(days=4))
    page = site.browser("anna").get("/stato")
    assert "1 lavoro è in ritardo." in page.words
    assert "Da 1 ente non arrivano ricevute da giorni." in page.words
    assert "401" not in page.words  # errors are an admin's
    for text in (OTHER_EC, "Altro Comune"):
        assert text not in page.text
    page = site.browser("bruno").get("/stato")
    assert "Da 2 enti non arrivano ricevute da giorni." in page.words
    assert "401 <b>key</b>" in page.words
    site.close()


@pytest.mark.parametrize(
    ("days", "words"), [(400, "Valido"), (10, "Certificato della stazione: scade il"), (-1, "è scaduto il")]
)
def test_certificates(sqlite_url, tmp_path, days, words):
    """The ends of certificates are told, those near as a problem; paths are not."""
    file = a_certificate(tmp_path / "secret-place.pem", days)
    site = a_site(sqlite_url, tls={"certificate": file, "key": file})
    page = site.browser("anna").get("/stato")
    assert words in page.words
    assert "secret-place" not in page.text
    site.close()


def test_findings(database_url):
    """What `station check --production` finds is shown to admins of all ECs; to others the page does not exist."""
    site = a_site(database_url, server={"public_url": "http://secret.example.it/soap"})
    page = site.browser("bruno").get("/stato/controlli")
    assert page.status == 200
    assert "no_mutual_tls" in page.words
    assert site.browser("bruno").get("/stato").tree.xpath("//a[@href='/stato/controlli']")
    for user in ("anna", "ada"):
        browser = site.browser(user)
        assert browser.get("/stato/controlli").words == browser.get("/stato/nothing").words
        assert not browser.get("/stato").tree.xpath("//a[@href='/stato/controlli']")
    site.close()


def test_nothing_secret(database_url, tmp_path):
    """No page of state has a path, an address or a secret of the configuration."""
    site = a_site(database_url, console={"database_url": database_url}, gpd={"key": "secretkey"})
    for user in ("anna", "ada", "bruno"):
        text = site.browser(user).get("/stato").text
        for secret in ("secretkey", str(tmp_path), database_url):
            assert secret not in text
    site.close()
