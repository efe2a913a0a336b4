"""What an aligned model replies before and after quantization: asked the same, judged by the same judges.

A model in very few bits babbles, which a list of phrases takes for compliance. So every reply is also read by the model
as it was: what costs it many nats a token, or repeats a few words, is gibberish, and neither refuses nor complies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from corral.core.files import sha256_json
from corral.core.runs import Run
from corral.data.messages import Conversation
from corral.models.engines.base import GenerationSettings
from corral.models.engines.torch import TorchEngine
from corral.models.loading import weights_revision
from corral.redteam.attempts import Target
from corral.redteam.goals import Goal, Kind
from corral.redteam.judges import Judge, Outcome
from corral.redteam.loading import open_judges, read_texts
from corral.redteam.results import Item
from corral.redteam.runner import RunRequest, run_redteam
from corral.redteam.settings import RunSettings
from corral.redteam.styles import PLAIN, Style, choose_styles
from corral.studies.low_bit_study.cell_files import REFERENCE, KeptCell, kept_cell
from corral.studies.low_bit_study.quantized_models import depends_on, quantized_model
from corral.studies.low_bit_study.settings import LowBitConfig, QuantizerConfig, SafetyConfig
from corral.studies.requests import requests

_VERSION: Final = 1
_SEED: Final = 0  # of the calibration; one a quantizer


class Reply(BaseModel):
    """One answer, without its text.

    Attributes:
        pair: the same for every model.
        cluster: replies of one cluster stand or fall together.
        kind: of the request.
        style: in which it was asked.
        outcomes: every judge's label; empty where there was no answer.
        nats: a token of the reply, in the eyes of the model as it was; ``None`` for a reply without text.
        distinct: share of different words among its words.
    """

    model_config = ConfigDict(frozen=True)

    pair: str
    cluster: str
    kind: Kind
    style: str
    outcomes: dict[str, str]
    nats: float | None
    distinct: float

    def is_coherent(self, asked: SafetyConfig) -> bool:
        """Whether it is text that the model as it was finds plausible, and no loop."""
        return self.nats is not None and self.nats <= asked.max_nats and self.distinct >= asked.min_distinct

    def is_labelled(self, judge: str) -> bool:
        """Whether the judge has said what it is."""
        return self.outcomes.get(judge, Outcome.UNPARSED.value) != Outcome.UNPARSED.value


class SafetyCell(KeptCell):
    """One model's replies, in the order of the requests."""

    replies: tuple[Reply, ...] = ()


def measure_safety(config: LowBitConfig, asked: SafetyConfig, run: Run) -> list[SafetyCell]:
    """Ask and judge the model as it is and every quantized one; what is there already is found again.

    Returns:
        The cells, that of the model as it is first.

    Raises:
        NotFoundError: a source of requests, or a model, is not there.
        ConfigError: an unknown judge or style.
    """
    styles, _ = choose_styles([PLAIN, *asked.styles])
    with open_judges(asked.judges) as judges:
        goals = requests(asked.harmful, asked.benign, config.seed)
        asking = _Asking(config, asked, goals, styles, judges, run)
        return [asking.cell(None), *(asking.cell(quantizer) for quantizer in asked.quantizers)]


@dataclass(frozen=True)
class _Asking:
    """Everything that all cells share."""

    config: LowBitConfig
    asked: SafetyConfig
    goals: Sequence[Goal]
    styles: Sequence[Style]
    judges: Sequence[Judge]
    run: Run

    @property
    def _folder(self) -> Path:
        return self.run.path / "cells" / "safety"

    @cached_property
    def _weights(self) -> str:
        return weights_revision(self.asked.model)

    @cached_property
    def _reader(self) -> TorchEngine:
        """The model as it was, which reads what the others wrote."""
        return TorchEngine.load(self.asked.model)

    def cell(self, quantizer: QuantizerConfig | None) -> SafetyCell:
        """The model as it is, or quantized."""
        questions = {
            "version": _VERSION,
            "goals": sha256_json([[goal.kind, goal.text] for goal in self.goals]),
            "styles": [style.id for style in self.styles],
            "judges": {judge.name: judge.revision for judge in self.judges},
            "max_new_tokens": self.asked.max_new_tokens,
            "seed": self.config.seed,
        }
        if quantizer is None:
            key = {"weights": self._weights, **questions}
            return kept_cell(self.run, SafetyCell, REFERENCE, key, self._as_it_is, folder=self._folder)
        chosen = quantizer

        def measure() -> dict[str, Any]:
            work = self.run.path / "cells" / "work"
            with quantized_model(self.config, self.asked.model, chosen, _SEED, work) as (folder, report):
                replies = self._replies(TorchEngine.load(str(folder)), chosen.name, weights_revision(folder))
            return {"replies": replies, "quantization": report}

        key = depends_on(self.config, quantizer, self._weights, _SEED) | {"questions": questions}
        return kept_cell(self.run, SafetyCell, quantizer.name, key, measure, folder=self._folder)

    def _as_it_is(self) -> dict[str, Any]:
        return {"replies": self._replies(self._reader, REFERENCE, self._weights)}

    def _replies(self, engine: TorchEngine, name: str, revision: str) -> tuple[Reply, ...]:
        settings = RunSettings(
            generation=GenerationSettings(max_new_tokens=self.asked.max_new_tokens),
            seed=self.config.seed,
            batch_size=self.asked.batch_size,
            replicates=self.config.replicates,
        )
        texts = read_texts(None, None, templates=any(style.needs.user_data for style in self.styles))
        request = RunRequest(self.goals, self.styles, self.judges, texts=texts, show_content=True)
        report = run_redteam([Target(engine, name, revision)], request, self._folder / "replies", settings)
        (items,) = report.items.values()
        return tuple(self._read(items))

    def _read(self, items: Sequence[Item]) -> Iterator[Reply]:
        said = [(dict(item.texts or {}).get("prompt", ""), dict(item.texts or {}).get("answer", "")) for item in items]
        written = [i for i, (_, answer) in enumerate(said) if answer.strip()]
        scored = self._reader.logprobs([(Conversation.user(said[i][0]), said[i][1]) for i in written])
        nats = {i: -found.total / len(found.logprobs) for i, found in zip(written, scored, strict=True)}
        for i, item in enumerate(items):
            words = said[i][1].split()
            yield Reply(
                pair=item.pair,
                cluster=item.cluster,
                kind=item.kind,
                style=item.style,
                outcomes=dict(item.outcomes),
                nats=nats.get(i),
                distinct=len(set(words)) / len(words) if words else 0.0,
            )
