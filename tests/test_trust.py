"""Who may send: certificates in every form, addresses, and what the configuration must say."""

import base64
import contextlib
import ssl
import warnings
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from urllib.parse import quote

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from station import config, store
from station.errors import ConfigError, UntrustedError
from station.http import certificate, tls, trust
from station.http.certificate import HEADERS, Identity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Spyne imports what is deprecated
    from station.app import Station

NODO = "forwarder.platform.pagopa.it"
UAT = "forwarder.uat.platform.pagopa.it"
AUTHORITY = trustme.CA()
LEAF = AUTHORITY.issue_cert(NODO, common_name=NODO)
PEM = LEAF.cert_chain_pems[0].bytes().decode()
DER = base64.b64decode("".join(PEM.split("-----")[2].split()))
FINGERPRINT = sha256(DER).hexdigest()
PROXY = "10.0.0.5"


def settings(tmp_path, text):
    file = tmp_path / "station.toml"
    file.write_text(text)
    return config.load(file, environ={})


def a_trust(**over):
    return config.Trust.model_validate(over)


def admit(policy, peer="127.0.0.1", shown=None, **headers):
    given_ = {name.replace("_", "-"): value for name, value in headers.items()}
    return trust.admit(policy, peer, lambda name: given_.get(name, ""), shown)


# --- certificates -----------------------------------------------------------------------------------------------------


def test_names_and_fingerprint():
    """A certificate's common name, DNS names and SHA-256 are read from its DER."""
    read = certificate.identity(DER)
    assert (read.names, read.fingerprint) == ((NODO,), FINGERPRINT)


@pytest.mark.parametrize(
    "names",
    [
        ["a.example"],
        ["a.example", "B.Example", "*.c.example"],
        ["10.0.0.1", "a.example"],
        ["ann@example.invalid", "a.example"],
        [f"n{number}.example" for number in range(200)],
    ],
)
@pytest.mark.parametrize("common_name", [None, "Comune di Vattelapesca à", "a.example"])
def test_same_as_another_reader(names, common_name):
    """What is read is what an independent library reads, whatever else stands in the certificate."""
    leaf = AUTHORITY.issue_cert(*names, common_name=common_name).cert_chain_pems[0].bytes()
    other = x509.load_pem_x509_certificate(leaf)
    wanted = [one.value for one in other.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    wanted += other.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )
    der = base64.b64decode(b"".join(leaf.split(b"-----")[2].split()))
    assert certificate.identity(der).names == tuple(dict.fromkeys(name.lower() for name in wanted))


