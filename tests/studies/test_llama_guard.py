"""The Llama Guard study: the whole path on a tiny model, resume after a kill, and claims from scores made by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from corral.core.errors import RunError
from corral.core.evidence import Evidence
from corral.core.files import atomic_write_json, read_json
from corral.core.recipes import load_profile, run_recipe
from corral.core.runs import Run, verify_run
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.data.self_written import may_train
from corral.evals.tasks.moderation_sets import SETS
from corral.evals.tasks.policy_sensitivity import violated_codes
from corral.guards.llama_guard.guard import LlamaGuard
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.models.engines.torch import TorchEngine
from corral.studies.llama_guard import LlamaGuardRecipe, trainings
from corral.studies.llama_guard.baselines import small_training_beats_baselines
from corral.studies.llama_guard.experiment import Experiment, Finding
from corral.studies.llama_guard.ladder import adaptation_ladder
from corral.studies.llama_guard.one_vs_all import category_one_vs_all
from corral.studies.llama_guard.policy_matters import policy_matters
from corral.studies.llama_guard.rows import StudyRows, study_rows
from corral.studies.llama_guard.settings import AUGMENTED, CLAIMS, LlamaGuardConfig
from corral.studies.llama_guard.trainings import TrainedModels, Training
from corral.studies.verdict_store import Judged


def settings(*overrides: str, profile: str = "tiny") -> LlamaGuardConfig:
    _, config = load_profile(f"llama_guard/{profile}", overrides)
    assert isinstance(config, LlamaGuardConfig)
    return config


@pytest.fixture(scope="module")
def rows() -> StudyRows:
    return study_rows(settings())


def judged(scores: Sequence[float], codes: Sequence[frozenset[str]]) -> Judged:
    """Scores made by hand, all of them answered."""
    answered = np.ones(len(scores), dtype=np.bool_)
    return Judged(np.array(scores, dtype=np.float64), tuple(codes), answered, tuple({} for _ in scores))


# the whole path


class _Killed(BaseException):
    """What a kill looks like from inside: nothing gets to tidy up after it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str], list[str]]:
    """The tiny profile, killed when it comes to its third training and then continued; trainings of each session."""
    root = tmp_path_factory.mktemp("runs")
    train, sessions = TrainedModels._train, ([], [])  # type: ignore[var-annotated]

    def counted(number: int, stop_at: int | None) -> Any:
        def _train(self: TrainedModels, training: Training, folder: Path) -> None:
            if len(sessions[number]) == stop_at:
                raise _Killed
            sessions[number].append(training.name)
            train(self, training, folder)

        return _train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainings.TrainedModels, "_train", counted(0, 2))
        with pytest.raises(_Killed):
            run_recipe("llama_guard/tiny", root=root)
        patch.setattr(trainings.TrainedModels, "_train", counted(1, None))
        run = run_recipe("llama_guard/tiny", root=root)
    return run, *sessions


def test_a_killed_run_goes_on_without_training_anything_twice(finished: tuple[Run, list[str], list[str]]) -> None:
    run, first, second = finished
    assert run.status == "finished"
    assert run.manifest.sessions == 2
    assert first == ["augmented-0", "plain-0"]
    assert second == ["fine-tune-50-0", "fine-tune-100-0"]


def test_the_run_is_whole_and_its_evidence_validates(finished: tuple[Run, list[str], list[str]]) -> None:
    run = finished[0]
    assert verify_run(run.path) == []
    evidence = Evidence.read(run.artefacts / "evidence.json")
    assert {claim.claim for claim in evidence.claims} == set(CLAIMS)
    assert all(claim.toy for claim in evidence.claims)
    assert evidence.command == "corral recipes run llama_guard/tiny"


def test_the_guard_it_wrote_loads_and_judges(finished: tuple[Run, list[str], list[str]]) -> None:
    engine = TorchEngine.load(finished[0].artefacts / "guard")
    verdict = LlamaGuard(engine, category_mode="none").classify([Conversation.user("Where is the lamp?")])[0]
    assert verdict.target == "prompt"


def test_models_that_saw_the_target_are_removed(finished: tuple[Run, list[str], list[str]]) -> None:
    weights = [path.relative_to(finished[0].path) for path in finished[0].path.rglob("*.safetensors")]
    assert {path.parts[0] for path in weights} <= {"artefacts", "base-0"}


