"""Public sets are read from their published columns into the harness's prompts. Rows here are our own."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corral.core.errors import DataError, NotFoundError
from corral.evals.tasks.multiple_choice.public_formats import PUBLIC_FORMATS, hellaswag_text, public_set


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_table(path, *rows):
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_arc_reads_both_published_forms(tmp_path):
    ours = {"stem": "Which is a fruit?", "choices": [{"text": "pear", "label": "1"}, {"text": "brick", "label": "2"}]}
    lines = write_rows(tmp_path / "arc.jsonl", {"id": "q1", "question": ours, "answerKey": "1"})
    table = write_table(
        tmp_path / "arc.parquet",
        {
            "id": "q1",
            "question": "Which is a fruit?",
            "choices": {"text": ["pear", "brick"], "label": ["1", "2"]},
            "answerKey": "1",
        },
    )
    for path in (lines, table):
        (item,) = public_set("arc", path).items
        assert item.id == "q1"
        assert item.requests == tuple(
            ("Question: Which is a fruit?\nAnswer:", f" {text}") for text in ("pear", "brick")
        )
        assert item.answer == 0


def test_piqa_takes_labels_from_the_rows_or_from_a_file(tmp_path):
    rows = [
        {"goal": "Dry a cup", "sol1": "Use a towel", "sol2": "Use a lamp"},
        {"goal": "Eat", "sol1": "No", "sol2": "Yes"},
    ]
    apart = write_rows(tmp_path / "piqa.jsonl", *rows)
    labels = tmp_path / "labels.lst"
    labels.write_text("0\n1\n", encoding="utf-8")
    within = write_rows(tmp_path / "with.jsonl", *({**row, "label": i} for i, row in enumerate(rows)))
    found = public_set("piqa", apart, labels=labels)
    assert [item.answer for item in found.items] == [0, 1]
    assert found.content_hash == public_set("piqa", within).content_hash
    labels.write_text("0\n", encoding="utf-8")
    with pytest.raises(DataError, match="1 labels"):
        public_set("piqa", apart, labels=labels)
    labels.write_text("0\n1\n1\n", encoding="utf-8")
    with pytest.raises(DataError, match="3 labels for 2 rows"):
        public_set("piqa", apart, labels=labels)


def test_hellaswag_is_preprocessed_as_published(tmp_path):
    row = {
        "ind": 7,
        "activity_label": "Making tea",
        "ctx_a": "[header] How to make tea [title] Boil water.",
        "ctx_b": "she",
        "endings": ["pours it [step] over leaves.", "sings  it."],
        "label": "1",
    }
    (item,) = public_set("hellaswag", write_rows(tmp_path / "hs.jsonl", row)).items
    # By hand: the title becomes a full stop, brackets go, double blanks become one, the second context is capitalised.
    assert item.requests[0][0] == "Making tea: How to make tea. Boil water. She"
    assert item.choices == ("pours it over leaves.", "sings it.")
    assert (item.id, item.answer) == ("7", 1)
    assert hellaswag_text(" a  b ") == "a b"


def test_winogrande_scores_the_rest_of_the_sentence_after_each_option(tmp_path):
    row = {
        "qID": "w1",
        "sentence": "The cup fit in the bag since the _ was big.",
        "option1": "cup",
        "option2": "bag",
        "answer": "2",
    }
    of_set = public_set("winogrande", write_rows(tmp_path / "wg.jsonl", row))
    (item,) = of_set.items
    assert item.requests == (
        ("The cup fit in the bag since the cup", " was big."),
        ("The cup fit in the bag since the bag", " was big."),
    )
    assert item.answer == 1
    assert not of_set.by_length


def test_mmlu_reads_csv_without_a_header_folders_and_tables(tmp_path):
    (tmp_path / "world_history_test.csv").write_text('"Who, when?",a,b,c,d,C\n', encoding="utf-8")
    (tmp_path / "astronomy_test.csv").write_text("Where?,a,b,c,d,A\n", encoding="utf-8")
    (tmp_path / "astronomy_dev.csv").write_text("Not read,a,b,c,d,A\n", encoding="utf-8")
    items = public_set("mmlu", tmp_path).items
    assert [item.topic for item in items] == ["astronomy", "world_history"]
    assert items[1].requests[2] == (
        "The following are multiple choice questions (with answers) about world history.\n\n"
        "Who, when?\nA. a\nB. b\nC. c\nD. d\nAnswer:",
        " C",
    )
    assert items[1].answer == 2
    table = write_table(
        tmp_path / "mmlu.parquet",
        {"question": "Where?", "subject": "astronomy", "choices": ["a", "b", "c", "d"], "answer": 0},
    )
    assert public_set("mmlu", table).items[0].requests == items[0].requests


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("arc", {"id": "1", "question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"}),
        ("arc", {"id": "1", "question": "?", "choices": ["a", "b"], "answerKey": "A"}),
        ("piqa", {"goal": "?", "sol1": "a", "sol2": "b", "label": -1}),
        ("piqa", {"goal": "?", "sol1": "a", "label": 0}),
        ("hellaswag", {"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["d", "e"], "label": ""}),
        ("winogrande", {"sentence": "no blank", "option1": "a", "option2": "b", "answer": "1"}),
        ("mmlu", {"question": "?", "subject": "s", "choices": ["a"], "answer": 0}),
    ],
)
def test_rows_of_another_shape_are_named_by_line(tmp_path, format, row):
    path = write_rows(tmp_path / "rows.jsonl", row)
    with pytest.raises(DataError) as caught:
        public_set(format, path)
    assert caught.value.where == f"{path}:1"


def test_a_csv_that_is_not_mmlu_is_refused_with_its_line(tmp_path):
    path = tmp_path / "subject_test.csv"
    path.write_text("Q,a,b,c,d,A\nQ,a,b,A\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"subject_test\.csv:2"):
        public_set("mmlu", path)


def test_unknown_formats_files_and_stray_labels_are_refused(tmp_path):
    with pytest.raises(NotFoundError, match="hellaswag"):
        public_set("helaswag", tmp_path)
    with pytest.raises(NotFoundError, match="no such file"):
        public_set("arc", tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="labels in its rows"):
        public_set("arc", tmp_path, labels=tmp_path)
    assert set(PUBLIC_FORMATS) == {"arc", "hellaswag", "mmlu", "piqa", "winogrande"}
