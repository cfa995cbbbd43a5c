"""`station console` as it runs: gunicorn and its worker, nginx with auth_request before it, a provider that hangs."""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import forked
import httpx
import pytest
import trustme
from build import EC
from process import environment, free_port
from test_console_auth import Provider, at_provider, pytestmark  # noqa: F401  (of the provider's library)

ROOT = Path(__file__).parent.parent
HOST = "ricevute.example.invalid"
GRANT = f'[[grant]]\nuser = "anna"\necs = ["{EC}"]\nrole = "admin"\n'


class Running:
    """A running `station console`."""

    def __init__(self, process, port, config, log_file):
        self.process, self.port, self.config, self.log_file = process, port, config, log_file

    @property
    def log(self):
        return self.log_file.read_text()

    def lines(self, event):
        return [json.loads(line) for line in self.log.splitlines() if f'"{event}"' in line]

    def ask(self, path, source=None, **headers):
        """Ask from an address of this machine."""
        transport = httpx.HTTPTransport(local_address=source)
        with httpx.Client(transport=transport) as client:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return client.get(f"http://127.0.0.1:{self.port}{path}", headers={"Host": HOST} | names)

    def talk(self, data, source="127.0.0.1"):
        """What is answered to these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), 60, (source, 0)) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer.decode("latin-1")


@pytest.fixture
def serve_console(tmp_path, sqlite_url):
    """Starts `station console` with this text in its configuration."""
    with ExitStack() as stack:

        def serve_console(text, port=None):
            port = port or free_port()
            file, log_file = tmp_path / f"console-{port}.toml", tmp_path / f"console-{port}.log"
            file.write_text(text.replace("[console]", f'[console]\nlisten = "127.0.0.1:{port}"\nworkers = 1'))
            process = forked.start(["-c", str(file), "console"], environment(sqlite_url), tmp_path, log_file, log_file)
            running = Running(process, port, file, log_file)
            stack.callback(end, process)
            until(lambda: process.poll() is not None or listens(port), "the console listens")
            assert process.poll() is None, running.log
            assert httpx.get(f"http://127.0.0.1:{port}/live").text == "alive\n"
            return running

        yield serve_console


def end(process):
    if process.poll() is None:
        process.terminate()
        process.wait(60)


def until(holds, what):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_trusted_proxy(serve_console):
    """Headers of the proxy name the user, those of others none; what is no request has a plain answer; stop, reload."""
    console = serve_console(
        f'{GRANT}[console]\nauth = "proxy"\nproxies = ["127.0.0.2"]\nurl = "https://{HOST}"\n[[ec]]\nid = "{EC}"\n'
    )
    page = console.ask("/", "127.0.0.2", X_Remote_User="anna", X_Forwarded_For="192.0.2.1")
    assert page.status_code == 200
    assert "Strict-Transport-Security" in page.headers
    refused = console.ask("/", X_Remote_User="anna", X_Remote_Name="Anna Rossi")
    assert refused.status_code == 403
    [line] = console.lines("console_untrusted")
    assert line["address"] == "127.0.0.1"
    assert "anna" not in str(line).lower()
    request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
    for headers, status in (
        ("X-Remote-User: anna\r\n", 200),
        ("X-Remote-User: carla\r\nX-Remote-User: anna\r\n", 400),
        ("X-Remote-User: carla\r\nX-Remote-Groups: a\r\nx-remote-groups: ragioneria\r\n", 400),
        ("X_Remote_User: anna\r\n", 403),
        ("X-Remote-User: carla\r\nX_Remote_User: anna\r\n", 403),
        ("X-Remote-User: anna\r\nHost: other\r\n", 400),
    ):
        assert console.talk(f"{request}{headers}\r\n".encode(), "127.0.0.2").startswith(f"HTTP/1.1 {status} "), headers
    for hostile, status in (
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: x\r\n" * 200 + b"\r\n", 431),
        (b"POST /esci HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: what\r\n\r\n", 501),
    ):
        answer = console.talk(hostile)
        assert answer.startswith(f"HTTP/1.1 {status} "), answer[:200]
        assert "Traceback" not in answer
    large = f"POST /esci HTTP/1.1\r\nHost: {HOST}\r\nX-Remote-User: anna\r\nContent-Length: 99999999\r\n\r\n".encode()
    assert console.talk(large + b"x" * 1000, "127.0.0.2").startswith("HTTP/1.1 4")
    # Clients that stop in the middle hold up nothing.
    with ExitStack() as stack:
        for _ in range(20):
            slow = stack.enter_context(closing(socket.create_connection(("127.0.0.1", console.port))))
            slow.sendall(b"POST /esci HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\ncsr")
        assert console.ask("/", "127.0.0.2", X_Remote_User="anna").status_code == 200
        # Grants count as they are after the reload, once the old worker has ended: both accept for a moment.
        console.config.write_text(console.config.read_text().replace('"anna"', '"bruno"'))
        os.kill(console.process.pid, signal.SIGHUP)

        def answered(user, status):
            with suppress(httpx.TransportError):
                return console.ask("/", "127.0.0.2", X_Remote_User=user).status_code == status
            return False

        until(lambda: all(answered("anna", 403) and answered("bruno", 200) for _ in range(5)), "the grant has changed")
        console.ask("/", "127.0.0.2", X_Remote_User="anna", X_Remote_Groups="Ragioneria, tributi")
        assert console.lines("console_without_grant")[-1]["groups"] == ["Ragioneria", "tributi"]
        console.process.terminate()
        assert console.process.wait(45) == 0
    assert "Traceback" not in console.log
    assert not console.lines("unexpected_error")


# --- nginx ------------------------------------------------------------------------------------------------------------


class SignIn(BaseHTTPRequestHandler):
    """What nginx asks who a browser's user is: the cookie says it."""

    def do_GET(self):
        user = re.search("sso=([a-z]+)", self.headers.get("Cookie", ""))
        self.send_response(200 if user else 401)
        if user:
            for name, value in (("Remote-User", user[1]), ("Remote-Name", "Nicolò"), ("Remote-Groups", "tutti")):
                self.send_header(name, value.encode().decode("latin-1"))
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed (on Debian: apt install nginx-light)")
def test_behind_nginx(serve_console, tmp_path):
    """As in deploy/ and docs/console.md: nginx asks who the user is, and replaces what a client claims."""
    console = serve_console(
        f'{GRANT}[console]\nauth = "proxy"\nproxies = ["127.0.0.2"]\nurl = "https://{HOST}"\n[[ec]]\nid = "{EC}"\n'
    )
    sso = ThreadingHTTPServer(("127.0.0.1", 0), SignIn)
    thread = threading.Thread(target=sso.serve_forever, args=(0.05,))
    thread.start()
    authority = trustme.CA()
    pair = authority.issue_cert(HOST)
    pair.private_key_pem.write_to_path(tmp_path / "privkey.pem")
    pair.cert_chain_pems[0].write_to_path(tmp_path / "fullchain.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = free_port()
    whole = (ROOT / "deploy" / "nginx-console.conf").read_text()
    [places] = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "console.md").read_text(), re.DOTALL)
    own = re.search(r"    # With auth = \"local\".*?\n    }\n", whole, re.DOTALL)[0]
    text = whole.replace(own, places)
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"), ("127.0.0.1:8083", f"127.0.0.1:{console.port}"),
        ("/etc/station/tls", str(tmp_path)), ("127.0.0.1:4180", f"127.0.0.1:{sso.server_port}"),
        ("proxy_http_version 1.1;", "proxy_http_version 1.1; proxy_bind 127.0.0.2;"),
    ):  # fmt: skip
        assert old in text, old
        text = text.replace(old, new)
    temporary = "".join(f"{name}_temp_path {tmp_path}/{name};" for name in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))  # fmt: skip
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/nginx.pid; error_log {tmp_path}/nginx.log; events {{}} http {{ {temporary} {text} }}"
    )
    command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-g", "daemon off;"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or listens(port), "nginx listens")
        assert process.poll() is None, (tmp_path / "nginx.log").read_text()
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")

        def ask(path="/", **headers):
            names = {name.replace("__", "-"): value for name, value in headers.items()} | {"Host": HOST}
            return client.get(f"https://127.0.0.1:{port}{path}", headers=names, extensions={"sni_hostname": HOST})

        with httpx.Client(verify=context, cookies={}) as client:
            assert ask().status_code == 401
            assert ask(X__Remote__User="anna").status_code == 401
            page = ask(Cookie="sso=anna", X__Remote__User="carla", X_Remote_User="carla", X__Remote__Groups="a")
            assert page.status_code == 200
            assert "Nicolò" in page.text
            assert ask(Cookie="sso=carla", X__Remote__User="anna", X_Remote_User="anna").status_code == 403
            assert ask("/bi/css/bootstrap-italia.min.css").status_code == 401
            assert ask("/bi/css/bootstrap-italia.min.css", Cookie="sso=anna").status_code == 200
    finally:
        process.terminate()
        process.wait(20)
        sso.shutdown()
        thread.join()
        sso.server_close()
    found = [(line["user"], line["status"]) for line in console.lines("console_answered")]
    assert found == [("anna", 200), ("carla", 403)]


