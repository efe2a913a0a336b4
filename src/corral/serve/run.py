"""Binding an address and serving until told to stop."""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import Callable
from typing import Final

from corral.core.errors import ConfigError, CorralError
from corral.serve.server import Server
from corral.serve.settings import is_loopback

_DRAIN_SECONDS: Final = 30
_BACKLOG: Final = 2048
_IDLE_SECONDS: Final = 30


def require_key_beyond_loopback(server: Server) -> None:
    """Refuse to be open to other machines.

    Raises:
        ConfigError: an address beyond loopback, and no API key.
    """
    host = server.settings.host
    if not is_loopback(host) and not server.keys.required:
        raise ConfigError(
            f"`{host}` can be reached from other machines, and no API key exists",
            where="--host",
            hint="Make one first: corral serve keys create NAME",
        )


def serve(server: Server, *, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests that were let in are answered first.

    Args:
        server: built, not started.
        ready: told the address once it accepts connections.

    Raises:
        ConfigError: see ``require_key_beyond_loopback``.
        CorralError: the address cannot be bound.
    """
    import uvicorn

    from corral.serve.app import create_app

    require_key_beyond_loopback(server)

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready(_url(bound))

    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn repeats the signal that ended it: a server that was told to stop and did so has not failed.
        signal.signal(number, lambda *_: None)
    with _bind(server.settings.host, server.settings.port) as bound:
        config = uvicorn.Config(
            create_app(server),
            log_config=None,  # ours is set; uvicorn's would print addresses and paths
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        running = Announcing(config)
        gc.collect()
        gc.freeze()  # what was loaded stays: looking through it for garbage would stop everything for 0.1 s and more
        running.run(sockets=[bound])
    if not running.started:
        raise CorralError("the server did not start", hint="The log lines above say why.")


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CorralError(
            f"cannot be bound: {error.strerror or error}",
            where=f"{host}:{port}",
            hint="Choose another --port or --host.",
        ) from error
    # Connections inherit it. asyncio would set it on sockets of its own making; without it the second part of every
    # answer waits some 40 ms for the client to acknowledge the first.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
