"""Which rows the study trains on and which it holds out: other goals, and for attacks other wrappers as well.

A goal is a row's group. Goals are split once, by hash; the wrappers of a wrapped source and the families of tactics are
split too, and whatever goal stands in a held-out wrapper is held out everywhere. Training rows that share a run of ten
words with a held-out prompt, or with an evaluation set, are left out, so that variants of one jailbreak text do not
stand on both sides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

import numpy as np

from corral.core.errors import ConfigError
from corral.core.progress import progress
from corral.data.decontamination import EvaluationIndex
from corral.data.examples import ModerationExample, rows_hash
from corral.data.messages import TARGETS, Conversation
from corral.data.mixture import Mixture, MixtureEntry, build_mixture, sample_groups
from corral.data.splits import group_fraction
from corral.studies.drawing import asked_texts
from corral.studies.wildguard.settings import HeldOutConfig, Part, StudyEntry, TacticConfig, WildGuardConfig
from corral.studies.wildguard.sources import RowSource, require_trainable
from corral.studies.wildguard.templated import TEMPLATED, TEMPLATED_TACTICS
from corral.synth.wildguard.tactics import Tactic, compose, load_tactics, split_tactics

VANILLA: Final = "vanilla"
TACTICS: Final = "wrapped_in_tactics"
WRAPPED: Final = "wrapped_prompts"
REFUSALS: Final = "refusals"
BENIGN_REFUSALS: Final = "benign_refusals"
STOCK_REFUSALS: Final = "stock_refusals"
RESPONSES: Final = "responses"

_COMPOSITIONS: Final = 20  # draws of tactics before a prompt is wrapped in the shortest of them


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A training row and the part of the mixture that it is of."""

    row: ModerationExample
    part: Part


@dataclass(frozen=True)
class StudyRows:
    """All rows of a study.

    Attributes:
        training: of the arm that leaves nothing out.
        tests: held-out rows, by the name of the test.
        tactics: the held-out tactics.
        account: where the rows came from and what was left out, as JSON.
    """

    training: tuple[TrainingRow, ...]
    tests: Mapping[str, tuple[ModerationExample, ...]]
    tactics: tuple[Tactic, ...]
    account: Mapping[str, Any]

    def of_arm(self, left_out: Iterable[str]) -> list[ModerationExample]:
        """Training rows without those of the named sources and parts."""
        names = set(left_out)
        return [each.row for each in self.training if each.part not in names and each.row.source not in names]


def draw_rows(config: WildGuardConfig) -> StudyRows:
    """Draw training and test rows.

    Raises:
        ConfigError: an entry takes no row, or trains on a source that is for evaluation only.
        NotFoundError: a source is not in the data folder.
    """
    source = RowSource()
    entries = [entry for entry in config.mixture if not config.switched_off((entry.source, entry.part))]
    for entry in entries:
        require_trainable(entry.source, where="mixture")
    split = _Split(config.held_out, [entry.source for entry in entries], source, seed=config.seed)
    train_tactics, test_tactics = split_tactics(
        study_tactics(config.tactics), held_out=config.tactics.held_out, seed=config.seed
    )
    tests = _tests(config, split, test_tactics)
    index = EvaluationIndex(
        chain(
            asked_texts(row for name in config.keep_clean_of for row in source(name)),
            asked_texts(chain.from_iterable(tests.values())),
        )
    )
    mixture = build_mixture(
        progress(entries, "Drawing the mixture"),
        split.training,
        contaminated=index.contaminated,
        seed=config.seed,
        share=config.share,
    )
    drawn = _tagged(entries, mixture)
    wrapped = _wrapped_training(drawn, config, train_tactics)
    training = (*drawn, *wrapped)
    return StudyRows(training, tests, test_tactics, _account(mixture, training, tests, train_tactics, test_tactics))


def study_tactics(config: TacticConfig) -> tuple[Tactic, ...]:
    """The tactics that the settings name."""
    if config.file is not None and str(config.file) == TEMPLATED:
        return TEMPLATED_TACTICS
    return load_tactics(config.file)


def wrap(row: ModerationExample, tactics: Sequence[Tactic], *, max_chars: int, seed: int) -> ModerationExample:
    """The prompt of a row in adversarial form, under the same labels; ``raw["goal"]`` holds the plain prompt.

    Args:
        row: a prompt alone.
        tactics: to draw from.
        max_chars: a longer composition is drawn anew; after twenty draws the shortest is taken.
        seed: of the draw.
    """
    texts = []
    for attempt in range(_COMPOSITIONS):
        texts.append(compose(row.text, tactics, seed=seed * _COMPOSITIONS + attempt))
        if len(texts[-1]) <= max_chars:
            break
    return replace(
        row,
        conversation=Conversation.user(min(texts, key=len)),
        attack=True,
        id=f"{row.id}:tactics",
        raw={**row.raw, "goal": row.text},
    )