# --- a provider -------------------------------------------------------------------------------------------------------


def test_provider_by_tls(serve_console, tmp_path):
    """A provider with a CA of the EC's own; while it hangs, others are served, and the sign-in ends with 503."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "provider-ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    provider = Provider(ssl_context=context)
    port = free_port()
    console = serve_console(
        f'{GRANT.replace("anna", "u-1")}[console]\nauth = "oidc"\nurl = "http://127.0.0.1:{port}"\n[oidc]\n'
        f'issuer = "{provider.url}"\nclient_id = "console"\nclient_secret = "x"\nca = "{tmp_path}/provider-ca.pem"\n',
        port,
    )
    url = f"http://127.0.0.1:{port}"
    verify = ssl.create_default_context(cafile=tmp_path / "provider-ca.pem")
    hanging = threading.Event()
    try:
        begun = httpx.get(f"{url}/accedi")
        cookie = begun.headers["Set-Cookie"].partition(";")[0]
        back = at_provider(begun.headers["Location"], verify=verify)
        provider.broken["/oauth2/token"] = lambda _environ: hanging.wait(60) and None
        answers = []
        thread = threading.Thread(
            target=lambda: answers.append(httpx.get(f"{url}{back.removeprefix(url)}", headers={"Cookie": cookie}))
        )
        thread.start()
        until(lambda: "/oauth2/token" in provider.asked, "the console asks for the token")
        for _ in range(5):
            assert httpx.get(f"{url}/uscita").status_code == 200
        assert not answers  # the provider hangs, and others are served
        thread.join(30)
        [answer] = answers
        assert answer.status_code == 503
        assert "Il servizio di accesso non risponde" in answer.text
        hanging.set()
        provider.broken.clear()
        begun = httpx.get(f"{url}/accedi")
        cookie = begun.headers["Set-Cookie"].partition(";")[0]
        back = at_provider(begun.headers["Location"], verify=verify)
        done = httpx.get(f"{url}{back.removeprefix(url)}", headers={"Cookie": cookie})
        assert (done.status_code, done.headers["Location"]) == (302, "/")
        cookie = done.headers["Set-Cookie"].partition(";")[0]
        assert httpx.get(f"{url}/", headers={"Cookie": cookie}).status_code == 200
    finally:
        hanging.set()
        provider.stop()
    [refused] = console.lines("console_provider_unavailable")
    assert "Timeout" in refused["reason"]
    assert "Traceback" not in console.log


def test_start(run_station, tmp_path):
    """Without a grant there is no user to serve, and other machines need the address that they call: clear errors."""
    (tmp_path / "station.toml").write_text("[console]\nworkers = 1\n")
    ended = run_station("console")
    assert ended.returncode == 2
    assert "[[grant]]" in ended.stderr
    (tmp_path / "station.toml").write_text(f'{GRANT}[console]\nlisten = "0.0.0.0:1"\n')
    assert "console.url" in run_station("console").stderr
