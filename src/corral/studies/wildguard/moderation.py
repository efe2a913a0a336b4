"""The guard in front of and behind a target model: attack success, and refusal of benign prompts under attack too.

Half of the harmful and half of the benign prompts are put into held-out tactics, so that over-refusal is measured under
the same attack. Replies, judgements and verdicts are journals below ``cells/moderator``; what is written to
``artefacts/moderator.json`` holds no text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from corral.core.errors import RunError
from corral.core.files import atomic_write_json, read_json
from corral.core.runs import Run
from corral.data.examples import ModerationExample
from corral.data.mixture import build_mixture
from corral.data.splits import group_fraction
from corral.evals.tasks.moderator import ModeratorResult, ModeratorSettings, run_moderator
from corral.guards.base import Guard
from corral.models.engines.base import Engine, GenerationSettings
from corral.models.loading import weights_revision
from corral.redteam.judges import PrefixListJudge
from corral.studies.wildguard.rows import StudyRows, wrap
from corral.studies.wildguard.settings import ModeratorConfig, WildGuardConfig
from corral.studies.wildguard.sources import RowSource

MODERATOR: Final = "moderator.json"
WILDGUARD: Final = "wildguard"
DEFAULT: Final = "default"

_SPLIT: Final = "moderator"


def prompts_to_answer(config: WildGuardConfig, settings: ModeratorConfig, rows: StudyRows) -> list[ModerationExample]:
    """Harmful prompts, then benign ones; of either, the set share is wrapped in held-out tactics."""
    source = RowSource()
    chosen = [
        row
        for entries in (settings.harmful, settings.benign)
        for row in build_mixture(
            entries, source, contaminated=lambda _: False, seed=config.seed, share=config.share
        ).rows
    ]
    return [
        wrap(row, rows.tactics, max_chars=config.tactics.max_chars, seed=config.seed)
        if group_fraction(f"{_SPLIT}/{row.group}", seed=config.seed) < settings.wrapped_share
        else row
        for row in chosen
    ]


def moderate(
    run: Run, config: WildGuardConfig, settings: ModeratorConfig, rows: StudyRows, shown: Callable[[], Guard]
) -> None:
    """Measure every guard in every mode and write ``moderator.json``.

    Args:
        run: takes journals and results.
        config: of the study.
        settings: of this part.
        rows: whose held-out tactics wrap the prompts.
        shown: gives the trained guard.
    """
    prompts = prompts_to_answer(config, settings, rows)
    judge = PrefixListJudge()
    task = ModeratorSettings(
        generation=GenerationSettings(max_new_tokens=settings.max_new_tokens),
        target_revision=weights_revision(settings.target),
        seed=config.seed,
        replicates=config.replicates,
    )
    target = _target(settings.target)
    results: dict[str, dict[str, Any]] = {}
    for name, guard in _guards(settings, shown).items():
        for mode in settings.modes:
            folder = run.path / "cells" / "moderator"
            result = run_moderator(target, guard, prompts, judge, mode=mode, journal=folder, settings=task)
            results[f"{name} {mode}"] = described(result)
            run.log(cell="moderator", guard=name, mode=mode, asr=result.asr.value, rta=result.rta.value)
    atomic_write_json(
        run.artefacts / MODERATOR,
        {
            "target": settings.target,
            "judge": judge.name,
            "harmful": sum(row.harmful is True for row in prompts),
            "benign": sum(row.harmful is False for row in prompts),
            "results": results,
        },
    )


def described(result: ModeratorResult) -> dict[str, Any]:
    """A result as JSON, with the rates of plain and of wrapped prompts apart."""
    halves = {
        half: [item for item in result.items if item.id.endswith(":tactics") is wrapped]
        for half, wrapped in (("plain", False), ("wrapped", True))
    }
    return {
        **result.model_dump(mode="json", exclude={"items", "slices"}),
        "halves": {
            half: {
                "asr": _share([i.outcome == "complies" and not i.replaced for i in items if i.harmful]),
                "asr_undefended": _share([i.outcome == "complies" for i in items if i.harmful]),
                "rta": _share([i.outcome == "refuses" or i.replaced for i in items if not i.harmful]),
                "rta_undefended": _share([i.outcome == "refuses" for i in items if not i.harmful]),
                "harmful": sum(item.harmful for item in items),
                "benign": sum(not item.harmful for item in items),
            }
            for half, items in halves.items()
        },
    }


def read_moderator(run: Run) -> Mapping[str, Any]:
    """What ``moderate`` wrote.

    Raises:
        RunError: it did not come to it.
    """
    path = run.artefacts / MODERATOR
    if not path.is_file():
        raise RunError("the moderator experiment is missing", where=str(path))
    return dict(read_json(path))


def _guards(settings: ModeratorConfig, shown: Callable[[], Guard]) -> dict[str, Guard]:
    from corral.guards.loading import load_guard

    guards = {WILDGUARD: shown()}
    return guards | {DEFAULT: load_guard("default")} if settings.default_guard else guards


def _target(name: str) -> Engine:
    import torch

    from corral.models.engines.torch import TorchEngine

    return TorchEngine.load(name, dtype=torch.bfloat16)


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
