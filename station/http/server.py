"""gunicorn as the station runs it: its settings from ours, what it may listen on, and a reload that nothing can spoil.

What a worker does is in `worker`.
"""

import os
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.util import parse_address

from station import log, store
from station.config import Settings
from station.errors import (
    ConfigError,
    DatabaseUnfitError,
    MissingDatabaseError,
    MissingRightsError,
    StationError,
    StoreError,
)
from station.http import tls, trust

_log = log.get(__name__)

LOGGER = f"{__name__}.GunicornLogger"
_GRACE_S = 30
_START_AGAIN_S = 1.0


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own lines through our renderer. Its access log is off: we log one line for each request."""

    def setup(self, cfg: Config) -> None:
        self.cfg = cfg
        for logger in (self.error_log, self.access_log):
            logger.handlers = []
            logger.propagate = True

    def access(self, *_args: object) -> None:
        return None


_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def end_at_a_signal() -> None:
    """Let a signal end a new worker until it has handlers of its own.

    With its copy of the arbiter's handlers the signal would be lost, and a stop would wait until the worker is killed.
    """
    for one in _STOP_SIGNALS:
        signal.signal(one, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


class _Arbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """Reloads (SIGHUP) only what can be loaded: a worker that cannot start would end the whole server."""

    def spawn_worker(self) -> int:
        """Start a worker. In the worker itself it never returns, whatever goes wrong."""
        first = self.worker_age < self.num_workers
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            pid: int = super().spawn_worker()
            return pid
        except BaseException as error:
            if os.getpid() == self.pid:
                raise
            if isinstance(error, SystemExit):
                if first or error.code not in (self.WORKER_BOOT_ERROR, self.APP_LOAD_ERROR):
                    raise
                # gunicorn would end the server. But others have started: what is missing now, memory above all, comes
                # back, and then the next one starts.
                time.sleep(_START_AGAIN_S)
            # Without memory to log why it ends, a worker would go on as a master, and end the other workers.
            os._exit(1)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)

    def handle_usr2(self) -> None:
        """Refuse gunicorn's upgrade in place (SIGUSR2). Its second step ends the old master, whether or not the new one
        started.
        """
        _log.error("upgrade_refused", hint="SIGUSR2 is not supported: install the new version and restart the station")

    def reload(self) -> None:
        """Start new workers with the configuration as it is now, and let the old ones finish."""
        try:
            self.app.examine()
        except StationError as error:
            _log.error("reload_refused", reason=str(error))
            return
        super().reload()


class StationServer(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """A server of the station's; `examine` raises the `StationError` that would keep a worker from starting."""

    def run(self) -> None:
        """Serve until stopped."""
        _Arbiter(self).run()


