"""The cells of the matrix: a model quantized, scored on the same windows as every other, and kept as a file.

A cell's file is named by a hash of all that it depends on, so a rerun finds it and a change makes a new one. One that
failed keeps its error, and the study goes on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from corral.core.errors import CorralError
from corral.core.files import atomic_write_json, read_json, sha256_json
from corral.core.memory import max_rss_mb
from corral.core.metric_inputs import Floats
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.core.weighted import Statistic
from corral.data.wikitext import wikitext_half
from corral.evals.tasks.perplexity.passages import passage_scorer
from corral.evals.tasks.perplexity.texts import Document, TextSet, corpus_text, packaged_texts
from corral.models.engines.torch import TorchEngine
from corral.models.loading import weights_revision
from corral.quant.quantize import quantize
from corral.studies.low_bit_study.settings import LowBitConfig, QuantizerConfig
from corral.studies.verdict_store import file_name

REFERENCE: Final = "reference"
IN_DOMAIN: Final = "in_domain"
_WORK: Final = "work"


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


class Cell(BaseModel):
    """One row of the matrix.

    Attributes:
        name: of the quantizer, or ``reference``.
        method: its name, empty for the reference.
        seed: of its calibration.
        error: why there are no scores; ``None`` where there are.
        scores: by text.
        quantization: the quantizer's report, without its layers.
        seconds: that quantizing and scoring took.
        max_rss_mb: largest resident memory of the process by then.
        evaluation: hash of the windows that were scored.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    method: str
    seed: int
    error: str | None
    scores: dict[str, TextScores]
    quantization: dict[str, Any] | None
    seconds: float
    max_rss_mb: float
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
        self._folder = run.path / "cells"
        self._folder.mkdir(exist_ok=True)

    def reference(self) -> Cell:
        """The model as it is."""
        return self._cell(REFERENCE, "", 0, {"weights": weights_revision(self._config.model)}, self._as_it_is)

    def quantized(self, quantizer: QuantizerConfig, seed: int) -> Cell:
        """A row of the matrix."""
        key = {
            "weights": weights_revision(self._config.model),
            "method": quantizer.build().model_dump(mode="json"),
            "blocks": self._config.quantized_blocks,
            "calibration": self._config.calibration.model_dump(mode="json"),
        }

        def measure() -> tuple[dict[str, TextScores], dict[str, Any] | None]:
            with self.quantized_folder(quantizer, seed) as (folder, report):
                return self.scores(str(folder)), report

        return self._cell(quantizer.name, quantizer.method, seed, key, measure)

    def made(self, name: str, key: Mapping[str, Any], make: Callable[[], Path]) -> Cell:
        """A cell of a model folder that ``make`` writes and this removes."""

        def measure() -> tuple[dict[str, TextScores], dict[str, Any] | None]:
            folder = make()
            scores = self.scores(str(folder))
            shutil.rmtree(folder)
            return scores, None

        return self._cell(name, name.partition(" ")[0], 0, dict(key), measure)

    def quantized_folder(self, quantizer: QuantizerConfig, seed: int, *, dequantized: bool = False) -> _Quantized:
        """A context in which a quantized model's folder exists."""
        return _Quantized(self._config, self._folder / _WORK, quantizer, seed, dequantized=dequantized)

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

    def _as_it_is(self) -> tuple[dict[str, TextScores], dict[str, Any] | None]:
        return self.scores(self._config.model), None

    def _cell(
        self,
        name: str,
        method: str,
        seed: int,
        key: Mapping[str, Any],
        measure: Callable[[], tuple[dict[str, TextScores], dict[str, Any] | None]],
    ) -> Cell:
        evaluation = sha256_json(
            {
                "texts": {text: found.content_hash for text, found in self.texts.items()},
                "window": self._config.window,
                "windows": self._config.windows,
            }
        )
        digest = sha256_json({**key, "name": name, "seed": seed, "evaluation": evaluation})[:12]
        path = self._folder / f"{file_name(name)}-{digest}.json"
        if path.is_file():
            return Cell.model_validate(read_json(path))
        started = time.perf_counter()
        scores: dict[str, TextScores] = {}
        report: dict[str, Any] | None = None
        error: str | None = None
        try:
            scores, report = measure()
        except (CorralError, MemoryError, RuntimeError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        cell = Cell(
            name=name,
            method=method,
            seed=seed,
            error=error,
            scores=scores,
            quantization=report,
            seconds=round(time.perf_counter() - started, 1),
            max_rss_mb=round(max_rss_mb()),
            evaluation=evaluation,
        )
        atomic_write_json(path, cell.model_dump(mode="json"))
        milestone(f"{name} seed {seed}: {'failed' if error else 'measured'} in {cell.seconds:.0f} s")
        self._run.log(cell="quantized", name=name, seed=seed, failed=error is not None, seconds=cell.seconds)
        return cell


class _Quantized:
    """Quantizes when entered, goes on after an interruption, and removes the folder when left."""

    def __init__(
        self, config: LowBitConfig, work: Path, quantizer: QuantizerConfig, seed: int, *, dequantized: bool
    ) -> None:
        self._config, self._quantizer, self._seed, self._dequantized = config, quantizer, seed, dequantized
        named = sha256_json([quantizer.model_dump(mode="json"), seed, dequantized, config.quantized_blocks])[:12]
        self._folder = work / f"{file_name(quantizer.name)}-{named}"

    def __enter__(self) -> tuple[Path, dict[str, Any]]:
        shutil.rmtree(self._folder, ignore_errors=True)
        report = quantize(
            self._config.model,
            self._quantizer.method,
            self._quantizer.build(),
            self._folder,
            text=self._config.calibration.model_copy(update={"seed": self._seed}),
            layout="dequantized" if self._dequantized else None,
            blocks=self._config.quantized_blocks,
        ).to_json()
        layers = report.pop("layers")
        losses = [(layer["proxy_loss"], layer["proxy_loss_rtn"]) for layer in layers if layer["proxy_loss_rtn"]]
        report["proxy_loss"] = {
            "layers": len(losses),
            "below_rounding": sum(ours < nearest for ours, nearest in losses),
            "sum": sum(ours for ours, _ in losses),
            "sum_of_rounding": sum(nearest for _, nearest in losses),
        }
        return self._folder, {key: value for key, value in report.items() if key != "out"}

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def rows_of(config: LowBitConfig) -> Iterator[tuple[QuantizerConfig, int]]:
    """Every row of the matrix: a quantizer and a seed."""
    for quantizer in config.quantizers:
        for seed in range(quantizer.seeds):
            yield quantizer, seed


def _windowed(text: TextSet) -> TextSet:
    return TextSet(text.name, text.documents, cut="windows")


def _ratio(numerators_N: Floats, denominators_N: Floats) -> Statistic:
    return lambda weights_NR: (numerators_N @ weights_NR) / (denominators_N @ weights_NR)
