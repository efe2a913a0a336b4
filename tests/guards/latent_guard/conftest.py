"""A tiny random chat model, and centres fitted on its readings of made-up prompts."""

from __future__ import annotations

import numpy as np
import pytest

from corral.data.messages import Conversation
from corral.guards.latent_guard.fitting import LabelledPrompts, calibrate, fit_centres, read_in_memory
from corral.guards.latent_guard.reading import LatentReader
from corral.models.engines.torch import TorchEngine
from corral.models.loading import weights_revision
from corral.models.tiny import write_tiny_llama

THINGS = ("lamp", "chair", "boat", "clock", "vase", "bike", "drum", "kite", "tent", "bench")
HARMFUL = tuple(f"XX {thing} XX" for thing in THINGS)
HARMLESS = tuple(f"oo {thing} oo" for thing in THINGS)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return write_tiny_llama(tmp_path_factory.mktemp("latent") / "model", layers=3, context=256)


@pytest.fixture(scope="session")
def make_reader(model_folder):
    def make(**options):
        engine = TorchEngine.load(model_folder)
        return LatentReader(engine, revision=weights_revision(model_folder), **options)

    return make


@pytest.fixture(scope="session")
def reader(make_reader):
    return make_reader()


@pytest.fixture(scope="session")
def labelled():
    texts = (*HARMFUL, *HARMLESS)
    return LabelledPrompts(
        tuple(Conversation.user(text) for text in texts),
        tuple(text in HARMFUL for text in texts),
        refused_N=tuple(text in HARMFUL for text in texts),
        ids=texts,
        sources=("made up",) * len(texts),
    )


@pytest.fixture(scope="session")
def readings(reader, labelled):
    return read_in_memory(reader, labelled.conversations)


@pytest.fixture(scope="session")
def centres(reader, labelled, readings):
    fitted = fit_centres(reader, labelled)
    harmful = np.array(labelled.harmful_N)
    return fitted.with_record(
        harm_calibration=calibrate(fitted.delta_harm(readings.inst_NSD), harmful, split="made-up rows"),
        refusal_calibration=calibrate(fitted.delta_refuse(readings.post_NSD), harmful, split="made-up rows"),
    )
