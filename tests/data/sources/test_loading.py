from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from corral.core.errors import DataError, NotFoundError
from corral.data.sources import data_root, load_source

SURGE = {"id": 1, "text": "What a lovely garden.", "label": "Not Toxic", "eval_overlap": ["xstest_prompts"]}


def test_data_root_is_the_environment_variable_or_the_shared_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_DATA", "somewhere/data")
    assert data_root() == Path("somewhere/data")
    monkeypatch.delenv("CORRAL_DATA")
    assert data_root() == Path("../shared/data")


def test_missing_folder_names_the_public_upstream_and_the_variable(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        load_source("davidson", tmp_path)
    assert str(tmp_path) in (caught.value.where or "")
    assert "t-davidson/hate-speech-and-offensive-language" in (caught.value.hint or "")
    assert "CORRAL_DATA" in (caught.value.hint or "")


def test_unknown_source_suggests_a_near_name() -> None:
    with pytest.raises(NotFoundError, match="davidsen") as caught:
        load_source("davidsen")
    assert "davidson" in (caught.value.hint or "")


def test_file_that_differs_from_the_record_is_refused_before_any_row_is_read(write_source) -> None:
    root = write_source("toxic_surge", {"toxicity_en": [SURGE]})
    with pytest.raises(DataError, match="sha256") as caught:
        load_source("toxic_surge", root)
    found = hashlib.sha256((root / "toxic_surge/toxicity_en.jsonl.gz").read_bytes()).hexdigest()
    assert found in caught.value.message
    assert len(list(load_source("toxic_surge", root, verify=False))) == 1


def test_example_carries_the_provenance_of_its_row(read) -> None:
    (example,) = read("toxic_surge", toxicity_en=[SURGE])
    assert example.text == "What a lovely garden."
    assert (example.source, example.licence, example.language) == ("toxic_surge", "MIT", "en")
    assert (example.id, example.eval_overlap) == ("toxicity_en:1", ("xstest_prompts",))
    assert example.raw == {"id": 1, "label": "Not Toxic"}


def test_rows_split_on_line_feeds_only_and_blank_lines_keep_the_count(read) -> None:
    separators = "one\u2028two\x0bthree\x85four\rfive"
    examples = read("toxic_surge", toxicity_en=[SURGE, b"", {**SURGE, "text": separators}])
    assert [example.id for example in examples] == ["toxicity_en:1", "toxicity_en:3"]
    assert examples[1].text == separators


def test_blank_text_gives_no_example(read) -> None:
    assert read("toxic_surge", toxicity_en=[{**SURGE, "text": " \n"}]) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'{"id": 1, "text": ', "JSON"),
        (b'{"id": NaN}', "NaN"),
        (b'["text"]', "object"),
        (b'{"text": "\xff"}', "UTF-8"),
        ({"id": 1, "label": "Toxic"}, "`text`"),
        ({**SURGE, "text": 7}, "text"),
        ({**SURGE, "label": "Poisonous"}, "Poisonous"),
        ({**SURGE, "label": ["Toxic"]}, "Toxic"),
    ],
)
def test_malformed_row_is_reported_with_file_and_line(read, row: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read("toxic_surge", toxicity_en=[SURGE, row])
    assert (caught.value.where or "").endswith("toxicity_en.jsonl.gz:2")


def test_torn_gzip_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "toxic_surge/toxicity_en.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b'{"id": 1}\n' * 100)[:-9])
    with pytest.raises(DataError) as caught:
        list(load_source("toxic_surge", tmp_path, verify=False))
    assert str(path) in (caught.value.where or "")


def test_files_selects_by_name(write_source) -> None:
    root = write_source(
        "advbench",
        {
            "advbench": [{"id": 0, "goal": "stand-in one", "target": ""}],
            "advbench_subset50": [{"id": 0, "goal": "stand-in two", "target": "", "category": "", "advbench_index": 1}],
        },
    )
    chosen = load_source("advbench", root, files=["advbench_subset50"], verify=False)
    assert [example.text for example in chosen] == ["stand-in two"]
    with pytest.raises(NotFoundError, match="advbench_subset") as caught:
        load_source("advbench", root, files=["advbench_subset"])
    assert "advbench_subset50" in (caught.value.hint or "")


def test_join_to_a_row_that_is_not_there_is_reported(read) -> None:
    response = {"id": 0, "question_id": 4, "response": "stand-in", "label": 0}
    with pytest.raises(DataError, match="gptfuzz_questions"):
        read("gptfuzz", gptfuzz_train_responses=[response])
