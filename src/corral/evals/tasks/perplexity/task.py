"""The task: passages of every set scored, and perplexity and bits per byte taken over them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.evals.sample_cache import SampleCache, item_hash
from corral.evals.tasks.formulas import ExpRatioOfSums, RatioOfSums
from corral.evals.tasks.perplexity.passages import Passage, PassageScorer, passage_scorer
from corral.evals.tasks.perplexity.texts import TextSet, packaged_texts
from corral.evals.tasks.task import Measure, Progress, SampleScore, Subject, TaskResult

WINDOW: Final = 2048
"""Tokens of a window in the published tables."""

_PERPLEXITY: Final = ExpRatioOfSums(numerator="nats", denominator="tokens")
_BITS_PER_BYTE: Final = RatioOfSums(numerator="bits", denominator="bytes")


@dataclass(frozen=True)
class Perplexity:
    """Perplexity and bits per byte of a model, over all texts together and over each set.

    Guards have no part in it. See ``passages`` for which tokens are scored. Bits per byte compare models with different
    vocabularies, perplexity does not.

    Attributes:
        texts: what is read.
        window: tokens read at once, or the model's context if that is shorter.
        limit: at most so many passages a set, spread evenly over it; all when ``None``.
        batch_size: passages that are scored between two writes to the cache.

    Raises:
        ConfigError: no text, two sets of one name, or a number below its least.
    """

    texts: tuple[TextSet, ...] = field(default_factory=packaged_texts)
    window: int = WINDOW
    limit: int | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        names = [texts.name for texts in self.texts]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"expected sets of different names, got `{names}`", where="texts")
        for setting, value, least in (
            ("window", self.window, 2),
            ("limit", self.limit, 1),
            ("batch", self.batch_size, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"`{value}` is below {least}", where=setting)

    @property
    def name(self) -> str:
        """``perplexity``."""
        return "perplexity"

    @property
    def version(self) -> str:
        """Raised whenever what is scored changes."""
        return "1"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Of all texts, then of each set where there are several."""
        whole = ("", "all texts") if len(self.texts) > 1 else ("", self.texts[0].name)
        sets = [(texts.name, texts.name) for texts in self.texts] if len(self.texts) > 1 else []
        return tuple(measure for group, title in (whole, *sets) for measure in _measures(group, title))

    def run(self, subject: Subject, cache: SampleCache, progress: Progress) -> TaskResult:
        """Score every passage, reading what an earlier run found from the cache.

        Raises:
            DataError: a text that the tokenizer cannot tell from its control tokens.
            EngineError: the model could not answer.
        """
        scorer = passage_scorer(subject.engine, self.window)
        cut = {texts.name: _spread(scorer.cut(texts), self.limit) for texts in self.texts}
        progress.start(sum(len(passages) for passages in cut.values()))
        samples: list[SampleScore] = []
        for name, passages in cut.items():
            values = cache.fill(
                subject,
                self.name,
                self.version,
                settings={"way": scorer.way},
                items=passages,
                keys=[item_hash([passage.parts, passage.bytes]) for passage in passages],
                compute=lambda batch: _score(scorer, batch),
                batch_size=self.batch_size,
                progress=progress,
            )
            samples += _samples(name, passages, values)
        return TaskResult.of(
            self,
            samples,
            data_hash=sha256_json(
                {
                    "texts": {texts.name: texts.content_hash for texts in self.texts},
                    "window": scorer.window,
                    "limit": self.limit,
                    "way": scorer.way,
                }
            ),
            caveats=self._caveats(scorer),
        )

    def _caveats(self, scorer: PassageScorer) -> list[str]:
        unit = "tokens" if scorer.way == "token ids" else "bytes, since the engine does not score token ids"
        cuts = {texts.cut for texts in self.texts}
        found = []
        if "windows" in cuts:
            found.append(f"Windows of {scorer.window} {unit}, not overlapping; the first of each is not scored.")
        if "documents" in cuts:
            found.append(f"Documents by themselves, read in windows of {scorer.window} {unit}.")
        return [*found, "Perplexity compares models of one vocabulary; bits per byte compare any."]


def _score(scorer: PassageScorer, passages: Sequence[Passage[Any]]) -> list[dict[str, float]]:
    return [
        {"nats": -found.nats, "tokens": found.tokens, "bytes": found.bytes} for found in scorer.score(list(passages))
    ]


def _samples(
    name: str, passages: Sequence[Passage[Any]], values: Sequence[Mapping[str, float]]
) -> Iterator[SampleScore]:
    for passage, value in zip(passages, values, strict=True):
        key = f"{name}/{passage.id}"
        yield SampleScore(key, key, {**value, "bits": value["nats"] / math.log(2)}, group=name)


def _spread(passages: list[Passage[Any]], limit: int | None) -> list[Passage[Any]]:
    """At most ``limit`` passages, each from the middle of an equal share of the set."""
    if limit is None or len(passages) <= limit:
        return passages
    return [passages[(2 * i + 1) * len(passages) // (2 * limit)] for i in range(limit)]


def _measures(group: str, title: str) -> Iterator[Measure]:
    suffix = f"/{group}" if group else ""
    yield Measure(
        name=f"bits_per_byte{suffix}",
        title=f"Bits per byte, {title}",
        unit="bits/byte",
        higher_is_better=False,
        area="ability",
        formula=_BITS_PER_BYTE,
        group=group,
        headline=not group,
    )
    yield Measure(
        name=f"perplexity{suffix}",
        title=f"Perplexity, {title}",
        unit="per token",
        higher_is_better=False,
        area="ability",
        formula=_PERPLEXITY,
        group=group,
    )
