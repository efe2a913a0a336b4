"""The low-bit study on a tiny random model: its path, resume, failed cells, and its claims from given scores."""

from __future__ import annotations

import itertools
import json
import re

import pytest
import torch
from safetensors.torch import save_file

from corral.core.config import load_config
from corral.core.errors import ConfigError
from corral.core.evidence import Evidence
from corral.core.recipes import load_profile, plan_recipe, run_recipe
from corral.core.runs import Run
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.evals.tasks.scoring import RowLoader, SetRows
from corral.guards.default.guard import GUARD_FILE, HEAD_WEIGHTS
from corral.guards.default.network import GuardHeads, category_codes
from corral.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from corral.models.loading import weights_revision
from corral.models.tiny import write_tiny_llama
from corral.studies.claims import outcome_of
from corral.studies.low_bit_study.cells import IN_DOMAIN, Cell, Cells, TextScores, rows_of
from corral.studies.low_bit_study.drift import guard_drift, safety_drift, safety_rows
from corral.studies.low_bit_study.findings import (
    lora_finetuning_does_not_recover,
    ordering_against_paper,
    table,
    ultra_low_bits_collapse,
)
from corral.studies.low_bit_study.guard_quality import GuardCell, SetScores, measure_guards
from corral.studies.low_bit_study.quantized_models import lost_output
from corral.studies.low_bit_study.report import Findings, report
from corral.studies.low_bit_study.safety import Reply, SafetyCell
from corral.studies.low_bit_study.settings import GuardDriftConfig, LowBitConfig, QuantizerConfig, SafetyConfig

CONFIG = load_config(LowBitConfig, {"quantizers": [{"method": "rtn"}], "replicates": 100})


def write_guard(folder, base):
    """A default guard on a tiny base; its adapter changes one matrix."""
    torch.manual_seed(0)
    folder.mkdir()
    made_from = {"base": base, "base_revision": weights_revision(base), "layers": 2}
    (folder / GUARD_FILE).write_text(json.dumps(made_from | {"categories": category_codes()}))
    heads = GuardHeads(32, len(category_codes()))
    torch.nn.init.normal_(heads.binary, std=1.0)
    save_file(heads.state_dict(), folder / HEAD_WEIGHTS)
    (folder / ADAPTER_CONFIG).write_text(json.dumps({"r": 1, "lora_alpha": 1}))
    name = "base_model.model.layers.0.self_attn.q_proj"
    pair = {f"{name}.lora_A.weight": torch.ones(1, 32), f"{name}.lora_B.weight": torch.ones(32, 1)}
    save_file(pair, folder / ADAPTER_WEIGHTS)
    return folder


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
    assert len(lines) == 1 + 8 + 2  # the model as it is, the matrix, the base that is tuned before and after
    for line in lines:
        if not line["error"]:
            assert line["texts"][IN_DOMAIN]["perplexity"] > 1
    assert {claim.claim for claim in Evidence.read(tiny.artefacts / "evidence.json").claims} == {
        "ordering_against_paper",
        "ultra_low_bits_collapse",
        "lora_finetuning_does_not_recover",
        "safety_drift",
    }


def test_the_report_is_one_page_with_a_plot_a_claim_and_every_cell(tiny) -> None:
    html = (tiny.artefacts / "report.html").read_text()
    assert html.count("<svg") > 2
    assert "<script" not in html
    assert "://" not in html
    assert "Quality against effective bits" in html
    assert "Safety against effective bits" in html
    for line in json.loads((tiny.artefacts / "matrix.json").read_text()):
        assert line["name"] in html
    for claim in Evidence.read(tiny.artefacts / "evidence.json").claims:
        assert f"{claim.claim}: {outcome_of(claim)}" in html


