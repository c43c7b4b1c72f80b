"""A throw-away certificate authority and one server certificate, for the TLS rows.

The certificate is good for 127.0.0.1 and localhost and nothing else, so that a `verify-full`
client which is given another name, or another authority, must refuse it.
"""

import datetime as dt
import importlib.util
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec


def unavailable() -> str | None:
    """Why no certificate can be made, or None."""
    if importlib.util.find_spec("cryptography") is None:
        return "the package cryptography is not installed"
    return None


@dataclass(frozen=True)
class Certificates:
    """PEM files: `ca` (give it to clients), and `cert` with its `key` (give them to servers)."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def create(cls, directory: Path) -> Self:
        """Write the three files into `directory`, which the caller removes."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        ca = _sign("ambidex test CA", ca_key, issuer=None, issuer_key=ca_key)
        cert = _sign("localhost", key, issuer=ca, issuer_key=ca_key)
        files = cls(directory / "ca.pem", directory / "server.pem", directory / "server.key")
        files.ca.write_bytes(ca.public_bytes(Encoding.PEM))
        files.cert.write_bytes(cert.public_bytes(Encoding.PEM))
        files.key.touch(mode=0o600)
        files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    def client_context(self) -> ssl.SSLContext:
        """A context that trusts this authority only."""
        return ssl.create_default_context(cafile=str(self.ca))

    def server_context(self) -> ssl.SSLContext:
        """A context that presents the server certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


def _sign(
    name: str,
    key: "ec.EllipticCurvePrivateKey",
    *,
    issuer: "x509.Certificate | None",
    issuer_key: "ec.EllipticCurvePrivateKey",
) -> "x509.Certificate":
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now, is_ca = dt.datetime.now(dt.UTC), issuer is None
    usages = {"key_cert_sign": is_ca, "crl_sign": is_ca, "digital_signature": True}
    others = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=7))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usages, **others), critical=True)
        # Python 3.13 verifies strictly by default and wants both identifiers.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not is_ca:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
