"""Sampling settings are checked when they are made, and all engines share one interface."""

from __future__ import annotations

import pytest

from corral.core.errors import ConfigError
from corral.models.engines.base import CompletionLogprobs, Engine, GenerationSettings
from corral.models.engines.scripted import ScriptedEngine
from corral.models.engines.torch import TorchEngine


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("stop", ("",)),
        ("stop", "text"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        GenerationSettings(**{field: value})


def test_the_total_is_the_sum():
    assert CompletionLogprobs((1, 2), (-0.5, -1.5), False, 3).total == -2.0


def test_engines_share_one_interface(llama, chat):
    assert isinstance(TorchEngine(llama, chat), Engine)
    assert isinstance(ScriptedEngine({}), Engine)
