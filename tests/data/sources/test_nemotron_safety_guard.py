"""The published CultureGuard data, from files made here in its columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import DataError
from corral.data.sources.nemotron_safety_guard import LANGUAGES, read_nemotron_safety_guard
from corral.data.splits import split_by_group


def row(**changes: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "prompt": "Where is the lamp?",
        "response": None,
        "prompt_label": "safe",
        "response_label": None,
        "violated_categories": "",
        "language": "en",
        "tag": "generic",
        **changes,
    }


def read(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> Any:
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return read_nemotron_safety_guard(path, **options)


def test_a_row_is_a_prompt_and_perhaps_its_response(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        row(prompt_label="unsafe", response="No.", response_label="safe", violated_categories="Violence, pii/privacy"),
    )
    prompt, response = found.examples
    assert (prompt.target, prompt.harmful, dict(prompt.categories)) == (
        "prompt",
        True,
        {"aegis_2/S1": True, "aegis_2/S9": True},
    )
    assert (response.target, response.harmful, dict(response.categories)) == ("response", False, {})


def test_a_redacted_prompt_is_restored_or_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row(prompt="REDACTED"), row(id="2", prompt="REDACTED"), row(id="3", prompt=" ")]
    found = read(tmp_path, *rows, originals={"2": "Where is the chair?"})
    assert [example.text for example in found.examples] == ["Where is the chair?"]
    assert found.left_out == {"redacted": 1, "no prompt": 1}


def test_jailbreaking_rows_come_without_their_inherited_categories(tmp_path: Path) -> None:
    (example,) = read(tmp_path, row(tag="jailbreaking", prompt_label="unsafe", violated_categories="Violence")).examples
    assert (example.harmful, example.attack, dict(example.categories)) == (True, True, {})


def test_translations_of_a_row_share_a_split(tmp_path: Path) -> None:
    rows = [row(id=str(i), language=language) for i in range(40) for language in LANGUAGES]
    kept, held = split_by_group(read(tmp_path, *rows).examples, held_out=0.3, seed=0)
    assert kept
    assert held
    assert not {example.group for example in kept} & {example.group for example in held}


def test_unknown_categories_are_counted_and_set_no_label(tmp_path: Path) -> None:
    found = read(tmp_path, row(prompt_label="unsafe", violated_categories="Rudeness, Threat"))
    assert dict(found.examples[0].categories) == {"aegis_2/S11": True}
    assert found.unknown_categories == {"Rudeness": 1}


@pytest.mark.parametrize("column", ["tag", "language", "prompt_label"])
def test_a_value_that_the_set_does_not_define_names_its_line(tmp_path: Path, column: str) -> None:
    with pytest.raises(DataError, match="other") as error:
        read(tmp_path, row(), row(**{column: "other"}))
    assert str(error.value.where).endswith(":2")
