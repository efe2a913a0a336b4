"""An ensemble: several guards judge everything, their calibrated scores are combined.

Each member's harm score becomes log-odds, gets the member's own calibration, and is combined by a rule; a last
calibration puts the operating point of the combination at 0.5 (``fit_ensemble`` fits all of it on a development
split). Without a fit every member counts the same and as it is.

A member that gave no verdict is never counted as one that found nothing: see ``Missing``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field

from corral.core.config import Config
from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.asking import ask, ask_both, present_targets
from corral.guards.base import Guard, Status, Verdict
from corral.guards.calibration import Calibration, FloatArray
from corral.guards.composition.verdict import (
    ComposedVerdict,
    Part,
    common_taxonomy,
    composed,
    distinct_names,
    first_failed,
    highest,
    highest_categories,
    unanswered,
)

Rule = Literal["mean", "max", "logit"]
"""``mean`` of the calibrated probabilities, their ``max``, or the weighted sum of their log-odds (``logit``)."""
Missing = Literal["fail", "flag"]
"""When a member gave no verdict: ``fail`` gives none either; ``flag`` lets the others flag, but never clear."""
_VERSION: Final = 1
_LEAST: Final = 1e-9
"""Log-odds are taken of probabilities this far from 0 and 1 at least: a sure member is strong, not infinite."""


class MemberFit(Config):
    """One member's calibration (of its log-odds of harm) and weight."""

    calibration: Calibration = Calibration()
    weight: Annotated[float, Field(ge=0)] = 1.0


class TargetFit(Config):
    """How the scores about prompts, or about responses, are combined.

    Attributes:
        members: by name within the ensemble.
        bias: added to the weighted sum of log-odds; used by the rule ``logit`` alone.
        final: calibration of the combined log-odds.
    """

    members: Mapping[str, MemberFit]
    bias: float = 0.0
    final: Calibration = Calibration()


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


class EnsembleGuard:
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
        self.guards = tuple(guards)
        self._names = distinct_names(list(names or [guard.name for guard in guards]), where="ensemble")
        self._rule: Rule = rule
        self._fit = fit
        self._missing: Missing = missing
        self._name = name or f"{rule}({','.join(self._names)})"
        if fit is not None:
            _check_fit(fit, rule, self._names)
        settings = [rule, missing, None if fit is None else fit.model_dump(mode="json", include={"targets"})]
        parts = [[part, guard.revision] for part, guard in zip(self._names, guards, strict=True)]
        self._revision = sha256_json(["ensemble", _VERSION, parts, settings])[:16]

    @property
    def parts(self) -> dict[str, Guard]:
        """The members, by their names within the ensemble."""
        return dict(zip(self._names, self.guards, strict=True))

    @property
    def name(self) -> str:
        """Name of the ensemble."""
        return self._name

    @property
    def revision(self) -> str:
        """Hash of the members' names and revisions, the rule and the fit."""
        return self._revision

    @property
    def taxonomy(self) -> str:
        """Taxonomy of all members; "" when they differ."""
        return common_taxonomy(self.guards)

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""
        answers = [ask(guard, conversations, target=target) for guard in self.guards]
        return [self._combined(verdicts) for verdicts in zip(*answers, strict=True)]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation, each member being asked once."""
        answers = [ask_both(guard, conversations) for guard in self.guards]
        return [
            {target: self._combined([each[target] for each in verdicts]) for target in present_targets(conversation)}
            for conversation, *verdicts in zip(conversations, *answers, strict=True)
        ]

    def _combined(self, verdicts: Sequence[Verdict]) -> ComposedVerdict:
        parts = [Part(name, verdict) for name, verdict in zip(self._names, verdicts, strict=True)]
        answered = [part for part in parts if part.verdict.status is Status.OK]
        failed = first_failed(parts)
        if failed is not None and (self._missing == "fail" or not answered):
            return unanswered(failed, parts, guard=self.name, revision=self.revision)
        p_harm, decided_by = self._score(answered)
        if failed is not None and p_harm < 0.5:
            return unanswered(failed, parts, guard=self.name, revision=self.revision)
        said = [part.verdict for part in answered]
        open_ones = tuple(dict.fromkeys(question for verdict in said for question in verdict.unanswered))
        target = said[0].target
        base = Verdict(
            target,
            self.name,
            self.revision,
            flagged=p_harm >= 0.5,
            p_harm=p_harm,
            p_refusal=None if "refusal" in open_ones else highest(each.p_refusal for each in said),
            p_attack=None if "attack" in open_ones else highest(each.p_attack for each in said),
            categories=highest_categories(said),
            unanswered=open_ones,
            context_dropped=max(each.context_dropped for each in said),
        )
        return composed(base, parts, decided_by=decided_by)

    def _score(self, answered: Sequence[Part]) -> tuple[float, str]:
        """The combined probability of those that answered, and whose it is."""
        fit = self._target_fit(answered[0].verdict.target)
        members = [fit.members[part.guard] for part in answered]
        logits_1M = np.array([[log_odds(harm_score(part.verdict.p_harm, part.verdict.flagged)) for part in answered]])
        combined_1 = combine(logits_1M, members, rule=self._rule, bias=fit.bias)
        p = float(fit.final.apply(combined_1)[0])
        if self._rule != "max":
            return p, f"{self._rule} of {', '.join(part.guard for part in answered)}"
        return p, answered[int(calibrated(logits_1M, members).argmax())].guard

    def _target_fit(self, target: Target) -> TargetFit:
        fitted = None if self._fit is None else self._fit.targets.get(target)
        # Weights of an unfitted sum of log-odds add up to 1, so that members who agree keep their common score.
        return fitted or TargetFit(members={name: MemberFit(weight=1 / len(self._names)) for name in self._names})


def harm_score(p_harm: float | None, flagged: bool | None) -> float:
    """The harm score of a verdict that is ok; of a guard that only says yes or no, its word."""
    return float(bool(flagged)) if p_harm is None else p_harm


def log_odds(p: float) -> float:
    """Log-odds of a probability, which is kept ``1e-9`` away from 0 and 1."""
    inside = min(max(p, _LEAST), 1 - _LEAST)
    return float(np.log(inside) - np.log1p(-inside))


def calibrated(logits_NM: FloatArray, members: Sequence[MemberFit]) -> FloatArray:
    """Each member's calibrated log-odds (N, M)."""
    slopes_M = np.array([member.calibration.slope for member in members])
    thresholds_M = np.array([member.calibration.threshold for member in members])
    scaled_NM: FloatArray = slopes_M * (logits_NM - thresholds_M)
    return scaled_NM


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
    mean_N = np.clip((0.5 + 0.5 * np.tanh(0.5 * scaled_NM)) @ shares_M, _LEAST, 1 - _LEAST)
    odds_N: FloatArray = np.log(mean_N) - np.log1p(-mean_N)
    return odds_N


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
