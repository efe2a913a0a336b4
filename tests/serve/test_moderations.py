"""The moderation API: OpenAI's shapes, the thirteen categories, and the extension."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest

from corral.data.taxonomy import load_taxonomy
from corral.guards.base import Status, Verdict
from corral.guards.moderation_api.client import Moderation, NoModeration, read_moderation
from corral.guards.scripted import ScriptedGuard
from corral.serve.categories import openai_categories, openai_scores


def test_one_text_has_one_result_with_all_thirteen_categories(start: Any) -> None:
    answer = start().moderate("hello").json()
    (result,) = answer["results"]
    assert result["flagged"] is False
    names = set(load_taxonomy("openai_moderation").codes)
    assert len(names) == 13
    assert set(result["categories"]) == set(result["category_scores"]) == names
    assert set(result["category_applied_input_types"]) == names
    assert answer["id"].startswith("modr-")


def test_a_list_has_a_result_each_and_typed_parts_have_one(start: Any) -> None:
    running = start()
    assert [r["flagged"] for r in running.moderate(["hello", "TRIGGER", "bye"]).json()["results"]] == [0, 1, 0]
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": "TRIGGER"}]
    assert [r["flagged"] for r in running.moderate(parts).json()["results"]] == [True]


def test_every_decision_has_its_row(start: Any) -> None:
    running = start()
    answer = running.moderate(["hello", "TRIGGER"])
    rows = running.rows_of(answer)
    told = answer.json()["corral"]["decisions"]
    assert [row["id"] for row in rows] == [decision["id"] for decision in told]
    assert [row["action"] for row in rows] == ["allow", "block"]
    assert {row["policy_hash"] for row in rows} == {answer.json()["corral"]["policy_hash"]}
    assert all(row["content"] is None for row in rows)
    assert "TRIGGER" not in str(rows)


def test_a_response_is_judged_as_one(start: Any) -> None:
    running = start(policies={"default": "response: {action: flag}\n"})
    answer = running.moderate("TRIGGER", corral={"target": "response"}).json()
    assert answer["corral"]["decisions"][0]["action"] == "flag"
    assert answer["results"][0]["flagged"] is True


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
def test_a_guard_that_asks_this_server_reads_what_was_decided_and_not_what_was_done(start: Any, mode: str) -> None:
    running = start(guards=[ScriptedGuard(faults={"BOOM": "timeout"})], policies={"default": f"mode: {mode}\n"})
    bad, fine, failed = (
        read_moderation(running.moderate(text).json(), frozenset(openai_categories()))
        for text in ("TRIGGER", "hello", "BOOM")
    )
    assert bad == Moderation(flagged=True, p_harm=0.99, categories={})
    assert fine == Moderation(flagged=False, p_harm=0.01, categories={})
    assert isinstance(failed, NoModeration)
    assert failed.status is Status.TIMEOUT


def test_clients_may_add_a_guard(start: Any) -> None:
    running = start(
        guards=[ScriptedGuard(), ScriptedGuard("EXTRA", name="second")],
        policies={"default": "guards: [scripted]\n"},
    )
    assert not running.moderate("EXTRA").json()["results"][0]["flagged"]
    added = running.moderate("EXTRA", corral={"guards": ["second"]}).json()
    assert added["results"][0]["flagged"]
    assert added["corral"]["guards"] == ["scripted", "second"]
    refused = running.moderate("EXTRA", corral={"guards": ["third"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "corral.guards")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_value"),
        (b"{", "invalid_value"),
        (b"[]", "invalid_value"),
        (b"{}", "invalid_value"),
        (b'{"input": 5}', "invalid_value"),
        (b'{"input": []}', "invalid_value"),
        (b'{"input": ""}', "empty_input"),
        (b'{"input": ["hi", "  "]}', "empty_input"),
        (b'{"input": [{"type": "text"}]}', "invalid_value"),
        (b'{"input": [{"type": "sound"}]}', "invalid_value"),
        (b'{"input": ["a", {"type": "text", "text": "b"}]}', "invalid_value"),
        (b'{"input": "hi", "extra": 1}', "unknown_parameter"),
        (b'{"input": "\\ud800"}', "invalid_value"),
        (b'{"input": ' + b"[" * 100_000, "invalid_value"),
        (b'{"input": "\xff"}', "invalid_value"),
    ],
)
def test_what_cannot_be_judged_is_refused_without_quoting_it(start: Any, body: bytes, code: str) -> None:
    answer = start().client.post("/v1/moderations", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_too_much_is_refused_and_never_cut(start: Any) -> None:
    running = start(limits={"inputs": 2, "text_chars": 10})
    assert running.moderate(["a", "b", "c"]).json()["error"]["code"] == "too_many_inputs"
    assert running.moderate("x" * 11).json()["error"]["code"] == "text_too_long"


def test_a_full_queue_is_429_with_retry_after(start: Any) -> None:
    running = start(guards=[ScriptedGuard(delay=0.3)], limits={"queue_items": 1, "batch_items": 1})
    import concurrent.futures as futures

    with futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: running.moderate(f"hello {i}"), range(8)))
    codes = [answer.status_code for answer in answers]
    assert codes.count(200) >= 1
    assert codes.count(429) >= 1
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "queue_full"


def test_a_score_implies_openais_category_when_it_is_the_same_or_narrower() -> None:
    verdict = Verdict(
        "prompt", "g", "1", flagged=True, p_harm=0.9,
        categories={"llama_guard_3/S1": 0.8, "llama_guard_3/S10": 0.7, "llama_guard_3/S4": 0.2},
    )  # fmt: skip
    scores = openai_scores([verdict])
    assert tuple(scores) == openai_categories()
    assert (scores["violence"], scores["hate"], scores["sexual/minors"]) == (0.8, 0.7, 0.2)
    # S1 is broader than these: violence is not yet a threat.
    assert scores["harassment/threatening"] is None
    assert scores["hate/threatening"] is None


def test_the_highest_of_several_guards_counts_and_foreign_taxonomies_do_not() -> None:
    one = Verdict("prompt", "a", "1", flagged=False, p_harm=0.1, categories={"llama_guard_3/S10": 0.1, "mine/X": 0.9})
    two = Verdict("prompt", "b", "1", flagged=True, p_harm=0.9, categories={"llama_guard_3/S10": 0.6})
    assert openai_scores([one, two])["hate"] == 0.6


def picture(colour: str) -> str:
    """A data URI of a picture of one colour."""
    image = pytest.importorskip("PIL.Image", reason="the media extra is not installed")
    out = io.BytesIO()
    image.new("RGB", (16, 16), colour).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def test_pictures_go_to_the_media_guard_and_texts_to_the_others(start: Any) -> None:
    running = start(media_guard="scripted-media")

    def asked(text: str, colour: str) -> Any:
        parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": picture(colour)}}]
        return running.moderate(parts).json()

    assert asked("hello", "blue")["results"][0]["flagged"] is False
    assert asked("hello", "red")["results"][0]["flagged"] is True
    assert asked("a TRIGGER", "blue")["results"][0]["flagged"] is True
    verdicts = asked("hello", "red")["corral"]["decisions"][0]["verdicts"]
    assert [verdict["guard"] for verdict in verdicts] == ["scripted", "scripted-media"]


def test_a_picture_alone_is_judged_by_the_media_guard_alone(start: Any) -> None:
    running = start(media_guard="scripted-media")
    answer = running.moderate([{"type": "image_url", "image_url": {"url": picture("red")}}]).json()
    assert answer["results"][0]["flagged"] is True
    assert [verdict["guard"] for verdict in answer["corral"]["decisions"][0]["verdicts"]] == ["scripted-media"]
    said = running.chat(
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture("red")}}]}
    ).json()
    assert said["choices"][0]["finish_reason"] == "content_filter"


def test_the_guard_of_images_is_loaded_with_its_settings(start: Any, tmp_path: Any) -> None:
    part = [{"type": "image_url", "image_url": {"url": picture("red")}}]

    def revision(name: str, **settings: Any) -> str:
        chosen = {"scripted-media": settings}
        running = start(state=tmp_path / name, media_guard="scripted-media", guard_settings=chosen)
        return str(running.moderate(part).json()["corral"]["decisions"][0]["verdicts"][0]["revision"])

    assert revision("a", threshold=0.9) != revision("b")