class _Gunicorn(WSGIApplication, StationServer):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn with the station's defaults; its own command line and GUNICORN_CMD_ARGS override each of them."""

    def __init__(self, load: Callable[[], Settings], arguments: list[str]) -> None:
        self._load = load
        self._health = ""  # the address of the health listener, once that is decided
        # gunicorn reads its options from sys.argv and has no other way.
        sys.argv = ["station serve", *arguments, "station.wsgi"]
        super().__init__("%(prog)s [GUNICORN OPTIONS]")

    def init(self, parser: Any, opts: Any, args: list[str]) -> dict[str, Any]:
        super().init(parser, opts, args)
        self._settings = self._load()
        return _defaults(self._settings)

    def load_config(self) -> None:
        super().load_config()
        if self._health:
            self.cfg.set("bind", [*self.cfg.bind, self._health])
        if self.cfg.is_ssl:
            # Before there are workers: one that starts while files are replaced one by one has those before.
            with suppress(ConfigError):  # `examine` says so
                self.cfg.ssl_context(self.cfg, None)

    def _addresses(self) -> list[Any]:
        """Return the addresses that gunicorn is to listen on. Raises `ConfigError`."""
        try:
            addresses: list[Any] = self.cfg.address
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"--bind: {error}") from None
        for address in addresses:
            if isinstance(address, tuple) and not 0 <= address[1] <= 65_535:
                raise ConfigError(f"--bind: {address[1]} is not a port")
        return addresses

    def add_health_listener(self) -> None:
        """Add the health listener to the others. Raises `ConfigError`."""
        self._health = _health_address(self._settings, self._addresses())
        if self._health:
            self.cfg.set("bind", [*self.cfg.bind, self._health])

    def examine(self) -> None:
        """Check the configuration. Raises the `StationError` that would keep a worker from starting."""
        settings = self._load()
        health = trust.host_and_port(self._health) if self._health else None
        trust.check_binding(settings.trust, [host for host in _hosts(self._addresses(), health) if host is not None])
        if self.cfg.proxy_protocol not in (False, "off"):
            raise ConfigError(
                "--proxy-protocol is not supported: a proxy passes its information in headers, see [trust]"
            )
        if self.cfg.preload_app:
            raise ConfigError("--preload is not supported: each worker process loads the application for itself")
        self._check_log_options()
        if self.cfg.header_map == "dangerous":
            raise ConfigError(
                "--header-map dangerous is not supported: Client_Cert would pass for a proxy's Client-Cert"
            )
        if self.cfg.is_ssl:
            tls.create_context(*_files(self.cfg))
        engine = store.connect(settings.database.url.get_secret_value())
        try:
            store.check_schema(engine)
        except (DatabaseUnfitError, MissingDatabaseError, MissingRightsError):
            raise
        except StoreError as error:
            # The database may come later than the station: the workers answer 503 until it does.
            _log.warning("database_unreachable", reason=str(error))
        finally:
            engine.dispose()

    def _check_log_options(self) -> None:
        """Raise `ConfigError` for an option of gunicorn's about its log, which would be ignored."""
        options = self.cfg.settings
        if self.cfg.daemon:
            raise ConfigError("--daemon is not supported: it closes standard error, where the log goes. Use systemd")
        if options["logger_class"].get() != LOGGER:
            return  # a logger of the operator's own, which may know them
        for name, option in options.items():
            if option.section == "Logging" and name != "logger_class" and option.get() != option.default:
                raise ConfigError(
                    f"{option.cli[-1] if option.cli else name} is not supported: the log goes to standard error, with "
                    "a line for each request, and [log] in the configuration sets its format and level"
                )


def run(load: Callable[[], Settings], arguments: list[str]) -> None:
    """Serve until stopped. `load` reads the configuration, again at each reload.

    Raises the `StationError` that keeps the station from starting.
    """
    _defaults(load())  # gunicorn would end with a status of its own where this fails
    log.load()
    os.register_at_fork(after_in_child=end_at_a_signal)
    owner = os.getpid()
    folder = tempfile.mkdtemp(prefix="station-metrics-", dir=_memory())
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    try:
        application = _Gunicorn(load, arguments)
        application.add_health_listener()
        application.examine()
        application.run()
    finally:
        if os.getpid() == owner:  # a worker that ends comes by here, too
            shutil.rmtree(folder, ignore_errors=True)


def _memory() -> str | None:
    """Return the parent of the metrics folder: systemd's RuntimeDirectory, /dev/shm, or None for the temporary folder.

    The first two are in memory. prometheus_client maps the files, and a write to a mapped file on a full disk ends the
    process. systemd removes its folder with the service, also after a kill.
    """
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return next((place for place in (given, "/dev/shm") if place and os.access(place, os.W_OK)), None)  # noqa: S108


def _worker_ended(_arbiter: object, worker: Any) -> None:
    # Not at the top: prometheus_client looks for the folder when it is imported.
    from station.http import metrics

    metrics.forget(worker.pid)


