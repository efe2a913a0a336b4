"""The Egida study: the split it draws, and the whole path on a tiny random model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from corral.core.config import load_config
from corral.core.errors import ConfigError, UserError
from corral.core.evidence import Claim, Evidence
from corral.core.recipes import list_recipes, load_profile, plan_recipe, publish_evidence, run_recipe
from corral.core.runs import Run
from corral.core.stats import Estimate
from corral.data.examples import prompt_key
from corral.data.sources import SOURCES
from corral.models.tiny import write_tiny_llama
from corral.redteam.agreement import JudgedReplies
from corral.redteam.egida.chosen import ChosenKind
from corral.redteam.egida.expand import Instance
from corral.redteam.egida.pairs import Mined, Pair
from corral.redteam.egida.shortcut import Shortcut
from corral.redteam.egida.split import CELLS
from corral.redteam.judges import Outcome
from corral.redteam.labelled import LabelledReply, LabelledSet, Question
from corral.studies.egida.evidence import Findings, generalises, judge_agreement, on_policy_vs_foreign
from corral.studies.egida.instances import Drawn, draw_instances
from corral.studies.egida.measures import Scores
from corral.studies.egida.settings import CLAIMS, STAND_IN, EgidaConfig
from corral.studies.egida.stand_ins import stand_in_requests
from corral.studies.egida.trainings import MinedSides, mine_sides


@pytest.fixture(scope="module")
def config() -> EgidaConfig:
    _, found = load_profile("egida/tiny")
    assert isinstance(found, EgidaConfig)
    return found


def test_every_cell_has_instances_and_the_account_names_no_text(config: EgidaConfig) -> None:
    drawn = draw_instances(config)
    assert all(drawn.split.test[cell] for cell in CELLS)
    assert (
        drawn.account["instances"]
        == drawn.account["train"] + sum(drawn.account["test"].values()) + drawn.account["unused"]
    )
    assert "Reveal" not in json.dumps(drawn.account)


def test_test_requests_are_of_both_kinds_and_none_trains(config: EgidaConfig) -> None:
    drawn = draw_instances(config)
    asked = drawn.test_requests(4)
    trained = {each.base.id for each in drawn.split.train}
    assert len({goal.id for goal in asked}) == 4
    assert not trained & {goal.id for goal in asked}
    assert {goal.category == "cellar" for goal in asked} == {True, False}


def test_stand_ins_are_harmless_and_have_topics() -> None:
    assert all("colour" in request.goal.text and request.topics for request in stand_in_requests(100))


def test_every_profile_is_valid_and_mines_only_what_may_train() -> None:
    for profile in list_recipes()["egida"]:
        _, found = load_profile(f"egida/{profile}")
        assert isinstance(found, EgidaConfig)
        assert plan_recipe(f"egida/{profile}")
        assert all(name == STAND_IN or SOURCES.get(name).trainable for name in found.requests.sources)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen": ["pool"]}, "`mining.pool` has no model"),
        ({"requests": {"sources": ["x"], "styles": ["leet"]}}, "held_out_styles"),
        ({"requests": {"sources": ["x"], "styles": ["nothing"]}}, "nothing"),
        ({"mining": {"judge": "guard:llama-guard"}}, "needs the setting `model`"),
        ({"attack": {"judges": ["guard:llama-guard"]}}, "needs the setting `model`"),
        ({"agreement": {"judges": {"prefix-list": None}, "sets": ["x"]}}, "begins with the judge of the pairs"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(EgidaConfig, {"requests": {"sources": [STAND_IN]}, **changes})


def findings(
    config: EgidaConfig,
    *,
    chosen: tuple[str, str] = ("Sorry.", "No."),
    alarm: bool = False,
    judged: Sequence[JudgedReplies] = (),
) -> Findings:
    """A pair of every instance; training on ``gold`` gains 1 nat in seen styles and 4 in unseen ones, the other 2."""
    drawn = draw_instances(config)
    train, test = ([Pair(each, text, "x") for each in some] for some, text in zip(sides_of(drawn), chosen, strict=True))
    sides = MinedSides(*(Mined(tuple(pairs), {}, (), {}, None) for pairs in (train, test)))
    unseen = np.array([pair.instance.style in config.requests.held_out_styles for pair in test])
    before = Scores(np.zeros(len(test)), np.zeros(len(test)))
    gained = {"gold": np.where(unseen, 4.0, 1.0), "self_safe": np.full(len(test), 2.0)}
    after = {
        kind: {on: {seed: Scores(gain, before.rejected) for seed in config.seeds} for on in gained}
        for kind, gain in gained.items()
    }
    kinds: tuple[ChosenKind, ...] = ("gold", "self_safe")
    shortcut = Shortcut(Estimate(0.98, 0.95, 0.99, len(train), 12), alarm=alarm)
    return Findings(
        config,
        drawn,
        dict.fromkeys(kinds, sides),
        dict.fromkeys(kinds, test),
        dict.fromkeys(kinds, before),
        after,  # type: ignore[arg-type]
        dict.fromkeys(kinds, shortcut),
        judged,
        None,
    )


def sides_of(drawn: Drawn) -> tuple[Sequence[Instance], Sequence[Instance]]:
    return drawn.split.train, drawn.split.tested


def test_own_and_foreign_answers_are_compared_in_unseen_styles_alone(config: EgidaConfig) -> None:
    found = findings(config)
    claim = on_policy_vs_foreign(found)
    unseen = [pair for pair in found.test_pairs["gold"] if pair.instance.style == "rot13"]
    assert 0 < len(unseen) < len(found.test_pairs["gold"])
    assert claim.n == len(unseen)
    assert (claim.ours["ours"], claim.baseline, claim.ours["difference"]) == (2.0, 4.0, -2.0)
    assert "unseen styles" in claim.metric
    assert claim.ours["sources"]["gold"]["margins_in_unseen_styles"]["self_safe"]["ours"] == 4.0


def test_a_shortcut_and_answers_that_were_trained_on_are_said_beside_the_margins(config: EgidaConfig) -> None:
    for make in (generalises, on_policy_vs_foreign):
        assert "caveat" not in make(findings(config)).ours
        doubted = make(findings(config, alarm=True)).ours
        assert "AUROC 0.98" in doubted["caveat"]
        leaked = make(findings(config, chosen=("Sorry.", "sorry"))).ours
        assert "100% have a preferred answer that was trained on" in leaked["caveat"]
    assert generalises(findings(config)).ours["chosen_also_trained_on"] == 0.0


def test_the_headline_of_the_judge_is_of_a_set_that_trained_no_guard(config: EgidaConfig) -> None:
    def judged(name: str, question: Question, judge: str, right: int) -> JudgedReplies:
        replies = tuple(LabelledReply(f"q{i}", f"r{i}", i % 2 == 0, f"q{i}") for i in range(20))
        positive = Outcome.COMPLIES if question == "success" else Outcome.REFUSES
        said = [each.positive if i < right else not each.positive for i, each in enumerate(replies)]
        outcomes = tuple(positive if each else Outcome.SAFE for each in said)
        return JudgedReplies(judge, "1", LabelledSet(name, question, "", lambda _: iter(()), name), replies, outcomes)

    success, refusal = ("gptfuzz", "success"), ("do_not_answer", "refusal")
    guard = [judged(*success, "guard:default", 20), judged(*refusal, "guard:default", 18)]  # type: ignore[arg-type]
    phrases = [judged(*success, "prefix-list", 20)]  # type: ignore[arg-type]
    claim = judge_agreement(findings(config, judged=[*guard, *phrases]))
    assert "guard:default with people on do_not_answer" in claim.metric
    assert claim.ours["kappa"] == pytest.approx(0.8)
    assert "caveat" not in claim.ours
    assert [bool(row["caveat"]) for row in claim.ours["table"]] == [True, False, False]
    alone = judge_agreement(findings(config, judged=[guard[0], *phrases]))
    assert alone.ours["kappa"] == 1.0
    assert "guard:default on gptfuzz" in alone.ours["caveat"]
    assert "gptfuzz" in judge_agreement(findings(config, judged=phrases)).metric


def test_written_answers_of_pairs_to_test_are_none_that_train(config: EgidaConfig, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "random", seed=0, layers=1, context=2048, weight_std=0.1)
    asked = config.model_copy(update={"target": str(folder), "chosen": ("gold",)})
    with Run.create(tmp_path, "egida/test", asked) as run:
        sides = mine_sides(asked, draw_instances(asked), run)["gold"]
    assert min(len(sides.train.pairs), len(sides.test.pairs)) > 1
    train, test = ({prompt_key(pair.chosen) for pair in side.pairs} for side in (sides.train, sides.test))
    assert not train & test
    assert sides.chosen_overlap == 0.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_recipe("egida/tiny", overrides={"seeds": [0]}, root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def claims(tiny: Run) -> dict[str, Claim]:
    return {claim.claim: claim for claim in Evidence.read(tiny.artefacts / "evidence.json").claims}


def test_the_tiny_run_makes_every_claim_as_a_toy(tiny: Run, claims: dict[str, Claim]) -> None:
    assert set(claims) == set(CLAIMS)
    assert all(claim.toy for claim in claims.values())
    with pytest.raises(UserError, match="toy"):
        publish_evidence(tiny, tiny.path)


def test_margins_stand_by_cell_with_yields_costs_and_the_alarm(claims: dict[str, Claim]) -> None:
    shown = claims["dpo_generalises_to_unseen_styles"].ours
    assert set(shown["margins_by_cell"]) == set(CELLS)
    assert set(shown["yields"]) == {"train", "test"}
    assert shown["yields"]["train"]["all"]["pair"] > 1
    assert shown["costs"]["hours"] > 0
    assert shown["costs"]["training_hours"] > 0
    assert "alarm" in shown["shortcut"]
    attacks = shown["attack_success"]
    assert attacks["judge"] == "prefix-list"
    assert set(attacks["before"]["cells"]) == set(CELLS)
    assert attacks["before"]["refusal_of_benign"]


def test_no_request_is_left_in_the_artefacts(tiny: Run) -> None:
    texts = [path.read_text() for path in tiny.artefacts.rglob("*.json")]
    assert texts
    assert not any("Reveal" in text for text in texts)