def a_certificate(common_name, dns_name=None):
    """The DER of a self-signed certificate with a name that no CA should sign."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    if dns_name:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns_name)]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


ALIKE = {
    "NUL behind": {"common_name": f"{NODO}\0.evil.example"},
    "NUL before": {"common_name": f"evil.example\0{NODO}"},
    "NUL in a DNS name": {"common_name": "evil", "dns_name": f"{NODO}\0.evil.example"},
    "line end": {"common_name": f"{NODO}\n"},
    "full stop": {"common_name": f"{NODO}."},
    "blank": {"common_name": f" {NODO}"},
    "slash": {"common_name": f"{NODO}/CN=evil"},
    "comma": {"common_name": f"evil,CN={NODO}"},
    "wildcard": {"common_name": "*.platform.pagopa.it", "dns_name": "*.platform.pagopa.it"},
    "star": {"common_name": "*"},
    "fingerprint": {"common_name": "evil", "dns_name": f"sha256:{FINGERPRINT}"},
    "Cyrillic": {"common_name": NODO.replace("a", "а")},
    "full width": {"common_name": NODO.replace("f", "ｆ")},
    "zero width": {"common_name": NODO + "\u200b"},
}


@pytest.mark.parametrize("name", ALIKE)
def test_names_that_are_only_alike(name):
    """A name with a NUL, in other letters, with a wildcard or like a fingerprint is nothing that is let in."""
    policy = a_trust(nodo="both", certificates=[f"sha256:{FINGERPRINT}"])
    with pytest.raises(UntrustedError, match="not in trust"):
        admit(policy, "198.51.100.7", a_certificate(**ALIKE[name]))


@given(st.binary(max_size=300))
@example(b"")
@example(DER[:-1])
@example(DER + b"\0")
@example(b"\x30\x84\xff\xff\xff\xff")
def test_rubbish_is_no_certificate(data):
    """Whatever is no certificate is an error of ours, never another one."""
    with pytest.raises(UntrustedError):
        certificate.identity(data)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.integers(0, len(DER) - 1), st.integers(0, 255))
def test_damaged_certificate(position, octet):
    """A certificate with one byte changed is read or refused, and its fingerprint is another."""
    damaged = DER[:position] + bytes([octet]) + DER[position + 1 :]
    try:
        read = certificate.identity(damaged)
    except UntrustedError:
        return
    assert (read.fingerprint == FINGERPRINT) == (damaged == DER)


# --- what proxies pass on ---------------------------------------------------------------------------------------------

FORMS = {
    "nginx, escaped PEM": ("nginx", {"ssl-client-cert": quote(PEM), "ssl-client-verify": "SUCCESS"}),
    "nginx, folded PEM": ("nginx", {"ssl-client-cert": PEM.replace("\n", " "), "ssl-client-verify": "SUCCESS"}),
    "nginx, subject": ("nginx", {"ssl-client-subject-dn": f"CN={NODO},O=PagoPA S.p.A.,C=IT",
                                 "ssl-client-verify": "SUCCESS"}),
    "haproxy, DER": ("haproxy", {"x-ssl-client-cert": base64.b64encode(DER).decode(), "x-ssl-client-verify": "0"}),
    "envoy, certificate": ("envoy", {"x-forwarded-client-cert":
                                     f'By=spiffe://x;Hash={FINGERPRINT};Cert="{quote(PEM, safe="")}"'}),
    "envoy, fields": ("envoy", {"x-forwarded-client-cert": f'Hash={FINGERPRINT};Subject="CN={NODO},O=a\\"b;c";DNS=x'}),
    "envoy, last of several": ("envoy", {"x-forwarded-client-cert": f'Hash=00;DNS=evil,Hash={FINGERPRINT};DNS={NODO}'}),
    "azure": ("azure", {"x-client-cert": quote(PEM), "x-client-cert-verification": "SUCCESS"}),
    "f5": ("f5", {"x-ssl-client-cert": quote(PEM), "x-ssl-client-verify": "ok"}),
    "rfc9440": ("rfc9440", {"client-cert": f":{base64.b64encode(DER).decode()}:"}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    """The certificate in each proxy's form is the forwarder's, and is let in."""
    kind, headers = FORMS[form]
    policy = a_trust(nodo="production", proxies=[PROXY], proxy_certificate=kind)
    sender = admit(policy, PROXY, **headers)
    assert NODO in sender.identity.names
    assert sender.subject == NODO


@pytest.mark.parametrize("form", FORMS)
def test_forms_from_elsewhere(form):
    """The same header from an address that is no proxy is refused, whatever is configured."""
    kind, headers = FORMS[form]
    for policy in (
        a_trust(nodo="production", proxies=[PROXY], proxy_certificate=kind),
        a_trust(addresses=["10.0.0.6"]),
        a_trust(anyone_may_send=True),
        a_trust(),
    ):
        with pytest.raises(UntrustedError, match="not a configured proxy"):
            admit(policy, "10.0.0.6", **headers)


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_another(form):
    """Each form with another client's certificate is not let in."""
    kind, headers = FORMS[form]
    policy = a_trust(nodo="uat", proxies=[PROXY], proxy_certificate=kind)
    with pytest.raises(UntrustedError, match=r"not in trust\.certificates"):
        admit(policy, PROXY, **headers)


