"""A reverse proxy of a few lines that ends TLS and passes the verified client certificate on. Imports nothing of ours.

It stands in where nginx is not installed, and for the forms that nginx does not write.
"""

import base64
import socket
import ssl
import threading
from collections.abc import Callable
from urllib.parse import quote

Headers = Callable[[bytes], list[str]]


def nginx(der: bytes) -> list[str]:
    pem = ssl.DER_cert_to_PEM_cert(der)
    return [f"ssl-client-cert: {quote(pem)}", "ssl-client-verify: SUCCESS"]


def haproxy(der: bytes) -> list[str]:
    return [f"X-SSL-Client-Cert: {base64.b64encode(der).decode()}", "X-SSL-Client-Verify: 0"]


def envoy(der: bytes) -> list[str]:
    return [f'X-Forwarded-Client-Cert: Cert="{quote(ssl.DER_cert_to_PEM_cert(der), safe="")}"']


def rfc9440(der: bytes) -> list[str]:
    return [f"Client-Cert: :{base64.b64encode(der).decode()}:"]


class SmallProxy:
    """Serves one request on each connection, in a thread for each."""

    def __init__(self, context: ssl.SSLContext, upstream: int, headers: Headers) -> None:
        self._context, self._upstream, self._headers = context, upstream, headers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with self._context.wrap_socket(client, server_side=True) as tls:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += tls.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                fields = dict(line.split(": ", 1) for line in lines[1:])
                while len(body) < int(fields.get("Content-Length", 0)):
                    body += tls.recv(65536)
                ours = self._headers(tls.getpeercert(True) or b"")
                names = {line.partition(":")[0].lower() for line in ours} | {"connection", "x-forwarded-for"}
                kept = [line for line in lines[1:] if line.partition(":")[0].lower() not in names]
                sent = "\r\n".join([lines[0], *kept, *ours, "X-Forwarded-For: 127.0.0.1", "Connection: close", "", ""])
                with socket.create_connection(("127.0.0.1", self._upstream), timeout=20) as upstream:
                    upstream.sendall(sent.encode("latin-1") + body)
                    while part := upstream.recv(65536):
                        tls.sendall(part)
        except (ssl.SSLError, OSError):
            client.close()
