"""Real certificates: TLS that the station ends, and TLS that a proxy ends in front of it. Imports nothing of ours."""

import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import small_proxy
import trustme
from build import a_request, an_envelope
from process import free_port, running_server

NODO = "forwarder.platform.pagopa.it"
XML = {"Content-Type": "text/xml"}


class Certificates:
    """A public CA with an intermediate that issues the Nodo's certificate, and the station's own CA."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = trustme.CA()
        self.issuing = self.root.create_child_ca()
        self.ours = trustme.CA()
        self.client_ca = folder / "client-ca.pem"
        self.issuing.cert_pem.write_to_path(self.client_ca)  # the intermediate alone
        self.whole_ca = folder / "whole-ca.pem"
        self.whole_ca.write_bytes(self.issuing.cert_pem.bytes() + self.root.cert_pem.bytes())
        self.ca = folder / "ca.pem"
        self.ours.cert_pem.write_to_path(self.ca)
        self.certificate, self.key = folder / "chain.pem", folder / "key.pem"
        self.issue_server()

    def issue_server(self) -> None:
        leaf = self.ours.issue_cert("127.0.0.1", "pagopa.example.invalid")
        leaf.private_key_pem.write_to_path(self.key)
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))

    def client(self, name: str = NODO, *, ca: trustme.CA | None = None, days: int = 30) -> Path:
        """A client's leaf and its key in one file, without its chain, as the Nodo sends it."""
        leaf = (ca or self.issuing).issue_cert(name, common_name=name, not_after=datetime.now(UTC) + timedelta(days))
        file = self.folder / f"client-{leaf.cert_chain_pems[0].bytes()[-80:-50].hex()}.pem"
        file.write_bytes(leaf.private_key_pem.bytes() + leaf.cert_chain_pems[0].bytes())
        return file

    def context(self, client: Path | None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        if client:
            context.load_cert_chain(client)
        if version:
            context.minimum_version = context.maximum_version = version
        return context

    @property
    def config(self) -> str:
        return f"""
[tls]
certificate = "{self.certificate}"
key = "{self.key}"
client_ca = "{self.client_ca}"

[trust]
nodo = "production"
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def direct(tmp_path_factory, sqlite_migrated, certificates):
    """A station that ends TLS itself."""
    folder = tmp_path_factory.mktemp("direct")
    shutil.copy(sqlite_migrated, folder / "station.sqlite3")
    health = f"127.0.0.1:{free_port()}"
    with running_server(
        folder,
        f"sqlite:///{folder / 'station.sqlite3'}",
        config=certificates.config,
        fork=True,
        STATION_SERVER_HEALTH_LISTEN=health,
    ) as server:
        server.health = health
        yield server


def push(server, context, raw=None, **headers):
    raw = raw or an_envelope(a_request())
    with httpx.Client(verify=context, timeout=20) as client:
        return client.post(f"https://127.0.0.1:{server.port}/paForNode", content=raw, headers=XML | headers)


def is_ok(answer):
    assert (answer.status_code, b"<outcome>OK</outcome>" in answer.content) == (200, True)
    return True


def wait_for(condition, what):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


# --- TLS that the station ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_nodo_is_let_in(direct, certificates, version):
    """The forwarder's leaf alone is verified against the intermediate, in TLS 1.2 and 1.3, and its name is logged."""
    assert is_ok(push(direct, certificates.context(certificates.client(), version)))
    wait_for(lambda: f'"certificate": "{NODO}"' in direct.log, "the log names the certificate")


@pytest.mark.parametrize(
    "ciphers", ["AES256-GCM-SHA384", "ECDHE-RSA-AES256-SHA384:ECDHE-ECDSA-AES256-SHA384", "DHE-RSA-AES256-SHA256"]
)
def test_old_ciphers(direct, certificates, ciphers):
    """Ciphers without forward secrecy or authenticated encryption are not spoken."""
    context = certificates.context(certificates.client(), ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(ciphers)
    with pytest.raises(httpx.ConnectError):
        push(direct, context)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions(direct, certificates):
    """TLS 1.1 is not spoken."""
    context = certificates.context(certificates.client())
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(httpx.ConnectError):
        push(direct, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["none", "another CA", "expired", "server's CA"])
def test_certificate_that_is_none(direct, certificates, kind, version):
    """Without a certificate, or with one that is not genuine, there is no HTTP, and the log says why."""
    client = {
        "none": lambda: None,
        "another CA": lambda: certificates.client(ca=trustme.CA()),
        "expired": lambda: certificates.client(days=-1),
        "server's CA": lambda: certificates.client(ca=certificates.ours),
    }[kind]()
    before = direct.log.count("tls_handshake_failed")
    with pytest.raises(httpx.TransportError):
        push(direct, certificates.context(client, version))
    wait_for(lambda: direct.log.count("tls_handshake_failed") > before, "the failure is logged")


@pytest.mark.parametrize("name", ["shop.example", "forwarder.uat.platform.pagopa.it", f"x{NODO}", f"{NODO}.example"])
def test_another_customer_of_the_ca(direct, certificates, name):
    """A genuine certificate of the same CA for another name: 403, the reason in the log only, nothing stored."""
    answer = push(direct, certificates.context(certificates.client(name)))
    assert (answer.status_code, answer.text) == (403, "Sender not allowed.\n")
    wait_for(lambda: f"the certificate {name} is not in trust.certificates" in direct.log, "the reason is logged")


def test_header_beside_tls(direct, certificates):
    """Who stands at the door with a certificate cannot bring another one in a header."""
    context = certificates.context(certificates.client())
    for line in (*small_proxy.nginx(b"x"), *small_proxy.envoy(b"x"), *small_proxy.rfc9440(b"x")):
        name, _, value = line.partition(": ")
        assert push(direct, context, **{name: value}).status_code == 403


def test_plain_http_at_the_tls_door(direct):
    """Plain HTTP gets no answer where TLS is spoken."""
    with socket.create_connection(("127.0.0.1", direct.port), timeout=20) as connection:
        connection.sendall(b"POST /paForNode HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert b"HTTP" not in connection.recv(65536)


def test_health_door_beside_tls(direct):
    """Health is asked for on its own door, in plain HTTP and without a certificate, and nothing else is there."""
    with httpx.Client(timeout=20) as client:
        for path, status in (("/live", 200), ("/ready", 200), ("/paForNode", 404), ("/paForNode?wsdl", 404)):
            assert client.get(f"http://{direct.health}{path}").status_code == status
        answer = client.post(f"http://{direct.health}/paForNode", content=an_envelope(a_request()), headers=XML)
        assert answer.status_code == 404


# --- renewal ----------------------------------------------------------------------------------------------------------


def shown_certificate(port, context):
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
        return tls.getpeercert(True)


class Pusher(threading.Thread):
    """Pushes without a pause, a new connection every few requests, until it is told to stop."""

    def __init__(self, server, context):
        super().__init__(daemon=True)
        self.server, self.context = server, context
        self.failures, self.answered, self.ended = [], 0, threading.Event()
        self.start()

    def run(self):
        while not self.ended.is_set():
            try:
                with httpx.Client(verify=self.context, timeout=20) as client:
                    for _ in range(3):
                        answer = client.post(
                            f"https://127.0.0.1:{self.server.port}/paForNode",
                            content=an_envelope(a_request()), headers=XML,
                        )  # fmt: skip
                        assert is_ok(answer)
                        self.answered += 1
                        if answer.headers.get("connection") == "close":
                            break
            except Exception as error:
                self.failures.append(repr(error))

    def stop(self):
        self.ended.set()
        self.join(30)
        assert self.failures == []
        assert self.answered > 3


@pytest.mark.parametrize("by", ["file", "SIGHUP"])
def test_renewal(tmp_path, serve, sqlite_url, by):
    """A new certificate is shown without a restart, and no request is lost while it is exchanged."""
    mine = Certificates(tmp_path)
    server = serve(sqlite_url, config=mine.config)
    context = mine.context(mine.client())
    before = shown_certificate(server.port, context)
    pushers = [Pusher(server, context) for _ in range(3)]
    wait_for(lambda: all(pusher.answered > 3 for pusher in pushers), "it serves")
    mine.issue_server()
    if by == "SIGHUP":
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.log.count("Booting worker") == 2, "a new worker")
        wait_for(lambda: "Worker exiting" in server.log, "the old worker is gone")
    answered = [pusher.answered for pusher in pushers]
    wait_for(lambda: shown_certificate(server.port, context) != before, "the new certificate")
    wait_for(lambda: all(one.answered > least + 3 for one, least in zip(pushers, answered, strict=True)), "it goes on")
    for pusher in pushers:
        pusher.stop()


def test_renewal_that_does_not_fit(tmp_path, serve, sqlite_url):
    """A certificate whose key was not written yet, or a file of rubbish, changes nothing until it fits; SIGHUP too."""
    mine = Certificates(tmp_path)
    server = serve(sqlite_url, config=mine.config)
    context = mine.context(mine.client())
    before = shown_certificate(server.port, context)
    key = mine.key.read_bytes()
    mine.issue_server()
    new_key = mine.key.read_bytes()
    for broken in (key, b"rubbish", b""):
        mine.key.write_bytes(broken)
        assert shown_certificate(server.port, context) == before
    wait_for(lambda: "tls_certificates_not_renewed" in server.log, "the failure is logged")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "reload_refused" in server.log, "the reload is refused")
    assert is_ok(push(server, context))
    mine.key.write_bytes(new_key)
    assert shown_certificate(server.port, context) != before
    assert is_ok(push(server, context))


def test_renewal_before_the_first_connection(tmp_path, serve, sqlite_url):
    """A worker that nobody has talked to yet serves the files of the start while the new ones do not fit."""
    mine = Certificates(tmp_path)
    server = serve(sqlite_url, config=mine.config, STATION_SERVER_WORKERS="4")
    mine.key.write_bytes(b"rubbish")
    context = mine.context(mine.client())
    assert len({shown_certificate(server.port, context) for _ in range(20)}) == 1


def test_new_client_ca(tmp_path, serve, sqlite_url):
    """A CA that is added to the bundle is trusted from the next connection on, and one that is taken out is not."""
    mine = Certificates(tmp_path)
    server = serve(sqlite_url, config=mine.config)
    old, new = mine.client(), None
    other = trustme.CA()
    new = mine.client(ca=other)
    with pytest.raises(httpx.TransportError):
        push(server, mine.context(new))
    mine.client_ca.write_bytes(mine.issuing.cert_pem.bytes() + other.cert_pem.bytes())
    assert is_ok(push(server, mine.context(new)))
    assert is_ok(push(server, mine.context(old)))
    mine.client_ca.write_bytes(other.cert_pem.bytes())
    with pytest.raises(httpx.TransportError):
        push(server, mine.context(old))


# --- TLS that a proxy ends --------------------------------------------------------------------------------------------


def proxied_config(form):
    return f'[trust]\nnodo = "production"\nproxies = ["127.0.0.1"]\nproxy_certificate = "{form}"\n'


def start_nginx(folder, certificates, upstream):
    """nginx with the configuration in deploy/."""
    port = free_port()
    text = (Path(__file__).parent.parent.parent / "deploy" / "nginx.conf").read_text()
    for old, new in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/station/tls/fullchain.pem", str(certificates.certificate)),
        ("/etc/station/tls/privkey.pem", str(certificates.key)),
        ("/etc/station/tls/client-ca.pem", str(certificates.whole_ca)),
        ("127.0.0.1:8080", f"127.0.0.1:{upstream}"),
    ):
        assert old in text
        text = text.replace(old, new)
    temporary = "\n".join(
        f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"user root;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log {folder}/nginx.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}\n{text}\n}}\n"
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ready():
        assert process.poll() is None, (folder / "nginx.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(ready, "nginx listens")
    return port, process


HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend public
  bind 127.0.0.1:{port} ssl crt {folder}/server.pem ca-file {ca} verify required
  http-request set-header X-SSL-Client-Cert %[ssl_c_der,base64]
  http-request set-header X-SSL-Client-Verify %[ssl_c_verify]
  http-request set-header X-Forwarded-For %[src]
  default_backend station
backend station
  server one 127.0.0.1:{upstream}
"""


def start_haproxy(folder, certificates, upstream):
    """HAProxy with the lines that the documentation shows."""
    port = free_port()
    (folder / "server.pem").write_bytes(certificates.certificate.read_bytes() + certificates.key.read_bytes())
    text = HAPROXY.format(port=port, folder=folder, ca=certificates.whole_ca, upstream=upstream)
    (folder / "haproxy.cfg").write_text(text)
    documented = (Path(__file__).parent.parent.parent / "docs" / "security.md").read_text()
    assert all(line.partition("set-header ")[2] in documented for line in text.splitlines() if "X-SSL" in line)
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(["haproxy", "-db", "-f", folder / "haproxy.cfg"], stdout=log, stderr=log)

    def ready():
        assert process.poll() is None, (folder / "haproxy.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(ready, "HAProxy listens")
    return port, process


def start_small_proxy(form, certificates, upstream):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.whole_ca)
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.verify_mode = ssl.CERT_REQUIRED
    return small_proxy.SmallProxy(context, upstream, getattr(small_proxy, form))


# A proxy of every form; nginx and HAProxy themselves for their own where they are installed.
PROXIES = ["nginx", "haproxy", "envoy", "rfc9440"]
REAL = {"nginx": start_nginx, "haproxy": start_haproxy}


@pytest.fixture(scope="module", params=PROXIES)
def proxied(request, tmp_path_factory, sqlite_migrated, certificates):
    """A station behind a proxy: its server, and the proxy's port."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copy(sqlite_migrated, folder / "station.sqlite3")
    url = f"sqlite:///{folder / 'station.sqlite3'}"
    with running_server(folder, url, config=proxied_config(request.param), fork=True) as server:
        if request.param in REAL and shutil.which(request.param):
            port, process = REAL[request.param](folder, certificates, server.port)
            server.proxy = port
            yield server
            process.terminate()
            process.wait(20)
        else:
            proxy = start_small_proxy(request.param, certificates, server.port)
            server.proxy = proxy.port
            yield server
            proxy.close()


def through(proxied, context, **headers):
    with httpx.Client(verify=context, timeout=20) as client:
        return client.post(
            f"https://127.0.0.1:{proxied.proxy}/paForNode", content=an_envelope(a_request()), headers=XML | headers
        )


def test_nodo_through_a_proxy(proxied, certificates):
    """The forwarder is let in through the proxy, by the certificate that the proxy verified."""
    assert is_ok(through(proxied, certificates.context(certificates.client())))
    wait_for(lambda: f'"certificate": "{NODO}"' in proxied.log, "the log names the certificate")


def test_another_through_a_proxy(proxied, certificates):
    """Another customer of the CA is not, whatever headers they add."""
    context = certificates.context(certificates.client("shop.example"))
    assert through(proxied, context).status_code == 403
    genuine = ssl.PEM_cert_to_DER_cert(certificates.client().read_text().partition("-----END")[2].partition("\n")[2])
    for form in PROXIES:
        forged = dict(line.split(": ", 1) for line in getattr(small_proxy, form)(genuine))
        assert through(proxied, context, **forged).status_code == 403


def test_nobody_through_a_proxy(proxied, certificates):
    """Without a certificate the proxy lets nothing through that the station would store."""
    try:
        assert through(proxied, certificates.context(None)).status_code in (400, 403)
    except httpx.TransportError:
        return


def test_headers_spelled_otherwise(proxied, certificates):
    """A header with an underscore, which proxies let through as it is, does not stand for theirs, nor beside it."""
    context = certificates.context(certificates.client("shop.example"))
    genuine = ssl.PEM_cert_to_DER_cert(certificates.client().read_text().partition("-----END")[2].partition("\n")[2])
    for form in PROXIES:
        forged = [line.split(": ", 1) for line in getattr(small_proxy, form)(genuine)]
        for spell in (lambda name: name.replace("-", "_"), lambda name: name.replace("-", "_", 1)):
            answer = through(proxied, context, **{spell(name): value for name, value in forged})
            assert answer.status_code in (400, 403)
    wait_for(lambda: "the certificate shop.example is not in trust.certificates" in proxied.log, "it was told apart")


@pytest.mark.parametrize("form", PROXIES)
def test_header_twice(serve, sqlite_url, certificates, form):
    """Where a proxy adds its header to a client's own instead of replacing it, the client's does not count."""
    server = serve(sqlite_url, config=proxied_config(form))
    genuine, other = (
        ssl.PEM_cert_to_DER_cert(certificates.client(name).read_text().partition("-----END")[2].partition("\n")[2])
        for name in (NODO, "shop.example")
    )
    lines = [*getattr(small_proxy, form)(genuine), *getattr(small_proxy, form)(other)]
    raw = an_envelope(a_request())
    head = ["POST /paForNode HTTP/1.1", "Host: a", "Content-Type: text/xml", "Connection: close", *lines]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*head, f"Content-Length: {len(raw)}", "", ""]).encode() + raw)
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")


