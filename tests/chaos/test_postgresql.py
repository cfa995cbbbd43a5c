"""PostgreSQL is stopped, killed, frozen, crowded, demoted and replaced, and refuses for reasons of its own."""

import signal
import threading
import time

import psutil
import psycopg
import pytest
from databases import DATABASE
from nodo_simulator import check
from victims import workers

DEADLOCK, SERIALIZATION = "40P01", "40001"


SLOW_RESTARTS = [pytest.param(how, 10, id=f"{how}-10", marks=pytest.mark.slow) for how in ("fast", "immediate", "kill")]


@pytest.mark.parametrize(("how", "rounds"), [pytest.param("kill", 1, id="kill-1"), *SLOW_RESTARTS])
def test_restarted(on_postgres, how, rounds):
    """PostgreSQL shuts down fast, at once or by kill -9 of all its processes, and starts again."""
    rig, postgres = on_postgres, on_postgres.postgres
    nodo = rig.nodo(rig.serve())
    for _ in range(rounds):
        nodo.wait_for(10)
        rig.pause(0, 0.5)
        match how:
            case "fast":
                postgres.stop()
            case "immediate":
                postgres.stop(signal.SIGQUIT)
            case "kill":
                postgres.kill()
        with rig.trouble():
            rig.pause(0, 0.3)
        postgres.start()
    nodo.wait_for(20)
    rig.done(nodo)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [20, 60])
def test_away(on_postgres, seconds):
    """PostgreSQL is unavailable for longer than any time limit: 503 at once, and no thread is held back by it."""
    rig, postgres = on_postgres, on_postgres.postgres
    nodo = rig.nodo(rig.serve(), connections=40)
    nodo.wait_for(10)
    postgres.stop()
    time.sleep(seconds)
    postgres.start()
    with rig.trouble():
        pass
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert ledger.results()["http 503"] > 0
    assert "timeout" not in ledger.results()


@pytest.mark.parametrize("seconds", [pytest.param(9, id="9"), pytest.param(20, id="20", marks=pytest.mark.slow)])
def test_frozen(on_postgres, seconds):
    """PostgreSQL is frozen (SIGSTOP): no connection ends, and the 503 leaves before the Nodo's 15 s are over."""
    rig, postgres = on_postgres, on_postgres.postgres
    nodo = rig.nodo(rig.serve(), connections=40)
    nodo.wait_for(10)
    with rig.trouble(), postgres.frozen():
        time.sleep(seconds)
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert ledger.results()["http 503"] > 0
    assert "timeout" not in ledger.results()


@pytest.mark.slow
def test_one_backend_frozen(on_postgres):
    """Some of PostgreSQL's processes hang, and never answer: their connections are given up, the others work on.

    They hang between two statements. Within one they may hold what the whole server needs (a lock on a page, or on the
    WAL), and then all of it hangs, which is another scenario.
    """
    rig, postgres = on_postgres, on_postgres.postgres
    nodo = rig.nodo(rig.serve())
    for _ in range(5):
        nodo.wait_for(20)
        found = postgres.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'station'")
        victims = [one for one in postgres.processes() if one.pid in {pid for (pid,) in found}]
        hang = 0
        with rig.trouble():
            for one in rig.chance.sample(victims, len(victims)):
                one.suspend()
                if _is_idle(one):
                    hang += 1
                else:
                    one.resume()
                if hang == 3:
                    break
        assert hang
    time.sleep(10)
    for one in postgres.processes():
        one.resume()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert "timeout" not in ledger.results()


@pytest.mark.slow
def test_frozen_in_a_statement(on_postgres):
    """One of PostgreSQL's processes hangs in the midst of a statement: what it holds may keep all others waiting."""
    rig, postgres = on_postgres, on_postgres.postgres
    nodo = rig.nodo(rig.serve())
    for seconds in (3, 8, 20):
        nodo.wait_for(20)
        victim = _in_a_statement(rig, postgres)
        with rig.trouble():
            time.sleep(seconds)
            victim.resume()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert "timeout" not in ledger.results()


def _in_a_statement(rig, postgres):
    """A process that was stopped in the midst of a statement."""
    found = postgres.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'station'")
    processes = [psutil.Process(pid) for (pid,) in found]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        one = rig.chance.choice(processes)
        one.suspend()
        if not _is_idle(one):
            return one
        one.resume()
        time.sleep(0.001)
    raise TimeoutError("no process was ever in a statement")


def _is_idle(process):
    """Whether a process of PostgreSQL waits for its client: it says so in its title."""
    return "".join(process.cmdline()).rstrip().endswith(" idle")


@pytest.mark.slow
def test_out_of_connections(on_postgres):
    """PostgreSQL is out of connections: 503, and OK as soon as there is one again."""
    rig, postgres = on_postgres, on_postgres.postgres
    server = rig.serve()
    nodo = rig.nodo(server)
    nodo.wait_for(10)
    server.process.send_signal(signal.SIGSTOP)
    for worker in workers(server):
        worker.kill()  # the new ones have no connection yet, and get none: what becomes free is taken before they start
    held, taken = [], time.monotonic()
    while time.monotonic() < taken + 0.5:
        try:
            held.append(psycopg.connect(postgres.url()))
            taken = time.monotonic()
        except psycopg.OperationalError:
            time.sleep(0.01)
    server.process.send_signal(signal.SIGCONT)
    time.sleep(8)
    with rig.trouble():
        for one in held:
            one.close()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert ledger.results()["http 503"] > 0
    assert "timeout" not in ledger.results()


