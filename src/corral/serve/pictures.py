"""Pictures of a request: how many there may be, and fetching those that it names by address.

They are fetched before anything is judged, so that guards and model get the same bytes, in threads of their own: an
address that answers slowly takes nobody else's.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from corral.core.errors import MediaError
from corral.data.media import MediaAccess
from corral.data.media.kinds import HEAD_BYTES, kind_of
from corral.data.messages import ImagePart, Message, Part
from corral.serve.errors import RequestError

_AT_ONCE: Final = 8
_SECONDS: Final = 20.0


def check_count(messages: Iterable[Message], most: int, *, param: str) -> None:
    """Refuse a request with more pictures than ``most``.

    Raises:
        RequestError: 400.
    """
    if sum(isinstance(part, ImagePart) for message in messages for part in message.content) > most:
        raise RequestError(400, f"More than {most} pictures.", code="too_many_images", param=param)


class RemotePictures:
    """Fetches what ``access`` allows.

    Args:
        access: reads one address.
        seconds: longest wait for all pictures of a request.
    """

    def __init__(self, access: MediaAccess, *, seconds: float = _SECONDS) -> None:
        self._access = access
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pictures")

    async def inlined(self, messages: Sequence[Message], *, param: str) -> tuple[Message, ...]:
        """The messages with their remote pictures as ``data:`` URIs.

        Raises:
            RequestError: 400 for a picture that cannot be had, or not in time.
        """
        urls = list(dict.fromkeys(url for message in messages for url in _remote(message)))
        if not urls:
            return tuple(messages)
        loop = asyncio.get_running_loop()
        fetching = [loop.run_in_executor(self._threads, self._fetched, url) for url in urls]
        try:
            async with asyncio.timeout(self._seconds):
                found = dict(zip(urls, await asyncio.gather(*fetching), strict=True))
        except TimeoutError:
            said = f"The pictures took more than {self._seconds:g} s."
            raise RequestError(400, said, code="image_unavailable", param=param) from None
        except MediaError as error:
            raise RequestError(400, f"An image: {error.message}.", code="image_unavailable", param=param) from None
        finally:
            for each in fetching:
                each.cancel()
        return tuple(
            replace(message, content=tuple(_with_bytes(part, found) for part in message.content))
            for message in messages
        )

    def _fetched(self, url: str) -> str:
        data = self._access.read(url)
        kind = kind_of(data[:HEAD_BYTES])
        family = "image" if kind.library == "pillow" else "video"
        return f"data:{family}/{kind.name};base64,{base64.b64encode(data).decode()}"


def _remote(message: Message) -> list[str]:
    parts = (part for part in message.content if isinstance(part, ImagePart))
    return [part.url for part in parts if not part.url.startswith("data:")]


def _with_bytes(part: Part, found: Mapping[str, str]) -> Part:
    return ImagePart(found[part.url]) if isinstance(part, ImagePart) and part.url in found else part
