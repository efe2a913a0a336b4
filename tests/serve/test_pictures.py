"""Pictures of a request: few, fetched once before anything is judged, and never in a thread that others need."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.data.media import MediaAccess
from corral.data.messages import ImagePart, Message, TextPart
from corral.serve.errors import RequestError
from corral.serve.pictures import RemotePictures

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
INLINE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
SECOND = "https://example.org/b.png"


def message(*urls: str) -> Message:
    return Message("user", (TextPart("look"), *map(ImagePart, urls)))


def test_each_address_is_fetched_once_and_the_rest_stays() -> None:
    fetched: list[str] = []

    def fetch(url: str, _most: int) -> bytes:
        fetched.append(url)
        return PNG

    pictures = RemotePictures(MediaAccess(fetch=fetch))
    given = (message("https://example.org/a.png", SECOND), message(SECOND, INLINE))
    found = asyncio.run(pictures.inlined(given, param="messages"))
    assert sorted(fetched) == ["https://example.org/a.png", SECOND]
    assert found == (message(INLINE, INLINE), message(INLINE, INLINE))


def test_what_cannot_be_had_is_refused() -> None:
    def fetch(_url: str, _most: int) -> bytes:
        raise OSError("a secret")

    pictures = RemotePictures(MediaAccess(fetch=fetch))
    with pytest.raises(RequestError) as refused:
        asyncio.run(pictures.inlined([message(SECOND)], param="input"))
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "image_unavailable", "input")
    assert "secret" not in str(refused.value)


def test_addresses_that_answer_slowly_end_in_time_and_take_nobody_elses_thread() -> None:
    go = threading.Event()

    def fetch(_url: str, _most: int) -> bytes:
        assert go.wait(30)
        return PNG

    async def main() -> None:
        pictures = RemotePictures(MediaAccess(fetch=fetch), seconds=0.2)
        many = message(*(f"https://example.org/{n}.png" for n in range(64)))
        asking = asyncio.create_task(pictures.inlined([many], param="messages"))
        await asyncio.sleep(0.05)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"
        with pytest.raises(RequestError, match="took more"):
            await asking
        go.set()

    asyncio.run(main())


def test_a_request_holds_so_many_pictures_and_no_more(start: Any) -> None:
    running = start(media_guard="scripted-media", limits={"images": 2})
    part = {"type": "image_url", "image_url": {"url": INLINE}}
    assert running.moderate([part] * 2).status_code == 200
    for answer in (
        running.moderate([part] * 3),
        running.chat({"role": "user", "content": [part] * 2}, {"role": "user", "content": [part]}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_images")