def test_past_the_proxy(proxied, certificates):
    """Who reaches the station without the proxy has no certificate: 403."""
    with httpx.Client(timeout=20) as client:
        answer = client.post(proxied.url, content=an_envelope(a_request()), headers=XML)
    assert answer.status_code == 403


def test_forged_header_from_elsewhere(serve, sqlite_url, certificates):
    """The proxy's header from an address that is not the proxy's: 403 and logged, though the certificate is genuine."""
    config = proxied_config("nginx").replace("127.0.0.1", "127.0.0.9")
    server = serve(sqlite_url, config=config)
    genuine = ssl.PEM_cert_to_DER_cert(certificates.client().read_text().partition("-----END")[2].partition("\n")[2])
    headers = dict(line.split(": ", 1) for line in small_proxy.nginx(genuine))
    with httpx.Client(timeout=20) as client:
        answer = client.post(server.url, content=an_envelope(a_request()), headers=XML | headers)
    assert answer.status_code == 403
    wait_for(lambda: "came from an address that is not a configured proxy" in server.log, "it is logged")
    with httpx.Client(timeout=20, transport=httpx.HTTPTransport(local_address="127.0.0.9")) as client:
        assert is_ok(client.post(server.url, content=an_envelope(a_request()), headers=XML | headers))
