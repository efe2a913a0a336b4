"""The official client works unchanged, over a real socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

openai = pytest.importorskip("openai", reason="the openai client is not installed")

LONG = "All is well. " * 100


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory, server_in: Any, listening: Any) -> Any:
    folder: Path = tmp_path_factory.mktemp("openai")
    with listening(server_in(folder)) as url:
        yield url


@pytest.fixture(scope="module")
def client(base_url: str) -> Any:
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_moderations(client: Any) -> None:
    answer = client.moderations.create(model="omni-moderation-latest", input=["hello", "a TRIGGER"])
    harmless, harmful = answer.results
    assert (harmless.flagged, harmful.flagged) == (False, True)
    assert harmful.categories.hate is True
    assert harmful.category_scores.hate == pytest.approx(0.99)
    assert harmful.categories.self_harm_instructions is False
    assert answer.corral["decisions"][1]["action"] == "block"


def test_chat(client: Any) -> None:
    said = client.chat.completions.create(model="any", messages=[{"role": "user", "content": "say hello"}])
    assert said.choices[0].message.content == "hello"
    assert said.usage.total_tokens > 0
    stopped = client.chat.completions.create(model="any", messages=[{"role": "user", "content": "a TRIGGER"}])
    assert stopped.choices[0].finish_reason == "content_filter"
    assert stopped.choices[0].message.refusal


def test_streamed_chat(client: Any) -> None:
    ask = [{"role": "user", "content": f"say {LONG}"}]
    chunks = list(client.chat.completions.create(model="any", messages=ask, stream=True, max_tokens=10_000))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == LONG
    assert chunks[-1].choices[0].finish_reason == "stop"
    ask = [{"role": "user", "content": "say TRIG" + "GER"}]
    chunks = list(client.chat.completions.create(model="any", messages=ask, stream=True))
    assert chunks[-1].choices[0].finish_reason == "content_filter"


def test_asynchronous_calls_at_once(base_url: str) -> None:
    async def main() -> list[bool]:
        async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as client:
            asked = (client.moderations.create(input=f"{'TRIGGER' if n % 3 == 0 else 'hi'} {n}") for n in range(30))
            return [answer.results[0].flagged for answer in await asyncio.gather(*asked)]

    assert asyncio.run(main()) == [n % 3 == 0 for n in range(30)]


def test_models_and_errors(client: Any) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["corral-moderation", "scripted", "scripted-engine"]
    with pytest.raises(openai.BadRequestError) as refused:
        client.moderations.create(input="")
    assert refused.value.code == "empty_input"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": "x"}], logprobs=True)


def test_a_key_is_sent_as_openais(tmp_path: Path, server_in: Any, listening: Any) -> None:
    server = server_in(tmp_path)
    _, secret = server.keys.create("a")
    with listening(server) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0) as client:
            assert client.moderations.create(input="hello").results[0].flagged is False
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.moderations.create(input="hello")
