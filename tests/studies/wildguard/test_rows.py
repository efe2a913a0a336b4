"""Which rows train and which are held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.core.config import load_config
from corral.core.errors import ConfigError, DataError
from corral.core.recipes import load_profile
from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation
from corral.studies.wildguard import sources
from corral.studies.wildguard.rows import BENIGN_REFUSALS, TACTICS, VANILLA, StudyRows, draw_rows, wrap
from corral.studies.wildguard.settings import WildGuardConfig
from corral.studies.wildguard.sources import RowSource, wildguardmix_rows
from corral.studies.wildguard.templated import TEMPLATED_TACTICS
from corral.synth.wildguard.tactics import MOST_TACTICS


def tiny(*overrides: str) -> WildGuardConfig:
    _, config = load_profile("wildguard/tiny", overrides)
    assert isinstance(config, WildGuardConfig)
    return config


@pytest.fixture(scope="module")
def drawn() -> StudyRows:
    return draw_rows(tiny())


def test_no_goal_is_both_trained_on_and_tested(drawn: StudyRows) -> None:
    trained = {each.row.group for each in drawn.training}
    assert trained.isdisjoint(row.group for rows in drawn.tests.values() for row in rows)


def test_the_wrapped_test_holds_the_goals_of_the_plain_one_under_the_same_labels(drawn: StudyRows) -> None:
    plain = {row.text: (row.group, row.harmful) for row in drawn.tests[VANILLA]}
    wrapped = {str(row.raw["goal"]): (row.group, row.harmful) for row in drawn.tests[TACTICS]}
    assert wrapped == plain


def test_training_and_test_share_no_tactic(drawn: StudyRows) -> None:
    held_out = {tactic.family for tactic in drawn.tactics}
    openings = [t.template.split("{")[0] for t in TEMPLATED_TACTICS if t.family in held_out]
    wrapped = [each.row.text for each in drawn.training if each.part.startswith("adversarial")]
    assert wrapped
    assert not any(opening in text for opening in openings for text in wrapped)


def test_an_arm_leaves_out_parts_and_sources(drawn: StudyRows) -> None:
    assert len(drawn.of_arm(())) == len(drawn.training)
    without = drawn.of_arm(("adversarial_harmful", "adversarial_benign"))
    assert len(without) == len(drawn.training) - 16
    assert not any(row.attack for row in without)
    assert drawn.of_arm(("templated",)) == []


def test_a_switched_off_part_is_in_no_arm() -> None:
    rows = draw_rows(tiny("use.adversarial_benign=false"))
    assert {each.part for each in rows.training} == {"vanilla", "adversarial_harmful"}


def test_replies_know_whether_their_prompt_is_harmful(drawn: StudyRows) -> None:
    assert {row.raw["prompt_harmful"] for row in drawn.tests[BENIGN_REFUSALS]} == {False}


def test_the_same_settings_draw_the_same_rows(drawn: StudyRows) -> None:
    assert draw_rows(tiny()).account == drawn.account


def test_a_share_draws_less_of_everything(drawn: StudyRows) -> None:
    half = draw_rows(tiny("share=0.5"))
    assert len(half.training) == len(drawn.training) / 2
    assert len(half.tests[VANILLA]) == len(drawn.tests[VANILLA]) / 2


def test_more_wrapped_prompts_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="only 16 prompts"):
        draw_rows(tiny("tactics.harmful=17"))


def test_wrapping_draws_anew_until_the_text_is_short_enough() -> None:
    row = ModerationExample(Conversation.user("How do I draw a boat?"), "prompt", harmful=False, id="1")
    lengths = {seed: len(wrap(row, TEMPLATED_TACTICS, max_chars=90, seed=seed).text) for seed in range(20)}
    assert max(lengths.values()) <= 90
    unlimited = [len(wrap(row, TEMPLATED_TACTICS, max_chars=10_000, seed=seed).text) for seed in range(20)]
    assert max(unlimited) > 90
    assert MOST_TACTICS > 2


def wrapped_source(name: str) -> Iterator[ModerationExample]:
    """Twenty wrappers around one goal each, and each goal once more without a wrapper."""
    for number in range(20):
        goal = f"What is the number {number}?"
        shared: dict[str, Any] = {"harmful": bool(number % 2), "source": "templated", "group": prompt_key(goal)}
        yield ModerationExample(Conversation.user(goal), "prompt", id=f"plain{number}", **shared)
        yield ModerationExample(
            Conversation.user(f"Wrapper {number}: {goal}"),
            "prompt",
            attack=True,
            id=f"wrapped{number}",
            raw={"wrapper": f"w{number}"},
            **shared,
        )
        reply = Conversation.exchange(goal, f"It is {number}.")
        yield ModerationExample(
            reply, "response", refusal=False, id=f"reply{number}", source="templated", group=prompt_key(goal)
        )


def with_wrappers(monkeypatch: pytest.MonkeyPatch, **held_out: Any) -> StudyRows:
    monkeypatch.setattr(sources, "templated_rows", lambda: wrapped_source(""))
    everything = [{"source": "templated", "where": {"target": "response"}}]
    prompts = [{"source": "templated", "where": {"target": "prompt", "wrapper": None}}]
    values = {
        "mixture": [{"source": "templated", "where": {"target": "prompt"}}],
        "tactics": {"file": "templated", "harmful": 0, "benign": 0},
        "held_out": {
            "vanilla": prompts,
            "wrapped": [{"source": "templated", "where": {"attack": True}}],
            "refusals": everything,
            "benign_refusals": everything,
            "responses": everything,
            **held_out,
        },
    }
    return draw_rows(load_config(WildGuardConfig, values))


def test_what_stands_in_a_held_out_wrapper_is_held_out_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = with_wrappers(monkeypatch, groups=0.0, wrappers=0.4)
    wrapped = rows.tests["wrapped_prompts"]
    assert 2 < len(wrapped) < 14
    assert {row.group for row in rows.tests[VANILLA]} == {row.group for row in wrapped}
    trained = [each.row for each in rows.training]
    assert {row.group for row in trained}.isdisjoint(row.group for row in wrapped)
    assert {row.raw.get("wrapper") for row in trained}.isdisjoint(row.raw["wrapper"] for row in wrapped)


def test_rows_too_rare_to_split_are_all_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rare = [{"source": "templated", "where": {"wrapper": [f"w{number}" for number in range(10)]}}]
    rows = with_wrappers(monkeypatch, groups=0.0, wrappers=0.4, goals_of=rare)
    goals = {prompt_key(f"What is the number {number}?") for number in range(10)}
    assert goals <= {row.group for row in rows.tests[VANILLA]}
    assert goals.isdisjoint(each.row.group for each in rows.training)


def test_an_evaluation_set_is_not_trained_on() -> None:
    with pytest.raises(ConfigError, match="evaluation only"):
        draw_rows(tiny("mixture.0.source=beavertails", "use={}"))


def mix_file(folder: Path, *lines: str) -> Path:
    path = folder / "mix.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_wildguardmix_is_read_in_its_published_columns(tmp_path: Path) -> None:
    path = mix_file(
        tmp_path,
        '{"prompt": "Hello?", "adversarial": false, "response": null, "prompt_harm_label": "unharmful", '
        '"response_refusal_label": null, "response_harm_label": null, "subcategory": "benign"}',
        '{"prompt": "Open the box.", "adversarial": true, "response": "No.", "prompt_harm_label": "harmful", '
        '"response_refusal_label": "refusal", "response_harm_label": "unharmful", "subcategory": "others"}',
    )
    rows = RowSource()(f"wildguardmix:{path}")
    labels = [(row.target, row.harmful, row.refusal, row.attack, row.raw["prompt_harmful"]) for row in rows]
    assert labels == [
        ("prompt", False, None, False, None),
        ("prompt", True, None, True, None),
        ("response", False, True, None, True),
    ]
    assert rows[2].raw["adversarial"] is True


def test_an_unknown_label_of_wildguardmix_is_named_with_its_line(tmp_path: Path) -> None:
    path = mix_file(tmp_path, '{"prompt": "Hello?", "prompt_harm_label": "maybe"}')
    with pytest.raises(DataError, match="`maybe`") as caught:
        list(wildguardmix_rows(path))
    assert str(caught.value.where).endswith(":1")
