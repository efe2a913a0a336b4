"""A guard at another operating point: a preset's threshold of the language that the judged message is in.

The guard's order of scores within a language is kept; its log-odds of harm are moved so that 0.5 is the preset's
threshold, as everywhere in Corral. Scores of categories, attack and refusal stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.data.languages import LanguageIdentifier, find_identifier
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.asking import ask, ask_both
from corral.guards.base import Guard, Status, Verdict
from corral.guards.calibration import Calibration
from corral.guards.composition.ensemble import log_odds
from corral.guards.composition.fitted import check_fitted_with
from corral.guards.composition.presets import Preset, Presets
from corral.guards.composition.verdict import ComposedVerdict, Part, composed, unanswered

_VERSION: Final = 1


class AdjustedGuard:
    """A guard under a preset's thresholds.

    Args:
        guard: judges. Its verdicts without a harm score (only yes or no) stay as they are.
        presets: thresholds fitted for this guard.
        preset: which of them.
        identifier: tells languages apart; by default the installed one. With none, the common thresholds apply.
        name: name of the guard; by default the guard's with ``+strict`` and so on.

    Raises:
        ConfigError: the presets were fitted for another guard or revision, or lack this preset.
    """

    def __init__(
        self,
        guard: Guard,
        presets: Presets,
        preset: Preset,
        *,
        identifier: LanguageIdentifier | None = None,
        name: str | None = None,
    ) -> None:
        check_fitted_with({presets.guard: presets.revision}, {guard.name: guard}, where="adjust")
        self._guard = guard
        self._preset: Preset = preset
        self._thresholds = {
            target: fits[preset].thresholds for target, fits in presets.targets.items() if preset in fits
        }
        if not self._thresholds:
            raise ConfigError(f"no thresholds for the preset `{preset}`", where="adjust", hint="Fit them again.")
        self._identifier = identifier or find_identifier()
        self._name = name or f"{guard.name}+{preset}"
        fitted = {target: each.model_dump(mode="json") for target, each in self._thresholds.items()}
        self._revision = sha256_json(["adjusted", _VERSION, guard.revision, fitted, self._identifier.name])[:16]

    @property
    def parts(self) -> dict[str, Guard]:
        """The guard that is adjusted."""
        return {self._guard.name: self._guard}

    @property
    def name(self) -> str:
        """Name of the guard and the preset."""
        return self._name

    @property
    def revision(self) -> str:
        """Hash of the guard's revision, the thresholds and what tells languages apart."""
        return self._revision

    @property
    def taxonomy(self) -> str:
        """Taxonomy of the guard."""
        return self._guard.taxonomy

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""
        verdicts = ask(self._guard, conversations, target=target)
        return [self._adjusted(each, verdict) for each, verdict in zip(conversations, verdicts, strict=True)]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation; see ``Guard.classify_both``."""
        answers = ask_both(self._guard, conversations)
        return [
            {target: self._adjusted(each, verdict) for target, verdict in verdicts.items()}
            for each, verdicts in zip(conversations, answers, strict=True)
        ]

    def _adjusted(self, conversation: Conversation, verdict: Verdict) -> ComposedVerdict:
        parts = [Part(self._guard.name, verdict)]
        if verdict.status is not Status.OK:
            return unanswered(parts[0], parts, guard=self.name, revision=self.revision)
        thresholds = self._thresholds.get(verdict.target)
        if verdict.p_harm is None or thresholds is None:
            return composed(
                verdict, parts, guard=self.name, revision=self.revision, decided_by=f"{self._guard.name} as it is"
            )
        language = self._language(conversation, verdict.target)
        threshold = thresholds.at(language)
        p_harm = float(Calibration(threshold=log_odds(threshold)).apply(log_odds(verdict.p_harm)))
        of = language if language in thresholds.languages else "any language"
        return composed(
            verdict,
            parts,
            guard=self.name,
            revision=self.revision,
            flagged=p_harm >= 0.5,
            p_harm=p_harm,
            decided_by=f"{self._preset} threshold {threshold:.4g} of {of}",
        )

    def _language(self, conversation: Conversation, target: Target) -> str:
        index = conversation.judged_index(target)
        text = "" if index is None else conversation.messages[index].text
        return self._identifier.identify([text])[0]
