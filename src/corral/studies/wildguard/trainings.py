"""The models of the study: each trained once, scored on its tests, and let go.

A training and the scores of one test are cells, known by a hash of what they depend on (rows, settings, seed), so that
a rerun does only what is missing: training goes on from its checkpoint, scoring from the row it came to. Scores are
kept without any text, under ``artefacts/scores``; the claims are made from them alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from corral.core.files import sha256_json
from corral.core.journal import Journal
from corral.core.progress import milestone, progress
from corral.core.runs import Run
from corral.data.examples import ModerationExample, rows_hash
from corral.guards.asking import ask
from corral.guards.base import Guard
from corral.models.loading import weights_revision
from corral.studies.training import training_module
from corral.studies.wildguard.rows import (
    BENIGN_REFUSALS,
    REFUSALS,
    RESPONSES,
    STOCK_REFUSALS,
    TACTICS,
    VANILLA,
    WRAPPED,
    StudyRows,
)
from corral.studies.wildguard.settings import FULL, TASKS, Task, WildGuardConfig
from corral.train.guard.prompted_settings import PromptedGuardConfig

PROMPT_TESTS: Final = (VANILLA, TACTICS, WRAPPED)
REFUSAL_TESTS: Final = (REFUSALS, BENIGN_REFUSALS, STOCK_REFUSALS)
TESTS_OF: Final[Mapping[Task, tuple[str, ...]]] = {
    "prompt": PROMPT_TESTS,
    "refusal": REFUSAL_TESTS,
    "response": (RESPONSES,),
}
KEYWORDS: Final = "keywords"
SCORES: Final = "scores"
GUARD: Final = "guard"


@dataclass(frozen=True)
class Training:
    """One model: an arm, or a task alone, with a seed.

    Attributes:
        arm: the arm, or ``only_`` and the task.
        tasks: the lines of the answer that it learns.
        tests: what it is scored on.
        rows: it trains on.
        config: how.
    """

    arm: str
    tasks: tuple[Task, ...]
    tests: tuple[str, ...]
    rows: tuple[ModerationExample, ...]
    config: PromptedGuardConfig

    @property
    def name(self) -> str:
        """Arm and seed."""
        return cell_name(self.arm, self.config.seed)

    @cached_property
    def key(self) -> str:
        """Hash of everything that the weights depend on."""
        settings = self.config.model_dump(mode="json") | {"base": weights_revision(self.config.base)}
        return sha256_json([settings, list(self.tasks), rows_hash(self.rows)])[:12]


def only(task: Task) -> str:
    """Name of the arm that learns one task."""
    return f"only_{task}"


def cell_name(arm: str, seed: int) -> str:
    """Name of an arm's model with that seed."""
    return f"{arm}-{seed}"


def trainings(config: WildGuardConfig, rows: StudyRows) -> Iterator[Training]:
    """All models of the study, seed by seed, so that an interrupted run has whole seeds first."""
    present = [name for tests in TESTS_OF.values() for name in tests if name in rows.tests]
    for seed in config.seeds:
        settings = config.training.model_copy(update={"seed": seed})
        for arm, left_out in config.arms.items():
            tests = tuple(name for name in present if arm == FULL or name in PROMPT_TESTS)
            yield Training(arm, TASKS, tests, tuple(rows.of_arm(left_out)), settings)
        for task in TASKS if config.single_tasks else ():
            tests = tuple(name for name in TESTS_OF[task] if name in present and name != STOCK_REFUSALS)
            yield Training(only(task), (task,), tests, tuple(_labelled(rows.of_arm(()), task)), settings)


def _labelled(rows: Sequence[ModerationExample], task: Task) -> Iterator[ModerationExample]:
    """The rows that say yes or no to the task's question."""
    for row in rows:
        if row.target == "prompt":
            label = row.harmful if task == "prompt" else None
        else:
            label = {"prompt": None, "refusal": row.refusal, "response": row.harmful}[task]
        if label is not None:
            yield row


