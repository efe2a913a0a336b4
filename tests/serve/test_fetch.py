"""Fetching images: only public addresses, resolved once, small, and never by default."""

from __future__ import annotations

import socket
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.core.errors import MediaError
from corral.serve.fetch import fetch_public, public_address


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "224.0.0.1", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::",
        "2130706433", "0x7f000001", "127.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(host: str) -> None:
    with pytest.raises(MediaError):
        public_address(host, 80)


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with pytest.raises(MediaError, match="not public"):
        public_address("rebinding.example", 80)


def test_a_public_address_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("93.184.216.34", 80))])
    assert public_address("example.org", 80) == "93.184.216.34"


@pytest.mark.parametrize(
    "url",
    ["ftp://example.org/x", "file:///etc/passwd", "http://u:p@example.org/", "http://example.org:22/", "http:///x",
     "http://example.org:99999/", "http://[::1"],
)  # fmt: skip
def test_odd_addresses_are_refused_before_anything_is_looked_up(url: str) -> None:
    with pytest.raises((MediaError, ValueError)):
        fetch_public(url, 100)


def test_it_is_off_by_default(start: Any) -> None:
    running = start()
    image = {"type": "image_url", "image_url": {"url": "http://93.184.216.34/x.png"}}
    answer = running.moderate([image]).json()
    assert answer["corral"]["decisions"][0]["status"] == "rejected"
    assert answer["results"][0]["flagged"] is True
