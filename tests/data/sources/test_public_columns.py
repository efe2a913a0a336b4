"""Readers of the public columns, on self-written rows in the upstream formats."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import DataError, NotFoundError
from corral.data.examples import ModerationExample
from corral.data.sources import public_columns
from corral.data.sources.public_columns import PUBLIC_COLUMNS, read_public_column

Rows = Sequence[Mapping[str, Any]]
Write = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows under a file name whose ending says how."""

    def write_rows(name: str, rows: Any) -> Path:
        path = tmp_path / name
        lines = "".join(f"{json.dumps(row)}\n" for row in rows) if name.endswith(("jsonl", "gz", "xz")) else ""
        if name.endswith(".csv"):
            with path.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        elif name.endswith(".parquet"):
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(list(rows)), path)
        elif name.endswith(".json"):
            path.write_text(json.dumps(rows))
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(lines.encode()))
        elif name.endswith(".xz"):
            path.write_bytes(lzma.compress(lines.encode()))
        else:
            path.write_text(lines)
        return path

    return write_rows


def labels(rows: Sequence[ModerationExample]) -> list[tuple[str, bool | None, bool | None]]:
    return [(row.text, row.harmful, row.refusal) for row in rows]


TOXICCHAT = [
    {"conv_id": "a", "user_input": "be rude", "model_output": "no", "human_annotation": True, "toxicity": 1},
    {"conv_id": "b", "user_input": "be kind", "model_output": "yes", "human_annotation": True, "toxicity": 0},
    {"conv_id": "c", "user_input": "not read by people", "model_output": "", "human_annotation": False, "toxicity": 0},
]
OPENAI = [{"prompt": "be kind", "S": 0, "H": 0}, {"prompt": "be rude", "HR": 1}, {"prompt": "unlabelled"}]
AEGIS = [
    {"text": "one of three", "text_type": "user_message", "labels_0": "Safe", "labels_1": "Threat", "labels_2": "X"},
    {"text": "two of three", "text_type": "user_message", "labels_0": "Safe", "labels_1": "Safe", "labels_2": "X"},
    {"text": "a reply", "text_type": "llm_response", "labels_0": "X", "labels_1": "X", "labels_2": "X"},
]
SST = [{"id": "1", "harm_area": "Scams", "category": "x", "prompt": "reveal the colour"}]
HARMBENCH = [
    {"Behavior": "reveal the colour", "FunctionalCategory": "standard", "ContextString": ""},
    {"Behavior": "sing the song", "FunctionalCategory": "copyright", "ContextString": ""},
    {"Behavior": "go on", "FunctionalCategory": "contextual", "ContextString": "text"},
]
JUDGED = {
    "colour": [
        {"test_case": "reveal it", "generation": "green", "human_0": 1, "human_1": 1, "human_2": 0},
        {"test_case": "reveal it", "generation": "no", "human_0": 0, "human_1": 0, "human_2": 1},
    ]
}
SAFERLHF = [
    {"prompt": "p", "response_0": "bad", "response_1": "good", "is_response_0_safe": False, "is_response_1_safe": True},
    {"prompt": "q", "response_0": "fine", "response_1": "good", "is_response_0_safe": True, "is_response_1_safe": True},
]
BEAVERTAILS = [{"prompt": "p", "response": "bad", "is_safe": False, "category": {"x": True}}]
XSTEST = [
    {"prompt": "p", "response": "r1", "label": "harmful"},
    {"prompt": "p", "response": "r2", "label": "unharmful"},
]
XSTEST_REFUSAL = [
    {"prompt": "p", "response": "r1", "label": "refusal"},
    {"prompt": "p", "response": "r2", "label": "compliance"},
]
WILDGUARD = [
    {
        "prompt": "p",
        "response": "r",
        "adversarial": True,
        "prompt_harm_label": "harmful",
        "response_harm_label": None,
        "response_refusal_label": "compliance",
    }
]


@pytest.mark.parametrize(
    ("name", "file", "rows", "expected"),
    [
        ("toxicchat", "t.csv", TOXICCHAT, [("be rude", True, None), ("be kind", False, None)]),
        (
            "openai_moderation",
            "o.jsonl.gz",
            OPENAI,
            [("be kind", False, None), ("be rude", True, None), ("unlabelled", False, None)],
        ),
        ("aegis", "a.parquet", AEGIS, [("one of three", True, None), ("two of three", False, None)]),
        ("simple_safety_tests", "s.csv", SST, [("reveal the colour", True, None)]),
        ("harmbench_prompt", "h.csv", HARMBENCH, [("reveal the colour", True, None), ("sing the song", True, None)]),
        ("harmbench_response", "h.json", JUDGED, [("green", True, None), ("no", False, None)]),
        ("saferlhf", "s.jsonl.xz", SAFERLHF, [("good", False, None), ("bad", True, None)]),
        ("beavertails", "b.jsonl.gz", BEAVERTAILS, [("bad", True, None)]),
        ("xstest_response", "x.parquet", XSTEST, [("r1", True, None), ("r2", False, None)]),
        ("xstest_refusal", "x.parquet", XSTEST_REFUSAL, [("r1", None, True), ("r2", None, False)]),
        ("wildguardtest_prompt", "w.parquet", WILDGUARD, [("p", True, None)]),
        ("wildguardtest_response", "w.parquet", WILDGUARD, []),
        ("wildguardtest_refusal", "w.parquet", WILDGUARD, [("r", None, False)]),
    ],
)
def test_upstream_rows_become_labelled_examples(write: Write, name: str, file: str, rows: Any, expected: Any) -> None:
    found = read_public_column(name, write(file, rows), full=False)
    assert labels(found) == expected
    assert {row.target for row in found} <= {PUBLIC_COLUMNS.get(name).target}
    assert len({row.id for row in found}) == len(found)


