"""The low-bit study on a tiny random model: its path, resume, failed cells, and its claims from given scores."""

from __future__ import annotations

import json

import pytest

from corral.core.config import load_config
from corral.core.errors import ConfigError
from corral.core.evidence import Evidence
from corral.core.recipes import load_profile, plan_recipe, run_recipe
from corral.studies.low_bit_study.cells import IN_DOMAIN, Cell, TextScores, rows_of
from corral.studies.low_bit_study.findings import (
    lora_finetuning_does_not_recover,
    ordering_against_paper,
    ultra_low_bits_collapse,
)
from corral.studies.low_bit_study.settings import LowBitConfig

CONFIG = load_config(LowBitConfig, {"quantizers": [{"method": "rtn"}], "replicates": 100})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return run_recipe("low_bit_study/tiny", root=tmp_path_factory.mktemp("runs"))


def scored(method, bits, nats, *, error=None):
    texts = {IN_DOMAIN: TextScores(nats=tuple(nats), tokens=(10,) * len(nats), bytes=(40,) * len(nats))}
    return Cell(
        name=f"{method} bits={bits}",
        method=method,
        seed=0,
        error=error,
        scores={} if error else texts,
        quantization=None if error else {"bits": {"nominal": bits, "stored": bits + 0.3}},
        seconds=1.0,
        max_rss_mb=1.0,
        evaluation="same",
    )


def test_the_tiny_run_measures_every_cell_and_keeps_the_error_of_the_one_that_fails(tiny) -> None:
    lines = json.loads((tiny.artefacts / "matrix.json").read_text())
    failed = [line for line in lines if line["error"]]
    assert [line["name"] for line in failed] == ["rtn bits=2 group_size=48"]
    assert "do not divide" in failed[0]["error"]
    assert len(lines) == 1 + 8 + 1  # the model as it is, the matrix, the tuned base
    for line in lines:
        if not line["error"]:
            assert line["texts"][IN_DOMAIN]["perplexity"] > 1
    assert {claim.claim for claim in Evidence.read(tiny.artefacts / "evidence.json").claims} == {
        "ordering_against_paper",
        "ultra_low_bits_collapse",
        "lora_finetuning_does_not_recover",
    }


def test_cells_leave_no_models_behind_and_are_found_again(tiny) -> None:
    assert not list((tiny.path / "cells").glob("**/*.safetensors"))
    found = {path.name: path.stat().st_mtime_ns for path in (tiny.path / "cells").glob("*.json")}
    (tiny.path / "artefacts" / "matrix.json").unlink()
    recipe, config = load_profile("low_bit_study/tiny")
    with tiny:
        recipe.run(config, tiny)
    assert {path.name: path.stat().st_mtime_ns for path in (tiny.path / "cells").glob("*.json")} == found
    assert (tiny.path / "artefacts" / "matrix.json").is_file()


def test_ordering_holds_when_every_difference_lies_above_zero() -> None:
    windows = [30.0, 31.0, 32.0, 29.0]
    cells = [scored("rtn", bits, [n + 3 for n in windows]) for bits in (3, 4)]
    cells += [scored(method, bits, windows) for method in ("gptq", "awq") for bits in (3, 4)]
    assert ordering_against_paper(CONFIG, cells).holds
    worse = [cell if (cell.method, cell.name[-1]) != ("awq", "3") else scored("awq", 3, [40.0] * 4) for cell in cells]
    claim = ordering_against_paper(CONFIG, worse)
    assert not claim.holds
    assert claim.tried


def test_a_failed_cell_is_not_taken_for_a_result() -> None:
    cells = [
        scored("rtn", 3, [30.0, 31.0]),
        scored("gptq", 3, [], error="DataError: no"),
        scored("awq", 3, [29.0, 30.0]),
    ]
    claim = ordering_against_paper(CONFIG, cells)
    assert not claim.holds
    assert claim.ours["not_measured"] == 3


def test_collapse_means_ten_times_the_perplexity() -> None:
    reference = scored("", 16, [30.0, 31.0, 32.0])
    broken = [scored(method, 2, [80.0, 85.0, 81.0]) for method in ("rtn", "gptq", "awq")]
    claim = ultra_low_bits_collapse(CONFIG, [*broken, scored("billm", 1.1, [40.0, 41.0, 42.0])], reference)
    assert claim.holds
    assert set(claim.ours["at_2_bits_and_below"]) == {"rtn bits=2", "gptq bits=2", "awq bits=2", "billm bits=1.1"}
    assert not ultra_low_bits_collapse(CONFIG, [*broken[:2], scored("awq", 2, [40.0] * 3)], reference).holds


def test_tuning_that_helps_contradicts_the_paper() -> None:
    untouched = {"nf4": scored("nf4", 4, [30.0, 31.0, 32.0])}
    for tuned, holds in (([33.0, 34.0, 35.5], True), ([28.0, 29.0, 30.5], False)):
        claim = lora_finetuning_does_not_recover(CONFIG, untouched, {"nf4": [scored("nf4", 4, tuned)]})
        assert claim.holds is holds


def test_every_profile_loads_and_says_what_it_would_do() -> None:
    for profile in ("tiny", "small", "paper"):
        _, config = load_profile(f"low_bit_study/{profile}")
        assert len(plan_recipe(f"low_bit_study/{profile}")) >= len(list(rows_of(config))) + 2
    _, small = load_profile("low_bit_study/small", ["blocks=4"])
    assert small.quantized_blocks == 4
    with pytest.raises(ConfigError, match="gptqq"):
        load_config(LowBitConfig, {"quantizers": [{"method": "gptqq"}]})
