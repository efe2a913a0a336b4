"""Tables, JSON and error texts as a terminal or a pipe receives them."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.cli.output import print_error, print_fields, print_json, print_table, printable
from corral.core.errors import CorralError


@given(st.text())
def test_printable_text_has_no_control_characters_left(text: str) -> None:
    shown = printable(text)
    assert all(c.isprintable() or c.isspace() or ord(c) >= 0xA0 for c in shown)
    assert not set(shown) & {"\n", "\r", "\t", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066"}
    shown.encode()  # lone surrogates are gone as well


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_printable_leaves_ordinary_text_alone(text: str) -> None:
    assert printable(text) == text


def test_newlines_stay_only_where_asked_for() -> None:
    assert printable("a\nb") == "a\\nb"
    assert printable("a\nb", keep_newlines=True) == "a\nb"


def test_table_in_a_pipe_keeps_each_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "text"), [("a", "x" * 500), ("long name", None), ("b", "two\nlines")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["name       text", "a          " + "x" * 500, "long name  -", "b          two\\nlines"]


def test_table_aligns_characters_that_take_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [("漢字", 1), ("abcd", 2)])
    assert capsys.readouterr().out == "a     b\n漢字  1\nabcd  2\n"


def test_table_without_rows_still_shows_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "state"), [], title="Runs")
    assert capsys.readouterr().out == "Runs\nname  state\n"


def test_table_on_a_terminal_shows_markup_as_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(("name",), [("[red]not red[/red]",)])
    assert "[red]not red[/red]" in capsys.readouterr().out


def test_fields_are_padded_to_one_width(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields([("id", 7), ("status", None)])
    assert capsys.readouterr().out == "id      7\nstatus  -\n"


def test_json_is_one_value_with_readable_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "déjà vu", "n": 1})
    out = capsys.readouterr().out
    assert "déjà vu" in out
    assert json.loads(out) == {"text": "déjà vu", "n": 1}


def test_json_refuses_numbers_that_json_does_not_have() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"p": float("nan")})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CorralError("broke"), "error: broke\n"),
        (CorralError("broke", where="a.py:3"), "error: a.py:3: broke\n"),
        (CorralError("broke", hint="Mend it."), "error: broke\nMend it.\n"),
    ],
)
def test_error_shows_only_the_parts_it_has(error: CorralError, expected: str) -> None:
    stream = io.StringIO()
    print_error(error, stream)
    assert stream.getvalue() == expected
