"""WildGuard's data pipeline from prompts to labelled rows: every step with its file, resumable one by one.

::

    prompts ─┬─────────────────────────────┬─► vanilla ─┬──────────────────────────┬─► replies ─┐
             ├─► look_alikes ──────────────┤            ├─► composed, rewritten ───┘            ├─► filtered
    topics ──┴─► sensitive                 │            └─► complex ────────────────────────────┤
    taxonomy ──► structured (opt-in) ──────┘                     prompts without a reply ───────┘

Replies from eight models, as in the paper, are eight runs with as many engines. What differs: the paper rewrites with
an engine only, and we wrap with templates by default; its filter is GPT-4, and ours is any guard.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from corral.core.config import Config
from corral.core.files import atomic_write_json
from corral.models.engines.base import Engine, GenerationSettings
from corral.synth.duplicates import SameText
from corral.synth.pipeline import DEFAULT_CHUNK, Budget, Step, StepReport, read_step, run_step
from corral.synth.rows import Row
from corral.synth.steps import DEFAULT_RETRIES
from corral.synth.wildguard.complex_kinds import complex_step
from corral.synth.wildguard.contrast import look_alike_step, sensitive_step, topic_rows
from corral.synth.wildguard.filters import Labeller, agreement, filter_step
from corral.synth.wildguard.replies import reply_step
from corral.synth.wildguard.rewriting import compose_step, rewrite_step
from corral.synth.wildguard.structured import STRUCTURED, category_rows, require_allowed, structured_step
from corral.synth.wildguard.tactics import Tactic, load_tactics

StepName = Literal["look_alikes", "sensitive", "structured", "composed", "rewritten", "replies", "complex"]
DEFAULT_STEPS: Final[tuple[StepName, ...]] = ("look_alikes", "sensitive", "composed", "replies", "complex")


class WildGuardGeneration(Config):
    """What to make, and how."""

    steps: tuple[StepName, ...] = Field(DEFAULT_STEPS, description="which steps run; always in the pipeline's order")
    allow_harmful: bool = Field(
        False, description="operator's consent to `structured`, and to helpful replies to harmful prompts"
    )
    look_alikes_per_prompt: int = Field(1, ge=1, le=10, description="families of look-alikes a prompt")
    sensitive_per_topic: int = Field(1, ge=1, description="prompts a sensitive topic")
    structured_per_category: int = Field(1, ge=1, description="prompts a category of the taxonomy")
    replied_share: float = Field(
        1.0, gt=0.0, le=1.0, description="share of prompts that get replies; the rest stay without (paper: a third)"
    )
    complex_per_prompt: int | None = Field(1, ge=1, description="complex kinds a prompt; null for all that fit")
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.8, ge=0.0)
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    retries: int = Field(DEFAULT_RETRIES, ge=0, description="calls after the first for answers of no use")
    seed: int = 0
    chunk: int = Field(DEFAULT_CHUNK, ge=1, description="tasks answered together, and the unit of resuming")
    max_rows_per_step: int | None = Field(None, ge=1)
    max_tokens_per_step: int | None = Field(None, ge=1)


@dataclass(frozen=True, slots=True)
class Generated:
    """What the pipeline made.

    Attributes:
        rows: prompts with and without a reply; filtered when there was a labeller, else with their intended labels.
        steps: what each step did.
        agreement: of intended and judged labels, empty without a labeller.
    """

    rows: Sequence[Row]
    steps: Sequence[StepReport]
    agreement: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report without the rows."""
        labels = "judged" if self.agreement else "intended, not judged"
        steps = [step.to_json() for step in self.steps]
        return {"rows": len(self.rows), "labels": labels, "steps": steps, "agreement": self.agreement}


def generate(
    prompts: Sequence[Row],
    engine: Engine,
    folder: Path,
    config: WildGuardGeneration,
    *,
    tactics: Sequence[Tactic] | None = None,
    labeller: Labeller | None = None,
) -> Generated:
    """Run the steps, continuing where an earlier call with the same arguments stopped; writes ``report.json`` last.

    Args:
        prompts: rows of ``prompts.load_prompts`` or ``prompts.prompts_of``.
        engine: writes.
        folder: one file of rows a step, rejects beside them.
        config: what to make.
        tactics: for adversarial form; the packaged ones by default.
        labeller: judges every row at the end; without one, labels stay what was intended.

    Raises:
        ConfigError: a step that is off (``structured`` without consent), or tactics that cannot be used.
        DataError: malformed prompt rows.
        EngineError: the model could not answer; calling again continues.
        UserError: the folder was begun from other prompts or under other settings.
    """
    if "structured" in config.steps:  # before anything else has been asked for
        require_allowed(config.allow_harmful, STRUCTURED)
    run = _Run(engine, folder, config)
    vanilla = run.vanilla(prompts)
    adversarial = run.adversarial(vanilla, load_tactics() if tactics is None else tactics)
    rows: Sequence[Row] = run.answered([*vanilla, *adversarial], vanilla)
    found: dict[str, dict[str, int]] = {}
    if labeller is not None:
        rows = run.step(filter_step(labeller), rows)
        found = agreement(run.file("filtered"))
    generated = Generated(rows, run.reports, found)
    atomic_write_json(folder / "report.json", generated.to_json())
    return generated


