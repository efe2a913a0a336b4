"""Training rows for a Llama Guard: prompts under varied policies, verdicts as answers (arXiv 2312.06674, section 3).

One row of labels gives one prompt, or a few in mode ``formatter`` or with ``copies`` (see ``augmentation``). The answer
names the codes that the prompt gives to the violated categories, in the prompt's order. What a row does not say is not
learned:

- harmful, but in none of the taxonomy's categories as far as is known: only the first line, ``unsafe``, is in the loss,
  and the policy is whole, since what is violated might be what is dropped;
- harmful in categories of the taxonomy that the policy does not have: left out. It would be safe under this policy if
  its labels were complete, and few data sets say that they are;
- no label, or a safe one with a violated category: left out.

A row that is violated in some category and unlabelled in others counts as violating the first only, as in the paper.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from corral.core.errors import DataError
from corral.data.examples import ModerationExample
from corral.data.taxonomy import parse_code
from corral.guards.llama_guard.grammar import UNSAFE, format_verdict
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.guards.llama_guard.turns import turns_to_judge
from corral.guards.prompted.framing import FrameName, framed
from corral.guards.prompted.turns import Turn
from corral.train.guard.augmentation import AugmentationConfig, PolicyPool, PolicyWish, draw_wishes
from corral.train.guard.prompted_rows import FormattedRows, PromptedRow

FORMATTER_SEED: Final = 42
"""The seed of the released formatter."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """A labelled row: its turns, and the policy's categories that it violates (``None``: harmful, not known how)."""

    turns: tuple[Turn, ...]
    violated: frozenset[str] | None
    key: int


@dataclass(frozen=True, slots=True)
class _Copy:
    """A sample under one policy: bare codes in the order of the prompt, and whether its violations were dropped."""

    kept: tuple[str, ...]
    flipped: bool


def llama_guard_rows(
    rows: Sequence[ModerationExample],
    policy: PolicyPrompt,
    config: AugmentationConfig,
    *,
    seed: int,
    frame: FrameName = "chat",
) -> FormattedRows:
    """Training rows under a policy; the same arguments give the same rows.

    A row's draws depend on the seed and the row, not on the rows around it, but for which policies it shares.

    Args:
        rows: labelled examples; ``categories`` of the policy's taxonomy are used.
        policy: the whole policy.
        config: how it is varied.
        seed: of the variations (the released formatter uses ``FORMATTER_SEED``).
        frame: chat format around prompts; ``chat`` leaves it to the tokenizer's template.

    Returns:
        The rows, in the order of ``rows``, with a report: examples read, left out by reason, written and flipped;
        violated categories before and after, and in how many prompts each stands.
    """
    skipped: Counter[str] = Counter()
    samples = [sample for row in rows if (sample := _sample(row, policy, skipped)) is not None]
    copies = _copies(samples, policy, config, seed)
    policies: dict[tuple[str, ...], PolicyPrompt] = {}
    written: list[PromptedRow] = []
    for sample, drawn in zip(samples, copies, strict=True):
        for copy in drawn:
            prompt = policies.setdefault(copy.kept, policy.with_categories(copy.kept))
            written.append(_row(sample, copy, prompt, frame))
    return FormattedRows(written, {"read": len(rows), "left_out": dict(skipped), **_account(samples, copies, policy)})


def _sample(row: ModerationExample, policy: PolicyPrompt, skipped: Counter[str]) -> _Sample | None:
    """The row as a sample; ``None``, counted by its reason, for one that is left out."""
    named = {code for code, label in row.categories.items() if label and parse_code(code)[0] == policy.taxonomy.id}
    bare = {parse_code(code)[1] for code in named}
    violated = frozenset(bare.intersection(category.code for category in policy.categories))
    index = row.conversation.judged_index(row.target)
    reason = None
    if row.harmful is None:
        reason = "no label"
    elif row.harmful and bare and not violated:
        reason = "violates only what the policy does not have"
    elif not row.harmful and violated:
        reason = "safe but violated"
    elif index is None:
        reason = f"no {row.target} to judge"
    else:
        try:
            turns = turns_to_judge(row.conversation, index)
        except DataError:
            reason = "turns that the prompt cannot show"
        else:
            digest = hashlib.sha256(f"{row.source}/{row.id}/{row.target}/{row.text}".encode(errors="surrogatepass"))
            known = violated if violated or not row.harmful else None
            return _Sample(turns, known, int.from_bytes(digest.digest()[:8]))
    skipped[reason] += 1
    return None


def _copies(
    samples: Sequence[_Sample], policy: PolicyPrompt, config: AugmentationConfig, seed: int
) -> list[list[_Copy]]:
    """Copies of each sample. Samples come to the pool shuffled, or policies would be shared within a source."""
    codes = tuple(category.code for category in policy.categories)
    shuffle = config.shuffle and config.mode != "none"
    pools = {role: PolicyPool(codes, config.share_policies, shuffle) for role in ("User", "Agent")}
    generators = [np.random.default_rng([seed, sample.key]) for sample in samples]
    arrival = [float(rng.random()) for rng in generators]
    copies: list[list[_Copy]] = [[] for _ in samples]
    for index in sorted(range(len(samples)), key=arrival.__getitem__):
        sample, rng = samples[index], generators[index]
        if sample.violated is None:
            wishes = [PolicyWish(len(codes))]
        else:
            wishes = draw_wishes(codes, sample.violated, config, rng)
        pool = pools[sample.turns[-1].role]
        copies[index] = [_Copy(pool.take(wish, rng), flipped=bool(wish.lacks)) for wish in wishes]
    return copies


def _row(sample: _Sample, copy: _Copy, prompt: PolicyPrompt, frame: FrameName) -> PromptedRow:
    if sample.violated is None:
        answer, scored = f"{UNSAFE}\n", len(UNSAFE)
    else:
        named = zip(prompt.codes, copy.kept, strict=True)
        answer = format_verdict([code for code, category in named if category in sample.violated])
        scored = len(answer)
    key = f"{sample.turns[-1].role}/{','.join(copy.kept)}"
    return PromptedRow(framed(prompt.render(sample.turns), frame), answer, ((0, scored),), key)


def _account(
    samples: Sequence[_Sample], copies: Sequence[Sequence[_Copy]], policy: PolicyPrompt
) -> dict[str, int | dict[str, int]]:
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    for sample, drawn in zip(samples, copies, strict=True):
        violated = sample.violated or frozenset()
        before.update(violated)
        labels["before: safe" if sample.violated == frozenset() else "before: unsafe"] += 1
        for copy in drawn:
            shown.update(copy.kept)
            after.update(violated.intersection(copy.kept))
            safe = sample.violated == frozenset() or copy.flipped
            labels["after: safe" if safe else "after: unsafe"] += 1
    codes = [category.code for category in policy.categories]
    return {
        "written": sum(len(drawn) for drawn in copies),
        "flipped": sum(copy.flipped for drawn in copies for copy in drawn),
        "category_unknown": sum(sample.violated is None for sample in samples),
        "policies": len({(s.turns[-1].role, c.kept) for s, drawn in zip(samples, copies, strict=True) for c in drawn}),
        "labels": dict(labels),
        "categories_before": {code: before[code] for code in codes},
        "categories_after": {code: after[code] for code in codes},
        "categories_in_prompts": {code: shown[code] for code in codes},
    }
