import signal
import subprocess
import sys
from pathlib import Path

import pytest

from corral.evals.tasks.content_moderation.classic import KeywordModerator
from corral.evals.tasks.content_moderation.conditions import PLAIN, Condition
from corral.evals.tasks.content_moderation.items import Item
from corral.evals.tasks.content_moderation.matrix import Matrix, merged
from corral.evals.tasks.content_moderation.moderators import TextModerator
from corral.evals.tasks.content_moderation.report import report_of
from corral.guards.base import Status
from corral.guards.scripted import ScriptedGuard


class Counting(ScriptedGuard):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(faults={"REFUSE": "unparseable"})
        self.asked: list[str] = []

    def classify(self, conversations, *, target="auto"):  # type: ignore[no-untyped-def]
        self.asked += [conversation.messages[0].text for conversation in conversations]
        return super().classify(conversations, target=target)


CONDITIONS = [PLAIN, Condition(perturbation="homoglyph", strength=1.0)]


def test_every_cell_is_judged_once_and_a_rerun_judges_what_is_missing(tmp_path: Path, items: list[Item]) -> None:
    first = Counting()
    found = Matrix(items[:5], [TextModerator(first)], [PLAIN], tmp_path, batch_size=2).run()
    assert len(found.cells) == len(first.asked) == 5
    second = Counting()
    found = Matrix(items, [TextModerator(second)], CONDITIONS, tmp_path, batch_size=3).run()
    assert len(found.cells) == 16 and not found.missing
    assert second.asked[:3] == [item.text for item in items[5:]]
    assert len(second.asked) == 11
    assert found.of("scripted")[-1].status is Status.UNPARSEABLE


def test_an_item_whose_content_changes_is_judged_anew(tmp_path: Path, make_text) -> None:  # type: ignore[no-untyped-def]
    Matrix([make_text("a", "fine")], [TextModerator(Counting())], [PLAIN], tmp_path).run()
    guard = Counting()
    (cell,) = Matrix([make_text("a", "TRIGGER")], [TextModerator(guard)], [PLAIN], tmp_path).run().cells
    assert cell.flagged


def test_a_run_that_was_cut_off_is_reported_with_what_is_missing(tmp_path: Path, items: list[Item]) -> None:
    Matrix(items[:3], [TextModerator(Counting())], [PLAIN], tmp_path).run()
    result = Matrix(items, [TextModerator(Counting())], [PLAIN], tmp_path).result()
    assert len(result.cells) == 3
    assert result.missing[0] == "scripted p1 plain"
    assert "5 cells are missing" in report_of(result, replicates=20).to_markdown()


def test_several_matrices_give_one_result(tmp_path: Path, items: list[Item]) -> None:
    parts = [
        Matrix(items, [TextModerator(Counting())], [PLAIN], tmp_path).run(),
        Matrix(items[:2], [TextModerator(KeywordModerator(["TRIGGER"]))], [PLAIN], tmp_path).run(),
    ]
    result = merged([*parts, parts[0]])
    assert len(result.cells) == 10
    assert list(result.moderators) == ["scripted", "keywords-harm"]


_PROGRAM = """
import os, sys, time
from pathlib import Path
from corral.evals.tasks.content_moderation.conditions import PLAIN
from corral.evals.tasks.content_moderation.items import Item
from corral.evals.tasks.content_moderation.matrix import Matrix
from corral.evals.tasks.content_moderation.moderators import TextModerator
from corral.evals.tasks.content_moderation.report import report_of
from corral.guards.scripted import ScriptedGuard

def rule(text, target):
    if len(sys.argv) > 2 and text == "text 12":
        os.kill(os.getpid(), 9)
    return len(text) / 10

class Guard(ScriptedGuard):
    revision = "1"

items = [
    Item(str(i), "text", "other", *(("benign", "plain") if i % 2 else ("hate", "")), "", "s", "", str(i), f"text {i}")
    for i in range(20)
]
matrix = Matrix(items, [TextModerator(Guard(rule=rule))], [PLAIN], Path(sys.argv[1]), batch_size=5)
report = report_of(matrix.run(), replicates=50).to_json()
for each in report["rates"]:
    each["latency_ms"] = None
print(report)
"""


def test_a_killed_run_goes_on_and_gives_the_very_same_report(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _PROGRAM, *arguments], check=False, capture_output=True, text=True, timeout=60
        )

    whole = run(str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    killed = run(str(tmp_path / "cut"), "kill")
    assert killed.returncode == -signal.SIGKILL
    assert run(str(tmp_path / "cut")).stdout == whole.stdout


def test_conditions_apply_to_the_modalities_that_they_can_change() -> None:
    assert [PLAIN.applies_to(m) for m in ("text", "image", "video")] == [True, True, True]  # type: ignore[arg-type]
    jpeg, leet = Condition(perturbation="jpeg", strength=0.5), Condition(perturbation="leet", strength=0.5)
    assert [jpeg.applies_to(m) for m in ("text", "image", "video")] == [False, True, False]  # type: ignore[arg-type]
    assert [leet.applies_to(m) for m in ("text", "image", "video")] == [True, False, False]  # type: ignore[arg-type]
    assert Condition(injection="order").applies_to("text")
    assert leet.model_copy(update={"fold": True, "seed": 2}).key == "leet@0.5#2+fold"


def test_a_condition_at_strength_0_shows_the_very_same_content() -> None:
    from corral.data.media import MediaLimits

    assert Condition(perturbation="leet").show_text("toast") == "toast"
    assert Condition(perturbation="jpeg").show_media(b"bytes", MediaLimits()) == b"bytes"
    assert Condition(injection="verdict").show_text("toast").startswith("toast\n{")


@pytest.mark.parametrize("name", ["homoglyph", "zero_width"])
def test_folding_shows_a_disguised_text_as_it_was(name: str) -> None:
    words = "The quick brown fox jumps over the lazy dog."
    condition = Condition(perturbation=name, strength=0.5)
    assert condition.show_text(words) != words
    assert condition.model_copy(update={"fold": True}).show_text(words) == words


@pytest.mark.parametrize(("text", "flagged"), [("a KILLER app", True), ("skills", False), ("", False)])
def test_keywords_are_whole_words_in_any_case(text: str, flagged: bool) -> None:
    from corral.data.messages import Conversation

    (verdict,) = KeywordModerator().classify([Conversation.user(text)])
    assert verdict.flagged is flagged