@pytest.mark.slow
@pytest.mark.parametrize("synchronous", [True, False], ids=["synchronous", "asynchronous"])
def test_failover(on_postgres, synchronous):
    """The primary dies and a streaming replica is promoted: with synchronous replication nothing is lost.

    Without it, what the primary had not sent yet is gone: the Nodo was told OK and never sends it again.
    """
    rig, primary = on_postgres, on_postgres.postgres
    primary.stop()
    primary.settings["wal_keep_size"] = "64MB"
    primary.start()
    standby = primary.standby()
    rig.stack.callback(standby.remove)
    if synchronous:
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
    hosts = f"host=127.0.0.1:{primary.port}&host=127.0.0.1:{standby.port}"
    url = f"postgresql://postgres@/{DATABASE}?{hosts}&target_session_attrs=read-write"
    nodo = rig.nodo(rig.serve(url))
    nodo.wait_for(100)
    primary.kill()
    with rig.trouble():
        rig.pause(0.5, 1.5)
        standby.promote()
    nodo.wait_for(50)
    if synchronous:
        rig.done(nodo, url=standby.url())
        return
    ledger = nodo.finish()
    rig.healthy()
    report = check(ledger, standby.url())
    rig.record(ledger, report, store_lost=True)
    # Whether any is lost depends on the moment; nothing else may be wrong.
    assert [one for one in report.problems if not one.endswith(("is not stored", "is not kept"))] == []


@pytest.mark.slow
def test_synchronous_standby_away(on_postgres):
    """The synchronous replica is away: nothing is acknowledged that is on one machine only, and nothing hangs."""
    rig, primary = on_postgres, on_postgres.postgres
    nodo = rig.nodo(rig.serve(), connections=40)
    nodo.wait_for(20)
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()")
    time.sleep(1)
    before = nodo.ledger.results()
    time.sleep(20)
    after = nodo.ledger.results()
    # Resends of what was stored before still get their OK: they commit too, and wait like the others.
    assert after["OK"] - before["OK"] <= 2
    with rig.trouble():
        primary.execute("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert "timeout" not in ledger.results()


@pytest.mark.parametrize("rounds", [pytest.param(1, id="1"), pytest.param(8, id="8", marks=pytest.mark.slow)])
def test_demoted(on_postgres, rounds):
    """PostgreSQL turns read-only, its connections stand: no receipt is lost, and all is well when it does."""
    rig, postgres = on_postgres, on_postgres.postgres
    nodo = rig.nodo(rig.serve())
    for _ in range(rounds):
        nodo.wait_for(10)
        postgres.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        rig.pause(0.5, 6 if rounds > 1 else 1)
        with rig.trouble():
            postgres.execute(
                "SET default_transaction_read_only = off",
                "ALTER SYSTEM RESET default_transaction_read_only",
                "SELECT pg_reload_conf()",
            )
    nodo.wait_for(20)
    rig.done(nodo)


@pytest.mark.parametrize("share", [pytest.param(0.2, id="20%"), pytest.param(0.6, id="60%", marks=pytest.mark.slow)])
def test_deadlocks_and_serialization_failures(on_postgres, share):
    """Many transactions are chosen as the victim, whatever they write: they are tried again, nothing is half there."""
    rig, postgres = on_postgres, on_postgres.postgres
    postgres.execute(
        f"""CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF random() < {share / 8} THEN RAISE EXCEPTION 'deadlock' USING ERRCODE = '{DEADLOCK}'; END IF;
            IF random() < {share / 8} THEN RAISE EXCEPTION 'serialize' USING ERRCODE = '{SERIALIZATION}'; END IF;
            RETURN NULL; END $$""",
        *(f"CREATE TRIGGER fail AFTER INSERT OR UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fail()"
          for table in ("receipt", "transfer", "receipt_route", "journal", "refused", "refused_history")),
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON transfer DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION fail()",
    )  # fmt: skip
    server = rig.serve()
    nodo = rig.nodo(server, refused=0.3)
    nodo.wait_for(100)
    rig.done(nodo)
    assert "DeadlockDetected" in server.log
    assert "SerializationFailure" in server.log


@pytest.mark.slow
def test_locks_held(on_postgres):
    """Another client holds locks on rows and tables, longer than a push may wait and in the other order."""
    rig, postgres = on_postgres, on_postgres.postgres
    nodo = rig.nodo(rig.serve(), twice=0.3)
    nodo.wait_for(20)
    chance = rig.chance
    for _ in range(6):
        with psycopg.connect(postgres.url()) as connection:
            if chance.random() < 0.5:
                connection.execute("LOCK TABLE transfer IN SHARE ROW EXCLUSIVE MODE")
            connection.execute("SELECT 1 FROM receipt ORDER BY received_at DESC LIMIT 50 FOR UPDATE")
            time.sleep(chance.uniform(1, 5))
            if chance.random() < 0.5:
                connection.execute("SET lock_timeout = '2s'")
                try:
                    connection.execute("LOCK TABLE receipt IN ACCESS EXCLUSIVE MODE")
                except psycopg.errors.Error:
                    connection.rollback()
        with rig.trouble():
            pass
        nodo.wait_for(10)
    rig.done(nodo)


@pytest.mark.slow
def test_connections_terminated(on_postgres):
    """Connections are ended by an administrator again and again."""
    rig, postgres = on_postgres, on_postgres.postgres
    nodo = rig.nodo(rig.serve())
    nodo.wait_for(10)
    ended = threading.Event()

    def terminate() -> None:
        while not ended.wait(0.2):
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'station'"
            )

    thread = threading.Thread(target=terminate)
    thread.start()
    nodo.wait_for(150)
    with rig.trouble():
        ended.set()
        thread.join()
    nodo.wait_for(20)
    rig.done(nodo)
