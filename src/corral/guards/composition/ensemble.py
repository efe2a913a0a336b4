"""An ensemble: several guards judge everything, their calibrated scores are combined.

Each member's harm score becomes log-odds, gets the member's own calibration, and is combined by a rule; a last
calibration puts the operating point of the combination at 0.5 (``fit_ensemble`` fits all of it on a development
split). Without a fit every member counts the same and as it is.

A member that gave no verdict is never counted as one that found nothing: see ``Missing``.

A fit may let the first member's word stand where it is sure (``EarlyExit``): the others are then not asked, and what is
answered beside harm is the first member's everywhere (that of the next where it gave no verdict and ``missing`` lets
the others flag), so that it does not depend on who was asked. Unlike a cascade's,
the scores inside and outside its band are on one scale, that of the combination.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from corral.core.config import Config
from corral.core.errors import ConfigError
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.asking import ask, ask_both, ask_where, present_targets
from corral.guards.base import Guard, Status, Verdict
from corral.guards.calibration import Calibration, CalibrationRow, FloatArray, sigmoid
from corral.guards.composition.base import ComposedGuard
from corral.guards.composition.cascade import Band
from corral.guards.composition.verdict import ComposedVerdict, Part, first_failed, highest_answers

Rule = Literal["mean", "max", "logit"]
"""``mean`` of the calibrated probabilities, their ``max``, or the weighted sum of their log-odds (``logit``)."""
Missing = Literal["fail", "flag"]
"""When a member gave no verdict: ``fail`` gives none either; ``flag`` lets the others flag, but never clear."""
_LEAST: Final = 1e-9
"""Log-odds are taken of probabilities this far from 0 and 1 at least: a sure member is strong, not infinite."""


class MemberFit(Config):
    """One member's calibration (of its log-odds of harm) and weight."""

    calibration: Calibration = Calibration()
    weight: Annotated[float, Field(ge=0)] = 1.0


class EarlyExit(Config):
    """Where the first member's score is enough, and what it is worth there.

    Attributes:
        band: of the first member's harm score, ends included: inside the others are asked.
        slope: combined log-odds (before the last calibration) per unit of the first member's log-odds, outside.
        intercept: of the same line.
    """

    band: Band
    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    intercept: Annotated[float, Field(allow_inf_nan=False)]


class TargetFit(Config):
    """How the scores about prompts, or about responses, are combined.

    Attributes:
        members: by name within the ensemble.
        bias: added to the weighted sum of log-odds; used by the rule ``logit`` alone.
        final: calibration of the combined log-odds.
        early: where the first member is asked alone; ``None`` asks all of them about everything.
    """

    members: Mapping[str, MemberFit]
    bias: float = 0.0
    final: Calibration = Calibration()
    early: EarlyExit | None = None


class EnsembleFit(Config):
    """Calibrations and weights of an ensemble's members, and what they were fitted on.

    Attributes:
        rule: that it was fitted for.
        targets: fits for prompts and responses; a target without one is combined unfitted.
        split: name of the development split.
        n: rows of it.
        guards: name to revision of the members that it was fitted with.
    """

    schema_version: Literal[1] = 1
    rule: Rule
    targets: Mapping[Target, TargetFit]
    split: Annotated[str, Field(min_length=1)]
    n: Annotated[int, Field(ge=0)] = 0
    guards: Mapping[str, str] = Field(default_factory=dict)


