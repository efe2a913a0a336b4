"""Where MoGU's pairs come from, and what is refused with the name of the item."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corral.core.errors import DataError, EngineError
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.data.refusals import opens_with_refusal
from corral.models.engines.scripted import ScriptedEngine
from corral.train.mogu.pairs import ResponsePair, answered_pairs, read_pairs, require_both_answers

GOOD = {"prompt": "How do I bake bread?", "label": 0, "affirmative": "Mix and bake.", "rejecting": "I can't help."}
BAD = {"prompt": "Help me break a window.", "label": 1, "rejecting": "No, I won't."}


def written(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled(text: str, *, harmful: bool) -> ModerationExample:
    return ModerationExample(
        Conversation.user(text), "prompt", harmful=harmful, source="own", licence="Apache-2.0", id=text
    )


def test_a_file_of_pairs_is_read_with_its_labels(tmp_path: Path) -> None:
    benign, malicious = read_pairs(written(tmp_path / "pairs.jsonl", GOOD, BAD))
    assert not benign.malicious
    assert (benign.desired, benign.rejecting) == ("Mix and bake.", "I can't help.")
    assert malicious.malicious
    assert malicious.desired == "No, I won't."
    assert malicious.affirmative == ""


def test_a_csv_file_says_its_labels_as_text(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('prompt,label,affirmative,rejecting\n"Bread?",0,"Bake.","No."\n')
    assert [pair.malicious for pair in read_pairs(path)] == [False]


@pytest.mark.parametrize("label", [2, None, "yes", True, [1], 0.5])
def test_another_label_is_refused_by_its_line(tmp_path: Path, label: object) -> None:
    path = written(tmp_path / "pairs.jsonl", GOOD, {**BAD, "label": label})
    with pytest.raises(DataError, match="label is") as refused:
        read_pairs(path)
    assert refused.value.where is not None
    assert "pairs.jsonl:2" in refused.value.where


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "affirmative": ""}, "no `affirmative`"),
        ({**BAD, "rejecting": " "}, "no `rejecting`"),
        ({**GOOD, "prompt": ""}, "no `prompt`"),
        ({**GOOD, "rejecting": 3}, "`rejecting` is of type int"),
    ],
)
def test_a_pair_with_a_side_missing_is_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pairs(written(tmp_path / "pairs.jsonl", row))


def test_an_expert_needs_both_answers_of_benign_pairs_and_no_malicious_ones() -> None:
    full = ResponsePair(Conversation.user("a"), False, "yes", "no", where="rows[0]")
    malicious = ResponsePair(Conversation.user("b"), True, rejecting="no")
    assert require_both_answers([full, malicious]) == [full]
    with pytest.raises(DataError, match="no `rejecting`") as refused:
        require_both_answers([ResponsePair(Conversation.user("a"), False, "yes", where="rows[3]")])
    assert refused.value.where == "rows[3]"
    with pytest.raises(DataError, match="no benign"):
        require_both_answers([malicious])


def test_an_engine_answers_benign_prompts_and_our_refusals_stand_beside_them() -> None:
    said = {"bread": "Mix and bake.", "bombs": "I'm sorry, but I can't help.", "tea": "  "}
    engine = ScriptedEngine(said)
    rows = [labelled(text, harmful=False) for text in said] + [labelled("harm", harmful=True)]
    pairs = answered_pairs(rows, engine, max_new_tokens=64, seed=0)
    assert [pair.prompt.messages[0].text for pair in pairs] == ["bread", "harm"]
    assert pairs[0].affirmative == "Mix and bake."
    assert pairs[1].affirmative == ""  # an answer that complies is not even made
    assert all(pair.rejecting for pair in pairs)
    assert answered_pairs(rows, engine, max_new_tokens=64, seed=0) == pairs
    assert not opens_with_refusal(pairs[0].affirmative)


def test_an_answer_that_was_cut_off_does_not_teach_to_stop() -> None:
    (pair,) = answered_pairs(
        [labelled("bread", harmful=False)], ScriptedEngine({"bread": "Mix and bake."}), max_new_tokens=4, seed=0
    )
    assert not pair.affirmative_complete
    assert not pair.desired_complete


def test_an_engine_that_fails_is_not_passed_over() -> None:
    with pytest.raises(EngineError):
        answered_pairs([labelled("bread", harmful=False)], ScriptedEngine({}), max_new_tokens=4, seed=0)
