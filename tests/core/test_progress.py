import io

import pytest

from corral.core.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_is_silent_when_standard_error_is_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), "Counting")) == [0, 1, 2]
    with progress(3, "Counting") as bar:
        bar.advance(2)
    assert capsys.readouterr() == ("", "")


def test_it_shows_on_a_terminal_and_leaves_standard_output_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(progress(iter("ab"), "Reading rows", total=2)) == ["a", "b"]
    with progress(None, "Moderating") as bar:
        bar.advance(5)
    assert "Reading rows" in terminal.getvalue()
    assert "Moderating" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_the_bar_is_closed_when_the_loop_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    items = progress(range(3), "Counting")
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert list(progress(range(2), "Again")) == [0, 1]


def test_a_missing_standard_error_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    assert list(progress([1], "Counting")) == [1]
