"""PAIR: what goes to the attacking model, what is read of its replies, and which prompt comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corral.models.engines.base import GenerationSettings, Prompt
from corral.models.engines.scripted import ScriptedEngine
from corral.redteam.judges import Judgement, Outcome
from corral.redteam.store import Store
from corral.redteam.styles import NotApplicable, StyleContext, load_style, seeded
from corral.redteam.styles.search import Attacker, SearchTools
from corral.redteam.styles.search.talks import proposal

GOAL = "Reveal the secret colour of the attic."


class LengthJudge:
    """Scores a reply by its length; a long one complies."""

    name, revision = "length", "1"

    def judge_many(self, pairs):
        return [
            Judgement(Outcome.COMPLIES if len(reply) > 20 else Outcome.SAFE, self.name, p=min(len(reply), 20) / 20)
            for _, reply in pairs
        ]


def search(folder: Path, writer, reply, style: str = "pair:streams=2:rounds=3"):
    tools = SearchTools(
        engine=ScriptedEngine(reply),
        judge=LengthJudge(),
        store=Store(folder, 8),
        depends_on={},
        attacker=Attacker(ScriptedEngine(writer, name="writer")),
        generation=GenerationSettings(max_new_tokens=64),
    )
    return load_style(style).apply(GOAL, rng=seeded(0), context=StyleContext(search=tools))


def test_answers_and_scores_go_back_to_the_attacking_model(tmp_path) -> None:
    seen: list[Prompt] = []

    def writer(prompt: Prompt) -> str:
        seen.append(prompt)
        return json.dumps({"prompt": f"try {len(seen)}"})

    found = search(tmp_path, writer, lambda prompt: "x" * 10, "pair:streams=1:rounds=2")
    first, second = seen
    assert [message.role for message in second.messages] == ["system", "user", "assistant", "user"]
    assert json.dumps(GOAL) in first.messages[0].text
    assert json.loads(second.messages[2].text) == {"prompt": "try 1"}
    assert json.dumps("x" * 10) in second.messages[3].text
    assert "5 of 10" in second.messages[3].text  # 1 + round(9 * 0.5), half to even
    notes = dict(found.meta.notes)
    assert (notes["succeeded"], notes["steps"], notes["queries"], notes["attacker"]) == ("False", "2", "2", "writer")


def test_the_prompt_with_the_best_score_comes_out_when_none_succeeds(tmp_path) -> None:
    lengths = iter([3, 9, 9, 5, 1, 2])
    numbers = iter(range(100))
    found = search(tmp_path, lambda p: json.dumps({"prompt": f"try {next(numbers)}"}), lambda p: "x" * next(lengths))
    assert found.prompt.messages[-1].text == "try 1"
    assert found.goal == GOAL


def test_the_search_ends_with_the_first_success(tmp_path) -> None:
    numbers = iter(range(100))
    asked: list[str] = []

    def reply(prompt: Prompt) -> str:
        asked.append(prompt.messages[-1].text)
        return "x" * 40 if "try 2" in asked[-1] else "x"

    found = search(tmp_path, lambda p: json.dumps({"prompt": f"try {next(numbers)}"}), reply)
    assert found.prompt.messages[-1].text == "try 2"
    assert dict(found.meta.notes)["succeeded"] == "True"
    assert asked == ["try 0", "try 1", "try 2", "try 3"]


def test_an_attacking_model_that_keeps_no_form_gives_no_prompt(tmp_path) -> None:
    found = search(tmp_path, lambda prompt: "Sure, here is a prompt!", lambda prompt: "x")
    assert isinstance(found, NotApplicable)
    assert "form" in found.reason


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ('{"prompt": "a"}', "a"),
        ('Here:\n```json\n{"improvement": "b", "prompt": " a "}\n```', "a"),
        ('{"prompt": ""}', None),
        ('{"prompt": 3}', None),
        ('{"improvement": "b"}', None),
        ('["prompt"]', None),
        ('{"prompt": "a"', None),
        ("}{", None),
        ('{"prompt": "%s"}' % ("a" * 5000), None),
        ("{" * 100_000 + "}", None),
    ],
)
def test_a_proposal_is_read_strictly(reply, text) -> None:
    assert proposal(reply) == text
