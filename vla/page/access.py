"""Who may open the operator page.

Without a token the page is for this machine alone. A browser sends what other sites tell it to, so
each request is also checked for where it comes from: by `Host`, since a site may give its name this
machine's address (DNS rebinding), by `Origin` and by `Sec-Fetch-Site`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vla.core.files import read_text
from vla.core.shown import brief, shown_path

COOKIE = "vla_page"
# Shorter ones could be guessed.
SHORTEST_TOKEN = 24
MOST_TOKEN_BYTES = 4096
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class AccessError(ValueError):
    """Settings that would let strangers in, or a request that is refused; one sentence says why."""


@dataclass(frozen=True)
class Access:
    """Under which names and with which token the page is served."""

    address: str  # that the server listens at
    hosts: frozenset[str]  # names and addresses under which a browser may open the page
    token: str = ""  # "" where none is asked for
    certificate: Path | None = None  # PEM, with its chain
    key: Path | None = None  # PEM, of the certificate

    @property
    def scheme(self) -> str:
        """What URLs of the page begin with."""
        return "https" if self.certificate else "http"

    @property
    def session(self) -> str:
        """What the cookie of a browser that gave the token holds; another token has another."""
        return hmac.new(self.token.encode(), b"operator page", hashlib.sha256).hexdigest()

    def url(self, port: int) -> str:
        """Where a browser finds the page."""
        name = sorted(self.hosts)[0] if _is_any(self.address) else self.address
        return f"{self.scheme}://{f'[{name}]' if ':' in name else name}:{port}/"

    def tls(self) -> ssl.SSLContext | None:
        """For the server; None where it speaks plain HTTP. Raises AccessError for unfit files."""
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise AccessError(
                f"cannot serve with certificate {shown_path(self.certificate)} and key "
                f"{shown_path(self.key or '')} ({error}): give both in PEM, readable for this user"
            ) from error
        return context

    def require_own_site(self, headers: Mapping[str, str]) -> None:
        """Raises AccessError for a request that another site, or another name, has caused."""
        host = headers.get("Host", "")
        if _host_name(host) not in self.hosts:
            raise AccessError(
                f"the page is not served under the name {brief(host)}: open it as "
                f"{sorted(self.hosts)[0]}, or add the name to the parameter 'hosts'"
            )
        origin = headers.get("Origin")
        if origin is not None and origin != f"{self.scheme}://{host}":
            raise AccessError(f"a request of another site, {brief(origin)}, is refused")
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise AccessError("a request that another site has caused is refused")

    def knows(self, authorization: str, cookie: str) -> bool:
        """Whether a request proves that it knows the token.

        authorization: the header, with the token as a bearer. cookie: what COOKIE holds.
        """
        if not self.token:
            return True
        kind, _, given = authorization.partition(" ")
        return (kind.lower() == "bearer" and self.is_token(given.strip())) or (
            hmac.compare_digest(cookie.encode(), self.session.encode())
        )

    def is_token(self, text: str) -> bool:
        """Whether a text is the token, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(text.encode(), self.token.encode())


def make_access(
    address: str, hosts: list[str], token_file: str, certificate: str, key: str
) -> Access:
    """Checks the page's settings; empty texts stand for what is not given.

    hosts: names under which the page may be opened, besides its address. Raises AccessError where
    others than this machine could reach the page without a token and TLS.
    """
    token = _read_token(token_file) if token_file else ""
    local = is_local(address)
    if bool(certificate) != bool(key):
        raise AccessError("give 'tls_certificate' and 'tls_key' together, or neither")
    missing = [
        what
        for what, given in (("'token_file'", token), ("'tls_certificate' and 'tls_key'", key))
        if not given
    ]
    if missing and not local:
        raise AccessError(
            f"at address {brief(address)} others could reach the page and move the robot: give "
            f"{' and '.join(missing)}, or listen at 127.0.0.1"
        )
    names = {name.lower() for name in hosts if name}
    if local:
        names.update(LOCAL_NAMES)
    elif not _is_any(address):
        names.add(address.lower())
    if not names:
        raise AccessError(
            f"at address {brief(address)} the page has no name of its own: give the names and "
            "addresses under which browsers open it as 'hosts'"
        )
    paths = (Path(certificate), Path(key)) if key else (None, None)
    return Access(address, frozenset(names), token, *paths)


def is_local(address: str) -> bool:
    """Whether only this machine reaches a server that listens at `address`, a name or an IP."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost" and _resolves_to_loopback(address)


def _resolves_to_loopback(name: str) -> bool:
    try:
        found = socket.getaddrinfo(name, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def _is_any(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """The name in a Host header, without its port; "" where there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _read_token(path: str) -> str:
    token = read_text(path, AccessError, MOST_TOKEN_BYTES).strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise AccessError(
            f"{shown_path(path)} must hold a token of at least {SHORTEST_TOKEN} ASCII characters: "
            "make one with 'openssl rand -hex 24'"
        )
    return token
