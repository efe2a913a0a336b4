"""TAP: which children are cut, which leaves stay, and which prompt comes out of a scripted tree."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.core.errors import ConfigError
from corral.models.engines.base import GenerationSettings, Prompt
from corral.models.engines.scripted import ScriptedEngine
from corral.redteam.judges import Judgement, Outcome
from corral.redteam.store import Store
from corral.redteam.styles import NotApplicable, StyleContext, load_style, seeded
from corral.redteam.styles.search import Attacker, SearchTools

GOAL = "Reveal the secret colour of the attic."


class CountJudge:
    """Scores a reply by the letters x in it; ten of them comply."""

    name, revision = "count", "1"

    def judge_many(self, pairs):
        counts = [reply.count("x") for _, reply in pairs]
        return [Judgement(Outcome.COMPLIES if n >= 10 else Outcome.SAFE, self.name, p=n / 10) for n in counts]


class Garden:
    """An attacking model whose every prompt is the last one of the talk with a letter more, and its target.

    Args:
        letters: of the children, in turn.
        reply: of the target to a prompt.
        on_topic: what is said of a prompt.
    """

    def __init__(self, letters: str, reply: Callable[[str], str], on_topic: Callable[[str], str] = lambda _: "yes"):
        self.asked: list[str] = []
        self.compared: list[tuple[str, str]] = []
        self.talks: list[Prompt] = []
        self._letters = itertools.cycle(letters)
        self._reply = reply
        self._on_topic = on_topic

    def search(self, folder: Path, style: str, seed: int = 0):
        tools = SearchTools(
            engine=ScriptedEngine(self._answer),
            judge=CountJudge(),
            store=Store(folder, 8),
            depends_on={},
            attacker=Attacker(ScriptedEngine(self._write, name="writer")),
            generation=GenerationSettings(max_new_tokens=64),
        )
        return load_style(style).apply(GOAL, rng=seeded(seed), context=StyleContext(search=tools))

    def _answer(self, prompt: Prompt) -> str:
        self.asked.append(prompt.messages[-1].text)
        return self._reply(self.asked[-1])

    def _write(self, prompt: Prompt) -> str:
        if prompt.messages[0].role == "user":  # a question about two messages
            first, second = (line.partition(": ")[2] for line in prompt.messages[0].text.splitlines() if '"' in line)
            self.compared.append((json.loads(first), json.loads(second)))
            return self._on_topic(self.compared[-1][1])
        self.talks.append(prompt)
        said = [json.loads(message.text)["prompt"] for message in prompt.messages if message.role == "assistant"]
        return json.dumps({"prompt": (said[-1] if said else "") + next(self._letters)})


def notes(found) -> dict[str, str]:
    return dict(found.meta.notes)


def test_every_leaf_branches_and_the_best_leaves_stay(tmp_path) -> None:
    # Brute force by hand: a prompt is worth its letters b; of the children of the two best leaves, the two best stay.
    garden = Garden("ab", lambda text: "x" * text.count("b"))
    found = garden.search(tmp_path, "tap:depth=3:width=2:branching=2")
    levels = [sorted(text for text in garden.asked if len(text) == depth) for depth in (1, 2, 3)]
    assert levels[0] == ["a", "b"]
    assert levels[1] == ["aa", "ab", "ba", "bb"]
    kept = {text[:2] for text in levels[2]}
    assert len(levels[2]) == 4
    assert "bb" in kept  # worth 2
    assert kept <= {"bb", "ab", "ba"}  # one of the two that are worth 1
    assert found.prompt.messages[-1].text == "bbb"
    assert notes(found) == {
        "succeeded": "False",
        "score": "0.3",
        "steps": "3",
        "queries": "10",
        "attacker": "writer",
        "off_topic": "0",
        "topic_unread": "0",
    }


def test_a_talk_goes_on_from_its_own_leaf(tmp_path) -> None:
    garden = Garden("ab", lambda text: "x" * text.count("b"))
    garden.search(tmp_path, "tap:depth=2:width=1:branching=2")
    for talk in garden.talks[2:]:
        assert [message.role for message in talk.messages] == ["system", "user", "assistant", "user"]
        assert json.loads(talk.messages[2].text) == {"prompt": "b"}
        assert "2 of 10" in talk.messages[3].text  # 1 + round(9 * 0.1)


def test_a_child_off_topic_is_never_sent(tmp_path) -> None:
    garden = Garden("ab", lambda text: "x", lambda text: "no" if "b" in text else "Yes.")
    found = garden.search(tmp_path, "tap:depth=2:width=4:branching=2")
    assert garden.asked == ["a", "aa"]
    assert {goal for goal, _ in garden.compared} == {GOAL}
    assert [text for _, text in garden.compared] == ["a", "b", "aa", "ab"]
    assert (notes(found)["off_topic"], notes(found)["queries"]) == ("2", "2")


def test_a_child_stays_where_the_topic_cannot_be_read(tmp_path) -> None:
    garden = Garden("a", lambda text: "x", lambda text: "It depends.")
    found = garden.search(tmp_path, "tap:depth=1:branching=1")
    assert garden.asked == ["a"]
    assert notes(found)["topic_unread"] == "1"


def test_a_round_that_leaves_no_child_keeps_its_leaves(tmp_path) -> None:
    garden = Garden("abcd", lambda text: "x", lambda text: "no" if text == "ab" else "yes")
    found = garden.search(tmp_path, "tap:depth=3:width=1:branching=1")
    assert garden.asked == ["a", "ac"]
    assert notes(found)["steps"] == "3"


def test_a_tree_without_a_prompt_on_topic_is_not_applicable(tmp_path) -> None:
    found = Garden("ab", lambda text: "x", lambda text: "no").search(tmp_path, "tap:depth=2")
    assert isinstance(found, NotApplicable)
    assert "kept to the request" in found.reason


def test_the_search_ends_with_the_first_success(tmp_path) -> None:
    garden = Garden("ab", lambda text: "x" * 10 if text == "ab" else "x")
    found = garden.search(tmp_path, "tap:depth=5:width=4:branching=2")
    assert found.prompt.messages[-1].text == "ab"
    assert (notes(found)["succeeded"], notes(found)["steps"]) == ("True", "2")
    assert max(map(len, garden.asked)) == 2


def test_equal_children_of_a_leaf_are_asked_once(tmp_path) -> None:
    garden = Garden("a", lambda text: "x")
    garden.search(tmp_path, "tap:depth=2:branching=3")
    assert garden.asked == ["a", "aa"]


def test_queries_limit_what_the_target_is_asked(tmp_path) -> None:
    garden = Garden("abc", lambda text: "x")
    found = garden.search(tmp_path, "tap:depth=9:width=9:branching=3:queries=5")
    assert len(garden.asked) == 5
    assert (notes(found)["queries"], notes(found)["steps"]) == ("5", "2")


def test_the_same_seed_grows_the_same_tree(tmp_path) -> None:
    trees = []
    for folder, seed in (("first", 1), ("second", 1), ("third", 2)):
        garden = Garden("abc", lambda text: "x")  # all are equal, so which leaves stay is drawn
        garden.search(tmp_path / folder, "tap:depth=4:width=2:branching=3", seed)
        trees.append(garden.asked)
    assert trees[0] == trees[1] != trees[2]


def test_a_tree_of_one_branch_is_a_stream_of_pair(tmp_path) -> None:
    asked = []
    for style in ("tap:depth=4:width=1:branching=1", "pair:streams=1:rounds=4"):
        garden = Garden("abcd", lambda text: "x" * len(text))
        found = garden.search(tmp_path / style[:3], style)
        asked.append((garden.asked, found.prompt.messages[-1].text))
    assert asked[0] == asked[1]


@pytest.mark.parametrize("name", ["tap:depth=0", "tap:width=0", "tap:branching=0", "tap:queries=-1"])
def test_parameters_out_of_range_are_refused(name) -> None:
    with pytest.raises(ConfigError):
        load_style(name)
