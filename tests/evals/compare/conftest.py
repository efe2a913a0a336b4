"""A model under naive 3-bit rounding, and scorecards of made-up tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corral.evals.sample_cache import SampleCache
from corral.evals.scorecard import run_scorecard, write_scorecard
from corral.evals.tasks.formulas import Mean
from corral.evals.tasks.task import Measure, Progress, SampleScore, Subject, TaskResult
from corral.models.engines.scripted import ScriptedEngine


def write_rounded(source: str, folder: Path, *, bits: int | None = 3, group: int = 64) -> Path:
    """The model with every Linear of its decoder rounded to the nearest of ``2**bits`` levels, as a bfloat16 directory.

    Naive on purpose: the levels lie evenly between the smallest and the largest weight of each run of ``group`` inputs
    of a row, nothing is calibrated and nothing compensated. Embedding, norms and head stay as they are.

    Args:
        source: what ``load_causal_lm`` takes.
        folder: a new directory; an ordinary one that transformers reads.
        bits: of each weight; ``None`` rounds nothing.
        group: inputs that share a scale.
    """
    import torch
    from transformers import LlamaForCausalLM

    from corral.models.loading import load_causal_lm, load_tokenizer

    model = load_causal_lm(source, dtype=torch.float32)
    with torch.no_grad():
        for module in model.model.layers.modules():
            if bits is not None and isinstance(module, torch.nn.Linear):
                module.weight.copy_(rounded(module.weight, bits, group))
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    return folder


def rounded(weight_OI, bits: int, group: int):
    """(O, I) weights on an even grid of ``2**bits`` levels in each group of inputs."""
    outputs, inputs = weight_OI.shape
    size = group if inputs % group == 0 else inputs
    grouped = weight_OI.reshape(outputs, inputs // size, size)
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp_min(1e-12)
    return (((grouped - low) / step).round() * step + low).reshape(outputs, inputs)


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    return write_rounded


@dataclass(frozen=True)
class GivenTask:
    """A task whose samples are given; ``correct`` is a share, ``size`` a number with a unit."""

    samples: Mapping[str, Sequence[SampleScore]]
    name: str = "given"
    version: str = "1"
    data_hash: str = "d" * 64
    judge_revision: str = ""
    reproducible: bool = True

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (
            Measure(
                name="accuracy",
                title="Accuracy",
                unit="share",
                higher_is_better=True,
                area="ability",
                formula=Mean(value="correct"),
                chance=0.25,
                headline=True,
                reproducible=self.reproducible,
            ),
            Measure(
                name="size",
                title="Size",
                unit="bits",
                higher_is_better=False,
                area="cost",
                formula=Mean(value="size"),
                reproducible=self.reproducible,
            ),
        )

    def run(self, subject: Subject, cache: SampleCache, progress: Progress) -> TaskResult:
        return TaskResult.of(
            self, self.samples[subject.name], data_hash=self.data_hash, judge_revision=self.judge_revision
        )


def given_samples(correct: Sequence[float | None], sizes: Sequence[float] | None = None) -> list[SampleScore]:
    sizes = sizes or [1.0] * len(correct)
    return [
        SampleScore(f"s{i}", f"c{i}", {"correct": value, "size": size})
        for i, (value, size) in enumerate(zip(correct, sizes, strict=True))
    ]


@pytest.fixture
def make_card(tmp_path: Path) -> Callable[..., Path]:
    """Writes the scorecard of a subject whose samples are given, and returns its folder."""

    def make(name: str, samples: Sequence[SampleScore], **task: Any) -> Path:
        subject = Subject(ScriptedEngine(lambda _: "", name=name), name, f"r-{name}")
        given = GivenTask({name: samples}, **{"name": task.pop("task", "given"), **task})
        run = run_scorecard(subject, [given], SampleCache(tmp_path / "cache"))
        write_scorecard(run.card, run.samples_file, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def samples_of() -> Callable[..., list[SampleScore]]:
    return given_samples
