"""WikiText's articles, and halves that share none."""

from __future__ import annotations

import gzip
import json

import pytest

from corral.core.errors import DataError
from corral.core.files import sha256_file
from corral.data.wikitext import WIKITEXT, articles, wikitext_half

LINES = [
    " ",
    " = First = ",
    " ",
    " Words of it . ",
    " = = Section = = ",
    " More . ",
    " ",
    " = A second one = ",
    " End . ",
]


def test_articles_begin_with_titles_of_the_first_level():
    found = articles("\n".join(LINES))
    assert [text.strip().splitlines()[0].strip() for text in found] == ["= First =", "= A second one ="]
    assert "= = Section = =" in found[0]


def test_halves_share_no_article(tmp_path):
    write(tmp_path, LINES)
    calibration, evaluation = (wikitext_half(half, tmp_path) for half in ("calibration", "evaluation"))
    assert "First" in calibration[0]
    assert "A second one" in evaluation[0]
    assert not set(calibration) & set(evaluation)


def test_a_text_without_articles_is_refused(tmp_path):
    write(tmp_path, [" words "])
    with pytest.raises(DataError, match="no articles"):
        wikitext_half("calibration", tmp_path)


def write(root, lines):
    folder = root / WIKITEXT
    folder.mkdir()
    path = folder / f"{WIKITEXT}.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps({"line": i, "text": text}) + "\n" for i, text in enumerate(lines))
    entry = {
        "name": WIKITEXT,
        "use": "evaluate_only",
        "language": "en",
        "licence": "CC0",
        "upstream": "here",
        "files": [{"path": f"{WIKITEXT}/{path.name}", "columns": ["line", "text"], "sha256": sha256_file(path)}],
    }
    (root / "index.yaml").write_text(json.dumps({"sets": [entry]}))
