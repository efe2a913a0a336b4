"""``corral moderate`` on images, clips and rows with image parts."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from corral.cli.main import main

PIL_Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("red.png", "red"), ("blue.jpg", "blue")):
        PIL_Image.new("RGB", (16, 12), colour).save(tmp_path / name)
    frames = [PIL_Image.new("RGB", (8, 8), "red" if i == 7 else (0, 90 + i, 0)) for i in range(10)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    code = main(["moderate", *arguments, "--guard", "scripted", "--media-guard", "scripted-media"])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


KEYS = [
    *("id", "action", "flagged", "status", "p_harm", "p_refusal", "p_attack"),
    *("categories", "target", "guard", "windows", "latency_ms"),
]


def test_an_image_gives_a_row_of_the_usual_shape(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, (row,), _ = run(capsys, str(folder / "red.png"))
    assert list(row) == KEYS
    assert (code, row["id"], row["action"], row["guard"], row["windows"]) == (
        3,
        "red.png",
        "block",
        "scripted-media",
        1,
    )
    assert run(capsys, str(folder / "blue.jpg"))[0] == 0


def test_a_clip_is_sampled_and_its_frames_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, (row,), _ = run(capsys, str(folder / "clip.gif"))
    assert (code, row["windows"], row["p_harm"]) == (3, 10, 1.0)
    code, (row,), _ = run(capsys, str(folder / "clip.gif"), "--set", "scripted-media.frames=3")
    assert (code, row["windows"], row["p_harm"]) == (0, 3, 0.0)


def test_the_table_says_where_the_highest_score_stands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["moderate", str(folder / "clip.gif"), "--media-guard", "scripted-media", "--format", "table"])
    assert "10, the highest 1.00 at 0.70 s" in capsys.readouterr().out


@pytest.mark.parametrize("option", [("--preset", "strict"), ("--preset", "strict", "--thresholds", "presets.json")])
def test_a_preset_is_refused_since_it_would_have_no_effect(
    folder: Path, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows, err = run(capsys, str(folder / "red.png"), *option)
    assert (code, rows) == (2, [])
    assert "--preset is for guards of text" in err


def test_an_explained_clip_says_what_was_found_in_each_frame(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, (row,), _ = run(capsys, str(folder / "clip.gif"), "--explain")
    assert list(row) == [*KEYS, "explained"]
    (said,) = row["explained"]
    assert (said["guard"], said["modality"], len(said["frames"])) == ("scripted-media", "clip", 10)
    assert max(said["frames"], key=lambda frame: frame["p_harm"])["time_s"] == pytest.approx(0.7)


def test_a_broken_image_is_blocked_and_the_reason_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, (row,), err = run(capsys, str(folder / "broken.png"))
    assert (code, row["status"], row["flagged"], row["action"]) == (3, "rejected", None, "block")
    assert "damaged" in err


def test_any_name_is_an_image_with_media(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "upload").write_bytes((folder / "red.png").read_bytes())
    assert run(capsys, str(folder / "upload"), "--media")[0] == 3
    assert run(capsys, "only words", "--media")[0] == 2


def test_an_image_that_is_not_there_is_no_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, err = run(capsys, str(folder / "absent.png"))
    assert (code, rows) == (2, [])
    assert "no such file" in err


def rows_file(folder: Path) -> Path:
    with io.BytesIO() as buffer:
        PIL_Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
        inline = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    rows = [{"id": "words", "text": "hello"}]
    for id, words, url in (("inline", "look", inline), ("path", "TRIGGER", "blue.jpg"), ("up", "x", "../blue.jpg")):
        parts = [{"type": "text", "text": words}, {"type": "image_url", "image_url": {"url": url}}]
        rows.append({"id": id, "messages": [{"role": "user", "content": parts}]})  # type: ignore[dict-item]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder / "rows.jsonl"


def test_rows_may_hold_images_as_data_uris(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, err = run(capsys, str(rows_file(folder)))
    assert [(row["id"], row["status"], row["action"]) for row in rows] == [
        ("words", "ok", "allow"),
        ("inline", "ok", "block"),
        ("path", "rejected", "block"),
        ("up", "rejected", "block"),
    ]
    assert (code, rows[1]["guard"], list(rows[1])) == (1, "scripted+scripted-media", KEYS)
    assert "local paths are not allowed" in err


def test_paths_are_followed_under_the_folder_that_is_allowed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, rows, err = run(capsys, str(rows_file(folder)), "--media-root", str(folder))
    assert [(row["id"], row["status"]) for row in rows] == [
        ("words", "ok"),
        ("inline", "ok"),
        ("path", "ok"),
        ("up", "rejected"),
    ]
    assert "outside of the allowed folder" in err


def test_a_journal_is_not_continued_with_another_media_guard(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(folder / "out.jsonl")
    assert run(capsys, str(rows_file(folder)), "--out", out)[0] == 1
    code, _, err = run(capsys, str(rows_file(folder)), "--out", out, "--set", "scripted-media.frames=3")
    assert code == 2
    assert "scripted-media.frames" in err
