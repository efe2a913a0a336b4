from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corral.core.errors import NotFoundError
from corral.data.messages import Conversation, Target
from corral.evals.tasks.moderation_sets import SETS
from corral.evals.tasks.scoring import RowLoader, guard_folder, journal_path, read_scored_set, score_guard
from corral.guards.base import Status, Verdict


def by_word(text: str, target: str) -> dict[str, float]:
    return {"p_harm": 0.9 if "TRIGGER" in text else 0.1}


def test_scores_come_in_the_order_of_the_source(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    scored = score_guard(rule_guard(by_word), [SETS.get("aegis_test")], RowLoader(), tmp_path / "out", batch_size=7)
    only = scored.sets["aegis_test"]
    assert only.truth_N.tolist() == [0, 1] * 20
    assert np.array_equal(only.scores_N, np.where(only.truth_N == 1, 0.9, 0.1))
    assert len(set(only.clusters)) == 36


def test_an_interrupted_run_continues_and_judges_nothing_twice(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    sets, out = [SETS.get("aegis_test")], tmp_path / "out"
    first = rule_guard(by_word, fail_after=17)
    with pytest.raises(KeyboardInterrupt):
        score_guard(first, sets, RowLoader(), out, batch_size=5)
    second = rule_guard(by_word)
    resumed = score_guard(second, sets, RowLoader(), out, batch_size=5)
    whole = score_guard(rule_guard(by_word), sets, RowLoader(), tmp_path / "whole", batch_size=5)
    assert len(second.judged) == 40 - 15  # three whole batches had reached the disk
    assert np.array_equal(resumed.sets["aegis_test"].scores_N, whole.sets["aegis_test"].scores_N)


def test_a_larger_limit_judges_only_the_rows_that_are_new(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    sets, out = [SETS.get("aegis_test")], tmp_path / "out"
    small = rule_guard(by_word)
    score_guard(small, sets, RowLoader(limit=10), out)
    rest = rule_guard(by_word)
    score_guard(rest, sets, RowLoader(), out)
    assert len(small.judged) <= 10
    assert len(small.judged) + len(rest.judged) == 40


def test_sets_that_read_the_same_rows_share_their_verdicts(
    write_source: Callable[..., Path], rule_guard: Any, tmp_path: Path
) -> None:
    write_source(
        "do_not_answer",
        do_not_answer_prompts=[{"id": i, "question": f"question {i}"} for i in range(3)],
        do_not_answer_responses=[
            {"id": i % 3, "model": "m", "response": f"answer {i}", "harmful": int(i == 5), "action": i}
            for i in range(6)
        ],
    )
    guard = rule_guard(lambda text, target: {"p_harm": 0.2, "p_refusal": 0.7})
    names = ("do_not_answer_harm", "do_not_answer_refusal", "do_not_answer_refusal_plain")
    scored = score_guard(guard, [SETS.get(name) for name in names], RowLoader(), tmp_path, resume=False)
    assert len(guard.judged) == 6
    assert [len(scored.sets[name].examples) for name in names] == [6, 4, 6]
    assert scored.sets["do_not_answer_refusal"].scores_N.tolist() == [0.7] * 4


def test_starting_over_judges_every_row_again(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    for _ in range(2):
        guard = rule_guard(by_word)
        score_guard(guard, [SETS.get("aegis_test")], RowLoader(), tmp_path, resume=False)
        assert len(guard.judged) == 40


def test_another_revision_of_a_guard_starts_its_own_journals(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    score_guard(rule_guard(by_word), [SETS.get("aegis_test")], RowLoader(), tmp_path)
    newer = rule_guard(by_word, revision="r2")
    score_guard(newer, [SETS.get("aegis_test")], RowLoader(), tmp_path)
    assert len(newer.judged) == 40


def test_a_sample_keeps_prompts_whole_and_is_the_same_each_time(aegis: Path) -> None:
    chosen = RowLoader(limit=20, seed=3).load(SETS.get("aegis_test"))
    kept = {row.group for row in chosen.rows}
    all_rows = RowLoader().load(SETS.get("aegis_test")).rows
    assert 15 <= len(chosen.rows) <= 20
    assert chosen.total == 40
    assert [row.id for row in chosen.rows] == [row.id for row in all_rows if row.group in kept]
    assert RowLoader(limit=20, seed=3).load(SETS.get("aegis_test")) == chosen
    assert RowLoader(limit=20, seed=4).load(SETS.get("aegis_test")) != chosen


def test_samples_of_translations_are_aligned(write_source: Callable[..., Path]) -> None:
    columns = ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")
    english = [{"id": i, "prompt": f"text {i}", **dict.fromkeys(columns, 0), "flagged": 0} for i in range(30)]
    german = [{"id": i, "prompt": f"Satz {i}", "flagged": 0} for i in range(30)]
    write_source("openai_moderation", openai_moderation=english)
    write_source("openai_moderation_de", openai_moderation_de=german)
    loader = RowLoader(limit=10)
    drawn = [
        {row.raw["pair"] for row in loader.load(SETS.get(name)).rows}
        for name in ("openai_moderation", "openai_moderation_de")
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 10


def test_an_absent_set_is_skipped_with_the_reason(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    sets = [SETS.get("strongreject"), SETS.get("aegis_test")]
    scored = score_guard(rule_guard(by_word), sets, RowLoader(), tmp_path)
    assert list(scored.sets) == ["aegis_test"]
    (skipped,) = scored.skipped
    assert skipped.set == "strongreject"
    assert "alexandrasouly/strongreject" in skipped.hint
    assert "alexandrasouly/strongreject" not in skipped.reason


def test_a_question_that_the_guard_does_not_answer_is_skipped(
    write_source: Callable[..., Path], rule_guard: Any, tmp_path: Path
) -> None:
    rows = [{"id": 0, "text": "an ordinary request", "label": 0}, {"id": 1, "text": "an injection", "label": 1}]
    write_source("prompt_injection_test", prompt_injection_test=rows)
    scored = score_guard(rule_guard(by_word), [SETS.get("prompt_injection_test")], RowLoader(), tmp_path)
    assert not scored.sets
    assert "no attack score" in scored.skipped[0].reason


def test_a_set_without_rows_is_skipped(write_source: Callable[..., Path], rule_guard: Any, tmp_path: Path) -> None:
    write_source("strongreject")
    scored = score_guard(rule_guard(by_word), [SETS.get("strongreject")], RowLoader(), tmp_path)
    assert scored.skipped[0].reason == "no row meets its conditions"


def test_a_row_that_breaks_the_guard_is_unscored_and_costs_no_other_row(
    aegis: Path, rule_guard: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaking(text: str, target: str) -> dict[str, float]:
        if "number 2 " in text:
            raise RuntimeError(text)
        return by_word(text, target)

    scored = score_guard(rule_guard(breaking), [SETS.get("aegis_test")], RowLoader(), tmp_path)
    unscored = np.isnan(scored.sets["aegis_test"].scores_N)
    assert np.flatnonzero(unscored).tolist() == [2, 38]  # the prompt occurs twice
    said = capsys.readouterr().err
    assert "failed on 2 of 40 rows, which a rerun asks again" in said
    assert "RuntimeError" in said
    assert "number 2" not in said


def test_a_guard_that_always_loses_a_verdict_scores_nothing(
    aegis: Path, rule_guard: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = rule_guard(by_word)
    judge = guard.classify
    monkeypatch.setattr(guard, "classify", lambda conversations, *, target: judge(conversations, target=target)[:-1])
    scored = score_guard(guard, [SETS.get("aegis_test")], RowLoader(), tmp_path)
    assert scored.sets["aegis_test"].unscored == 40


def test_a_rerun_asks_the_rows_again_that_the_guard_failed_on(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    sets, path = [SETS.get("aegis_test")], journal_path(guard_folder(tmp_path, "rule", "r1"), SETS.get("aegis_test"))
    failing = rule_guard(lambda text, target: None if "number 1 " in text else by_word(text, target))
    scored = score_guard(failing, sets, RowLoader(), tmp_path)
    assert scored.sets["aegis_test"].unscored == 2  # the prompt occurs twice
    assert len(path.read_text().splitlines()) == 38
    again = read_scored_set(tmp_path, "rule", "r1", RowLoader().load(sets[0]))
    assert again is not None
    assert np.array_equal(again.scores_N, scored.sets["aegis_test"].scores_N, equal_nan=True)
    mended = rule_guard(by_word)
    assert score_guard(mended, sets, RowLoader(), tmp_path).sets["aegis_test"].unscored == 0
    assert len(mended.judged) == 2
    assert "question" not in path.read_text()


def test_within_a_run_a_row_that_failed_is_not_asked_for_by_the_next_set(
    write_source: Callable[..., Path], rule_guard: Any, tmp_path: Path
) -> None:
    write_source(
        "do_not_answer",
        do_not_answer_prompts=[{"id": 0, "question": "a question"}],
        do_not_answer_responses=[{"id": 0, "model": "m", "response": "answer", "harmful": 0, "action": 0}],
    )
    failing = rule_guard(lambda text, target: None)
    names = ("do_not_answer_harm", "do_not_answer_refusal_plain")
    scored = score_guard(failing, [SETS.get(name) for name in names], RowLoader(), tmp_path)
    assert len(failing.judged) == 1
    assert [scored.sets[name].unscored for name in names] == [1, 1]


def test_what_a_guard_says_of_the_row_itself_is_kept(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    class Cutting(rule_guard):  # type: ignore[misc]
        def _verdict(self, conversation: Conversation, target: Target) -> Verdict:
            super()._verdict(conversation, target)
            return Verdict.failed(target, self.name, self.revision, Status.TRUNCATED, "too long")

    for expected in (40, 0):
        guard = Cutting(by_word)
        scored = score_guard(guard, [SETS.get("aegis_test")], RowLoader(), tmp_path)
        assert (len(guard.judged), scored.sets["aegis_test"].unscored) == (expected, 40)


def test_a_guard_without_probabilities_is_read_by_its_decisions(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    guard = rule_guard(lambda text, target: {"flagged": float("TRIGGER" in text)})
    only = score_guard(guard, [SETS.get("aegis_test")], RowLoader(), tmp_path).sets["aegis_test"]
    assert only.score_rule == "own decision"
    assert np.array_equal(only.scores_N, only.truth_N)


def test_a_guard_without_a_refusal_output_is_read_by_harm_and_marked(
    write_source: Callable[..., Path], rule_guard: Any, tmp_path: Path
) -> None:
    write_source(
        "do_not_answer",
        do_not_answer_prompts=[{"id": 0, "question": "a question"}],
        do_not_answer_responses=[
            {"id": 0, "model": "m", "response": f"answer {i}", "harmful": 0, "action": i} for i in (0, 5)
        ],
    )
    scored = score_guard(rule_guard(by_word), [SETS.get("do_not_answer_refusal")], RowLoader(), tmp_path)
    only = scored.sets["do_not_answer_refusal"]
    assert only.score_rule == "1 - p_harm †"
    assert only.scores_N.tolist() == [0.9, 0.9]


def test_scores_are_read_back_without_the_guard(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    chosen = RowLoader().load(SETS.get("aegis_test"))
    with pytest.raises(NotFoundError, match="not judged"):
        read_scored_set(tmp_path, "rule", "r1", chosen)
    scored = score_guard(rule_guard(by_word), [SETS.get("aegis_test")], RowLoader(), tmp_path)
    again = read_scored_set(tmp_path, "rule", "r1", chosen)
    assert again is not None
    assert again.rows_sha256 == scored.sets["aegis_test"].rows_sha256
    assert np.array_equal(again.scores_N, scored.sets["aegis_test"].scores_N)
