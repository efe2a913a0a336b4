"""The DeRTa study: its rows, its claims on made-up figures, and the whole path on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from corral.core.config import load_config
from corral.core.errors import ConfigError, UserError
from corral.core.evidence import Evidence
from corral.core.metric_inputs import Floats
from corral.core.recipes import list_recipes, load_profile, plan_recipe, publish_evidence, run_recipe
from corral.core.runs import Run
from corral.data.self_written import PREFIX
from corral.data.sources import SOURCES
from corral.evals.refusal_curve import RefusalPosition
from corral.studies.derta import evidence, trainings
from corral.studies.derta.evidence import Findings, all_claims
from corral.studies.derta.measures import Measured, refused_requests
from corral.studies.derta.rows import StudyRows, draw_rows
from corral.studies.derta.settings import CLAIMS, DertaStudyConfig
from corral.studies.derta.templated import ALLOWED, FORBIDDEN, complying_rows
from corral.train.door.settings import DoorConfig
from corral.train.fine_tuning_settings import FineTuningConfig
from corral.train.objectives.refusal import RefusalToken

FORCED = (0, 8, 16, 32)
"""As in the tiny profile."""


@pytest.fixture(scope="module")
def config() -> DertaStudyConfig:
    _, found = load_profile("derta/tiny")
    assert isinstance(found, DertaStudyConfig)
    return found


@pytest.fixture(scope="module")
def rows(config: DertaStudyConfig) -> StudyRows:
    return draw_rows(config)


def measured(
    harmful: list[float],
    helpful: list[float],
    *,
    late: bool = False,
    refused: float = 0.0,
    refuses_after: tuple[int, ...] = (),
    loops: bool = False,
) -> Measured:
    """A model whose log-probabilities are these at the four shares, on sixteen probes with a little noise.

    Its refusals are phrases, or the refusal word in a loop where it ``loops``.
    """

    def curve(values: list[float]) -> Floats:
        return np.array(values) + np.random.default_rng(0).normal(0, 0.1, (16, 1))

    def place(probe: int, forced: int) -> RefusalPosition:
        start = forced if forced in refuses_after else 44 if late and probe % 2 else None
        return RefusalPosition(probe, forced, start, None if loops else start, loops and start is not None)

    return Measured(
        RefusalToken(1, "Sorry", "Sorry", whole=True),
        curve(harmful),
        curve(helpful),
        np.full(16, 2.0),
        tuple(place(probe, forced) for probe in range(16) for forced in FORCED),
        np.full(16, refused),
        np.full(16, 0.0 if loops else refused),
        np.full(16, refused if loops else 0.0),
    )


def findings(config: DertaStudyConfig, rows: StudyRows, **changes: Measured) -> Findings:
    base = measured([-9, -9, -9, -9], [-9, -9, -9, -9])
    arms = {
        "base": base,
        "vanilla": measured([-3, -9, -9, -9], [-9, -9, -9, -9], refuses_after=(0,)),
        "recaug": measured([-4, -6, -7, -8], [-9, -9, -9, -9]),
        "rto_only": measured([-2, -2, -2, -3], [-9, -9, -9, -9]),
        "derta": measured([-2, -1, -1, -2], [-4, -9, -9, -9], late=True),
        **changes,
    }
    return Findings(config, rows, {arm: dict.fromkeys(config.seeds, found) for arm, found in arms.items()})


def test_held_out_pairs_train_nothing_and_every_thing_is_in_training(rows: StudyRows) -> None:
    taught = {row.prompt.messages[-1].text for row in (*rows.triples, *rows.helps, *complying_rows())}
    probed = {probe.prompt.messages[-1].text for probe in (*rows.harmful, *rows.helpful)}
    assert len(probed) == 32
    assert not taught & probed
    assert all(any(thing in text for text in taught) for thing in (*FORBIDDEN, *ALLOWED))


def test_the_claims_hold_for_a_model_that_does_as_the_paper_says(config: DertaStudyConfig, rows: StudyRows) -> None:
    claims = {claim.claim: claim for claim in all_claims(findings(config, rows))}
    assert set(claims) == set(CLAIMS)
    assert all(claim.holds for claim in claims.values())
    assert claims["refusal_after_prefix_every_t"].ours["vanilla_rises_at"] == [0.0]
    assert set(claims["refusal_after_prefix_every_t"].ours["vanilla_refuses_more_after"]) <= {0}
    assert claims["refusal_positions"].ours["histogram"]["derta"] == {"0-5": 0, "6-30": 0, ">30": 96, "none": 96}
    assert claims["ablation_prefix_vs_rto"].ours["pairs"]["derta - recaug"]["difference"] == pytest.approx(17 / 3)


@pytest.mark.parametrize(
    ("claim", "changes"),
    [
        ("refusal_after_prefix_every_t", {"derta": measured([-2, -1, -9, -2], [-9, -9, -9, -9])}),
        ("refusal_after_prefix_every_t", {"vanilla": measured([-3, -1, -1, -1], [-9, -9, -9, -9], refuses_after=(0,))}),
        ("refusal_after_prefix_every_t", {"vanilla": measured([-3, -3, -9, -9], [-9, -9, -9, -9], refuses_after=(0,))}),
        ("refusal_after_prefix_every_t", {"vanilla": measured([-3, -9, -9, -9], [-9] * 4, refuses_after=FORCED[:2])}),
        ("refusal_after_prefix_every_t", {"vanilla": measured([-3, -9, -9, -9], [-9, -9, -9, -9])}),
        ("flat_on_benign_prefix", {"recaug": measured([-4, -6, -7, -8], [-9, -7, -9, -9])}),
        ("ablation_prefix_vs_rto", {"recaug": measured([-4, -1, -1, -2], [-9, -9, -9, -9])}),
        ("refusal_positions", {"derta": measured([-2, -1, -1, -2], [-9, -9, -9, -9])}),
        ("over_refusal", {"derta": measured([-2, -1, -1, -2], [-9, -9, -9, -9], refused=1.0)}),
    ],
)
def test_a_claim_does_not_hold_for_a_model_that_does_otherwise(
    config: DertaStudyConfig, rows: StudyRows, claim: str, changes: dict[str, Measured]
) -> None:
    found = {each.claim: each for each in all_claims(findings(config, rows, **changes))}[claim]
    assert not found.holds
    assert found.tried


def test_loops_stand_beside_refusals_and_decide_nothing(config: DertaStudyConfig, rows: StudyRows) -> None:
    looping = measured([-2, -1, -1, -2], [-9] * 4, late=True, refuses_after=(32,), refused=0.05, loops=True)
    claims = {claim.claim: claim for claim in all_claims(findings(config, rows, derta=looping))}
    phrased = measured([-2, -1, -1, -2], [-9] * 4, late=True, refuses_after=(32,), refused=0.05)
    others = {claim.claim: claim for claim in all_claims(findings(config, rows, derta=phrased))}
    assert {name: claim.holds for name, claim in claims.items()} == {name: each.holds for name, each in others.items()}
    forced = claims["refusal_after_prefix_every_t"].ours
    assert forced["refusal_rate_after_forced_tokens"]["derta"]["32"] == 1.0
    assert forced["refusal_rate_by_phrase_after_forced_tokens"]["derta"]["32"] == 0.0
    assert forced["repetition_rate_after_forced_tokens"]["derta"]["32"] == 1.0
    assert forced["repetition_rate_derta_minus_base"]["32"]["difference"] == 1.0
    assert forced["refusal_rate_by_phrase_vanilla_minus_base"]["0"]["difference"] == 1.0
    assert claims["ablation_prefix_vs_rto"].ours["repetition_rate_after_forced_tokens"]["derta"]["32"] == 1.0
    positions = claims["refusal_positions"].ours
    assert positions["histogram"]["derta"][">30"] > 0
    assert positions["histogram_by_phrase"]["derta"] == {"0-5": 0, "6-30": 0, ">30": 0, "none": 192}
    assert positions["beyond_30_by_phrase"]["difference"] == 0.0
    assert positions["repetition"]["difference"] == positions["difference"]
    refused = claims["over_refusal"].ours
    assert refused["arms_minus_base"]["derta"]["difference"] == pytest.approx(0.05)
    assert refused["by_phrase_arms_minus_base"]["derta"]["difference"] == 0.0
    assert refused["repetition_arms_minus_base"]["derta"]["difference"] == pytest.approx(0.05)


def test_an_answer_is_refused_by_word_or_phrase_in_its_opening_and_a_loop_anywhere() -> None:
    answers = ["Sorry.", "I can't do that.", "It is so." + 5 * "Sorry", 170 * "x" + "Sorry", "It is so."]
    refused, by_phrase, repeated = refused_requests(answers, ("Sorry",))
    assert refused.tolist() == [1, 1, 1, 0, 0]
    assert by_phrase.tolist() == [0, 1, 0, 0, 0]
    assert repeated.tolist() == [0, 0, 1, 0, 0]


def test_figures_are_kept_as_json_and_read_back(config: DertaStudyConfig) -> None:
    one = measured([-1, -2, -3, -4], [-5, -6, -7, -8], late=True)
    back = Measured.from_json(one.to_json())
    assert back.positions == one.positions
    assert np.array_equal(back.repeated, one.repeated)
    json.dumps(one.to_json(), allow_nan=False)
    assert back.token == one.token
    assert np.array_equal(back.harmful, one.harmful)
    assert evidence.BINS == ("0-5", "6-30", ">30", "none")


def test_every_profile_is_valid_and_trains_on_nothing_that_measures() -> None:
    for profile in list_recipes()["derta"]:
        _, found = load_profile(f"derta/{profile}")
        assert isinstance(found, DertaStudyConfig)
        assert plan_recipe(f"derta/{profile}")
        named = [entry.source for entry in (*found.rows.harmful, *found.rows.helpful)]
        assert all(name.startswith(PREFIX) or SOURCES.get(name).trainable for name in named)
        if not found.toy:
            assert set(found.probing.lookalikes) <= set(found.rows.keep_clean_of)
            assert found.rows.held_out not in named
            assert found.attacks is not None
            assert set(found.attacks.goals) <= set(found.rows.keep_clean_of)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["derta"]}, "arm `vanilla`"),
        ({"probing": {"forced": [8]}}, "has 0 among"),
        ({"probing": {"shares": [0.1, 0.2]}}, "begins with 0"),
        ({"data": "public"}, "needed for public data"),
        ({"training": {"template": "released"}}, "chat template"),
        ({"attacks": {"goals": ["x"], "judges": ["guard:llama-guard"]}}, "needs the setting `model`"),
        ({"attacks": {"goals": ["x"], "judges": ["rubric"]}}, "asks a model"),
    ],
)
def test_settings_that_no_claim_can_be_made_from_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(DertaStudyConfig, {"data": "templated", **changes})


def test_arms_of_another_method_take_the_shared_settings_and_leave_other_arms_their_names(
    config: DertaStudyConfig, rows: StudyRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, FineTuningConfig]] = []

    def train(examples: object, base: str, config: FineTuningConfig, checkpoints: Path) -> None:
        trained.append((base, config))

    def keep(tuned: object, base: str, folder: Path) -> None:
        folder.mkdir(parents=True)

    monkeypatch.setattr(trainings, "training_module", lambda name: SimpleNamespace(train_door=train, train_derta=train))
    monkeypatch.setattr(trainings, "keep_trained", keep)
    asked = config.model_copy(update={"base": "a-model", "arms": (*config.arms, "door", "w_door")})
    with Run.create(tmp_path, "derta/test", asked) as run:
        models = trainings.Trainings(asked, rows, run)
        folders = [models.model(arm, 3) for arm in ("derta", "door", "w_door")]
        with Run.create(tmp_path, "derta/test", config) as other:
            without = trainings.Trainings(config.model_copy(update={"base": "a-model"}), rows, other).model("derta", 3)
    assert folders[0].parent.name == without.parent.name  # cells of runs without those arms are found again
    derta, door, weighted = (each for _, each in trained[:3])
    assert isinstance(door, DoorConfig)
    assert isinstance(weighted, DoorConfig)
    assert (door.weighted, weighted.weighted) == (False, True)
    assert door.model_copy(update={"weighted": True}) == weighted
    for name in FineTuningConfig.model_fields:
        assert getattr(door, name) == getattr(derta, name)
    assert door.seed == 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Run:
    short = {"seeds": [0], "complying.epochs": 1, "training.epochs": 1, "rows.triples": 12, "rows.help": 12}
    return run_recipe("derta/tiny", overrides=short, root=tmp_path_factory.mktemp("runs"))


def test_the_tiny_run_makes_every_claim_as_a_toy(tiny: Run) -> None:
    shown = Evidence.read(tiny.artefacts / "evidence.json")
    assert {claim.claim for claim in shown.claims} == set(CLAIMS)
    assert all(claim.toy for claim in shown.claims)
    with pytest.raises(UserError, match="toy"):
        publish_evidence(tiny, tiny.path)


def test_a_second_start_trains_and_measures_nothing_anew(tiny: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from corral.studies.derta import measures, trainings
    from corral.studies.derta.recipe import RECIPE

    monkeypatch.setattr(trainings, "training_module", lambda name: pytest.fail(f"trains with {name}"))
    monkeypatch.setattr(measures, "open_trained", lambda *_, **__: pytest.fail("measures"))
    config = load_config(DertaStudyConfig, tiny.config)
    before = Evidence.read(tiny.artefacts / "evidence.json")
    with tiny:
        RECIPE.run(config, tiny)
    assert claims_of(Evidence.read(tiny.artefacts / "evidence.json")) == claims_of(before)


def claims_of(evidence: Evidence) -> list[object]:
    return [claim.model_dump() for claim in evidence.claims]
