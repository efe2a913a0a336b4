from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError, NotFoundError
from corral.core.yaml import dump_yaml, parse_yaml, read_yaml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[en, no]", ["en", "no"]),
        ("1e-4", 1e-4),
        ("1.5E3", 1500.0),
        (".5", 0.5),
        ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"),
        ("010", 10),
        ("yes", "yes"),
        ("true", True),
        ("~", None),
        ("", None),
        ("-.inf", float("-inf")),
        ("a: {b: [1, x]}", {"a": {"b": [1, "x"]}}),
        ("<<: 1", {"<<": 1}),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "!unknown 1",
        "a: 1\na: 2",
        "a: &x [1]\nb: *x",
        "a: [1",
        "a: 1\n--- \nb: 2",
        "1" * 5000,
        "[" * 100_000,
        "{[1]: 2}",
        "\x00",
    ],
)
def test_what_is_not_plain_data_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        parse_yaml(text)


def test_an_error_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("a: 1\nb: 2\na: 3\n")
    with pytest.raises(ConfigError, match="`a` is given twice") as caught:
        read_yaml(path)
    assert caught.value.where == f"{path}:3"


def test_files_that_are_absent_or_not_utf8_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_yaml(tmp_path / "absent.yaml")
    (tmp_path / "latin1.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 3"):
        read_yaml(tmp_path / "latin1.yaml")


@given(VALUES)
def test_what_is_dumped_reads_back_equal(value: Any) -> None:
    assert parse_yaml(dump_yaml(value)) == value


@pytest.mark.parametrize("text", ["no", "1e-4", "12:30", "0x10", "null", "010", "true", "a\x85b\u2028c"])
def test_text_that_looks_like_another_type_stays_text(text: str) -> None:
    assert parse_yaml(dump_yaml({"key": text})) == {"key": text}