@pytest.mark.parametrize(
    ("form", "header", "value"),
    [
        ("nginx", "ssl-client-verify", "FAILED:unable to verify the first certificate"),
        ("nginx", "ssl-client-verify", ""),
        ("haproxy", "x-ssl-client-verify", "21"),
        ("azure", "x-client-cert-verification", "FAILED:certificate has expired"),
        ("f5", "x-ssl-client-verify", "certificate has expired"),
    ],
)
def test_not_verified(form, header, value):
    """A certificate that the proxy passes on without having verified it is refused."""
    headers = next(headers for kind, headers in FORMS.values() if kind == form)
    policy = a_trust(certificates=["*"], proxies=[PROXY], proxy_certificate=form)
    with pytest.raises(UntrustedError, match="did not verify"):
        admit(policy, PROXY, **(headers | {header: value}))


@pytest.mark.parametrize("form", HEADERS)
def test_no_certificate(form):
    """A proxy that passes nothing on, or says that there was none, is not enough."""
    policy = a_trust(certificates=["*"], proxies=[PROXY], proxy_certificate=form)
    for headers in ({}, {"ssl-client-verify": "NONE"}, {"x-ssl-client-verify": "0"}):
        with pytest.raises(UntrustedError):
            admit(policy, PROXY, **headers)


def test_name_without_a_certificate():
    """HAProxy says "verified" also where no certificate was shown: a name that stands beside it is the client's own."""
    policy = a_trust(nodo="production", proxies=[PROXY], proxy_certificate="haproxy")
    for headers in ({"x-ssl-client-cn": NODO}, {"x-ssl-client-dn": f"CN={NODO}"}):
        with pytest.raises(UntrustedError, match="no client certificate"):
            admit(policy, PROXY, **(headers | {"x-ssl-client-cert": "", "x-ssl-client-verify": "0"}))


@pytest.mark.parametrize("form", HEADERS)
@given(value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80))
@example(value='Subject="CN=' + NODO)
@example(value=f'Subject="O=a,CN\\={NODO}"')
@example(value=f"O=x\\,CN={NODO}")
@example(value=f'Subject="O=x\\, CN={NODO}"')
@example(value=f'Subject="O=\\"x\\\\, CN={NODO}')
@example(value=":not base64:")
@example(value="\\" * 50)
def test_rubbish_in_headers(form, value):
    """Whatever stands in a proxy's headers, a name of ours is not read out of another's, and nothing breaks."""
    policy = a_trust(nodo="production", proxies=[PROXY], proxy_certificate=form)
    headers = dict.fromkeys(HEADERS[form], value) | {"ssl-client-verify": "SUCCESS", "x-ssl-client-verify": "0",
                                                     "x-client-cert-verification": "SUCCESS"}  # fmt: skip
    with pytest.raises(UntrustedError):
        admit(policy, PROXY, **headers)


def test_patterns_do_not_go_back():
    """Long hostile headers are read in linear time: each of these would take hours otherwise."""
    for form in HEADERS:
        policy = a_trust(nodo="production", proxies=[PROXY], proxy_certificate=form)
        for value in ('a="' + "\\" * 30_001, "CN=" + "\\a" * 15_000, "a=b;" * 8_000, '"' * 30_000, "a=" * 15_000):
            headers = dict.fromkeys(HEADERS[form], value) | {"ssl-client-verify": "SUCCESS"}
            with pytest.raises(UntrustedError):
                admit(policy, PROXY, **headers)


# --- TLS --------------------------------------------------------------------------------------------------------------