class _Split:
    """Which side a row is on."""

    def __init__(self, config: HeldOutConfig, names: Sequence[str], source: RowSource, *, seed: int) -> None:
        self._config = config
        self._source = source
        self._trained_on = frozenset(names)
        self._seed = seed
        self._goals = {
            row.group for name in dict.fromkeys(names) for row in source(name) if self._held_wrapper(row) is True
        }
        self._goals |= {row.group for rare in config.goals_of for row in source(rare.source) if rare.admits(row)}

    def training(self, name: str) -> list[ModerationExample]:
        """Rows of a source that may train."""
        return [row for row in self._source(name) if not self._held_wrapper(row) and not self._held_goal(row)]

    def test(self, name: str) -> list[ModerationExample]:
        """Rows of a source that are held out; all of a source that nothing is trained on."""
        rows = self._source(name)
        if name not in self._trained_on:
            return rows
        return [row for row in rows if self._held_goal(row) and self._held_wrapper(row) is not False]

    def _held_goal(self, row: ModerationExample) -> bool:
        return row.group in self._goals or group_fraction(row.group, seed=self._seed) < self._config.groups

    def _held_wrapper(self, row: ModerationExample) -> bool | None:
        """Whether the row's wrapper is held out; ``None`` for a row without one."""
        wrapper = row.raw.get("wrapper")
        return None if wrapper is None else group_fraction(str(wrapper), seed=self._seed) < self._config.wrappers


def _tests(
    config: WildGuardConfig, split: _Split, tactics: Sequence[Tactic]
) -> dict[str, tuple[ModerationExample, ...]]:
    held_out = config.held_out
    wanted: Mapping[str, Sequence[MixtureEntry]] = {
        VANILLA: held_out.vanilla,
        WRAPPED: held_out.wrapped,
        REFUSALS: held_out.refusals,
        BENIGN_REFUSALS: held_out.benign_refusals,
        STOCK_REFUSALS: held_out.stock_refusals,
        RESPONSES: held_out.responses,
    }
    tests = {
        name: tuple(
            build_mixture(entries, split.test, contaminated=lambda _: False, seed=config.seed, share=config.share).rows
        )
        for name, entries in wanted.items()
        if entries
    }
    tests[TACTICS] = tuple(
        wrap(row, tactics, max_chars=config.tactics.max_chars, seed=config.seed)
        for row in tests[VANILLA]
        if len(row.text) <= config.tactics.prompt_chars
    )
    return tests


def _tagged(entries: Sequence[StudyEntry], mixture: Mixture) -> tuple[TrainingRow, ...]:
    """The rows of a mixture with their parts; an entry's rows stand together, in the order of the entries."""
    parts = [
        entry.part for entry, (_, counts) in zip(entries, mixture.counts, strict=True) for _ in range(counts.taken)
    ]
    return tuple(TrainingRow(row, part) for row, part in zip(mixture.rows, parts, strict=True))


def _wrapped_training(
    drawn: Sequence[TrainingRow], config: WildGuardConfig, tactics: Sequence[Tactic]
) -> list[TrainingRow]:
    wanted: tuple[tuple[bool, Part, int], ...] = (
        (True, "adversarial_harmful", math.ceil(config.share * config.tactics.harmful)),
        (False, "adversarial_benign", math.ceil(config.share * config.tactics.benign)),
    )
    plain = [
        each.row
        for each in drawn
        if each.row.target == "prompt"
        and not each.row.attack
        and not each.part.startswith("adversarial")
        and len(each.row.conversation.messages) == 1
        and len(each.row.text) <= config.tactics.prompt_chars
    ]
    wrapped: list[TrainingRow] = []
    for number, (harmful, part, count) in enumerate(wanted):
        if config.switched_off((part,)):
            continue
        candidates = [row for row in plain if row.harmful is harmful]
        if len(candidates) < count:
            raise ConfigError(
                f"only {len(candidates)} prompts of the mixture can be wrapped, {count} are asked for",
                where=f"tactics.{'harmful' if harmful else 'benign'}",
            )
        chosen = sample_groups(candidates, count, rng=np.random.default_rng([config.seed, number]))
        chars, seed = config.tactics.max_chars, config.seed
        wrapped += [TrainingRow(wrap(row, tactics, max_chars=chars, seed=seed), part) for row in chosen]
    return wrapped


def _account(
    mixture: Mixture,
    training: Sequence[TrainingRow],
    tests: Mapping[str, Sequence[ModerationExample]],
    train_tactics: Sequence[Tactic],
    test_tactics: Sequence[Tactic],
) -> dict[str, Any]:
    return {
        "training_sha256": rows_hash([each.row for each in training]),
        "training_rows": len(training),
        "parts": dict(sorted(Counter(each.part for each in training).items())),
        "labels": {
            f"{target} {label} {value}": count
            for target in TARGETS
            for label in ("harmful", "refusal")
            for value in (True, False)
            if (count := sum(e.row.target == target and getattr(e.row, label) is value for e in training))
        },
        "entries": [
            {
                "source": source,
                "available": counts.available,
                "overlapping": counts.overlapping,
                "contaminated": counts.contaminated,
                "taken": counts.taken,
            }
            for source, counts in mixture.counts
        ],
        "tests": {
            name: {
                "rows": len(rows),
                "groups": len({row.group for row in rows}),
                "harmful": sum(row.harmful is True for row in rows),
                "refusals": sum(row.refusal is True for row in rows),
                "sha256": rows_hash(rows),
            }
            for name, rows in tests.items()
        },
        "tactic_families": {
            "training": sorted({tactic.family for tactic in train_tactics}),
            "held out": sorted({tactic.family for tactic in test_tactics}),
        },
    }
