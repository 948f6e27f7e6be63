"""Certificates for tests, made while they run: an authority, and what it signs. Nobody outside believes any of it."""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_USAGES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key, PEM. It serves servers and clients alike."""

    certificate: bytes
    key: bytes

    @property
    def serial_number(self) -> int:
        """What tells it from every other, also as the other side of a connection sees it."""
        return x509.load_pem_x509_certificate(self.certificate).serial_number

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """NAME.pem and NAME.key there, each replaced by a rename, the key first. Returns both paths."""
        paths = directory / f"{name}.pem", directory / f"{name}.key"
        replace(paths[1], self.key)
        replace(paths[0], self.certificate)
        return paths

    def mount(self, directory: Path) -> tuple[Path, Path]:
        """tls.crt and tls.key there, as Kubernetes mounts a secret: both change at once, when the symbolic link that
        they are reached by is replaced. Returns both paths."""
        (version := directory / f"..{self.serial_number}").mkdir()
        (version / "tls.crt").write_bytes(self.certificate)
        (version / "tls.key").write_bytes(self.key)
        (link := directory / "..data_tmp").symlink_to(version.name)
        os.replace(link, directory / "..data")
        paths = directory / "tls.crt", directory / "tls.key"
        for path in paths:
            if not path.is_symlink():
                path.symlink_to(Path("..data", path.name))
        return paths


class Authority:
    """A certificate authority. Two of the same name are still strangers."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        unsigned = _unsigned(self._name, self._name, self._key.public_key())
        unsigned = unsigned.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = _pem(unsigned.sign(self._key, hashes.SHA256()))

    def write(self, directory: Path, name: str = "ca") -> Path:
        """NAME.pem there, replaced by a rename."""
        path = directory / f"{name}.pem"
        replace(path, self.certificate)
        return path

    def issue(self, name: str = "localhost", hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1")) -> Identity:
        """An identity by this name, good for these host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = (
            _unsigned(_named(name), self._name, key.public_key())
            .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(_USAGES), critical=False)
        )
        return Identity(_pem(unsigned.sign(self._key, hashes.SHA256())), _key_pem(key))


def replace(path: Path, content: bytes) -> None:
    """As tools that rotate certificates do it: whoever reads sees the old file or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    os.replace(new, path)


def _unsigned(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
