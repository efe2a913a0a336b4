"""The guard that is used when the user names none: two trained guards, and a decoder before them.

The multilingual guard reads every text. Where it is unsure the English one reads it too, and the sum of their log-odds
decides (``composition/ensemble``, with the early exit of ``pair/ensemble.json``): trained on the same rows, the two err
on different texts. What is asked beside harm (attack, refusal, categories) is the multilingual guard's answer. A
message that hides its words is judged decoded as well (``deobfuscate``). ``pair/card.md`` has its scores and its known
failures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from corral.core.config import load_config
from corral.guards.classifier import TOKENS_PER_BATCH
from corral.guards.composition.ensemble import EnsembleFit, EnsembleGuard
from corral.guards.composition.fitted import check_fitted_with
from corral.guards.composition.presets import PRESETS_FILE
from corral.guards.default.guard import EnglishGuard, MultilingualGuard, TrainedGuard
from corral.guards.deobfuscate import DeobfuscatingGuard
from corral.guards.limits import MAX_CHARS

PAIR: Final = Path(__file__).parent / "pair"
ENSEMBLE_FILE: Final = "ensemble.json"
"""Weights, calibration and early exit, as ``corral eval calibrate ensemble`` writes them."""


class DefaultGuard(DeobfuscatingGuard):
    """The multilingual and the English guard as one.

    Args:
        multilingual: reads every text.
        english: reads what the other one is unsure of.
        fit: how their scores are combined; of the rule ``logit``.
        presets_file: thresholds that were fitted for this pair.

    Raises:
        ConfigError: the fit was made with other weights.
    """

    def __init__(
        self,
        multilingual: TrainedGuard,
        english: TrainedGuard,
        fit: EnsembleFit,
        *,
        presets_file: Path | None = None,
    ) -> None:
        members = {guard.name: guard for guard in (multilingual, english)}
        check_fitted_with(fit.guards, members, where=ENSEMBLE_FILE)
        pair = EnsembleGuard(list(members.values()), rule=fit.rule, fit=fit, name="pair")
        super().__init__(pair, name="default")
        self.presets_file = presets_file

    @classmethod
    def load(
        cls,
        *,
        dtype: Literal["auto", "bfloat16", "float32", "int8"] = "auto",
        device: str = "cpu",
        threads: int | None = None,
        max_chars: int = MAX_CHARS,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> DefaultGuard:
        """Load both guards and what combines them.

        Args:
            dtype: as for the English guard; ``int8`` leaves the multilingual one in what ``auto`` is.
            device: torch device.
            threads: torch threads; ``None`` leaves torch's choice.
            max_chars: a judged message of more characters is refused, never cut.
            tokens_per_batch: padded tokens in one forward pass.

        Raises:
            NotFoundError: a weight file is missing.
            MissingDependencyError: a base model is not installed; the hint is the line that installs it.
            ConfigError: the weights fit another base model, or ``int8`` cannot be computed here.
        """
        shared: dict[str, Any] = {
            "device": device,
            "threads": threads,
            "max_chars": max_chars,
            "tokens_per_batch": tokens_per_batch,
        }
        multilingual = MultilingualGuard.load(dtype="auto" if dtype == "int8" else dtype, **shared)
        english = EnglishGuard.load(dtype=dtype, **shared)
        presets = PAIR / PRESETS_FILE
        fit = load_config(EnsembleFit, PAIR / ENSEMBLE_FILE)
        return cls(multilingual, english, fit, presets_file=presets if presets.is_file() else None)
