"""The rows of the study: what is trained on, what is held out from it, and what is measured on.

Held-out harmful rows are those whose source names a category of the policy: what the verdict should be once a category
is dropped is otherwise unknown. The target of the adaptation is cut into halves by group; no half, and no evaluation
set, is trained on by the guard that is shown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.data.examples import ModerationExample, example_to_json
from corral.data.mixture import sample_groups
from corral.data.relabelling import with_labels_of
from corral.data.sources import load_source
from corral.data.splits import draw_groups, split_by_group
from corral.data.taxonomy import load_taxonomy, qualified
from corral.evals.tasks.adaptation import AdaptationTarget, choose_examples
from corral.evals.tasks.moderation_sets import SETS
from corral.evals.tasks.policy_sensitivity import violated_codes
from corral.evals.tasks.scoring import RowLoader
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.studies.drawing import draw_mixture
from corral.studies.llama_guard.settings import LadderConfig, StudyConfig
from corral.studies.llama_guard.templated import INVENTED, INVENTED_TARGET, templated_rows

_BENIGN: Final = "benign"
_NO_CATEGORY: Final = "harmful, category not known"


@dataclass(frozen=True)
class StudyRows:
    """All rows of a study.

    Attributes:
        policy: of the guard that is trained, names only.
        train: training rows, the same for every arm and seed.
        held_out: rows of other groups of the same sources.
        target: what the guard is adapted to.
        sets: evaluation sets by name, the test half of the target first.
        drawn: by source, how many rows there were and what became of them.
    """

    policy: PolicyPrompt
    train: tuple[ModerationExample, ...]
    held_out: tuple[ModerationExample, ...]
    target: AdaptationTarget
    sets: Mapping[str, tuple[ModerationExample, ...]]
    drawn: Sequence[Mapping[str, Any]]

    def account(self) -> dict[str, Any]:
        """Which rows these are, as JSON: counts, and a hash of everything that is read."""
        parts = {
            "train": self.train,
            "held_out": self.held_out,
            "target_train": self.target.train,
            **{f"set {name}": rows for name, rows in self.sets.items()},
        }
        return {
            "rows_sha256": sha256_json([[example_to_json(row) for row in rows] for rows in parts.values()]),
            "policy": [self.policy.qualified(code) for code in self.policy.codes],
            "drawn": list(self.drawn),
            "parts": {name: _counts(rows, self.policy) for name, rows in parts.items()},
        }


def study_rows(config: StudyConfig) -> StudyRows:
    """The rows that the settings ask for.

    Raises:
        ConfigError: a source may not be trained on, or gives no row.
        NotFoundError: a source is not in the data folder.
        DataError: a file differs from the record, or the target has too few rows for examples.
    """
    return _templated(config) if config.data == "templated" else _public(config)


def _public(config: StudyConfig) -> StudyRows:
    policy = PolicyPrompt.of(config.generation, config.taxonomy, detail=config.detail).with_categories(config.policy)
    rows = config.rows
    mixture = draw_mixture(rows.mixture, keep_clean_of=rows.keep_clean_of, seed=config.seed)
    target = _target(
        config.ladder,
        PolicyPrompt.of(config.generation, config.ladder.taxonomy, detail="names").with_categories(
            list(config.ladder.labels)
        ),
        [with_labels_of(_relabelled(row, config.ladder), config.taxonomy) for row in load_source(config.ladder.source)],
        seed=config.seed,
    )
    loader = RowLoader(limit=config.set_rows, seed=config.seed)
    sets = {name: loader.load(SETS.get(name)).rows for name in config.sets}
    drawn = [
        {
            "source": source,
            "available": counts.available,
            "overlapping": counts.overlapping,
            "contaminated": counts.contaminated,
            "taken": counts.taken,
        }
        for source, counts in mixture.counts
    ]
    train, held_out = _sides([with_labels_of(row, config.taxonomy) for row in mixture.rows], policy, config)
    return StudyRows(policy, train, held_out, target, {config.ladder.source: target.test, **sets}, drawn)


def _templated(config: StudyConfig) -> StudyRows:
    policy = PolicyPrompt.of("3", INVENTED, detail="names")
    train, held_out = _sides(list(templated_rows("asked", INVENTED)), policy, config)
    told = list(templated_rows("told", INVENTED_TARGET, INVENTED))
    target = _target(config.ladder, PolicyPrompt.of("3", INVENTED_TARGET, detail="names"), told, seed=config.seed)
    six = draw_groups(list(templated_rows("told", INVENTED)), config.set_rows, seed=config.seed)
    sets = {"templated_target": target.test, "templated_told": tuple(six)}
    return StudyRows(policy, train, held_out, target, sets, [])


def _sides(
    pool: Sequence[ModerationExample], policy: PolicyPrompt, config: StudyConfig
) -> tuple[tuple[ModerationExample, ...], tuple[ModerationExample, ...]]:
    """Training rows and held-out rows, each capped by category, in random order."""
    rows = config.rows
    if rows.single_turn:
        pool = [row for row in pool if sum(m.role == "user" for m in row.conversation.messages) <= 1]
    kept, held = split_by_group(pool, held_out=rows.held_out, seed=config.seed)
    train = _capped(kept, policy, rows.each_category, rows.benign, rows.no_category, seed=config.seed)
    test = _capped(held, policy, rows.held_out_each_category, rows.held_out_benign, 0, seed=config.seed)
    if not train or not test:
        raise ConfigError("no rows to train on, or none held out", where="rows")
    return train, test


def _capped(
    pool: Iterable[ModerationExample],
    policy: PolicyPrompt,
    each_category: int,
    benign: int,
    no_category: int,
    *,
    seed: int,
) -> tuple[ModerationExample, ...]:
    """Rows of the pool by kind, each kind up to its cap; a row of several categories counts as of the first."""
    caps = {_BENIGN: benign, _NO_CATEGORY: no_category}
    by_kind: dict[str, list[ModerationExample]] = defaultdict(list)
    for row in pool:
        if kind := _kind(row, policy):
            by_kind[kind].append(row)
    chosen: list[ModerationExample] = []
    for number, (kind, members) in enumerate(sorted(by_kind.items())):
        chosen += sample_groups(members, caps.get(kind, each_category), rng=np.random.default_rng([seed, number]))
    order = np.random.default_rng([seed, len(by_kind)]).permutation(len(chosen))
    return tuple(chosen[i] for i in order)


def _kind(row: ModerationExample, policy: PolicyPrompt) -> str:
    """What a row is drawn as: its category in the policy, benign, or harmful without a category; "" to leave it out."""
    if row.harmful is None:
        return ""
    if not row.harmful:
        return _BENIGN
    codes = violated_codes(row, policy)
    return codes[0] if codes else "" if any(row.categories.values()) else _NO_CATEGORY


def _target(
    config: LadderConfig, policy: PolicyPrompt, rows: Sequence[ModerationExample], *, seed: int
) -> AdaptationTarget:
    learned, tested = split_by_group(rows, held_out=0.5, seed=seed)
    train = draw_groups(learned, config.train_rows, seed=seed)
    exemplary = [row for row in learned if not any(row.raw.get(column) for column in config.no_examples_of)]
    examples = choose_examples(exemplary, policy, each=config.examples, max_chars=config.example_chars, seed=seed)
    return AdaptationTarget(policy, tuple(train), tuple(draw_groups(tested, config.test_rows, seed=seed)), examples)


def _relabelled(row: ModerationExample, config: LadderConfig) -> ModerationExample:
    """A row of the target with its labels in the target's own taxonomy beside those it has."""
    taxonomy = load_taxonomy(config.taxonomy)
    labels: dict[str, bool] = {}
    for code, (first, *parts) in config.labels.items():
        values = [row.raw.get(column) for column in (first, *parts)]
        if any(value == 1 for value in values):
            labels[qualified(taxonomy, code)] = True
        elif values[0] == 0:
            labels[qualified(taxonomy, code)] = False
    return replace(row, categories={**row.categories, **labels})


def _counts(rows: Sequence[ModerationExample], policy: PolicyPrompt) -> dict[str, Any]:
    codes = Counter(code for row in rows for code in violated_codes(row, policy))
    return {
        "rows": len(rows),
        "groups": len({row.group for row in rows}),
        "harmful": sum(row.harmful is True for row in rows),
        "categories": dict(sorted(codes.items())),
        "sources": dict(sorted(Counter(row.source for row in rows).items())),
    }