def test_scores_are_kept_without_texts(finished: tuple[Run, list[str], list[str]], rows: StudyRows) -> None:
    files = list((finished[0].path / "scores").glob("*.jsonl"))
    assert files
    written = "".join(file.read_text() for file in files)
    assert not any(row.text in written for row in [*rows.held_out, *rows.target.test])
    first = json.loads(files[0].read_text().splitlines()[0])
    assert set(first) == {"id", "group", "harmful", "labels", "status", "p_harm", "codes", "categories", "detail"}


def test_the_report_counts_categories_before_and_after_augmentation(
    finished: tuple[Run, list[str], list[str]],
) -> None:
    report = read_json(finished[0].path / "report.json")
    account = next(found for name, found in report["trainings"].items() if name.startswith(AUGMENTED))
    assert sum(account["categories_before"].values()) >= sum(account["categories_after"].values())
    assert [row["rung"] for row in report["adaptation_ladder"]["ladder"]][:3] == ["none", "zero-shot", "few-shot"]
    states = {row["code"]: row.get("state") for row in report["category_one_vs_all"]["categories"]}
    assert states == {"invented/S1": None, "invented/S2": None, "elsewhere/S1": "not supported"}


def test_a_run_whose_data_changed_is_not_continued(finished: tuple[Run, list[str], list[str]], tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished[0].path, copy, ignore=shutil.ignore_patterns("guard", "scores", "base-0"))
    account = read_json(copy / "artefacts" / "rows.json")
    atomic_write_json(copy / "artefacts" / "rows.json", {**account, "rows_sha256": "other"})
    with pytest.raises(RunError, match="other rows"):
        run_recipe("llama_guard/tiny", resume=copy)


# claims from scores made by hand


class _HandMade:
    """A store of scores by rule: what each arm would say about a row under a policy."""

    def __init__(self, rule: Any) -> None:
        self._rule = rule

    def judge(
        self, training: Training, policy: PolicyPrompt, rows: Sequence[ModerationExample], *, decode: bool = False
    ) -> Judged:
        said = [self._rule(training, policy, row) for row in rows]
        codes = [frozenset(violated_codes(row, policy)) for row in rows]
        return judged(said, codes)

    def judge_by(self, name: str, key: Any, rows: Sequence[ModerationExample], guard: Any) -> Judged:
        return judged([0.5] * len(rows), [frozenset()] * len(rows))


def found(claim: Any, rows: StudyRows, rule: Any, *overrides: str) -> Finding:
    models = SimpleNamespace(discard=lambda training: None)
    config = settings("seeds=[0,1,2]", *overrides)
    experiment = Experiment(config, rows, models, _HandMade(rule), {})  # type: ignore[arg-type]
    finding = claim(experiment)
    assert isinstance(finding, Finding)
    return finding


def reads_if_augmented(training: Training, policy: PolicyPrompt, row: ModerationExample) -> float:
    reads = training.name.startswith(AUGMENTED)
    return 0.9 if (violated_codes(row, policy) if reads else row.harmful) else 0.1


def test_a_guard_that_reads_its_policy_against_one_that_does_not(rows: StudyRows) -> None:
    finding = found(policy_matters, rows, reads_if_augmented)
    assert finding.claim.holds
    assert finding.tables["flip_rate"]["ours"] == 1.0
    assert finding.tables["flip_rate"]["baseline"] == 0.0
    assert finding.tables["mean_drop_of_p_unsafe"]["difference"] == pytest.approx(0.8)
    assert finding.tables["accuracy_on_the_whole_policy"]["difference"] == 0.0
    assert finding.claim.n == sum(row.harmful is True for row in rows.held_out)


def test_two_arms_that_do_the_same_make_no_claim(rows: StudyRows) -> None:
    claim = found(policy_matters, rows, lambda training, policy, row: 0.9 if row.harmful else 0.1).claim
    assert not claim.holds
    assert claim.tried


def test_the_ladder_rises_where_training_helps(rows: StudyRows) -> None:
    def rule(training: Training, policy: PolicyPrompt, row: ModerationExample) -> float:
        learned = len(training.rows) if training.parent else 0
        noise = int(row.group[:4], 16) / 0xFFFF
        return noise if learned < len(rows.target.train) else 0.5 + noise / 4 if row.harmful else noise / 4

    finding = found(adaptation_ladder, rows, rule)
    assert finding.claim.holds
    table = {row["rung"]: row for row in finding.tables["ladder"]}
    assert table["fine-tune 100 %"]["ap"] == 1.0
    assert table["none"]["above_none"] is None
    assert table["zero-shot"]["above_none"] == 0.0
    assert [row["training_rows"] for row in finding.tables["ladder"]] == [0, 0, 0, 10, 20]


