"""The page of a matrix needs nothing else, and what it leaves out is not in the file."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest

from corral.evals.report_tables import Table
from corral.evals.tasks.content_moderation.conditions import PLAIN
from corral.evals.tasks.content_moderation.html import BLURRED, THUMBNAIL, html, thumbnail_uri
from corral.evals.tasks.content_moderation.items import Item, content_hash
from corral.evals.tasks.content_moderation.matrix import Matrix
from corral.evals.tasks.content_moderation.moderators import MediaModerator, TextModerator
from corral.evals.tasks.content_moderation.report import Hypothesis, report_of
from corral.guards.media.loading import load_media_guard
from corral.guards.scripted import ScriptedGuard

PIL_Image = pytest.importorskip("PIL.Image")


def picture(folder: Path, id: str, colour: tuple[int, int, int], category: str) -> Item:
    path = folder / f"{id}.png"
    pixels = np.full((200, 400, 3), colour, np.uint8)
    pixels[::2, ::2] = 0  # fine detail, which a blurred thumbnail must not hold
    PIL_Image.fromarray(pixels).save(path)
    return Item(id, "image", "photo", category, "", "", "made", "", id, path=path, content_hash=content_hash(b"x"))


def decoded(uri: str) -> np.ndarray:
    return np.asarray(PIL_Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.fixture
def report(tmp_path: Path, items: list[Item]):  # type: ignore[no-untyped-def]
    pictures = [picture(tmp_path, "red", (255, 0, 0), "benign"), picture(tmp_path, "blue", (0, 0, 255), "sexual")]
    guard = MediaModerator(load_media_guard("scripted-media"))
    result = Matrix([*items, *pictures], [TextModerator(ScriptedGuard()), guard], [PLAIN], tmp_path / "m").run()
    statement = Hypothesis("Guards <see> all.", "ours", "cannot say", "a test")
    pooling = Table("Pooling", ("rule", "frames"), (("top_mean, m = 2", "4"),))
    return report_of(result, hypotheses=[statement], notes=["A note."], more=[pooling], replicates=20)


def test_a_page_holds_every_table_and_no_content(report) -> None:  # type: ignore[no-untyped-def]
    page = html(report)
    for title in ("Items", "Moderators", "Misses by category", "Worst errors", "What others found"):
        assert title in page
    assert "nothing to find" not in page
    assert "(15 characters)" in page
    assert "Guards &lt;see&gt; all." in page
    assert "img-src data:" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "A note." in page
    assert "Pooling" in page
    assert "top_mean, m = 2" in page


def test_pictures_are_blurred_unless_they_are_asked_for(report) -> None:  # type: ignore[no-untyped-def]
    blurred = [decoded(uri) for uri in re.findall(r'src="(data:[^"]+)"', html(report))]
    assert blurred
    assert all(max(pixels.shape) == BLURRED for pixels in blurred)
    shown = html(report, show_content=True)
    assert "nothing to find" in shown
    assert all(max(decoded(uri).shape) == THUMBNAIL for uri in re.findall(r'src="(data:[^"]+)"', shown))


def test_what_cannot_be_decoded_has_no_picture(tmp_path: Path) -> None:
    broken = picture(tmp_path, "broken", (1, 2, 3), "benign")
    assert broken.path is not None
    broken.path.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    assert thumbnail_uri(broken, BLURRED) is None
    broken.path.unlink()
    assert thumbnail_uri(broken, BLURRED) is None
