"""Which addresses need no encryption."""

from ipaddress import ip_address
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is reached from this machine only."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def require_safe(url: str) -> None:
    """Raises ValueError unless `url` is one with https, or with http on this very machine."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in ("https", "http") or parts.query or parts.fragment:
        raise ValueError("is no https URL")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("must be https, but for this machine")