class Cells:
    """What a run has trained and scored, and how it does the rest.

    Args:
        run: takes models, scores and a line a cell.
        config: of the study.
    """

    def __init__(self, run: Run, config: WildGuardConfig) -> None:
        self._run = run
        self._config = config

    def complete(self, training: Training, tests: Mapping[str, Sequence[ModerationExample]]) -> None:
        """Train and score what is missing of one model; its weights are let go unless they are to be kept."""
        loaded: list[Guard] = []

        def guard() -> Guard:
            if not loaded:
                loaded.append(self.load(training))
            return loaded[0]

        for name in training.tests:
            self.score(training.name, training.key, name, tests[name], guard)
        if self.is_shown(training) and not (self.model(training)).exists():
            self.load(training)
        if not (self._config.keep_models or self.is_shown(training)):
            shutil.rmtree(self._folder(training), ignore_errors=True)

    def model(self, training: Training) -> Path:
        """Where the model directory of a training is, once it is trained."""
        return self._run.artefacts / GUARD if self.is_shown(training) else self._folder(training) / "model"

    def load(self, training: Training) -> Guard:
        """The trained guard; trained now unless that was done."""
        from corral.guards.wildguard.guard import WildGuard

        if not self.model(training).exists():
            self._train(training)
        return WildGuard.load(model=self.model(training), dtype=self._config.scoring_dtype)

    def score(self, cell: str, key: str, test: str, rows: Sequence[ModerationExample], guard: Any) -> None:
        """Score the rows that earlier sessions did not come to.

        Args:
            cell: of the model that scores.
            key: hash of its weights or rules.
            test: name of the rows.
            rows: to score.
            guard: called for the guard when there is something to do.
        """
        path = score_path(self._run, cell, test)
        fingerprint = {"key": key, "rows": rows_hash(rows), "dtype": self._config.scoring_dtype}
        with Journal.open(path, key="id", fingerprint=fingerprint) as journal:
            missing = [row for row in rows if row_key(row) not in journal]
            if not missing:
                return
            asked, started = guard(), time.perf_counter()
            with progress(len(missing), f"{cell}: {test}") as bar:
                for start in range(0, len(missing), self._config.scoring_batch):
                    batch = missing[start : start + self._config.scoring_batch]
                    verdicts = ask(asked, [row.conversation for row in batch], target=batch[0].target)
                    for row, verdict in zip(batch, verdicts, strict=True):
                        journal.append(score_row(row, verdict.to_json()))
                    journal.flush()
                    bar.advance(len(batch))
        self._logged(cell=cell, test=test, rows=len(missing), started=started)

    def _train(self, training: Training) -> None:
        prompted, formats = training_module("guard.prompted"), training_module("guard.wildguard")
        shortening = training_module("guard.shortening")
        started, folder = time.perf_counter(), self._folder(training)
        chat = prompted.load_chat(training.config)
        shortened = shortening.shorten_messages(
            training.rows, chat.backend, max_tokens=training.config.max_message_tokens
        )
        formatted = formats.wildguard_rows(shortened, tasks=training.tasks, frame=training.config.frame)
        model = prompted.train_prompted_guard(formatted.rows, training.config, folder / "training")
        prompted.save_prompted_guard(_to(model, self._config.scoring_dtype), chat, self.model(training))
        shutil.rmtree(folder / "training", ignore_errors=True)
        self._logged(cell=training.name, test=None, rows=len(formatted.rows), started=started)

    def _folder(self, training: Training) -> Path:
        return self._run.path / "cells" / f"{training.name}-{training.key}"

    def is_shown(self, training: Training) -> bool:
        """Whether this is the guard of the artefacts: the first seed of the arm that leaves nothing out."""
        return training.arm == FULL and training.config.seed == self._config.seeds[0]

    def _logged(self, *, cell: str, test: str | None, rows: int, started: float) -> None:
        seconds = round(time.perf_counter() - started, 1)
        self._run.log(cell=cell, test=test, rows=rows, seconds=seconds)
        milestone(f"{cell}: {f'scored {test},' if test else 'trained on'} {rows} rows in {seconds:.0f} s")


def score_path(run: Run, cell: str, test: str) -> Path:
    """Where the scores of a cell on a test are."""
    folder = run.artefacts / SCORES / cell
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{test}.jsonl"


def row_key(row: ModerationExample) -> str:
    """What the score of a row is kept under."""
    return f"{row.source}/{row.id}"


def score_row(row: ModerationExample, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A row's labels and a verdict's scores: never a text."""
    return {
        "id": row_key(row),
        "group": row.group,
        "harmful": row.harmful,
        "refusal": row.refusal,
        "action": row.raw.get("action"),
        **{name: verdict[name] for name in ("status", "p_harm", "p_refusal")},
    }


def _to(model: Any, dtype: str) -> Any:
    import torch

    return model.to(getattr(torch, dtype))