def shake_hands(server, client):
    """A connection of TLS 1.2 in memory, ended as it should be."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(back, there, server_hostname=NODO), server.wrap_bio(there, back, server_side=True))
    for step in ("do_handshake", "unwrap"):
        for _ in range(5):
            for end in ends:
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLSyscallError):
                    getattr(end, step)()
    return ends[1]


def test_sessions_are_forgotten(tmp_path, monkeypatch):
    """OpenSSL keeps each session of TLS 1.2 in memory: only so many, whatever the number of connections."""
    monkeypatch.setattr(tls, "_CONNECTIONS_OF_A_CONTEXT", 10)
    LEAF.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.load_cert_chain(tmp_path / "server.pem")
    renewing = tls.Renewing(tmp_path / "server.pem", None, tmp_path / "ca.pem")
    kept = []
    for _ in range(35):
        context = renewing.context
        assert shake_hands(context, client).getpeercert(True) == DER
        kept.append(context.session_stats()["number"])
    assert kept == [*range(1, 11)] * 3 + [*range(1, 6)]


# --- who is let in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "in_"),
    [
        ({"nodo": "production"}, True),
        ({"nodo": "both"}, True),
        ({"nodo": "uat"}, False),
        ({"certificates": [NODO.upper()]}, True),
        ({"certificates": ["other.example", f"sha256:{FINGERPRINT}"]}, True),
        ({"certificates": ["sha256:" + ":".join(FINGERPRINT.upper()[i : i + 2] for i in range(0, 64, 2))]}, True),
        ({"certificates": ["sha256:" + "0" * 64]}, False),
        ({"certificates": ["platform.pagopa.it"]}, False),
        ({"certificates": ["*"]}, True),
        ({"nodo": "uat", "certificates": [NODO]}, True),
    ],
)
def test_allow_list(allowed, in_):
    """A certificate is let in by name or fingerprint, by any of several, and by nothing that is merely alike."""
    policy = a_trust(**allowed)
    if in_:
        assert admit(policy, "198.51.100.7", DER).subject == NODO
    else:
        with pytest.raises(UntrustedError):
            admit(policy, "198.51.100.7", DER)


def test_certificate_is_demanded():
    """Where certificates are named, nobody gets in without one, from this machine neither."""
    with pytest.raises(UntrustedError, match="no client certificate"):
        admit(a_trust(nodo="production"), "127.0.0.1")


def test_proxys_own_certificate_is_not_the_clients():
    """A proxy that shows a certificate of its own speaks for its client by the header only."""
    policy = a_trust(nodo="production", proxies=[PROXY], proxy_certificate="rfc9440")
    with pytest.raises(UntrustedError):
        admit(policy, PROXY, DER)


@pytest.mark.parametrize(
    ("addresses", "peer", "in_"),
    [
        (["20.86.139.154", "20.86.139.86"], "20.86.139.86", True),
        (["20.86.139.154"], "20.86.139.155", False),
        (["20.86.139.0/24"], "20.86.139.155", True),
        (["20.86.139.10-20.86.139.20"], "20.86.139.20", True),
        (["20.86.139.10-20.86.139.20"], "20.86.139.21", False),
        (["2001:db8::/32"], "2001:db8:1::1", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        (["20.86.139.0/24"], "::ffff:20.86.139.155", True),
        (["20.86.139.0/24"], "127.0.0.1", False),
        (["20.86.139.0/24"], "", False),
    ],
)
def test_addresses(addresses, peer, in_):
    """Addresses, networks and ranges of both kinds; IPv4 in IPv6 is IPv4."""
    if in_:
        assert admit(a_trust(addresses=addresses), peer).address == peer.removeprefix("::ffff:")
    else:
        with pytest.raises(UntrustedError, match=r"trust\.addresses"):
            admit(a_trust(addresses=addresses), peer)


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (PROXY, "20.86.139.86", "20.86.139.86"),
        (PROXY, "20.86.139.86:50123", "20.86.139.86"),
        (PROXY, "[2001:db8::1]:443", "2001:db8::1"),
        (PROXY, "6.6.6.6, 20.86.139.86", "20.86.139.86"),
        (PROXY, "20.86.139.86, 10.0.0.9", "20.86.139.86"),
        (PROXY, "20.86.139.86, 6.6.6.6", None),
        (PROXY, "", None),
        (PROXY, "20.86.139.86, ", None),
        (PROXY, "unknown", None),
        ("10.1.0.1", "20.86.139.86", None),
        ("127.0.0.1", "20.86.139.86", None),
        ("", "20.86.139.86", None),
    ],
)
def test_forwarded_address(peer, forwarded, address):
    """The forwarded address counts from a configured proxy only, and of several the one that no client can write."""
    policy = a_trust(addresses=["20.86.139.86", "2001:db8::/32"], proxies=["10.0.0.0/24"])
    if address:
        assert admit(policy, peer, x_forwarded_for=forwarded).address == address
    else:
        with pytest.raises(UntrustedError):
            admit(policy, peer, x_forwarded_for=forwarded)


@pytest.mark.parametrize("forwarded", ["unknown", "20.86.139.86, ", "_hidden, unknown", "1.2.3.4.5", ",", "9" * 5000])
@pytest.mark.parametrize(
    "policy",
    [{"nodo": "production", "proxy_certificate": "rfc9440"}, {}],
    ids=["certificate", "proxy"],
)
def test_unreadable_forwarded_address(policy, forwarded):
    """It turns nobody away where no address decides, and is no address."""
    headers = FORMS["rfc9440"][1] if "nodo" in policy else {}
    assert admit(a_trust(proxies=[PROXY], **policy), PROXY, x_forwarded_for=forwarded, **headers).address is None
    with pytest.raises(UntrustedError, match="X-Forwarded-For"):
        admit(a_trust(proxies=[PROXY], addresses=[PROXY], **policy), PROXY, x_forwarded_for=forwarded, **headers)


def test_unix_socket_is_a_proxy_if_named():
    """Behind a Unix socket stands a proxy of this machine, believed where it is named."""
    policy = a_trust(nodo="production", proxies=["unix"], proxy_certificate="rfc9440")
    assert admit(policy, "", **FORMS["rfc9440"][1]).subject == NODO
    with pytest.raises(UntrustedError):
        admit(a_trust(nodo="production", proxies=[PROXY], proxy_certificate="rfc9440"), "", **FORMS["rfc9440"][1])


def test_both_must_fit():
    """Where certificates and addresses are configured, one of them is not enough."""
    policy = a_trust(nodo="production", addresses=["20.86.139.86"])
    assert admit(policy, "20.86.139.86", DER).subject == NODO
    for peer, shown in (("20.86.139.87", DER), ("20.86.139.86", None)):
        with pytest.raises(UntrustedError):
            admit(policy, peer, shown)


def test_proxies_alone():
    """With nothing but proxies configured, only they get in."""
    assert admit(a_trust(proxies=[PROXY]), PROXY, x_forwarded_for="6.6.6.6").address == "6.6.6.6"
    for peer in ("10.0.0.6", "127.0.0.1"):
        with pytest.raises(UntrustedError):
            admit(a_trust(proxies=[PROXY]), peer)


def test_nothing_configured():
    """With nothing configured only this machine gets in, however the station was started."""
    for peer in ("127.0.0.1", "127.8.8.8", "::1", ""):
        assert admit(a_trust(), peer).identity is None
    for peer in ("10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "0.0.0.0"):
        with pytest.raises(UntrustedError):
            admit(a_trust(), peer)
    assert admit(a_trust(anyone_may_send=True), "10.0.0.1").address == "10.0.0.1"


REQUESTS = [
    (peer, headers, shown)
    for peer in ("", "127.0.0.1", PROXY, "198.51.100.7")
    for headers in (
        {}, {"x-forwarded-for": "6.6.6.6"}, FORMS["nginx, subject"][1],
        FORMS["nginx, subject"][1] | {"x-forwarded-for": "6.6.6.6"},
        FORMS["nginx, subject"][1] | {"ssl-client-verify": "FAILED"}, {"x-arr-clientcert": "x"},
    )
    for shown in (None, DER, a_certificate("evil.example"))
]  # fmt: skip


@pytest.mark.parametrize("over", [{}, {"addresses": ["6.6.6.6"]}])
def test_nobody_is_taken_for_another(over):
    """Whoever was let in before, and however often, each request is judged as if it were the first."""
    policy = a_trust(nodo="production", proxies=[PROXY, "unix"], proxy_certificate="nginx", **over)
    engine = store.connect("postgresql://station@127.0.0.1:9/station")
    station = Station(config.Settings(trust=policy), engine)

    def asked(peer, headers, shown):
        sender = station._sender(peer, tuple(map(headers.get, trust.HEADERS)), shown)
        return sender.address, sender.subject

    def alone(peer, headers, shown):
        sender = trust.admit(policy, peer, lambda name: headers.get(name, ""), shown)
        return sender.address, sender.subject

    def outcome(decide, request):
        try:
            return decide(*request)
        except UntrustedError as error:
            return str(error)

    wanted = [outcome(alone, request) for request in REQUESTS]
    assert len({type(one) for one in wanted}) == 2  # some are let in, some are not
    for _ in range(2):
        assert [outcome(asked, request) for request in REQUESTS] == wanted
    assert station._sender.cache_info().hits


@pytest.mark.parametrize("host", ["", "0.0.0.0", "10.0.0.1", "::", "station.example", "127.0.0.1.example"])
def test_binding(host):
    """Without a word on who may send, nothing but this machine may be listened on."""
    with pytest.raises(ConfigError, match="no senders are configured"):
        trust.check_binding(a_trust(), ["127.0.0.1", host])
    for policy in (a_trust(anyone_may_send=True), a_trust(addresses=["10.0.0.0/8"]), a_trust(nodo="uat")):
        trust.check_binding(policy, [host])


def test_binding_to_loopback():
    """This machine may be listened on as it is."""
    trust.check_binding(a_trust(), ["127.0.0.1", "::1", "localhost"])


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[trust]\nnodo = 'production'", "need tls.client_ca"),
        ("[tls]\ncertificate = 'a.pem'\nclient_ca = 'b.pem'", "name the certificates to admit"),
        ("[tls]\nclient_ca = 'b.pem'\n[trust]\nnodo = 'uat'", "need a certificate"),
        ("[trust]\nproxy_certificate = 'nginx'\nnodo = 'uat'", "needs proxies"),
        ("[trust]\nanyone_may_send = true\naddresses = ['10.0.0.1']", "remove one"),
        ("[trust]\naddresses = ['10.0.0.1/8']", "trust.addresses"),
        ("[trust]\naddresses = ['10.0.0.9-10.0.0.1']", "first-last"),
        ("[trust]\naddresses = ['10.0.0.9-::1']", "first-last"),
        ("[trust]\naddresses = 5", "trust.addresses"),
        ("[trust]\ncertificates = ['sha256:12']", "64 hexadecimal"),
        ("[trust]\nproxies = ['proxy.example']", "trust.proxies"),
        ("[trust]\nproxies = ['0.0.0.0/0']", "anyone_is_proxy = true"),
        ("[trust]\nproxies = ['unix', '::/0']", "anyone_is_proxy = true"),
        ("[trust]\nproxies = ['0.0.0.0/1', '128.0.0.0/1']", "anyone_is_proxy = true"),
        ("[server]\nhealth_listen = 'everywhere'", "server.health_listen"),
    ],
)
def test_wrong_configuration(tmp_path, text, words):
    """What would let in nobody, or more than meant, is no configuration."""
    with pytest.raises(ConfigError, match=words):
        settings(tmp_path, text)


def test_every_proxy_believed(tmp_path):
    """All addresses are believed where that is said twice."""
    trust_all = settings(tmp_path, "[trust]\nproxies = ['0.0.0.0/0']\nanyone_is_proxy = true").trust
    assert admit(trust_all, "192.0.2.7", x_forwarded_for="198.51.100.1").address is not None


def test_environment(tmp_path):
    """Lists in the environment are separated by commas."""
    loaded = config.load(
        environ={
            "STATION_CONFIG": "/dev/null",
            "STATION_TRUST_ADDRESSES": "10.0.0.1, 2001:db8::/32",
            "STATION_TRUST_PROXIES": "unix,10.0.0.2",
        }
    )
    assert [str(one) for one in loaded.trust.addresses] == ["10.0.0.1/32", "2001:db8::/32"]
    assert loaded.trust.proxies[0] == "unix"


def test_identity_without_a_name():
    """A certificate without names goes by its fingerprint."""
    assert str(Identity((), "ab")) == "sha256:ab"
