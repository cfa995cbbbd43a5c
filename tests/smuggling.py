"""Requests whose end two servers may see in different places. Imports nothing from the station."""

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"

# Each of these is a known way to hide a request in another one, or to be understood differently by two servers.
SMUGGLED = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
SMUGGLING = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 33\r\n\r\n",
    "two equal lengths": POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "two lengths in one": POST + b"Content-Length: 0, 33\r\n\r\n",
    "signed length": POST + b"Content-Length: +0\r\n\r\n",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "hexadecimal length": POST + b"Content-Length: 0x21\r\n\r\n",
    "length with blank": POST + b"Content-Length: 3 3\r\n\r\n",
    "length with underscore": POST + b"Content-Length: 3_3\r\n\r\n",
    "length in other digits": POST + "Content-Length: ٣\r\n\r\n".encode(),
    "empty length": POST + b"Content-Length: \r\n\r\n",
    "blank before the colon": POST + b"Content-Length : 33\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "compressed chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "folded header": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "folded length": POST + b"Content-Length: 0\r\n 33\r\n\r\n",
    "header without colon": POST + b"Content-Length\r\n\r\n",
    "bare line feed in the head": b"POST / HTTP/1.1\nHost: a\nContent-Length: 0\n\n",
    "bare line feed between fields": POST + b"X: y\nContent-Length: 33\r\n\r\n",
    "bare carriage return": POST + b"X: y\rContent-Length: 33\r\n\r\n",
    "zero byte": POST + b"X: \0\r\nContent-Length: 33\r\n\r\n",
    "chunk size signed": POST + b"Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n",
    "chunk size prefixed": POST + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "chunk size empty": POST + b"Transfer-Encoding: chunked\r\n\r\n\r\n\r\n",
    "chunk size huge": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
    "chunk without its end": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab0\r\n\r\n",
    "chunk line fed barely": POST + b"Transfer-Encoding: chunked\r\n\r\n1\nab\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "version 0.9": b"GET /\r\n\r\n",
    "version 3": b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
    "two hosts": b"POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
}
