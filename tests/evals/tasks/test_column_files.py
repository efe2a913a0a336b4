"""Sets read from the user's copies of public columns."""

import json

import pytest

from corral.cli.main import main
from corral.core.errors import DataError, NotFoundError, UserError
from corral.data.sources.public_columns import PUBLIC_COLUMNS
from corral.evals.published.tables import load_tables
from corral.evals.tasks.column_files import column_set, parse_column
from corral.evals.tasks.moderation import ModerationSettings, run_moderation
from corral.evals.tasks.scoring import RowLoader
from corral.guards.base import Verdict


class KeywordGuard:
    """Flags what names the sea."""

    name, revision, taxonomy = "keyword", "1", ""

    def classify(self, conversations, *, target="auto"):
        verdicts = []
        for conversation in conversations:
            flagged = "sea" in conversation.messages[-1].text
            verdicts.append(Verdict("prompt", self.name, self.revision, flagged=flagged, p_harm=0.9 * flagged))
        return verdicts


@pytest.fixture
def prompts(tmp_path):
    """A full copy, by its counts, of the hundred prompts of SimpleSafetyTests."""
    path = tmp_path / "sst_test_cases.csv"
    path.write_text("id,prompt\n" + "".join(f"{i},the {'sea' if i < 75 else 'hill'} {i}\n" for i in range(100)))
    return path


def test_every_column_is_a_set_with_its_published_figures():
    for name in PUBLIC_COLUMNS:
        found = column_set(name, "nowhere")
        (link,) = found.published
        assert link.column in load_tables()[link.table].columns
        assert found.target == PUBLIC_COLUMNS.get(name).target


def test_a_file_is_measured_beside_the_published_figures(prompts, tmp_path):
    chosen = parse_column(f"simple_safety_tests={prompts}")
    report = run_moderation([KeywordGuard()], [chosen], tmp_path / "out", ModerationSettings(replicates=100))
    (result,) = report.guards[0].sets
    assert (result.name, result.n, result.figures["recall"].value) == ("simple_safety_tests_file", 100, 0.75)
    assert list(result.files) == ["sst_test_cases.csv"]
    assert {row.column for row in result.published} == {"simple_safety_tests"}


def test_a_part_of_a_set_is_not_taken_for_it(prompts):
    prompts.write_text("id,prompt\n0,the sea\n")
    with pytest.raises(DataError, match="published with 100"):
        RowLoader().load(parse_column(f"simple_safety_tests={prompts}"))


def test_what_names_no_column_and_file_is_an_error(prompts):
    for text in ("simple_safety_tests", "=x", "simple_safety_tests="):
        with pytest.raises(UserError, match="NAME=FILE"):
            parse_column(text)
    with pytest.raises(NotFoundError) as error:
        parse_column("saferlhf=/nowhere")
    assert "Fetch" in str(error.value.hint)
    with pytest.raises(NotFoundError, match="no_such"):
        parse_column(f"no_such={prompts}")


def test_the_command_takes_files_alone(prompts, tmp_path, capsys):
    out = str(tmp_path / "out")
    guard = ["--guard", "scripted", "--set", "scripted.words=[sea]"]
    chosen = ["--column", f"simple_safety_tests={prompts}", "--sets", ""]
    assert main(["eval", "moderation", *guard, *chosen, "--out", out, "--json"]) == 0
    (guard,) = json.loads(capsys.readouterr().out)["guards"]
    assert [each["name"] for each in guard["sets"]] == ["simple_safety_tests_file"]
    assert main(["eval", "errors", "--out", out]) != 0
    assert "a file of yours" in capsys.readouterr().err
