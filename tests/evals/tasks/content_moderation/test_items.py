import json
from pathlib import Path

import pytest

from corral.core.errors import DataError
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.evals.tasks.content_moderation.items import read_manifest
from corral.evals.tasks.content_moderation.text_sets import _READERS, CONTROLS, control_items


def manifest(folder: Path, *rows: dict[str, str]) -> Path:
    (folder / "a.png").write_bytes(b"any bytes")
    (folder / "b.mp4").write_bytes(b"other bytes")
    path = folder / "media.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_a_manifest_lists_the_users_images_clips_and_texts(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        {"path": "a.png", "category": "violence", "style": "cartoon", "cluster": "film"},
        {"path": "b.mp4", "category": "benign", "benign_kind": "sensitive"},
        {"text": "hello", "category": "benign", "id": "greeting", "style": "tweet"},
    )
    image, clip, text = read_manifest(path, licence="mine")
    assert (image.modality, image.style, image.category, image.cluster) == ("image", "cartoon", "violence", "film")
    assert image.harmful and image.benign_kind == "" and image.path == tmp_path / "a.png"
    assert (clip.modality, clip.style, clip.benign_kind, clip.harmful) == ("video", "clip", "sensitive", False)
    assert (text.modality, text.text, text.id, text.licence) == ("text", "hello", "greeting", "mine")
    assert len({image.content_hash, clip.content_hash, text.content_hash}) == 3
    assert "text" not in text.to_json()


def test_a_csv_manifest_is_read_too(tmp_path: Path) -> None:
    manifest(tmp_path)
    (tmp_path / "media.csv").write_text("path,category\na.png,benign\n")
    (item,) = read_manifest(tmp_path / "media.csv")
    assert (item.benign_kind, item.source) == ("plain", "media.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "../a.png", "category": "benign"}, "outside"),
        ({"path": "absent.png", "category": "benign"}, "not an image or clip"),
        ({"path": "media.jsonl", "category": "benign"}, "not an image or clip"),
        ({"path": "a.png", "category": "violnce"}, "category is `violnce`"),
        ({"path": "a.png", "category": "child abuse"}, "not accepted"),
        ({"path": "a.png", "category": "benign", "benign_kind": "odd"}, "benign_kind"),
        ({"path": "a.png", "category": "gore", "style": "tweet"}, "style"),
        ({"category": "gore"}, "neither"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(tmp_path: Path, row: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(read_manifest(manifest(tmp_path, row)))
    assert str(caught.value.where).endswith("media.jsonl:1")


def labelled(name: str, **raw: object) -> tuple[str, str, str] | None:
    harmful = raw.pop("harmful", None)
    id = str(raw.pop("id", f"{name}:1"))
    row = ModerationExample(Conversation.user("x"), "prompt", harmful=harmful, id=id, raw=raw)  # type: ignore[arg-type]
    return _READERS[name](row)


def test_labels_of_public_sets_become_categories_of_ours() -> None:
    assert labelled("davidson", label="hate_speech") == ("tweet", "hate", "")
    assert labelled("davidson", label="neither") == ("tweet", "benign", "plain")
    assert labelled("davidson", label="?") is None
    assert labelled("tweeteval", label=1, id="tweeteval_offensive:4") == ("tweet", "offensive", "")
    assert labelled("tweeteval", label=1, id="tweeteval_hate:4") == ("tweet", "hate", "")
    assert labelled("hatecheck_en", harmful=False) == ("tweet", "benign", "sensitive")
    assert labelled("xstest_prompts", harmful=True) == ("prompt", "", "")


def test_openai_moderation_rows_take_their_first_positive_column_and_those_of_minors_are_left_out() -> None:
    assert labelled("openai_moderation", H=0, V=1, SH=1, harmful=True) == ("other", "violence", "")
    assert labelled("openai_moderation", HR=1, harmful=True) == ("other", "", "")
    assert labelled("openai_moderation", H=0, harmful=False) == ("other", "benign", "plain")
    assert labelled("openai_moderation", S=1, S3=1, harmful=True) is None


def test_controls_are_benign_items_of_both_kinds() -> None:
    items = list(control_items(places=1))
    assert {item.source for item in items} == {CONTROLS}
    assert {item.benign_kind for item in items} == {"plain", "sensitive"}
    assert not any(item.harmful for item in items)
    assert {"news", "review", "other"} == {item.style for item in items}