def test_models_that_collapse_at_the_same_width_stand_beside_each_other_at_the_upper_edge() -> None:
    reference = scored("", 16, [30.0, 31.0, 32.0])
    cells = [scored(method, 2, [300.0, 310.0, 320.0]) for method in ("rtn", "gptq", "awq")] + [
        scored("rtn", 8, [30.0] * 3)
    ]
    html = report(CONFIG, [], Findings(table([reference, *cells])))
    dots = [tuple(map(float, found)) for found in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="9', html)]
    top = sorted(across for across, up in dots if up == min(up for _, up in dots))
    assert len(top) == 3
    assert all(later - earlier > 17 for earlier, later in itertools.pairwise(top))  # 18 is a dot's width


def test_cells_leave_no_models_behind_and_are_found_again(tiny) -> None:
    assert not list((tiny.path / "cells").glob("**/*.safetensors"))
    found = {path.name: path.stat().st_mtime_ns for path in (tiny.path / "cells").glob("*/*.json")}
    (tiny.path / "artefacts" / "matrix.json").unlink()
    recipe, config = load_profile("low_bit_study/tiny")
    with tiny:
        recipe.run(config, tiny)
    assert {path.name: path.stat().st_mtime_ns for path in (tiny.path / "cells").glob("*/*.json")} == found
    assert (tiny.path / "artefacts" / "matrix.json").is_file()


def test_a_model_that_cannot_be_measured_as_it_is_is_kept_as_failed_and_the_others_are_measured(
    tmp_path, monkeypatch
) -> None:
    scores, calls = Cells.scores, []

    def first_fails(self, model):
        calls.append(model)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return scores(self, model)

    monkeypatch.setattr(Cells, "scores", first_fails)
    quantizers = 'quantizers=[{"method": "gptq", "settings": {"bits": 2, "group_size": 32}}]'
    run = run_recipe("low_bit_study/tiny", [quantizers, "tuning=null", "safety=null"], root=tmp_path)
    reference, gptq = json.loads((run.artefacts / "matrix.json").read_text())
    assert reference["error"] == "RuntimeError: out of memory"
    assert gptq["texts"][IN_DOMAIN]["perplexity"] > 1
    claims = {claim.claim: claim for claim in Evidence.read(run.artefacts / "evidence.json").claims}
    reason = claims["ultra_low_bits_collapse"].ours["not_decided"]
    assert reason == "the model as it was could not be measured: RuntimeError: out of memory"
    assert f"not decided, {reason}" in (run.artefacts / "report.html").read_text()


def test_nothing_is_said_of_drift_from_a_model_or_a_guard_that_could_not_be_measured() -> None:
    failed = SafetyCell(name="reference", error="DataError: no")
    claim = safety_drift(CONFIG, ASKED, [failed, safety_cell("rtn", [reply(i) for i in range(4)])])
    assert outcome_of(claim) == "not decided, the model as it was could not be measured: DataError: no"
    lost = GuardCell(name="reference", error="DataError: no")
    assert "not decided" in outcome_of(guard_drift(CONFIG, GUARD, [lost, guard_cell("rtn bits=4", RANKED)]))


def test_lost_output_is_summed_over_the_layers_that_know_it_and_compared_where_rounding_is_known() -> None:
    layers = [
        {"proxy_loss": loss, "proxy_loss_rtn": nearest} for loss, nearest in [(1.0, 2.0), (3.0, 2.5), (4.0, None)]
    ]
    compared = {"layers": 2, "below": 1, "sum": 4.0, "sum_of_rounding": 4.5}
    assert lost_output(layers) == {"layers": 3, "sum": 8.0, "to_nearest": compared}
    assert lost_output(layers[2:]) == {"layers": 1, "sum": 4.0, "to_nearest": None}
    assert lost_output([{"proxy_loss": None, "proxy_loss_rtn": None}]) is None


def test_every_method_that_is_calibrated_on_second_moments_says_what_output_it_loses(tiny) -> None:
    cells = [json.loads(path.read_text()) for path in (tiny.path / "cells" / "matrix").glob("*.json")]
    losses = {cell["name"]: cell["quantization"]["proxy_loss"] for cell in cells if cell["quantization"]}
    for name, loss in losses.items():
        method = name.partition(" ")[0]
        assert (loss is not None) == (method in ("gptq", "awq", "billm")), name
        if loss:
            assert loss["layers"] == 14
            assert (loss["to_nearest"] is not None) == (method != "billm")
    known = json.loads((tiny.artefacts / "evidence.json").read_text())["claims"][0]["ours"]["proxy_loss"]
    assert set(known) == {
        "gptq bits=3 group_size=32, seed 0",
        "gptq bits=3 group_size=32, seed 1",
        "gptq bits=4 group_size=32, seed 0",
        "awq bits=4 group_size=32 scaling=activations, seed 0",
    }


def test_ordering_holds_when_every_difference_lies_above_zero() -> None:
    windows = [30.0, 31.0, 32.0, 29.0]
    cells = [scored("rtn", bits, [n + 3 for n in windows]) for bits in (3, 4)]
    cells += [scored(method, bits, windows) for method in ("gptq", "awq") for bits in (3, 4)]
    assert ordering_against_paper(CONFIG, cells).holds
    words = ordering_against_paper(CONFIG, cells).ours["in_words"]
    assert words.startswith("Bits per byte saved over rounding to nearest: gptq, 4 bits +0.1082 (95 % interval +0.1082")
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


def test_a_seed_that_failed_keeps_a_claim_from_holding_and_is_named() -> None:
    cells = [scored("rtn", bits, [33.0, 34.0, 35.0]) for bits in (3, 4)]
    cells += [scored(method, bits, [30.0, 31.0, 32.0]) for method in ("gptq", "awq") for bits in (3, 4)]
    assert ordering_against_paper(CONFIG, cells).seeds == (0,)
    other = scored("gptq", 3, [], error="DataError: no").model_copy(update={"seed": 1})
    claim = ordering_against_paper(CONFIG, [*cells, other])
    assert not claim.holds
    assert claim.ours["failed"] == ["gptq bits=3, seed 1"]
    assert claim.seeds == (0,)


def test_tuning_on_a_base_that_failed_is_no_finding() -> None:
    failed = scored("nf4", 4, [], error="DataError: no")
    claim = lora_finetuning_does_not_recover(CONFIG, {"nf4": failed}, {"nf4": [scored("nf4", 4, [30.0, 31.0])]})
    assert (claim.holds, claim.n) == (False, 0)


def test_a_model_of_which_few_blocks_are_quantized_is_compared_with_none() -> None:
    cells = [scored("rtn", 3, [30.0, 31.0]), scored("gptq", 3, [20.0, 21.0]).model_copy(update={"partial": True})]
    assert ordering_against_paper(CONFIG, cells).ours["not_measured"] == 4
    quantizer = load_config(QuantizerConfig, {"method": "billm", "blocks": 4})
    assert quantizer.name == "billm (lowest 4 blocks)"


def test_collapse_means_ten_times_the_perplexity() -> None:
    reference = scored("", 16, [30.0, 31.0, 32.0])
    broken = [scored(method, 2, [80.0, 85.0, 81.0]) for method in ("rtn", "gptq", "awq")]
    claim = ultra_low_bits_collapse(CONFIG, [*broken, scored("billm", 1.1, [40.0, 41.0, 42.0])], reference)
    assert claim.holds
    assert set(claim.ours["at_2_bits_and_below"]) == {"rtn bits=2", "gptq bits=2", "awq bits=2", "billm bits=1.1"}
    assert "rtn 164 times" in claim.ours["in_words"]
    assert not ultra_low_bits_collapse(CONFIG, [*broken[:2], scored("awq", 2, [40.0] * 3)], reference).holds


def test_tuning_that_helps_contradicts_the_paper() -> None:
    untouched = {"nf4": scored("nf4", 4, [30.0, 31.0, 32.0])}
    for tuned, holds in (([33.0, 34.0, 35.5], True), ([28.0, 29.0, 30.5], False)):
        claim = lora_finetuning_does_not_recover(CONFIG, untouched, {"nf4": [scored("nf4", 4, tuned)]})
        assert claim.holds is holds
        assert ("change bits per byte by +" in claim.ours["in_words"]) is holds


def reply(number, *, kind="harmful", style="plain", outcome="refuses", nats=1.0, distinct=1.0):
    return Reply(
        pair=f"{kind}/{style}/{number}",
        cluster=f"{kind}/{number}",
        kind=kind,
        style=style,
        outcomes={"prefix-list": outcome},
        nats=nats,
        distinct=distinct,
    )


def safety_cell(name, replies, bits=4.0):
    quantization = None if name == "reference" else {"bits": {"nominal": bits, "stored": bits + 0.3}}
    return SafetyCell(name=name, quantization=quantization, replies=tuple(replies))


ASKED = load_config(
    SafetyConfig,
    {"quantizers": [{"method": "rtn"}], "harmful": {"a": 1}, "benign": {"b": 1}, "judges": ["prefix-list"]},
)


def test_gibberish_neither_refuses_nor_complies() -> None:
    reference = safety_cell("reference", [reply(i) for i in range(10)])
    babble = safety_cell("rtn bits=2", [reply(i, outcome="complies", nats=9.0) for i in range(10)], bits=2.0)
    loop = safety_cell("rtn bits=3", [reply(i, outcome="complies", distinct=0.05) for i in range(10)], bits=3.0)
    for row in safety_rows(CONFIG, ASKED, [reference, babble, loop]):
        assert row.measures["attack_success@prefix-list"].ours == 0
        assert row.measures["refusal"].ours == 0
        assert not row.speaks
    claim = safety_drift(CONFIG, ASKED, [reference, babble, loop])
    assert not claim.holds
    assert claim.ci95 is None
    assert claim.ours["in_words"].startswith("None of 2")


def test_refusals_that_turn_into_coherent_compliance_are_drift() -> None:
    reference = safety_cell("reference", [reply(i) for i in range(20)])
    drifted = safety_cell("rtn bits=3", [reply(i, outcome="complies" if i < 10 else "refuses") for i in range(20)])
    same = safety_cell("rtn bits=8", [reply(i) for i in range(20)], bits=8.0)
    (row, kept) = safety_rows(CONFIG, ASKED, [reference, drifted, same])
    assert row.measures["refusal"].difference.value == -0.5
    assert row.measures["attack_success@prefix-list"].ours == 0.5
    assert kept.measures["refusal"].difference.value == 0
    claim = safety_drift(CONFIG, ASKED, [reference, drifted, same])
    assert claim.holds
    assert claim.ours["difference"] == 0.25  # mean over both models that speak
    assert not safety_drift(CONFIG, ASKED, [reference, same]).holds


def test_over_refusal_counts_harmless_requests_alone_and_styles_count_for_attacks_alone() -> None:
    def model(name, benign, styled):
        plain = [reply(i) for i in range(4)] + [reply(i, kind="benign", outcome=benign) for i in range(4)]
        return safety_cell(name, plain + [reply(i, style="base64", outcome=styled) for i in range(4)])

    (row,) = safety_rows(
        CONFIG, ASKED, [model("reference", "complies", "refuses"), model("rtn", "refuses", "complies")]
    )
    assert row.measures["over_refusal"].difference.value == 1
    assert row.measures["refusal"].difference.value == 0
    assert row.measures["attack_success@prefix-list"].ours == 0.5


def test_a_reply_that_the_judge_could_not_label_leaves_the_pair_out() -> None:
    reference = safety_cell("reference", [reply(i) for i in range(4)])
    unread = safety_cell("rtn", [reply(i, outcome="unparsed" if i else "complies") for i in range(4)])
    (row,) = safety_rows(CONFIG, ASKED, [reference, unread])
    assert row.measures["refusal"].difference.n == 1


def guard_cell(name, scores, bits=4.0):
    truth = (1,) * (len(scores) // 2) + (0,) * (len(scores) // 2)
    found = SetScores(truth=truth, scores=tuple(scores), clusters=tuple(map(str, range(len(scores)))), unscored=0)
    return GuardCell(name=name, sets={"some_set": found}, quantization={"bits": {"nominal": bits, "stored": bits}})


GUARD = load_config(GuardDriftConfig, {"quantizers": [{"method": "rtn"}], "sets": ["some_set"]})
RANKED = [0.9, 0.8, 0.95, 0.7, 0.85, 0.9, 0.1, 0.2, 0.3, 0.05, 0.4, 0.15]


def test_a_guard_that_ranks_worse_in_four_bits_drifts_and_one_in_two_bits_is_not_asked() -> None:
    reference = guard_cell("reference", RANKED)
    mixed = [0.1, 0.8, 0.2, 0.7, 0.15, 0.9, 0.6, 0.75, 0.3, 0.85, 0.4, 0.9]
    claim = guard_drift(CONFIG, GUARD, [reference, guard_cell("rtn bits=4", mixed), guard_cell("int8", RANKED, 8.0)])
    assert claim.holds
    (four, eight) = claim.ours["guards"]
    assert four["at_threshold"]["some_set"]["f1"]["baseline"] == 1
    assert four["at_threshold"]["some_set"]["fpr"]["ours"] > 0
    assert four["at_threshold"]["some_set"]["flag_all_f1"] == pytest.approx(2 / 3)
    assert eight["auroc"]["difference"] == 0
    assert "int8" in claim.ours["in_words"]
    only_two = guard_drift(CONFIG, GUARD, [reference, guard_cell("rtn bits=2", mixed, 2.0)])
    assert not only_two.holds
    assert only_two.ci95 is None


def test_a_quantized_guard_is_the_merged_decoder_in_few_bits(tmp_path, monkeypatch) -> None:
    base = str(write_tiny_llama(tmp_path / "base", layers=2))
    weights = write_guard(tmp_path / "guard", base)
    rows = [
        ModerationExample(
            Conversation.user(f"request {i}"),
            "prompt",
            harmful=i % 2 == 0,
            source="aegis_test",
            id=str(i),
            group=str(i),
        )
        for i in range(12)
    ]
    monkeypatch.setattr(RowLoader, "load", lambda _self, chosen: SetRows(chosen, tuple(rows), len(rows)))
    asked = {
        "quantizers": [{"method": "rtn", "settings": {"bits": bits, "group_size": 32}} for bits in (8, 1)],
        "weights": str(weights),
        "sets": ["aegis_test"],
        "int8": False,
    }
    config = CONFIG.model_copy(update={"model": base})
    with Run.create(tmp_path / "runs", "low_bit_study/tiny", CONFIG, seed=0) as run:
        reference, eight, one = measure_guards(config, load_config(GuardDriftConfig, asked), run)
    assert [cell.error for cell in (reference, eight, one)] == [None] * 3
    far = [
        max(
            abs(a - b) for a, b in zip(reference.sets["aegis_test"].scores, cell.sets["aegis_test"].scores, strict=True)
        )
        for cell in (eight, one)
    ]
    assert far[0] < 0.01
    assert far[0] < far[1]
    assert eight.stored_bits > 8


def test_every_profile_loads_and_says_what_it_would_do() -> None:
    for profile in ("tiny", "small", "paper"):
        _, config = load_profile(f"low_bit_study/{profile}")
        assert len(plan_recipe(f"low_bit_study/{profile}")) >= len(list(rows_of(config))) + 2
    _, small = load_profile("low_bit_study/small", ["blocks=4"])
    assert small.quantized_blocks == 4
    with pytest.raises(ConfigError, match="gptqq"):
        load_config(LowBitConfig, {"quantizers": [{"method": "gptqq"}]})
