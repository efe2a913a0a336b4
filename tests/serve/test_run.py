"""Binding an address."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.serve.run import _bind


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with _bind("127.0.0.1", 0) as bound, socket.create_connection(bound.getsockname()):
        connection, _ = bound.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