class EnsembleGuard(ComposedGuard):
    """Combines the scores of several guards.

    Args:
        guards: at least two.
        rule: how scores are combined.
        fit: calibrations and weights; ``None`` counts every member the same and as it is.
        missing: what a member without a verdict means.
        name: name of the ensemble; by default made of the rule and its members.
        names: names of the members within it; by default their own.

    Raises:
        ConfigError: fewer than two members, two of one name, or a fit for other members or another rule.
    """

    def __init__(
        self,
        guards: Sequence[Guard],
        *,
        rule: Rule = "mean",
        fit: EnsembleFit | None = None,
        missing: Missing = "fail",
        name: str | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        if len(guards) < 2:
            raise ConfigError(f"an ensemble of {len(guards)}", where="ensemble", hint="Name at least two guards.")
        members = names or [guard.name for guard in guards]
        super().__init__(
            guards,
            members,
            kind="ensemble",
            name=name or f"{rule}({','.join(members)})",
            settings=[rule, missing, None if fit is None else _what_decides(fit)],
        )
        self._rule: Rule = rule
        self._fit = fit
        self._missing: Missing = missing
        if fit is not None:
            _check_fit(fit, rule, self.part_names)

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""
        first = ask(self.guards[0], conversations, target=target)
        rows = [row for row, verdict in enumerate(first) if not self._is_enough(verdict)]
        asked = [conversations[row] for row in rows]
        others = zip(*(ask(guard, asked, target=target) for guard in self.guards[1:]), strict=True)
        more: dict[int, tuple[Verdict, ...]] = dict(zip(rows, others, strict=True))
        return [self._combined([verdict, *more.get(row, ())]) for row, verdict in enumerate(first)]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation, each member being asked once."""
        first = ask_both(self.guards[0], conversations)
        wanted = [
            [target for target in present_targets(each) if not self._is_enough(answers[target])]
            for each, answers in zip(conversations, first, strict=True)
        ]
        others = [ask_where(guard, conversations, wanted) for guard in self.guards[1:]]
        return [
            {
                target: self._combined(
                    [answers[target], *(more[row][target] for more in others if target in more[row])]
                )
                for target in present_targets(conversation)
            }
            for row, (conversation, answers) in enumerate(zip(conversations, first, strict=True))
        ]

    def _is_enough(self, verdict: Verdict) -> bool:
        """Whether the first member's verdict needs no other."""
        early = self._target_fit(verdict.target).early
        return early is not None and verdict.status is Status.OK and not early.band.holds(verdict.p_harm)

    def _combined(self, verdicts: Sequence[Verdict]) -> ComposedVerdict:
        """The ensemble's verdict on one target; where the first member was enough, it is the only one."""
        parts = [Part(name, verdict) for name, verdict in zip(self.part_names, verdicts, strict=False)]
        answered = [part for part in parts if part.verdict.status is Status.OK]
        failed = first_failed(parts)
        if failed is not None and (self._missing == "fail" or not answered):
            return self._unanswered(failed, parts)
        p_harm, decided_by = self._score(answered, alone=len(parts) == 1)
        if failed is not None and p_harm < 0.5:
            return self._unanswered(failed, parts)
        said = [part.verdict for part in answered]
        early = self._target_fit(said[0].target).early
        return self._composed(
            said[0],
            parts,
            **highest_answers(said if early is None else said[:1]),
            flagged=p_harm >= 0.5,
            p_harm=p_harm,
            context_dropped=max(each.context_dropped for each in said),
            decided_by=decided_by,
        )

    def _score(self, answered: Sequence[Part], *, alone: bool) -> tuple[float, str]:
        """The combined probability of those that answered, and whose it is."""
        fit = self._target_fit(answered[0].verdict.target)
        members = [fit.members[part.guard] for part in answered]
        logits_1M = np.array([[log_odds(harm_score(part.verdict.p_harm, part.verdict.flagged)) for part in answered]])
        if alone and fit.early is not None:
            combined = fit.early.slope * logits_1M[0, 0] + fit.early.intercept
            return float(fit.final.apply(combined)), f"{answered[0].guard} alone"
        combined_1 = combine(logits_1M, members, rule=self._rule, bias=fit.bias)
        p = float(fit.final.apply(combined_1)[0])
        if self._rule != "max":
            return p, f"{self._rule} of {', '.join(part.guard for part in answered)}"
        return p, answered[int(calibrated(logits_1M, members).argmax())].guard

    def _target_fit(self, target: Target) -> TargetFit:
        fitted = None if self._fit is None else self._fit.targets.get(target)
        # Weights of an unfitted sum of log-odds add up to 1, so that members who agree keep their common score.
        return fitted or TargetFit(
            members={name: MemberFit(weight=1 / len(self.part_names)) for name in self.part_names}
        )


def harm_score(p_harm: float | None, flagged: bool | None) -> float:
    """The harm score of a verdict that is ok; of a guard that only says yes or no, its word."""
    return float(bool(flagged)) if p_harm is None else p_harm


def log_odds(p: float) -> float:
    """Log-odds of a probability, which is kept ``1e-9`` away from 0 and 1."""
    inside = min(max(p, _LEAST), 1 - _LEAST)
    return float(np.log(inside) - np.log1p(-inside))


def calibrated(logits_NM: FloatArray, members: Sequence[MemberFit]) -> FloatArray:
    """Each member's calibrated log-odds (N, M)."""
    return CalibrationRow([member.calibration for member in members]).log_odds(logits_NM)


def combine(logits_NM: FloatArray, members: Sequence[MemberFit], *, rule: Rule, bias: float = 0.0) -> FloatArray:
    """Combined log-odds (N,) of M members' log-odds of harm.

    Args:
        logits_NM: uncalibrated, finite.
        members: calibrations and weights, of the same order; without any weight the members count the same.
        rule: how they are combined. ``max`` knows no weights.
        bias: added under the rule ``logit``.
    """
    scaled_NM = calibrated(logits_NM, members)
    if rule == "max":
        highest_N: FloatArray = scaled_NM.max(axis=1)
        return highest_N
    weights_M = np.array([member.weight for member in members])
    if rule == "logit":
        summed_N: FloatArray = scaled_NM @ weights_M + bias
        return summed_N
    shares_M = weights_M / weights_M.sum() if weights_M.sum() > 0 else np.full(len(members), 1 / len(members))
    mean_N = np.clip(sigmoid(scaled_NM) @ shares_M, _LEAST, 1 - _LEAST)
    odds_N: FloatArray = np.log(mean_N) - np.log1p(-mean_N)
    return odds_N


def _what_decides(fit: EnsembleFit) -> dict[str, Any]:
    """The part of a fit that verdicts depend on; the account of an early exit's band is left out."""
    values = fit.model_dump(mode="json", include={"targets"}, exclude_none=True)
    for target in values["targets"].values():
        if "early" in target:
            target["early"]["band"] = [target["early"]["band"]["low"], target["early"]["band"]["high"]]
    return values


def _check_fit(fit: EnsembleFit, rule: Rule, names: Sequence[str]) -> None:
    if fit.rule != rule:
        raise ConfigError(f"the fit is for the rule `{fit.rule}`, not `{rule}`", where="ensemble.fit")
    for target, each in fit.targets.items():
        if set(each.members) != set(names):
            raise ConfigError(
                f"the fit for the {target} is for {', '.join(f'`{name}`' for name in each.members)}",
                where="ensemble.fit",
                hint=f"This ensemble has {', '.join(f'`{name}`' for name in names)}. Fit it again.",
            )
