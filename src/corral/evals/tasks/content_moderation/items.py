"""What is moderated: a text, an image or a clip with its labels; read from public sets, our own texts and user folders.

Child safety appears as text labels of public sets only: this harness neither holds nor accepts such images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from corral.core.errors import DataError, suggest
from corral.data.examples import ModerationExample
from corral.data.media.kinds import MEDIA_SUFFIXES, VIDEO_SUFFIXES
from corral.data.readers import Row, read_rows
from corral.data.taxonomy import load_taxonomy

Modality = Literal["text", "image", "video"]
BenignKind = Literal["", "plain", "sensitive"]

BENIGN: Final = "benign"
STYLES: Final = {
    "text": ("tweet", "review", "news", "prompt", "reply", "other"),
    "image": ("photo", "cartoon", "sketch", "other"),
    "video": ("clip",),
}
_REFUSED_CATEGORIES: Final = ("child", "minor", "csam", "csae")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to moderate.

    Attributes:
        id: unique.
        modality: of its content.
        style: one of ``STYLES`` of the modality.
        category: code of the taxonomy ``content_moderation``, "" when harmful without one that is known, or ``benign``.
        benign_kind: whether a benign item is ``plain`` or about something grave (``sensitive``); "" when harmful.
        language: ISO 639-1 code, "" when unknown.
        source: name of the set.
        licence: of the content.
        cluster: items of one cluster stand or fall together.
        text: content of a text.
        path: file of an image or clip.
        content_hash: sha256 of the content, 16 digits.
    """

    id: str
    modality: Modality
    style: str
    category: str
    benign_kind: BenignKind
    language: str
    source: str
    licence: str
    cluster: str
    text: str = ""
    path: Path | None = None
    content_hash: str = ""

    @property
    def harmful(self) -> bool:
        """Whether it should be flagged."""
        return self.category != BENIGN

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, the content left out."""
        names = ("id", "modality", "style", "category", "benign_kind", "language", "source", "licence", "cluster")
        return {name: getattr(self, name) for name in names} | {"content_hash": self.content_hash}


def text_item(row: ModerationExample, *, style: str, category: str, benign_kind: BenignKind = "") -> Item:
    """A row of a text set under a label of ours."""
    return Item(
        id=f"{row.source}/{row.id}" if not row.id.startswith(row.source) else row.id,
        modality="text",
        style=style,
        category=category,
        benign_kind=benign_kind,
        language=row.language,
        source=row.source,
        licence=row.licence,
        cluster=row.group,
        text=row.text,
        content_hash=content_hash(row.text.encode("utf-8", "surrogatepass")),
    )


def content_hash(data: bytes) -> str:
    """16 hex digits of the sha256."""
    return hashlib.sha256(data).hexdigest()[:16]


def read_manifest(path: Path, *, licence: str = "") -> Iterator[Item]:
    """The images, clips and texts that a user's manifest lists.

    A CSV or JSONL file with the columns ``path`` (relative to the manifest; or ``text``), ``category`` (a code, or
    ``benign``) and optionally ``id``, ``style``, ``benign_kind``, ``language``, ``source``, ``licence``, ``cluster``.
    Files are hashed, not decoded: one that cannot be decoded is rejected when it is judged.

    Raises:
        NotFoundError: no such manifest.
        DataError: a malformed row, a path outside of the manifest's folder or to nothing, a category that is not known
            or not accepted; names path and line.
    """
    for row in read_rows(path, strict=True):
        try:
            yield _manifest_item(row, path.parent.resolve(), licence)
        except DataError as error:
            raise DataError(error.message, where=f"{row.path}:{row.line}", hint=error.hint) from error


def _manifest_item(row: Row, folder: Path, licence: str) -> Item:
    value = {key: str(cell) for key, cell in row.value.items() if cell not in (None, "")}
    category = _category(value.get("category", ""))
    benign_kind = _benign_kind(value.get("benign_kind", ""), category)
    if "text" in value:
        file, data, modality = None, value["text"].encode("utf-8", "surrogatepass"), "text"
    else:
        file = _file(value.get("path", ""), folder)
        data, modality = file.read_bytes(), "video" if file.name.lower().endswith(VIDEO_SUFFIXES) else "image"
    style = value.get("style", "clip" if modality == "video" else "other")
    if style not in STYLES[modality]:
        raise DataError(f"style is `{style}`", hint=f"Of {modality}s: {', '.join(STYLES[modality])}.")
    return Item(
        id=value.get("id", value.get("path", str(row.line))),
        modality=modality,  # type: ignore[arg-type]
        style=style,
        category=category,
        benign_kind=benign_kind,
        language=value.get("language", ""),
        source=value.get("source", Path(row.path).name),
        licence=value.get("licence", licence),
        cluster=value.get("cluster", value.get("id", value.get("path", str(row.line)))),
        text=value.get("text", ""),
        path=file,
        content_hash=content_hash(data),
    )


def _category(given: str) -> str:
    if any(word in given.lower() for word in _REFUSED_CATEGORIES):
        raise DataError("material of children is not accepted", hint="Report it to the authorities; do not keep it.")
    known = (BENIGN, *load_taxonomy("content_moderation").codes)
    if given not in known:
        raise DataError(f"category is `{given}`", hint=suggest(given, known))
    return given


def _benign_kind(given: str, category: str) -> BenignKind:
    if category != BENIGN:
        return ""
    if (given or "plain") not in get_args(BenignKind):
        raise DataError(f"benign_kind is `{given}`", hint="Use `plain` or `sensitive`.")
    return "sensitive" if given == "sensitive" else "plain"


def _file(given: str, folder: Path) -> Path:
    if not given:
        raise DataError("neither `path` nor `text` is filled")
    file = (folder / given).resolve()
    if not file.is_relative_to(folder):
        raise DataError(f"`{given}` is outside of the manifest's folder")
    if not file.is_file() or not file.name.lower().endswith(MEDIA_SUFFIXES):
        raise DataError(f"`{given}` is not an image or clip that is there", hint=f"Read: {', '.join(MEDIA_SUFFIXES)}.")
    return file


def count_by(items: Iterable[Item]) -> Mapping[str, int]:
    """How many items each source has in each modality and category, as ``source modality category``."""
    counts: dict[str, int] = {}
    for item in items:
        name = f"{item.source} {item.modality} {item.category or 'harmful'} {item.benign_kind}".strip()
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
