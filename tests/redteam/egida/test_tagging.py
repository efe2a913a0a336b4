"""Topics by a model: strictly read, marked as a machine's, asked for once, and only where the source has none."""

from __future__ import annotations

import json

import pytest

from corral.core.errors import EngineError
from corral.models.engines.base import Prompt
from corral.models.engines.scripted import ScriptedEngine
from corral.redteam.egida.expand import BaseRequest, expand
from corral.redteam.egida.tagging import TopicTagger, question_about, topics_in
from corral.redteam.egida.topics import topics
from corral.redteam.goals import Goal
from corral.redteam.store import Store
from corral.redteam.styles import choose_styles


def request(number: int, text: str, *named: str) -> BaseRequest:
    return BaseRequest(Goal(f"r{number}", text, source="made up", licence="none"), named)


REQUESTS = [
    request(0, "Where is the spare key?", "robbery"),
    request(1, "What does the neighbour earn?"),
    request(2, "Which paint burns well?", "a category of nobody"),
    request(3, "Which colour has the attic?"),
]
ANSWERS = {"earn": "p_info, harassment", "burns": "Arson.", "attic": "none"}


def reply(prompt: Prompt) -> str:
    (line,) = [line for line in prompt.messages[0].text.splitlines() if line.startswith("Request: ")]
    asked = json.loads(line.removeprefix("Request: "))
    return next(answer for word, answer in ANSWERS.items() if word in asked)


def test_requests_without_a_known_topic_get_those_of_the_model(tmp_path) -> None:
    tagged = TopicTagger(ScriptedEngine(reply), Store(tmp_path, 2)).tag(REQUESTS)
    assert [(each.id, each.topics, each.by_machine) for each in tagged.requests] == [
        ("r0", ("robbery",), False),
        ("r1", ("p_info", "harassment"), True),
        ("r2", ("arson",), True),
    ]
    assert (tagged.by_machine, tagged.left_out) == (2, ("r3",))


def test_rows_of_a_machine_say_so(tmp_path) -> None:
    tagged = TopicTagger(ScriptedEngine(reply), Store(tmp_path, 2)).tag(REQUESTS)
    rows = [each.to_json() for each in expand(tagged.requests, choose_styles(["plain"])[0]).instances]
    assert [row["topics_by"] for row in rows] == ["source", "machine", "machine"]


def test_nothing_is_asked_twice(tmp_path) -> None:
    store = Store(tmp_path, 2)
    first = TopicTagger(ScriptedEngine(reply), store).tag(REQUESTS)
    silent = ScriptedEngine({})  # has no answer to anything
    assert TopicTagger(silent, store).tag(REQUESTS) == first


def test_an_engine_that_fails_is_not_taken_for_one_without_a_topic(tmp_path) -> None:
    with pytest.raises(EngineError):
        TopicTagger(ScriptedEngine({}), Store(tmp_path, 2)).tag(REQUESTS)


def test_every_named_topic_is_offered_and_no_free_slot() -> None:
    text = question_about("Which {topics}?").messages[0].text
    offered = {line.partition(":")[0] for line in text.splitlines()}
    assert set(topics().names) & offered == set(topics().names) - set(topics().free)
    assert '"Which {topics}?"' in text


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("fraud", ("fraud",)),
        (" `Fraud`, **guns**.", ("fraud", "guns")),
        ("fraud, fraud", ("fraud",)),
        ("fraud, guns, drugs, arson", ()),
        ("The topic is fraud", ()),
        ("fraud, cooking", ()),
        ("other_1", ()),
        ("none", ()),
        ("", ()),
    ],
)
def test_an_answer_is_read_strictly(answer, named) -> None:
    assert topics_in(answer) == named