def test_a_category_alone_is_told_from_the_rest(rows: StudyRows) -> None:
    def rule(training: Training, policy: PolicyPrompt, row: ModerationExample) -> float:
        return 0.9 if violated_codes(row, policy) else 0.1

    finding = found(category_one_vs_all, rows, rule, "categories.codes=[invented/S1,invented/S3]")
    first, second = finding.tables["categories"]
    assert first["one_vs_all"]["ap"] == second["one_vs_all"]["ap"] == 1.0
    floors = (first["floor"] + second["floor"]) / 2
    assert finding.claim.baseline == pytest.approx(floors)
    assert isinstance(finding.claim.ours, dict)
    assert finding.claim.ours["difference"] == pytest.approx(1 - floors)


def test_a_guard_is_above_its_baselines_on_the_mean_over_sets(rows: StudyRows) -> None:
    finding = found(small_training_beats_baselines, rows, lambda training, policy, row: 0.9 if row.harmful else 0.1)
    assert finding.claim.holds
    assert set(finding.tables["sets"]) == set(rows.sets)
    floors = [each["floor"] for each in finding.tables["sets"].values()]
    assert finding.tables["floor"]["baseline"] == pytest.approx(np.mean(floors))
    assert finding.tables["bag_of_words"]["baseline"] == pytest.approx(np.mean(floors))  # a constant score
    assert finding.tables["flag_all"]["ours"] == 1.0


def test_flagging_everything_beats_no_baseline(rows: StudyRows) -> None:
    assert not found(small_training_beats_baselines, rows, lambda *_: 0.9).claim.holds


# rows and settings


def test_training_rows_held_out_rows_and_halves_of_the_target_share_no_group(rows: StudyRows) -> None:
    sides = [rows.train, rows.held_out, rows.target.train, rows.target.test]
    groups = [{row.group for row in side} for side in sides]
    assert not groups[0] & groups[1]
    assert not groups[2] & groups[3]


def test_held_out_harmful_rows_violate_a_category_of_the_policy(rows: StudyRows) -> None:
    assert all(violated_codes(row, rows.policy) for row in rows.held_out if row.harmful)


@pytest.mark.parametrize("profile", ["small", "paper"])
def test_the_profiles_train_on_what_may_ship_and_keep_clean_of_what_measures(profile: str) -> None:
    config = settings(profile=profile)
    assert all(may_train(entry.source) for entry in config.rows.mixture)
    measured = {config.ladder.source, *(SETS.get(name).source for name in config.sets)}
    assert measured <= set(config.rows.keep_clean_of)
    assert set(config.claims) == set(CLAIMS)


def test_the_digest_of_a_training_depends_on_all_that_its_weights_do(rows: StudyRows) -> None:
    config = settings()
    one = Experiment(config, rows, None, None, {}).arm(AUGMENTED, 0)  # type: ignore[arg-type]
    other = Training("x", one.rows, one.policy, one.augmentation, one.settings)
    assert one.digest == other.digest
    changes: list[dict[str, Any]] = [
        {"rows": one.rows[1:]},
        {"policy": one.policy.with_categories(["S1", "S2"])},
        {"augmentation": config.arms["plain"]},
        {"settings": one.settings.model_copy(update={"seed": 1})},
        {"parent": one},
    ]
    digests = {Training(**{**vars_of(one), **change}).digest for change in changes}
    assert len(digests | {one.digest}) == len(changes) + 1


def vars_of(training: Training) -> dict[str, Any]:
    names = ("name", "rows", "policy", "augmentation", "settings", "parent")
    return {name: getattr(training, name) for name in names}


def test_the_arms_and_shares_are_checked() -> None:
    for wrong in ({"arms": {"augmented": {}}}, {"ladder": {"shares": [0.5, 0.1]}}):
        with pytest.raises(ValueError, match=r"arms|shares"):
            LlamaGuardConfig.model_validate(wrong)


def test_a_study_on_templated_text_can_stand_beside_the_main_one(rows: StudyRows) -> None:
    beside = {**settings().model_dump(include={"data", "training", "rows", "ladder"}), "claims": CLAIMS[:1]}
    config = LlamaGuardConfig.model_validate({**settings(profile="small").model_dump(), "mechanism": beside})
    steps = LlamaGuardRecipe().plan(config)
    assert any("augmentation_makes_policy_matter_mechanism" in step for step in steps)
    experiment = Experiment(settings(), rows, None, _HandMade(reads_if_augmented), {}, "_mechanism")  # type: ignore[arg-type]
    claim = policy_matters(experiment).claim
    assert claim.claim == "augmentation_makes_policy_matter_mechanism"
    assert claim.toy
