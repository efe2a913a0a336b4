"""A scorecard of made-up samples with every kind of measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from corral.core.errors import EngineError
from corral.evals.sample_cache import SampleCache
from corral.evals.scorecard import ScorecardRun, run_scorecard
from corral.evals.tasks.formulas import Mean, RatioOfSums
from corral.evals.tasks.task import Measure, Progress, SampleScore, Subject, TaskResult, TaskSkip
from corral.models.engines.scripted import ScriptedEngine


@dataclass(frozen=True)
class Choices:
    """Half of ten questions right, and a number with a unit."""

    name: str = "choices"
    version: str = "3"

    @property
    def measures(self) -> tuple[Measure, ...]:
        share = {"unit": "share", "higher_is_better": True, "area": "ability"}
        return (
            Measure(name="acc", title="Accuracy", formula=Mean(value="right"), chance=0.25, headline=True, **share),
            Measure(
                name="bits",
                title="Bits per byte",
                unit="bits/byte",
                higher_is_better=False,
                area="ability",
                formula=RatioOfSums(numerator="bits", denominator="bytes"),
            ),
        )

    def run(self, subject: Subject, cache: SampleCache, progress: Progress) -> TaskResult:
        progress.start(10)
        samples = [
            SampleScore(
                f"q{i}",
                f"c{i // 2}",
                {"right": float(i < 5), "bits": 8.0 + i, "bytes": 10.0},
                texts={"request": f"<script>secret {i}</script>"},
            )
            for i in range(10)
        ]
        progress.advance(10)
        return TaskResult.of(self, samples, data_hash="a" * 64, judge_revision="j1", caveats=["Made up."])


@dataclass(frozen=True)
class Absent:
    """A task that lacks its data."""

    name: str = "absent"
    version: str = "1"
    measures: tuple[Measure, ...] = ()

    def run(self, subject: Subject, cache: SampleCache, progress: Progress) -> TaskSkip:
        return TaskSkip(self.name, "no data", "Fetch them.")


@dataclass(frozen=True)
class Broken:
    """A task whose model is down."""

    name: str = "broken"
    version: str = "1"
    measures: tuple[Measure, ...] = ()

    def run(self, subject: Subject, cache: SampleCache, progress: Progress) -> TaskResult:
        raise EngineError("the model is down", hint="Start it.")


@pytest.fixture
def subject() -> Subject:
    return Subject(ScriptedEngine(lambda _: "", name="a <model>"), "a <model>", "r1")


@pytest.fixture
def card_run(subject: Subject, tmp_path: Path) -> ScorecardRun:
    return run_scorecard(subject, [Choices(), Absent(), Broken()], SampleCache(tmp_path / "cache"))
