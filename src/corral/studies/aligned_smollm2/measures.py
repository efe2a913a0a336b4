"""Base and trained model beside each other: what they refuse, what they answer, what they still know.

Both are asked the same requests, which trained neither. A reply is judged by phrases first (``prefix-list``) and by
the guards that the settings name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.core.files import read_json, sha256_file, sha256_json
from corral.core.runs import Run
from corral.evals.compare import Comparison, compare
from corral.evals.scorecard import TaskSettings, choose_tasks, measure_subject
from corral.evals.tasks.task import Subject
from corral.models.adapters import ADAPTER_WEIGHTS, merge_lora
from corral.models.engines.base import GenerationSettings
from corral.models.loading import find_dtype, weights_revision
from corral.redteam.attempts import Target
from corral.redteam.goals import capability_goals
from corral.redteam.loading import open_judges
from corral.redteam.results import RedteamReport
from corral.redteam.runner import RunRequest, run_redteam
from corral.redteam.settings import RunSettings
from corral.redteam.styles import PLAIN, choose_styles
from corral.studies.aligned_smollm2.settings import AlignedConfig, EvaluationConfig
from corral.studies.requests import requests

if TYPE_CHECKING:
    from corral.models.engines.torch import TorchEngine

BASE: Final = "base"
ALIGNED: Final = "aligned"
_CELLS: Final = "cells"
_REVISION_DIGITS: Final = 16


@dataclass(frozen=True)
class Measured:
    """What base and trained model did.

    Attributes:
        replies: to harmful and harmless requests, and to questions with known answers.
        ability: tasks of the scorecard, the base first; ``None`` when none was asked for.
    """

    replies: RedteamReport
    ability: Comparison | None


def measure(config: AlignedConfig, adapter: Path, run: Run) -> Measured:
    """Ask, judge and score both models; a second call goes on where the first was interrupted.

    Args:
        config: settings.
        adapter: folder of the trained adapter.
        run: keeps replies, with their texts, under ``cells``.

    Raises:
        NotFoundError: a source that is not in the data folder.
    """
    asked = config.evaluation
    subjects = {name: _Subject(name, config, adapter if name == ALIGNED else None) for name in (BASE, ALIGNED)}
    styles, _ = choose_styles([PLAIN])
    goals = [*requests(asked.harmful, asked.benign, config.seed), *capability_goals()]
    settings = RunSettings(
        generation=GenerationSettings(max_new_tokens=asked.max_new_tokens),
        seed=config.seed,
        batch_size=asked.batch_size,
        replicates=config.replicates,
    )
    with open_judges(asked.judges) as judges:
        request = RunRequest(goals, styles, judges)
        replies = run_redteam(
            (subject.target() for subject in subjects.values()), request, run.path / _CELLS / "replies", settings
        )
    return Measured(replies, _ability(asked, config, subjects, run))


@dataclass(frozen=True)
class _Subject:
    """The base model, alone or with the adapter."""

    name: str
    config: AlignedConfig
    adapter: Path | None

    @property
    def revision(self) -> str:
        depends_on = [weights_revision(self.config.base), self.config.dtype]
        if self.adapter is not None:
            depends_on.append(sha256_file(self.adapter / ADAPTER_WEIGHTS))
        return sha256_json(depends_on)[:_REVISION_DIGITS]

    def engine(self) -> TorchEngine:
        """The model as it is shipped: the adapter is added in float32 and the sum rounded once."""
        from corral.models.chat import ChatTokenizer
        from corral.models.engines.torch import TorchEngine
        from corral.models.loading import load_causal_lm, load_tokenizer

        model = load_causal_lm(self.config.base)
        if self.adapter is not None:
            merge_lora(model, self.adapter)
        dtype = find_dtype(self.config.dtype)
        if dtype is not None:
            model.to(dtype)
        return TorchEngine(model, ChatTokenizer(load_tokenizer(self.config.base)), name=self.name)

    def target(self) -> Target:
        return Target(self.engine(), self.name, self.revision)


def _ability(
    asked: EvaluationConfig, config: AlignedConfig, subjects: Mapping[str, _Subject], run: Run
) -> Comparison | None:
    if not asked.ability:
        return None
    settings = TaskSettings(limit=asked.ability_limit, seed=config.seed)
    folders = []
    for name, subject in subjects.items():
        folder = run.artefacts / "scorecards" / name
        folders.append(folder)
        if (folder / "scorecard.json").is_file() and read_json(folder / "scorecard.json")[
            "revision"
        ] == subject.revision:
            continue
        measure_subject(
            Subject(subject.engine(), name, subject.revision),
            choose_tasks(asked.ability, settings),
            settings=settings,
            out=folder,
            cache=run.path / _CELLS / "samples",
        )
    return compare(folders, seed=config.seed, replicates=config.replicates)


def sources_asked(asked: EvaluationConfig) -> Iterator[str]:
    """Sources that the evaluation reads."""
    yield from (*asked.harmful, *asked.benign)
