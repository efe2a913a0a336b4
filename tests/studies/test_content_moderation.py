import json
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import ConfigError
from corral.core.evidence import Evidence
from corral.core.recipes import load_profile, plan_recipe, run_recipe
from corral.studies.content_moderation.pooling import pooling_table
from corral.studies.content_moderation.settings import CLAIMS, VideoConfig

pytest.importorskip("PIL")
pytest.importorskip("av")
SMALLER = ["clips=1", "images=3", "judge_items=3", "judge_controls=4", "written_items=1", "replicates=50"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_recipe("content_moderation/tiny", SMALLER, root=tmp_path_factory.mktemp("runs"))


def test_the_tiny_profile_gives_every_claim_as_a_toy_or_not_and_reports_without_texts(run: Any) -> None:
    evidence = Evidence.read(run.artefacts / "evidence.json")
    assert [claim.claim for claim in evidence.claims] == list(CLAIMS)
    assert all(claim.toy for claim in evidence.claims)
    assert evidence.claims[0].holds
    report = json.loads((run.artefacts / "report.json").read_text())
    assert report["missing"] == []
    assert {each["modality"] for each in report["rates"]} == {"text", "image", "video"}
    assert len(report["hypotheses"]) == 4
    everything = "".join(path.read_text() for path in run.artefacts.iterdir())
    assert "shopkeeper" not in everything
    assert "Pooling on simulated clips" in (run.artefacts / "report.html").read_text()


def test_broken_media_are_rejected_and_the_run_goes_on(run: Any) -> None:
    cells = (run.artefacts / "cells.csv").read_text().splitlines()
    broken = [line for line in cells if line.startswith("made/broken") and ",plain,rejected," in line]
    assert len(broken) == 4


def test_a_run_that_is_started_again_judges_nothing_anew(run: Any) -> None:
    from corral.core.recipes import RECIPES

    before = {path.name: path.read_bytes() for path in (run.path / "cells").glob("*.jsonl")}
    reports = (run.artefacts / "report.json").read_bytes(), (run.artefacts / "cells.csv").read_bytes()
    _, config = load_profile("content_moderation/tiny", SMALLER)
    with run:
        RECIPES.get("content_moderation").run(config, run)
    assert {path.name: path.read_bytes() for path in (run.path / "cells").glob("*.jsonl")} == before
    assert ((run.artefacts / "report.json").read_bytes(), (run.artefacts / "cells.csv").read_bytes()) == reports


def test_the_paper_profile_refuses_to_start_with_a_list_of_what_is_missing(tmp_path: Path) -> None:
    plan = plan_recipe("content_moderation/paper")
    assert len(plan) == 9
    assert all(line.startswith("missing: ") for line in plan)
    with pytest.raises(ConfigError, match="gpt-4o-mini") as caught:
        run_recipe("content_moderation/paper", root=tmp_path)
    assert "your images and clips" in caught.value.message


@pytest.mark.parametrize("profile", ["tiny", "small", "paper"])
def test_every_profile_is_read(profile: str) -> None:
    _, config = load_profile(f"content_moderation/{profile}")
    assert config.model_dump()["classic"]["mixture"]


def test_pooling_flags_as_often_as_independence_predicts_and_calibration_holds_the_rate() -> None:
    rows = pooling_table(VideoConfig(clips=2000, frames=(4, 60)), seed=0)
    for row in rows:
        if row["predicted_fpr"] is not None:
            assert row["fpr"]["ci95"][0] - 0.01 <= row["predicted_fpr"] <= row["fpr"]["ci95"][1] + 0.01
        assert row["calibrated_fpr"]["value"] == pytest.approx(0.05, abs=0.02)
    by = {(row["rule"], row["frames"]): row for row in rows}
    assert by["max", 60]["fpr"]["value"] > 3 * by["max", 4]["fpr"]["value"]
    # of a short event fewer frames show the harm than the rule asks for
    assert by["m_of_k, m = 2", 4]["recall"]["value"] < by["max", 4]["recall"]["value"]
