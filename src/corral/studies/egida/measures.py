"""What training changed: the margins of held-out pairs, and answers to attacks and to harmless controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from corral.core.files import atomic_write_json, read_json, sha256_json
from corral.core.metric_inputs import Floats
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.models.engines.base import GenerationSettings
from corral.redteam.attempts import Target
from corral.redteam.egida.pairs import Pair
from corral.redteam.goals import capability_goals
from corral.redteam.loading import open_judges
from corral.redteam.results import RedteamReport
from corral.redteam.runner import RunRequest, run_redteam
from corral.redteam.settings import RunSettings
from corral.redteam.styles import choose_styles
from corral.studies.egida.instances import Drawn
from corral.studies.egida.settings import AttackConfig, EgidaConfig
from corral.studies.trained_models import open_trained, revision_of
from corral.studies.training import training_module

BEFORE: Final = "before"


@dataclass(frozen=True)
class Scores:
    """Log-likelihoods of P pairs under one model, in nats, ends of turns included.

    Attributes:
        chosen: (P,) of the preferred sides.
        rejected: (P,) of the others.
    """

    chosen: Floats
    rejected: Floats

    def margins(self, before: Scores) -> Floats:
        """(P,) how much the preferred side gained over the other: DPO's reward margin over beta."""
        return (self.chosen - before.chosen) - (self.rejected - before.rejected)


def score_pairs(name: str, folder: Path | None, pairs: Sequence[Pair], config: EgidaConfig, run: Run) -> Scores:
    """Score pairs under the target (``folder`` none) or what was trained from it, once; kept under ``cells``."""
    depends_on = {
        "revision": revision_of(config.target, folder, config.dtype),
        "max_tokens": config.dpo.max_tokens,
        "pairs": [[pair.instance.uuid, pair.chosen, pair.rejected] for pair in pairs],
    }
    path = run.path / "cells" / "scores" / f"{name}-{sha256_json(depends_on)[:12]}.json"
    if not path.is_file():
        engine = open_trained(config.target, folder, name=name, dtype=config.dtype)
        encode = training_module("dpo").encode_preferences
        rows = encode([pair.example() for pair in pairs], engine.chat, max_tokens=config.dpo.max_tokens)
        scored = engine.token_logprobs(
            [(row.prompt_ids, ids) for row in rows for ids in (row.chosen_ids, row.rejected_ids)]
        )
        totals = [each.total for each in scored]
        atomic_write_json(path, {"chosen": totals[::2], "rejected": totals[1::2]})
        milestone(f"scored {len(pairs)} pairs under {name}")
    kept = read_json(path)
    return Scores(np.asarray(kept["chosen"], np.float64), np.asarray(kept["rejected"], np.float64))


def attack_models(
    asked: AttackConfig, trained: Mapping[str, Path], drawn: Drawn, config: EgidaConfig, run: Run
) -> tuple[RedteamReport, RunSettings]:
    """Attack the target and models that were trained from it with test requests, and ask harmless ones alike.

    Args:
        asked: what with.
        trained: folders by name.
        drawn: requests.
        config: settings.
        run: keeps answers and labels under ``cells``.

    Returns:
        The report, whose systems are ``before`` and the names, and the settings of the run.
    """
    styles, _ = choose_styles(config.requests.styles)
    goals = [*drawn.test_requests(asked.requests), *drawn.benign, *capability_goals()]
    settings = RunSettings(
        generation=GenerationSettings(max_new_tokens=asked.max_new_tokens),
        seed=config.seed,
        batch_size=asked.batch_size,
        replicates=config.replicates,
    )
    with open_judges(asked.judges, guard_settings=config.guard_settings) as judges:
        request = RunRequest(goals, styles, judges)
        report = run_redteam(targets_of(config, trained), request, run.path / "cells" / "attacks", settings)
    return report, settings


def targets_of(config: EgidaConfig, trained: Mapping[str, Path]) -> Iterator[Target]:
    """The target as it is, then the trained models; one in memory at a time."""
    folders: dict[str, Path | None] = {BEFORE: None, **trained}
    for name, folder in folders.items():
        engine = open_trained(config.target, folder, name=name, dtype=config.dtype)
        yield Target(engine, name, revision_of(config.target, folder, config.dtype))
