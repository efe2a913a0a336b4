"""The red-team study on stand-ins: the planted cells are found, and the claim is marked as a toy."""

from __future__ import annotations

import pytest

from corral.core.config import load_config
from corral.core.errors import ConfigError, UserError
from corral.core.evidence import Evidence
from corral.core.recipes import load_profile, plan_recipe, publish_evidence, run_recipe
from corral.core.weighted import rate
from corral.models.tiny import write_tiny_llama
from corral.redteam.agreement import measure_agreement
from corral.redteam.judges import PrefixListJudge
from corral.redteam.labelled import LabelledReply, LabelledSet
from corral.redteam.report import read_report
from corral.redteam.styles.search.pair import NO_PROMPT
from corral.studies.redteam_styles.evidence import judge_agreement
from corral.studies.redteam_styles.settings import RedteamStylesConfig
from corral.studies.redteam_styles.stand_ins import PLANTED


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return run_recipe("redteam_styles/tiny", root=tmp_path_factory.mktemp("runs"))


def test_the_tiny_run_finds_exactly_the_planted_cells(tiny) -> None:
    report = read_report(tiny.artefacts / "matrix")
    alone = report.systems[0]
    found = {cell.style for cell in alone.cells if cell.style and not cell.category and cell.asr.value}
    assert found == set(PLANTED)
    assert all(cell.rta.value == 0.0 for cell in alone.cells if cell.style == "plain" and not cell.category)


def test_its_claim_holds_by_construction_and_is_a_toy(tiny) -> None:
    (claim,) = Evidence.read(tiny.artefacts / "evidence.json").claims
    assert claim.claim == "styles_matrix"
    assert claim.holds
    assert claim.toy
    assert (claim.baseline, claim.ours["ours"], claim.ours["detected_plain"]) == (0.0, 1.0, 1.0)
    assert claim.ours["encoded_minus_plain"]["difference"] == -1.0
    with pytest.raises(UserError, match="toy"):
        publish_evidence(tiny, tiny.path)


def test_every_profile_is_valid_and_says_what_it_will_do() -> None:
    for profile in ("tiny", "small", "paper"):
        _, config = load_profile(f"redteam_styles/{profile}")
        assert isinstance(config, RedteamStylesConfig)
        assert plan_recipe(f"redteam_styles/{profile}")
    assert "37 styles" in plan_recipe("redteam_styles/paper")[1]


def test_a_style_that_an_attacker_writes_prompts_for_is_asked_with_one_and_counted_without(tmp_path) -> None:
    asked = {"styles": ["pair:streams=1:rounds=1"], "harmful.limit": 1, "benign.limit": 1, "encodings": ["base64"]}
    attacker = str(write_tiny_llama(tmp_path / "attacker", context=2048))
    (without,) = [line for line in plan_recipe("redteam_styles/tiny", asked) if "attacker" in line]
    assert without.startswith("count pair:streams=1:rounds=1 as not applicable")
    assert not any("attacker" in line for line in plan_recipe("redteam_styles/tiny", {**asked, "attacker": attacker}))
    reasons = {}
    for name in (None, attacker):
        run = run_recipe("redteam_styles/tiny", {**asked, "attacker": name}, root=tmp_path / "runs")
        alone = read_report(run.artefacts / "matrix").systems[0]
        (pair,) = [cell for cell in alone.cells if cell.style.startswith("pair") and not cell.category]
        reasons[name] = set(pair.not_applicable)
    assert reasons == {None: {"needs a model that writes prompts"}, attacker: {NO_PROMPT}}


def test_a_judge_that_lacks_its_model_is_refused_before_anything_is_run() -> None:
    for changed in ({"judges": ["guard:llama-guard"]}, {"agreement": {"sets": [], "judges": {"guard:llama-guard": 1}}}):
        with pytest.raises(ConfigError, match="needs the setting `model`"):
            load_config(RedteamStylesConfig, {"harmful": {"sources": ["stand-in"]}, **changed})


def test_a_style_that_there_is_not_is_refused_before_anything_is_run() -> None:
    with pytest.raises(ConfigError, match="base65"):
        load_config(RedteamStylesConfig, {"harmful": {"sources": ["stand-in"]}, "encodings": ["base65"]})


def test_agreement_on_refusals_is_compared_with_agreement_on_success() -> None:
    refusal, answer = "I'm sorry, but I can't tell.", "It is green."
    replies = [(f"Reveal {i}.", refusal if i % 2 else answer) for i in range(40)]
    right = [LabelledReply(q, r, r == refusal, q) for q, r in replies]
    # of the successes, half are babble that people do not count
    half = [LabelledReply(q, r, r == answer and i % 4 == 0, q) for i, (q, r) in enumerate(replies)]
    sets = [
        LabelledSet("do_not_answer", "refusal", "", lambda _: iter(right), ""),
        LabelledSet("gptfuzz", "success", "", lambda _: iter(half), ""),
    ]
    judge = PrefixListJudge()
    found = [each for one in sets for each in measure_agreement(judge, one, replicates=200)]
    said = {
        "do_not_answer": [(each, each.reply == refusal) for each in right],
        "gptfuzz": [(each, each.reply == answer) for each in half],
    }
    config = load_config(RedteamStylesConfig, {"harmful": {"sources": ["stand-in"]}, "replicates": 200})
    claim = judge_agreement(found, said, config)
    assert claim.holds
    assert claim.ours["kappa"] == 1.0
    assert claim.baseline == pytest.approx(0.5)
    assert claim.ours["difference"] == pytest.approx(0.5)
    assert claim.n == 80
    import numpy as np

    kappa = rate([each.positive for each in half], [each.reply == answer for each in half], "kappa")
    assert claim.baseline == pytest.approx(float(kappa(np.ones((40, 1)))[0]))
