"""The admin API over TLS: certificates that are wrong, renewed, or asked of callers."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from asking_admin import PREFIX, Administered, keys
from living import servery, until

TLS = {"cert": "tls/cert.pem", "key": "tls/key.pem", "client_ca": "tls/ca.pem"}


class Authority:
    """Signs certificates, its own first."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])
        own = self._signed(self._name, self._key.public_key(), x509.BasicConstraints(True, None))
        self.cert = folder / "ca.pem"
        self.cert.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def _signed(self, name: x509.Name, key: ec.EllipticCurvePublicKey, *more: x509.ExtensionType) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder(self._name, name, key, x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        ours = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = made.add_extension(ours, False)
        for extension in more:
            made = made.add_extension(extension, isinstance(extension, x509.BasicConstraints))
        return made.sign(self._key, hashes.SHA256())

    def write(self, cert: str, key: str, name: str) -> x509.Certificate:
        """A certificate for loopback and its key, in these files."""
        own = ec.generate_private_key(ec.SECP256R1())
        here = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signed = self._signed(subject, own.public_key(), here)
        private = own.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        content = {key: private}
        content[cert] = content.get(cert, b"") + signed.public_bytes(serialization.Encoding.PEM)
        for file, text in content.items():
            (self.folder / file).write_bytes(text)
        return signed


def trust(authority: Authority, client: str = "") -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=authority.cert)
    if client:
        made.load_cert_chain(authority.folder / client)
    return made


def shown(server: Administered) -> int:
    """The serial number of the certificate that is shown."""
    host, _, port = server.url.removeprefix("https://").partition(":")
    pem = ssl.get_server_certificate((host, int(port)))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_only_who_has_a_certificate_is_heard_and_a_renewed_one_is_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    first = authority.write("cert.pem", "key.pem", "servery")
    authority.write("client.pem", "client.pem", "an operator")
    with Administered(tmp_path, tls=TLS) as server:
        assert server.url.startswith("https://127.0.0.1:")
        ca, mine = str(authority.cert), str(tmp_path / "tls" / "client.pem")
        assert "answers by it" in server.command("status", SERVERY_CA=ca, SERVERY_CLIENT_CERT=mine)
        assert "name the file of its authority in SERVERY_CA" in server.command("status", code=1)
        assert "in SERVERY_CLIENT_CERT" in server.command("status", code=1, SERVERY_CA=ca)
        with pytest.raises((ssl.SSLError, ConnectionError)):  # with TLS 1.3 some hear only that the connection ended
            server.ask_admin(f"{PREFIX}/status", trust=trust(authority))
        assert server.ask_admin(f"{PREFIX}/status", "viewer", trust=trust(authority, "client.pem")).status == 200
        assert server.ask_admin(f"{PREFIX}/status", "", trust=trust(authority, "client.pem")).status == 401
        assert shown(server) == first.serial_number
        second = authority.write("cert.pem", "key.pem", "servery")
        until(lambda: shown(server) == second.serial_number, said=server.written)
        (tmp_path / "tls" / "key.pem").write_text("nothing")
        until(lambda: server.log_lines("keeps the certificate that it has"), said=server.written)
        assert shown(server) == second.serial_number
        server.write(tls={**TLS, "cert": "tls/missing.pem"})
        refused = servery("apply", server.manifest, "--data", server.data, "--yes", "--reason", "r")
        assert "missing.pem can't be read: No such file or directory" in refused.stderr
        assert server.stop() == 0


def test_without_a_certificate_callers_are_served_and_the_door_stays_shut(tmp_path: Path) -> None:
    with Administered(tmp_path, tls=TLS) as server:
        assert "admin.tls" in server.written()
        said = "the admin API can't be opened on 127.0.0.1:0: .*cert.pem can't be read"
        until(lambda: server.log_lines(said), said=server.written)
        assert server.opened == []
        authority = Authority(tmp_path / "tls")
        authority.write("cert.pem", "key.pem", "servery")
        assert until(lambda: server.opened, said=server.written)
    assert "in clear" in servery("status", "--server", "http://servery.example:8002").stderr


def test_what_is_declared_for_a_network_is_checked(tmp_path: Path) -> None:
    server = Administered(tmp_path, host="0.0.0.0")
    done = servery("check", server.manifest)
    assert done.returncode == 1
    assert "keys would cross the network in clear" in done.stdout + done.stderr
    server.write(keys=keys("operator", "expired"))
    said = "admin   127.0.0.1:0  the-operator (operator), the-expired (operator, until 2020-02-29)"
    assert said in servery("check", server.manifest).stdout
