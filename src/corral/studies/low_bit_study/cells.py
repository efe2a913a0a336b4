"""The cells of the matrix: a model quantized, and scored on the same windows as every other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from corral.core.files import sha256_json
from corral.core.metric_inputs import Floats
from corral.core.runs import Run
from corral.core.weighted import Statistic
from corral.data.wikitext import wikitext_half
from corral.evals.tasks.perplexity.passages import passage_scorer
from corral.evals.tasks.perplexity.texts import Document, TextSet, corpus_text, packaged_texts
from corral.models.engines.torch import TorchEngine
from corral.models.loading import weights_revision
from corral.studies.low_bit_study.cell_files import REFERENCE, KeptCell, kept_cell
from corral.studies.low_bit_study.quantized_models import depends_on, quantized_model
from corral.studies.low_bit_study.settings import LowBitConfig, QuantizerConfig

IN_DOMAIN: Final = "in_domain"


class TextScores(BaseModel):
    """Of one text, window by window.

    Attributes:
        nats: negative log-likelihood.
        tokens: that were scored.
        bytes: of their UTF-8.
    """

    model_config = ConfigDict(frozen=True)

    nats: tuple[float, ...]
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]

    @property
    def bits_per_byte(self) -> Statistic:
        """Bits per byte over weighted windows."""
        return _ratio(np.array(self.nats) / np.log(2), np.array(self.bytes, dtype=np.float64))

    @property
    def nats_per_token(self) -> Statistic:
        """Logarithm of the perplexity over weighted windows."""
        return _ratio(np.array(self.nats), np.array(self.tokens, dtype=np.float64))


class Cell(KeptCell):
    """One row of the matrix.

    Attributes:
        method: its name, empty for the reference.
        partial: fewer blocks are quantized than in the rest of the matrix, so it compares with nothing there.
        scores: by text.
        evaluation: hash of the windows that were scored.
    """

    method: str
    partial: bool = False
    scores: dict[str, TextScores] = Field(default_factory=dict)
    evaluation: str


class Cells:
    """Measures what is asked for, unless it is there already.

    Args:
        config: settings.
        run: its ``cells`` hold a file a cell.
    """

    def __init__(self, config: LowBitConfig, run: Run) -> None:
        self._config = config
        self._run = run
        self.folder = run.path / "cells"
        self.work = self.folder / "work"

    def reference(self) -> Cell:
        """The model as it is."""
        model = self._config.model
        return self._cell(
            REFERENCE, "", 0, {"weights": weights_revision(model)}, lambda: {"scores": self.scores(model)}
        )

    def quantized(self, quantizer: QuantizerConfig, seed: int) -> Cell:
        """A row of the matrix."""

        def measure() -> Mapping[str, Any]:
            with quantized_model(self._config, self._config.model, quantizer, seed, self.work) as (folder, report):
                return {"scores": self.scores(str(folder)), "quantization": report}

        key = depends_on(self._config, quantizer, weights_revision(self._config.model), seed)
        return self._cell(quantizer.name, quantizer.method, seed, key, measure, partial=quantizer.blocks is not None)

    def made(self, name: str, key: Mapping[str, Any], make: Callable[[], Path]) -> Cell:
        """A cell of a model folder that ``make`` writes and this removes."""

        def measure() -> Mapping[str, Any]:
            folder = make()
            scores = self.scores(str(folder))
            shutil.rmtree(folder)
            return {"scores": scores}

        return self._cell(name, name.partition(" ")[0], 0, dict(key), measure)

    def scores(self, model: str) -> dict[str, TextScores]:
        """A model on every text."""
        engine = TorchEngine.load(model)
        scorer = passage_scorer(engine, self._config.window)
        found = {}
        for name, text in self.texts.items():
            passages = scorer.cut(text)
            count = min(self._config.windows, len(passages))
            chosen = [passages[(2 * i + 1) * len(passages) // (2 * count)] for i in range(count)]
            likelihoods = [likelihood for passage in chosen for likelihood in scorer.score([passage])]
            found[name] = TextScores(
                nats=tuple(-likelihood.nats for likelihood in likelihoods),
                tokens=tuple(likelihood.tokens for likelihood in likelihoods),
                bytes=tuple(likelihood.bytes for likelihood in likelihoods),
            )
        return found

    @cached_property
    def texts(self) -> dict[str, TextSet]:
        """What is scored: the half of WikiText that nothing is calibrated on, and corpora of other domains."""
        if self._config.toy:
            return {
                text.name if place else IN_DOMAIN: _windowed(text) for place, text in enumerate(packaged_texts()[:2])
            }
        articles = tuple(Document(str(number), text) for number, text in enumerate(wikitext_half("evaluation")))
        others = {name: corpus_text(name) for name in self._config.out_of_domain}
        return {IN_DOMAIN: TextSet(IN_DOMAIN, articles), **others}

    def _cell(
        self,
        name: str,
        method: str,
        seed: int,
        key: Mapping[str, Any],
        measure: Callable[[], Mapping[str, Any]],
        *,
        partial: bool = False,
    ) -> Cell:
        evaluation = sha256_json(
            {
                "texts": {text: found.content_hash for text, found in self.texts.items()},
                "window": self._config.window,
                "windows": self._config.windows,
            }
        )
        return kept_cell(
            self._run,
            Cell,
            name,
            {**key, "seed": seed, "evaluation": evaluation},
            measure,
            folder=self.folder / "matrix",
            method=method,
            partial=partial,
            seed=seed,
            evaluation=evaluation,
        )


def rows_of(config: LowBitConfig) -> Iterator[tuple[QuantizerConfig, int]]:
    """Every row of the matrix: a quantizer and a seed."""
    for quantizer in config.quantizers:
        for seed in range(quantizer.seeds):
            yield quantizer, seed


def _windowed(text: TextSet) -> TextSet:
    return TextSet(text.name, text.documents, cut="windows")


def _ratio(numerators_N: Floats, denominators_N: Floats) -> Statistic:
    return lambda weights_NR: (numerators_N @ weights_NR) / (denominators_N @ weights_NR)
