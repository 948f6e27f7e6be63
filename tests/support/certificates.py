"""Certificates for tests, made while they run: an authority, and what it signs. Nobody outside believes any of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography import x509


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
    """A certificate authority. No two are of one kin, whatever they are called."""

    def __init__(self) -> None:
        self._authority = trustme.CA()
        self.certificate = self._authority.cert_pem.bytes()

    def write(self, directory: Path, name: str = "ca") -> Path:
        """NAME.pem there, replaced by a rename."""
        path = directory / f"{name}.pem"
        replace(path, self.certificate)
        return path

    def issue(self, name: str = "localhost", hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1")) -> Identity:
        """An identity by this name, good for these host names and addresses."""
        issued = self._authority.issue_cert(*hosts, common_name=name)
        return Identity(issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes())


def replace(path: Path, content: bytes) -> None:
    """As tools that rotate certificates do it: whoever reads sees the old file or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    os.replace(new, path)