def problems(settings: Settings) -> tuple[list[str], list[str]]:
    """Return reasons why this configuration cannot be served in public, and remarks on the senders it admits."""
    wrong, odd = [], []
    address = parse_address(settings.server.listen)
    try:
        trust.check_binding(settings.trust, [address[0]] if isinstance(address, tuple) else [])
    except ConfigError as error:
        wrong.append(f"server.listen: {error}")
    if settings.tls.certificate is not None:
        try:
            tls.create_context(settings.tls.certificate, settings.tls.key, settings.tls.client_ca)
        except ConfigError as error:
            wrong.append(str(error))
    if settings.trust.anyone_may_send:
        odd.append("trust.anyone_may_send: every client that can connect can store receipts")
    elif not settings.trust.restricted:
        odd.append("[trust] configures no senders: only this machine may send")
    return wrong, odd


def _defaults(settings: Settings) -> dict[str, Any]:
    """gunicorn's settings that follow from the configuration."""
    server = settings.server
    sqlite = store.parse_url(settings.database.url.get_secret_value()).get_backend_name() == "sqlite"
    return {
        "bind": server.listen,
        # SQLite has one writer: two processes take turns, and a third one gained nothing (on two cores).
        "workers": server.workers or min(os.cpu_count() or 1, 2 if sqlite else 64),
        "worker_class": "station.http.worker.Worker",
        "threads": server.threads,
        "keepalive": 75,  # longer than the idle time of common proxies, so that they close first
        "timeout": 60,
        "graceful_timeout": _GRACE_S,
        "limit_request_field_size": 32 * 1024,  # Envoy's header holds a certificate and its chain, escaped
        "umask": 0o007,  # of a Unix socket: who can write to it is a believed proxy, where "unix" is one
        # What proxies say is read by `trust`; gunicorn believes no one of them.
        "forwarded_allow_ips": "",
        "forwarder_headers": "",
        "certfile": _text(settings.tls.certificate),
        "keyfile": _text(settings.tls.key),
        "ca_certs": _text(settings.tls.client_ca),
        "ssl_context": _ssl_context(),
        "logger_class": LOGGER,
        "child_exit": _worker_ended,
        "control_socket_disable": True,
        "proc_name": "station",
    }


def _ssl_context() -> Callable[[Any, object], ssl.SSLContext]:
    """gunicorn's hook: asked for each connection, it answers from memory until a file changes."""
    renewing: list[tls.Renewing] = []

    def ssl_context(cfg: Any, _default: object) -> ssl.SSLContext:
        if not renewing:
            renewing.append(tls.Renewing(*_files(cfg)))
        return renewing[0].context

    return ssl_context


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _files(cfg: Any) -> tuple[Path, Path | None, Path | None]:
    """Certificate, key and client CAs as gunicorn has them, from our settings or its own options."""
    key, client_ca = (Path(one) if one else None for one in (cfg.keyfile, cfg.ca_certs))
    return Path(cfg.certfile or cfg.keyfile), key, client_ca


def _hosts(addresses: list[Any], health: tuple[str, int] | None) -> list[str | None]:
    """Return the hosts that are listened on in public; `None` for a Unix socket."""
    hosts: list[str | None] = []
    for address in addresses:
        if isinstance(address, int):  # a socket that the caller opened for us
            with socket.socket(fileno=os.dup(address)) as inherited:
                name = inherited.getsockname()
            hosts.append(name[0] if isinstance(name, tuple) else None)
        elif not isinstance(address, tuple):
            hosts.append(None)
        elif address != health:
            hosts.append(address[0])
    return hosts


def _health_address(settings: Settings, addresses: list[Any]) -> str:
    """Return the address of the health listener, "" for none. Raises `ConfigError`."""
    wanted = settings.server.health_listen
    if not wanted:
        return ""
    host, port = trust.host_and_port(wanted)
    if any(isinstance(address, tuple) and address[1] == port for address in addresses):
        raise ConfigError(f"server.health_listen: {wanted} is the port of the public listener")
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return wanted
    except OSError as error:
        if "health_listen" in settings.server.model_fields_set:
            raise ConfigError(f"server.health_listen: cannot listen on {wanted} ({error.strerror})") from None
        # It is the default address, which another station on this machine may have.
        _log.warning("health_not_served", address=wanted, reason=error.strerror)
        return ""