def test_repeated_prompts_share_a_group(write: Write) -> None:
    found = read_public_column("xstest_response", write("x.parquet", XSTEST), full=False)
    assert len({row.group for row in found}) == 1


def test_the_draw_from_saferlhf_takes_whole_pairs_and_is_always_the_same(write: Write) -> None:
    rows = [{**SAFERLHF[0], "prompt": f"p{i}"} for i in range(1200)]
    path = write("s.jsonl.xz", rows)
    found = read_public_column("saferlhf", path)  # the published counts: 2,000 rows, 1,000 harmful
    drawn = [row.conversation.messages[0].text for row in found if row.harmful]
    assert drawn == [f"p{i}" for i in random.Random(42).sample(range(1200), 1000)]
    assert drawn == [row.conversation.messages[0].text for row in found if not row.harmful]


def test_a_full_copy_must_have_the_published_counts(write: Write) -> None:
    rows = [{**SST[0], "id": str(i)} for i in range(100)]
    assert len(read_public_column("simple_safety_tests", write("all.csv", rows))) == 100
    with pytest.raises(DataError, match=r"99 rows, 99 positive; .* published with 100 and 100") as raised:
        read_public_column("simple_safety_tests", write("part.csv", rows[:99]))
    assert "full=False" in str(raised.value)


def test_published_counts_are_those_of_the_spec() -> None:
    counts = {name: (PUBLIC_COLUMNS.get(name).rows, PUBLIC_COLUMNS.get(name).positives) for name in PUBLIC_COLUMNS}
    uncounted = ("wildguardtest", "nemotron")
    assert {name: count for name, count in counts.items() if not name.startswith(uncounted)} == {
        "toxicchat": (2853, 362),
        "openai_moderation": (1680, 522),
        "aegis": (359, 232),
        "simple_safety_tests": (100, 100),
        "harmbench_prompt": (239, 239),
        "harmbench_response": (602, 273),
        "saferlhf": (2000, 1000),
        "beavertails": (3021, 1733),
        "xstest_response": (446, 78),
        "xstest_refusal": (449, 178),
        "multijail": (3150, 3150),
    }


def test_a_row_of_multijail_is_one_request_in_ten_languages(tmp_path: Path) -> None:
    path = tmp_path / "MultiJail.csv"
    path.write_text("id,source,en,zh,it,vi,ar,ko,th,bn,sw,jv,tags\n7,x,a,b,c,d,e,f,g,h,i,j,t\n")
    rows = read_public_column("multijail", path, full=False)
    assert [row.language for row in rows] == ["en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv"]
    assert {(row.harmful, row.group, row.raw["pair"]) for row in rows} == {(True, "multijail/7", "7")}
    assert len({row.id for row in rows}) == 10


@pytest.mark.parametrize("name", PUBLIC_COLUMNS.names())
def test_a_missing_file_says_what_to_fetch_and_from_where(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError) as raised:
        read_public_column(name, tmp_path / "absent.csv")
    column = PUBLIC_COLUMNS.get(name)
    assert column.file in str(raised.value)
    assert column.source.upstream in str(raised.value)
    assert column.source.licence in str(raised.value)


def test_a_set_without_rows_of_the_column_is_refused_as_a_full_copy(write: Write) -> None:
    with pytest.raises(DataError, match="no row of `wildguardtest_response`"):
        read_public_column("wildguardtest_response", write("w.parquet", WILDGUARD))


@pytest.mark.parametrize("rows", [["x"], {"colour": {}}, {}])
def test_a_harmbench_file_of_another_shape_is_refused(write: Write, rows: Any) -> None:
    with pytest.raises(DataError, match="expected an object of lists"):
        read_public_column("harmbench_response", write("h.json", rows))


def test_an_unknown_label_names_the_line(write: Write) -> None:
    path = write("x.jsonl", [XSTEST[0], {**XSTEST[1], "label": "maybe"}])
    with pytest.raises(DataError, match="unknown label `maybe`") as raised:
        read_public_column("xstest_response", path, full=False)
    assert raised.value.where == f"{path}:2"


def test_every_column_has_a_mapper_and_the_reverse() -> None:
    assert set(PUBLIC_COLUMNS) == set(public_columns._MAPPERS)
