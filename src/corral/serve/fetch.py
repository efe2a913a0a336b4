"""Fetching what a client names, without letting it name the operator's own network (server-side request forgery).

Off unless the operator asks for it. The name is resolved once, every address that it resolves to must be public, and
the connection goes to that very address, so that a second look-up cannot answer otherwise. Redirects are refused,
proxies from the environment ignored, and size and time bounded.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from typing import Any, Final
from urllib.parse import urlsplit

from corral.core.errors import MediaError

_SECONDS: Final = 10.0
_CHUNK: Final = 1 << 16
_PORTS: Final = frozenset({80, 443})


def fetch_public(url: str, max_bytes: int) -> bytes:
    """The content of a public http or https address, at most ``max_bytes``.

    Raises:
        MediaError: another scheme or port, credentials, an address that is not public, a redirect, another status than
            200, too much, or too slow.
    """
    import httpx2

    parts = urlsplit(url)
    port = _checked_port(parts)
    host = parts.hostname or ""
    address = public_address(host, port)
    literal = f"[{address}]" if ":" in address else address
    # The connection goes to the address; the name stands in the Host header and, for TLS, in the certificate's check.
    target = httpx2.URL(url).copy_with(host=literal)
    deadline = time.monotonic() + _SECONDS
    try:
        with (
            httpx2.Client(timeout=_SECONDS, follow_redirects=False, trust_env=False) as client,
            client.stream(
                "GET", target, headers={"Host": _host_header(host, parts.port)}, extensions={"sni_hostname": host}
            ) as response,
        ):
            if response.status_code != 200:
                raise MediaError(f"the address answered {response.status_code}")
            return _read(response, max_bytes, deadline)
    except httpx2.HTTPError as error:
        raise MediaError(f"the address cannot be read ({type(error).__name__})") from error


def public_address(host: str, port: int) -> str:
    """One address of a host, all of whose addresses are public.

    Raises:
        MediaError: it has none, or one that is not public (loopback, private, link-local, multicast, reserved).
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise MediaError("the address's host is not known") from error
    if not found or not all(_is_public(address) for address in found):
        raise MediaError("the address is not public")
    return sorted(found)[0]


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    inner: Any = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
    return all(each.is_global and not each.is_multicast and not each.is_reserved for each in (address, inner))


def _checked_port(parts: Any) -> int:
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise MediaError("not an address that can be read") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port not in _PORTS:
        raise MediaError("only http and https at their usual ports are read")
    if parts.username is not None or parts.password is not None:
        raise MediaError("the address holds credentials")
    return int(port)


def _host_header(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def _read(response: Any, max_bytes: int, deadline: float) -> bytes:
    content = bytearray()
    for chunk in response.iter_bytes(_CHUNK):
        content += chunk
        if len(content) > max_bytes:
            raise MediaError(f"more than {max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise MediaError(f"the address took more than {_SECONDS:g} s")
    return bytes(content)
