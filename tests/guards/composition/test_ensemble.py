"""Ensembles combine calibrated scores by a stated rule, and a missing member never counts as one that found nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError, MetricError
from corral.data.messages import Conversation
from corral.guards.base import Guard, Status
from corral.guards.calibration import Calibration, fit_weights
from corral.guards.composition.cascade import Band
from corral.guards.composition.ensemble import (
    EarlyExit,
    EnsembleFit,
    EnsembleGuard,
    MemberFit,
    Missing,
    TargetFit,
    log_odds,
)
from corral.guards.composition.weights import MemberScores, fit_ensemble
from corral.guards.scripted import ScriptedGuard

P = st.floats(0.001, 0.999)


def member(name: str, place: int) -> ScriptedGuard:
    """A guard that reads its score from the text `0.3|0.9` and follows faults written `name=fault`."""
    faults = {f"{name}={fault}": fault for fault in ("raise", "short", "timeout", "unparseable")}
    return ScriptedGuard(rule=lambda text, _: float(text.split(" ")[0].split("|")[place]), name=name, faults=faults)


def ensemble(**settings) -> EnsembleGuard:
    return EnsembleGuard([member("a", 0), member("b", 1)], **settings)


def judge(guard: EnsembleGuard, *scores: float, said: str = ""):
    text = "|".join(str(float(score)) for score in scores) + " " + said
    return guard.classify([Conversation.user(text)])[0]


@given(P, P)
def test_mean_and_max_are_those_of_the_probabilities(a: float, b: float) -> None:
    assert judge(ensemble(rule="mean"), a, b).p_harm == pytest.approx((a + b) / 2, abs=1e-9)
    assert judge(ensemble(rule="max"), a, b).p_harm == pytest.approx(max(a, b), abs=1e-9)


@given(P, P)
def test_unfitted_log_odds_are_averaged(a: float, b: float) -> None:
    expected = 1 / (1 + math.exp(-(log_odds(a) + log_odds(b)) / 2))
    assert judge(ensemble(rule="logit"), a, b).p_harm == pytest.approx(expected, abs=1e-9)


def test_max_says_whose_score_it_is() -> None:
    assert judge(ensemble(rule="max"), 0.2, 0.7).decided_by == "b"
    assert judge(ensemble(rule="mean"), 0.2, 0.7).decided_by == "mean of a, b"


def test_a_fit_calibrates_weighs_and_moves_the_operating_point() -> None:
    members = {"a": MemberFit(calibration=Calibration(slope=2, threshold=1), weight=3), "b": MemberFit(weight=0.5)}
    fit = EnsembleFit(
        rule="logit",
        targets={"prompt": TargetFit(members=members, bias=0.25, final=Calibration(slope=0.5, threshold=1.5))},
        split="dev",
    )
    combined = 3 * 2 * (log_odds(0.6) - 1) + 0.5 * log_odds(0.9) + 0.25
    expected = 1 / (1 + math.exp(-0.5 * (combined - 1.5)))
    assert judge(ensemble(rule="logit", fit=fit), 0.6, 0.9).p_harm == pytest.approx(expected)
    reply = Conversation.exchange("hello", "0.6|0.9 ")
    (unfitted,) = ensemble(rule="logit", fit=fit).classify([reply])
    assert unfitted.p_harm == pytest.approx(1 / (1 + math.exp(-(log_odds(0.6) + log_odds(0.9)) / 2)))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("fault", "status"), [("raise", "error"), ("short", "error"), ("timeout", "timeout")])
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_missing_member_is_no_verdict(name: str, fault: str, status: str, both: bool) -> None:
    guard = ensemble()
    talk = Conversation.user(f"0.01|0.01 {name}={fault}")
    verdict = guard.classify_both([talk])[0]["prompt"] if both else guard.classify([talk])[0]
    assert (verdict.status.value, verdict.flagged, verdict.p_harm) == (status, None, None)
    assert verdict.detail is not None
    assert verdict.detail.startswith(f"{name}: ")


def test_the_others_may_flag_where_that_is_asked_for_but_never_clear() -> None:
    guard = ensemble(missing="flag")
    flagged = judge(guard, 0.01, 0.9, said="a=timeout")
    assert (flagged.flagged, flagged.status, flagged.p_harm) == (True, Status.OK, pytest.approx(0.9))
    assert [part.verdict.status for part in flagged.parts] == [Status.TIMEOUT, Status.OK]
    cleared = judge(guard, 0.01, 0.1, said="a=timeout")
    assert (cleared.flagged, cleared.status) == (None, Status.TIMEOUT)
    assert judge(guard, 0.9, 0.9, said="a=timeout b=unparseable").status is Status.TIMEOUT


@given(st.lists(st.tuples(P, P), max_size=6))
def test_neither_order_nor_batch_changes_a_verdict(pairs: list[tuple[float, float]]) -> None:
    guard = ensemble()
    talks = [Conversation.user(f"{a!r}|{b!r} ") for a, b in pairs]
    alone = [guard.classify([talk])[0].p_harm for talk in talks]
    assert [verdict.p_harm for verdict in guard.classify(talks[::-1])][::-1] == alone
    assert [answers["prompt"].p_harm for answers in guard.classify_both(talks)] == alone


def test_sure_members_are_strong_and_not_infinite() -> None:
    assert judge(ensemble(rule="mean"), 1.0, 1.0).flagged
    assert judge(ensemble(rule="logit"), 1.0, 0.0).p_harm == pytest.approx(0.5)


def test_it_is_a_guard_whose_revision_covers_members_rule_and_fit() -> None:
    guard = ensemble()
    assert isinstance(guard, Guard)
    assert guard.name == "mean(a,b)"
    fit = EnsembleFit(
        rule="mean", targets={"prompt": TargetFit(members={"a": MemberFit(), "b": MemberFit()})}, split="d"
    )
    others = [ensemble(rule="max"), ensemble(missing="flag"), ensemble(fit=fit)]
    assert len({guard.revision, *(other.revision for other in others)}) == 4


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least two"):
        EnsembleGuard([member("a", 0)])
    with pytest.raises(ConfigError, match="two parts are named `a`"):
        EnsembleGuard([member("a", 0), member("a", 1)])
    fit = EnsembleFit(rule="max", targets={"prompt": TargetFit(members={"a": MemberFit()})}, split="dev")
    with pytest.raises(ConfigError, match="for the rule `max`"):
        ensemble(fit=fit)
    with pytest.raises(ConfigError, match="for `a`"):
        ensemble(rule="max", fit=fit)


def development(seed: int = 0, n: int = 400) -> MemberScores:
    """A good member, a noisy one, and labels."""
    rng = np.random.default_rng(seed)
    harmful = rng.random(n) < 0.4
    signal = np.where(harmful, 1.0, -1.0)
    logits = np.stack([2 * signal + rng.normal(0, 1.5, n), signal + rng.normal(0, 3, n)], axis=1)
    return MemberScores(["prompt"] * n, harmful.tolist(), logits)


def test_fitting_weighs_the_better_member_more_and_keeps_the_operating_point_at_a_half() -> None:
    scores = development()
    fit = fit_ensemble(scores, {"a": "1", "b": "1"}, split="dev", max_fpr=0.05)
    members = fit.targets["prompt"].members
    assert members["a"].weight > members["b"].weight > 0
    guard = ensemble(rule="logit", fit=fit)
    p = np.array([judge(guard, *(1 / (1 + np.exp(-row)))).p_harm for row in scores.logits_NM])
    harmless = ~np.array(scores.harmful)
    assert 0.03 <= (p[harmless] >= 0.5).mean() <= 0.05
    assert (fit.split, fit.n) == ("dev", 400)


def test_prompts_and_responses_may_have_operating_points_of_their_own() -> None:
    prompts, responses = development(), development(seed=1)
    both = MemberScores(
        [*prompts.targets, *["response"] * len(responses.targets)],
        [*prompts.harmful, *responses.harmful],
        np.concatenate([prompts.logits_NM, responses.logits_NM]),
    )
    fit = fit_ensemble(both, {"a": "1", "b": "1"}, split="dev", max_fpr={"prompt": 0.05, "response": 0.2})
    assert {target: each.final.rule for target, each in fit.targets.items()} == {
        "prompt": "fpr<=0.05",
        "response": "fpr<=0.2",
    }
    assert fit_ensemble(both, {"a": "1", "b": "1"}, split="dev", max_fpr={}).targets["prompt"].final.rule == "max_f1"


def test_a_member_that_would_count_against_harm_gets_no_weight() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(300) < 0.5
    good = np.where(labels, 1.0, -1.0) + rng.normal(0, 1, 300)
    backwards = good + np.where(labels, -0.5, 0.5) + rng.normal(0, 0.1, 300)
    weights, _ = fit_weights(np.stack([good, backwards], axis=1), labels)
    assert weights[0] > 0
    assert weights[1] == 0
    with pytest.raises(MetricError, match="no member"):
        fit_weights(-good[:, None], labels)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(MetricError, match="too few rows"):
        fit_ensemble(development(n=20), {"a": "1", "b": "1"}, split="dev")


EARLY = EarlyExit(band=Band(low=0.2, high=0.9), slope=2.0, intercept=-0.5)


def early_ensemble(*, missing: Missing = "fail") -> EnsembleGuard:
    members = {"a": MemberFit(weight=1.5), "b": MemberFit(weight=0.5)}
    prompt = TargetFit(members=members, bias=0.25, final=Calibration(threshold=0.75), early=EARLY)
    fit = EnsembleFit(rule="logit", targets={"prompt": prompt}, split="dev")
    return ensemble(rule="logit", fit=fit, missing=missing)


@given(P, P)
def test_the_others_are_asked_only_where_the_first_is_unsure_on_one_scale(a: float, b: float) -> None:
    verdict = judge(early_ensemble(), a, b)
    if 0.2 <= a <= 0.9:
        assert [part.guard for part in verdict.parts] == ["a", "b"]
        log_odds_of_all = 1.5 * log_odds(a) + 0.5 * log_odds(b) + 0.25
        assert verdict.decided_by == "logit of a, b"
    else:
        assert [part.guard for part in verdict.parts] == ["a"]
        log_odds_of_all = 2 * log_odds(a) - 0.5
        assert verdict.decided_by == "a alone"
    assert verdict.p_harm == pytest.approx(1 / (1 + math.exp(-(log_odds_of_all - 0.75))))


@given(st.lists(st.tuples(P, P), max_size=6), st.lists(st.tuples(P, P), max_size=6))
def test_an_early_exit_is_taken_row_by_row_and_target_by_target(
    prompts: list[tuple[float, float]], replies: list[tuple[float, float]]
) -> None:
    guard = early_ensemble()
    talks = [Conversation.user(f"{a!r}|{b!r} ") for a, b in prompts]
    talks += [Conversation.exchange("0.05|0.5 ", f"{a!r}|{b!r} ") for a, b in replies]
    one_by_one = [guard.classify([talk])[0] for talk in talks]
    assert [(v.p_harm, v.decided_by) for v in guard.classify(talks)] == [(v.p_harm, v.decided_by) for v in one_by_one]
    for talk, alone, both in zip(talks, one_by_one, guard.classify_both(talks), strict=True):
        target = talk.target("auto")
        assert (both[target].p_harm, both[target].decided_by) == (alone.p_harm, alone.decided_by)
        if target == "response":  # has no early exit of its own, while its prompt needs the first member alone
            assert [part.guard for part in both["response"].parts] == ["a", "b"]
            assert [part.guard for part in both["prompt"].parts] == ["a"]


def test_what_is_answered_beside_harm_does_not_depend_on_who_was_asked() -> None:
    scores = {"a": (0.3, {"t/X": 0.7}), "b": (0.8, {"t/X": 0.9})}

    class Answering(ScriptedGuard):
        def classify(self, conversations, *, target="auto"):
            attack, categories = scores[self.name]
            return [replace(v, p_attack=attack, categories=categories) for v in super().classify(conversations)]

    members = [
        Answering(rule=lambda text, _, place=place: float(text.split("|")[place]), name=name)
        for place, name in enumerate("ab")
    ]
    fit = EnsembleFit(
        rule="logit",
        targets={"prompt": TargetFit(members={"a": MemberFit(), "b": MemberFit()}, early=EARLY)},
        split="dev",
    )
    guard = EnsembleGuard(members, rule="logit", fit=fit)
    for said in ("0.5|0.5", "0.01|0.5"):
        (verdict,) = guard.classify([Conversation.user(said)])
        assert (verdict.p_attack, verdict.categories) == (0.3, {"t/X": 0.7})


def test_a_first_member_without_a_verdict_is_never_enough() -> None:
    failed = judge(early_ensemble(), 0.01, 0.01, said="a=timeout")
    assert (failed.status, failed.flagged) == (Status.TIMEOUT, None)
    flagged = judge(early_ensemble(missing="flag"), 0.01, 0.99, said="a=timeout")
    assert (flagged.flagged, flagged.decided_by) == (True, "logit of b")


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    ("missing", "score", "flagged"), [("fail", 0.8, None), ("flag", 0.8, True), ("flag", 0.3, None)]
)
def test_a_second_member_that_fails_inside_the_band_clears_nothing(
    missing: Missing, score: float, flagged: bool | None, both: bool
) -> None:
    guard, talk = early_ensemble(missing=missing), Conversation.user(f"{score}|0.01 b=timeout")
    verdict = guard.classify_both([talk])[0]["prompt"] if both else guard.classify([talk])[0]
    assert verdict.flagged is flagged
    assert [part.verdict.status for part in verdict.parts] == [Status.OK, Status.TIMEOUT]


def test_an_early_exit_is_fitted_so_that_decisions_stay() -> None:
    scores = development(n=2000)
    full = fit_ensemble(scores, {"a": "1", "b": "1"}, split="dev", max_fpr=0.1)
    early = fit_ensemble(scores, {"a": "1", "b": "1"}, split="dev", max_fpr=0.1, early_agreement=0.99)
    exit_ = early.targets["prompt"].early
    assert exit_ is not None
    assert early.targets["prompt"].model_copy(update={"early": None}) == full.targets["prompt"]
    guards = [ensemble(rule="logit", fit=fit) for fit in (full, early)]
    assert guards[0].revision != guards[1].revision
    talks = [Conversation.user("|".join(map(str, 1 / (1 + np.exp(-row)))) + " ") for row in scores.logits_NM]
    by_all, by_some = (guard.classify(talks) for guard in guards)
    assert np.mean([a.flagged == b.flagged for a, b in zip(by_all, by_some, strict=True)]) >= 0.99
    asked = np.mean([len(verdict.parts) == 2 for verdict in by_some])
    assert asked == pytest.approx(exit_.band.share)
    assert asked < 0.9
    ranks = np.corrcoef(*(np.argsort(np.argsort([v.p_harm for v in some])) for some in (by_all, by_some)))[0, 1]
    assert ranks > 0.9
