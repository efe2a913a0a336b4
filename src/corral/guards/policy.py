"""Policies: what to do about a verdict.

A ``Policy`` holds an operator's thresholds and actions; ``decide`` applies it to what guards said. For each verdict:

1. A verdict that is not ok gets ``on_error``, by default ``block``.
2. Harm at or above the threshold of its target (``prompt``, ``response``) gets the action of the categories that are
   at or above theirs: a category listed in ``categories`` brings its own action, any other the target's action. When no
   category is, the target's action applies. So ``allow`` for a category permits what is harmful only in that way.
3. A listed category at or above its threshold counts even where overall harm is below.
4. ``attack`` and ``refusal`` apply to the scores of that name, where a guard judged them. Where it tried to and could
   not, a rule that would do something about the score gets ``on_error``.

The most severe action over all guards wins: allow < undecided < flag < block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from corral.core.config import Config, config_hash, load_config
from corral.core.errors import ConfigError, PolicyError, UserError, suggest
from corral.core.files import sha256_json
from corral.data.taxonomy import load_taxonomy, qualified
from corral.guards.base import Status, Verdict
from corral.guards.composition.presets import Preset
from corral.guards.composition.specs import GuardSpec, Name, name_of, under_preset


class Action(StrEnum):
    """What is done with a message; ``undecided`` leaves it to a person."""

    ALLOW = "allow"
    UNDECIDED = "undecided"
    FLAG = "flag"
    BLOCK = "block"


SEVERITY: Final = {action: rank for rank, action in enumerate(Action)}


class Rule(Config):
    """A score at or above ``threshold`` gets ``action``."""

    threshold: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.5
    action: Literal[Action.ALLOW, Action.FLAG, Action.BLOCK] = Action.BLOCK


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy made of the verdicts on one message. Never holds text of the conversation.

    Attributes:
        action: the most severe action that any rule asked for.
        flagged: a rule asked to flag or block; ``None`` when no rule did and some guard gave no verdict.
        policy: id of the policy.
        policy_hash: its hash, as in every audit row.
        verdicts: what the guards said, in the order of the guards.
        reasons: ``guard:rule:action`` of every rule that applied, for example ``default:prompt.harm:block``,
            ``default:llama_guard_3/S9:flag``, ``default:error:block``.
    """

    action: Action
    flagged: bool | None
    policy: str
    policy_hash: str
    verdicts: tuple[Verdict, ...]
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, keys as in the attribute list."""
        return {
            "action": self.action.value,
            "flagged": self.flagged,
            "policy": self.policy,
            "policy_hash": self.policy_hash,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "reasons": list(self.reasons),
        }


class Policy(Config):
    """An operator's thresholds and actions.

    Attributes:
        id: name of the policy.
        version: the operator's version of it.
        taxonomy: the taxonomy that ``categories`` uses: an id, or the path of a YAML file.
        guards: the guards that must judge, names or compositions (``guards/composition/specs``); ``None`` leaves the
            choice to whoever applies the policy.
        preset: thresholds that every guard of text judges under, its own for each language; ``None`` for the shipped
            ones. A guard that chose a preset of its own (``adjust``) keeps it.
        thresholds: file of the preset's thresholds (``corral eval calibrate presets``); ``None`` for those that come
            with a guard's weights. A file is for one guard: with several, each is put under its own by ``adjust``.
        prompt: rule for the harm score of prompts.
        response: rule for the harm score of responses.
        attack: rule for injection and jailbreak attempts in prompts.
        refusal: rule for refusals in responses.
        categories: ``taxonomy/code`` to a rule; see the module's description.
        on_error: action when a guard gives no verdict.
    """

    id: Name = "default"
    version: Name = "1"
    taxonomy: Name = "llama_guard_3"
    guards: Annotated[tuple[GuardSpec, ...], Field(min_length=1)] | None = None
    preset: Preset | None = None
    thresholds: Name | None = None
    prompt: Rule = Rule()
    response: Rule = Rule()
    attack: Rule = Rule(action=Action.FLAG)
    refusal: Rule = Rule(action=Action.ALLOW)
    categories: Mapping[str, Rule] = Field(default_factory=dict)
    on_error: Action = Action.BLOCK

    @classmethod
    def default(cls) -> Policy:
        """Block harm at the shipped operating points, flag attacks, block when a guard gives no verdict."""
        return cls()

    @classmethod
    def load(cls, source: Path | str | Mapping[str, Any]) -> Policy:
        """Read a policy from a YAML file, or from values already read.

        Raises:
            NotFoundError: no such file.
            PolicyError: not YAML, a key given twice, an unknown setting or category, a threshold outside [0, 1];
                names the file and field.
        """
        try:
            return load_config(cls, Path(source) if isinstance(source, str) else source)
        except ConfigError as error:
            raise PolicyError(error.message, where=error.where, hint=error.hint) from error

    @property
    def asked(self) -> tuple[GuardSpec, ...]:
        """The guards that must judge, under the preset; none when any may."""
        return tuple(self.under_preset(spec) for spec in self.guards or ())

    def under_preset(self, spec: GuardSpec) -> GuardSpec:
        """A guard under the preset of this policy, if there is one."""
        return under_preset(spec, self.preset, self.thresholds)

    @property
    def hash(self) -> str:
        """16 hex digits that change with any setting."""
        if self.preset is None:  # as policies were hashed that could not name one
            return sha256_json(self.model_dump(mode="json", exclude={"preset", "thresholds"}))[:16]
        return config_hash(self)

    @field_validator("taxonomy")
    @classmethod
    def _known_taxonomy(cls, value: str) -> str:
        try:
            load_taxonomy(value)
        except UserError as error:
            raise ValueError(" ".join(filter(None, (f"{error.message}.", error.hint)))) from error
        return value

    @field_validator("thresholds")
    @classmethod
    def _thresholds_of_a_preset(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("preset") is None:
            raise ValueError("thresholds are those of a preset: add `preset: balanced`, strict or permissive")
        return value

    @field_validator("guards")
    @classmethod
    def _each_guard_once(cls, value: tuple[GuardSpec, ...] | None) -> tuple[GuardSpec, ...] | None:
        if value is not None and len(set(map(name_of, value))) < len(value):
            raise ValueError("a guard is listed twice")
        return value

    @field_validator("categories")
    @classmethod
    def _known_categories(cls, value: Mapping[str, Rule], info: ValidationInfo) -> Mapping[str, Rule]:
        if "taxonomy" in info.data:  # absent when the taxonomy itself is at fault, which is then what is reported
            taxonomy = load_taxonomy(info.data["taxonomy"])
            known = [qualified(taxonomy, category.code) for category in taxonomy.categories]
            for code in value:
                if code not in known:
                    raise ValueError(f"no category `{code}` in taxonomy `{taxonomy.id}`. {suggest(code, known)}")
        return value

    def decide(self, verdicts: Sequence[Verdict]) -> Decision:
        """What to do about one message on which these guards gave their verdicts.

        Nobody having judged it is an error like any other: ``on_error`` applies.
        """
        applied = [(verdict, *rule) for verdict in verdicts for rule in self._applied(verdict)]
        errors = [(verdict, *rule) for verdict in verdicts for rule in self._errors(verdict)]
        reasons = [f"{verdict.guard}:{rule}:{action}" for verdict, rule, action in (*errors, *applied)]
        actions = [action for _, _, action in (*errors, *applied)]
        if not verdicts:
            actions.append(self.on_error)
            reasons.append(f":no_verdict:{self.on_error}")
        positive = any(action in _POSITIVE for _, _, action in applied)
        judged = bool(verdicts) and not errors
        return Decision(
            action=max(actions, key=SEVERITY.__getitem__, default=Action.ALLOW),
            flagged=positive or (False if judged else None),
            policy=self.id,
            policy_hash=self.hash,
            verdicts=tuple(verdicts),
            reasons=tuple(reasons),
        )

    def _errors(self, verdict: Verdict) -> Iterator[tuple[str, Action]]:
        """What one verdict fails to say and this policy asks for, with the action for errors."""
        if verdict.status is not Status.OK:
            yield verdict.status.value, self.on_error
            return
        for name, rule in (("attack", self.attack), ("refusal", self.refusal)):
            if name in verdict.unanswered and rule.action is not Action.ALLOW:
                yield f"{name}.unanswered", self.on_error

    def _applied(self, verdict: Verdict) -> Iterator[tuple[str, Action]]:
        """Rules that apply to one verdict, with their actions."""
        if verdict.status is not Status.OK:
            return
        yield from self._harm(verdict)
        for name, rule, score in (
            ("attack", self.attack, verdict.p_attack),
            ("refusal", self.refusal, verdict.p_refusal),
        ):
            if score is not None and score >= rule.threshold:
                yield name, rule.action

    def _harm(self, verdict: Verdict) -> Iterator[tuple[str, Action]]:
        overall = self.prompt if verdict.target == "prompt" else self.response
        # A guard without a harm score (it only says yes or no) stands for its own decision.
        score = float(bool(verdict.flagged)) if verdict.p_harm is None else verdict.p_harm
        harmful = score >= overall.threshold
        reached = [code for code, p in verdict.categories.items() if p >= self.categories.get(code, overall).threshold]
        if harmful and not reached:
            yield f"{verdict.target}.harm", overall.action
        for code in reached:
            if code in self.categories:
                yield code, self.categories[code].action
            elif harmful:
                yield code, overall.action


_POSITIVE: Final = (Action.FLAG, Action.BLOCK)
