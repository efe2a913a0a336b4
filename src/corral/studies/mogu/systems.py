"""The systems that are compared: the base model, the mixtures, and the baselines around the base."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from corral.core.files import sha256_file, sha256_json
from corral.data.messages import Conversation
from corral.guards.base import Guard
from corral.guards.perplexity_filter import PerplexityFilter, calibrated_threshold
from corral.guards.scripted import ScriptedGuard
from corral.guards.self_examination import SelfExamination
from corral.models.adapters import ADAPTER_WEIGHTS
from corral.models.chat import ChatTokenizer
from corral.models.defences.engine import DefendedEngine
from corral.models.engines.base import Engine
from corral.models.engines.first_tokens import SafeDecodingEngine
from corral.models.engines.loading import load_engine
from corral.models.loading import find_dtype, load_causal_lm, load_tokenizer, weights_revision
from corral.redteam.attempts import Target
from corral.studies.defences.settings import Defence
from corral.studies.defences.systems import prompt_defence, retokenised
from corral.studies.mogu.readings import Floats, GateReader, LinearProbe, gap
from corral.studies.mogu.settings import Filter
from corral.studies.mogu.trainings import Trainings, merged_expert

BASE: Final = "base"
_REVISION_DIGITS: Final = 16


def base_target(trainings: Trainings) -> Target:
    """The base model as it is."""
    return _target(trainings, trainings.base_engine(), BASE)


def mixture_name(seed: int) -> str:
    """What the mixture of a seed is called."""
    return f"mogu-{seed}"


def defended_targets(trainings: Trainings) -> Iterator[Target]:
    """The mixture of every seed, then every baseline that acts on prompt or decoding; one in memory at a time."""
    config = trainings.config
    for seed in config.seeds:
        folder = trainings.mixture(seed)
        engine = load_engine(folder, dtype=find_dtype(config.dtype))
        yield _target(trainings, engine, mixture_name(seed), weights_revision(folder))
    for name in config.defences.defences:
        engine_of, depends_on = _defence(trainings, name)
        yield _target(trainings, engine_of(), name, depends_on)


def filters(trainings: Trainings) -> list[tuple[Guard, bool]]:
    """The baselines that judge: each with whether it judges replies instead of prompts."""
    return [(_FILTERS[name](trainings), name == "self-examination") for name in trainings.config.defences.filters]


def _target(trainings: Trainings, engine: Engine, name: str, *depends_on: str) -> Target:
    revision = sha256_json([trainings.base_revision, trainings.config.dtype, name, *depends_on])
    return Target(engine, name, revision[:_REVISION_DIGITS])


def _defence(trainings: Trainings, name: Defence) -> tuple[Callable[[], Engine], str]:
    """How a baseline's engine is made, and what it depends on beside the base."""
    if name == "safe-decoding":
        adapter = trainings.safe_decoding_expert()
        return lambda: _safe_decoding(trainings, adapter), sha256_file(adapter / ADAPTER_WEIGHTS)
    if name == "retokenised":
        return lambda: retokenised(trainings.base_engine(), trainings.config.seed), "rate 0.2"
    defence = prompt_defence(name, trainings.base_engine(), trainings.base_revision)
    return lambda: DefendedEngine(trainings.base_engine(), defence), defence.revision


def _safe_decoding(trainings: Trainings, adapter: Path) -> Engine:
    base = trainings.base_engine()
    return SafeDecodingEngine(base.model, merged_expert(trainings.config, adapter), base.chat, name="safe-decoding")


def _perplexity_filter(trainings: Trainings) -> Guard:
    """Its threshold lets 1 % of ordinary prompts be flagged: those benign ones that train, none that measures."""
    engine = trainings.base_engine()
    drawn = trainings.taught(trainings.config.seeds[0])
    texts = [row.text for row in (*drawn.train, *drawn.validation) if not row.harmful]
    if trainings.instructions is not None:
        texts = [row.text for row in trainings.instructions.rows if not row.harmful]
    return PerplexityFilter(engine, revision=trainings.base_revision, threshold=calibrated_threshold(engine, texts))


def _self_examination(trainings: Trainings) -> Guard:
    return SelfExamination(trainings.base_engine(), revision=trainings.base_revision)


def _hard_router(trainings: Trainings) -> Guard:
    """The gates as a classifier: above a threshold a fixed refusal, below it the base model."""
    reader = _reader(trainings)
    return _classifier(trainings, "hard-router", lambda prompts: gap(reader.gates(prompts)))


def _linear_probe(trainings: Trainings) -> Guard:
    """The probe of the gates' claim in the same place."""
    reader = _reader(trainings)
    taught = trainings.taught(trainings.config.seeds[0]).train
    probe = LinearProbe(reader.inputs([row.conversation for row in taught]), [bool(row.harmful) for row in taught])
    return _classifier(trainings, "linear-probe", lambda prompts: probe.scores(reader.inputs(prompts)))


_FILTERS: Final[dict[Filter, Callable[[Trainings], Guard]]] = {
    "perplexity-filter": _perplexity_filter,
    "self-examination": _self_examination,
    "hard-router": _hard_router,
    "linear-probe": _linear_probe,
}


def _classifier(trainings: Trainings, name: str, score: Callable[[Sequence[Conversation]], Floats]) -> Guard:
    """A guard whose threshold lies midway between the classes' means on the validation prompts of the first seed."""
    held = trainings.taught(trainings.config.seeds[0]).validation
    scores = score([row.conversation for row in held])
    malicious = np.array([bool(row.harmful) for row in held])
    high, low = float(scores[malicious].mean()), float(scores[~malicious].mean())
    middle, spread = (high + low) / 2, max(abs(high - low), 1e-6)

    def p_harm(text: str, _target: str) -> float:
        (value,) = score([Conversation.user(text)])
        return 1 / (1 + math.exp(-max(min(4 * (float(value) - middle) / spread, 700.0), -700.0)))

    return ScriptedGuard((), rule=p_harm, name=name)


def _reader(trainings: Trainings) -> GateReader:
    import torch

    folder = trainings.mixture(trainings.config.seeds[0])
    return GateReader(load_causal_lm(folder, dtype=torch.float32), ChatTokenizer(load_tokenizer(folder)))
