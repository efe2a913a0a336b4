"""A guard at another operating point: a preset's threshold of the language that the judged message is in.

The guard's order of scores within a language is kept; its odds of harm are moved so that 0.5 is the preset's
threshold, as everywhere in Corral. Scores of categories, attack and refusal stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corral.core.errors import ConfigError
from corral.data.languages import LanguageIdentifier, NoIdentifier, find_identifier
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.asking import ask, ask_both
from corral.guards.base import Guard, Status, Verdict
from corral.guards.calibration import at_half
from corral.guards.composition.base import ComposedGuard
from corral.guards.composition.fitted import check_fitted_with
from corral.guards.composition.presets import Preset, Presets, Thresholds
from corral.guards.composition.verdict import ComposedVerdict, Part


class AdjustedGuard(ComposedGuard):
    """A guard under a preset's thresholds.

    Args:
        guard: judges. Its verdicts without a harm score (only yes or no) stay as they are.
        presets: thresholds fitted for this guard.
        preset: which of them.
        identifier: tells languages apart; by default the installed one. With none, the common thresholds apply.
        name: name of the whole; by default the part's with ``+strict`` and so on.
        part: name of the guard within it; by default its own.

    Raises:
        ConfigError: the presets were fitted for another guard or revision, lack this preset, or have thresholds of
            languages that another identifier told apart.
    """

    def __init__(
        self,
        guard: Guard,
        presets: Presets,
        preset: Preset,
        *,
        identifier: LanguageIdentifier | None = None,
        name: str | None = None,
        part: str | None = None,
    ) -> None:
        check_fitted_with({presets.guard: presets.revision}, {guard.name: guard}, where="adjust")
        self.preset: Preset = preset
        self._thresholds = {
            target: fits[preset].thresholds for target, fits in presets.targets.items() if preset in fits
        }
        if not self._thresholds:
            raise ConfigError(f"no thresholds for the preset `{preset}`", where="adjust", hint="Fit them again.")
        self._identifier = identifier or find_identifier()
        _check_identifier(presets, self._thresholds, self._identifier)
        inner = part or guard.name
        fitted = {target: each.model_dump(mode="json") for target, each in self._thresholds.items()}
        super().__init__(
            (guard,),
            (inner,),
            kind="adjust",
            name=name or f"{inner}+{preset}",
            settings=[fitted, self._identifier.name],
        )

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""
        verdicts = ask(self.guards[0], conversations, target=target)
        return [self._adjusted(each, verdict) for each, verdict in zip(conversations, verdicts, strict=True)]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation; see ``Guard.classify_both``."""
        answers = ask_both(self.guards[0], conversations)
        return [
            {target: self._adjusted(each, verdict) for target, verdict in verdicts.items()}
            for each, verdicts in zip(conversations, answers, strict=True)
        ]

    def _adjusted(self, conversation: Conversation, verdict: Verdict) -> ComposedVerdict:
        part = Part(self.part_names[0], verdict)
        if verdict.status is not Status.OK:
            return self._unanswered(part, [part])
        thresholds = self._thresholds.get(verdict.target)
        if verdict.p_harm is None or thresholds is None:
            return self._composed(verdict, [part], decided_by=f"{part.guard} as it is")
        language = self._language(conversation, verdict.target)
        threshold = thresholds.at(language)
        p_harm = at_half(verdict.p_harm, threshold)
        of = language if language in thresholds.languages else "any language"
        decided_by = f"{self.preset} threshold {threshold:.4g} of {of}"
        return self._composed(verdict, [part], flagged=p_harm >= 0.5, p_harm=p_harm, decided_by=decided_by)

    def _language(self, conversation: Conversation, target: Target) -> str:
        index = conversation.judged_index(target)
        text = "" if index is None else conversation.messages[index].text
        return self._identifier.identify([text])[0]


def _check_identifier(
    presets: Presets, thresholds: Mapping[Target, Thresholds], identifier: LanguageIdentifier
) -> None:
    """Refuse thresholds of languages where another identifier would say which language a text is in."""
    own = any(each.languages for each in thresholds.values())
    if own and not isinstance(identifier, NoIdentifier) and identifier.name != presets.identifier:
        raise ConfigError(
            f"languages were told apart by `{presets.identifier}`, and here are by `{identifier.name}`",
            where="adjust",
            hint="Fit the presets again (`corral eval calibrate presets`), or install that version.",
        )