class _Run:
    """The steps of one folder."""

    def __init__(self, engine: Engine, folder: Path, config: WildGuardGeneration) -> None:
        self._engine = engine
        self._folder = folder
        self._config = config
        self._budget = Budget(config.max_rows_per_step, config.max_tokens_per_step)
        generation = GenerationSettings(config.max_new_tokens, config.temperature, config.top_p, seed=config.seed)
        self._sampling: dict[str, Any] = {"generation": generation, "retries": config.retries}
        self.reports: list[StepReport] = []

    def file(self, step: str) -> Path:
        return self._folder / f"{step}.jsonl"

    def step(self, step: Step, rows: Sequence[Row], duplicates: SameText | None = None) -> list[dict[str, Any]]:
        out = self.file(step.name)
        budget = None if step.name == "filtered" else self._budget  # unjudged rows must not pass for judged ones
        report = run_step(step, rows, out, budget=budget, chunk=self._config.chunk, duplicates=duplicates)
        self.reports.append(report)
        return read_step(out)

    def vanilla(self, prompts: Sequence[Row]) -> list[Row]:
        """The given prompts, their look-alikes, sensitive ones and structured ones."""
        config, engine = self._config, self._engine
        rows: list[Row] = list(prompts)
        if "look_alikes" in config.steps:
            step = look_alike_step(engine, per_prompt=config.look_alikes_per_prompt, seed=config.seed, **self._sampling)
            originals = [row for row in prompts if not row.get("adversarial")]
            rows += self.step(step, originals, SameText("prompt", known=rows))
        if "sensitive" in config.steps:
            topics = topic_rows(config.sensitive_per_topic)
            rows += self.step(sensitive_step(engine, **self._sampling), topics, SameText("prompt", known=rows))
        if "structured" in config.steps:
            step = structured_step(engine, allow_harmful=config.allow_harmful, **self._sampling)
            categories = category_rows(per_category=config.structured_per_category)
            rows += self.step(step, categories, SameText("prompt", known=rows))
        return rows

    def adversarial(self, vanilla: Sequence[Row], tactics: Sequence[Tactic]) -> list[Row]:
        """The vanilla prompts in adversarial form."""
        config = self._config
        rows: list[Row] = []
        if "composed" in config.steps:
            rows += self.step(compose_step(tactics, seed=config.seed), vanilla, SameText("prompt"))
        if "rewritten" in config.steps:
            step = rewrite_step(self._engine, tactics, seed=config.seed, **self._sampling)
            rows += self.step(step, vanilla, SameText("prompt", known=vanilla))
        return rows

    def answered(self, prompts: Sequence[Row], vanilla: Sequence[Row]) -> list[Row]:
        """The prompts, with their replies where they have any, and the complex exchanges."""
        config = self._config
        replied: list[Row] = []
        if "replies" in config.steps:
            step = reply_step(self._engine, allow_harmful=config.allow_harmful, seed=config.seed, **self._sampling)
            chosen = [row for row in prompts if self._gets_replies(row)]
            replied = list(self.step(step, chosen, SameText("prompt", "response")))
        if "complex" in config.steps:
            step = complex_step(self._engine, per_prompt=config.complex_per_prompt, seed=config.seed, **self._sampling)
            complex_rows = self.step(step, vanilla, SameText("prompt", "response"))
        else:
            complex_rows = []
        return [*_without_reply(prompts, replied), *replied, *complex_rows]

    def _gets_replies(self, row: Row) -> bool:
        chance = random.Random(f"replied/{self._config.seed}/{row['id']}")  # noqa: S311  not for secrets
        return chance.random() < self._config.replied_share


def _without_reply(prompts: Iterable[Row], replied: Iterable[Row]) -> list[Row]:
    answered = {row["prompt"] for row in replied}
    return [row for row in prompts if row["prompt"] not in answered]
