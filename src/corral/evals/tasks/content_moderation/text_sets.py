"""Items of public text sets and of our own controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from corral.core.errors import ConfigError, suggest
from corral.data.examples import ModerationExample
from corral.data.self_written.benign_controls import SOURCE as CONTROLS
from corral.data.self_written.benign_controls import benign_controls
from corral.data.sources import load_source
from corral.data.splits import draw_groups
from corral.evals.tasks.content_moderation.items import BENIGN, BenignKind, Item, text_item

__all__ = ["CONTROLS", "TEXT_SETS", "control_items", "text_items"]

_Labelled = tuple[str, str, BenignKind]
"""Style, category and kind of benign."""

_OPENAI_COLUMNS: Final = {"H": "hate", "H2": "hate", "S": "sexual", "V": "violence", "V2": "gore", "SH": "self_harm"}
_MINORS: Final = "S3"


def _davidson(row: ModerationExample) -> _Labelled | None:
    return {
        "hate_speech": ("tweet", "hate", ""),
        "offensive_language": ("tweet", "offensive", ""),
        "neither": ("tweet", BENIGN, "plain"),
    }.get(str(row.raw.get("label")))  # type: ignore[return-value]


def _tweeteval(row: ModerationExample) -> _Labelled | None:
    task = row.id.partition(":")[0]
    if row.raw.get("label") == 1:
        return "tweet", "hate" if task == "tweeteval_hate" else "offensive", ""
    return ("tweet", BENIGN, "plain") if row.raw.get("label") == 0 else None


def _openai_moderation(row: ModerationExample) -> _Labelled | None:
    """The first positive column; a missing one is unknown, so a row is benign only when no column is positive."""
    if row.raw.get(_MINORS):
        return None
    found = [category for column, category in _OPENAI_COLUMNS.items() if row.raw.get(column) == 1]
    if found:
        return "other", found[0], ""
    return ("other", "", "") if row.harmful else ("other", BENIGN, "plain")


def _hatecheck(row: ModerationExample) -> _Labelled | None:
    """Its negatives are built to look like hate: counter-speech, reclaimed words, abuse of things."""
    return ("tweet", "hate", "") if row.harmful else ("tweet", BENIGN, "sensitive")


def _xstest(row: ModerationExample) -> _Labelled | None:
    return ("prompt", "", "") if row.harmful else ("prompt", BENIGN, "sensitive")


_READERS: Final[Mapping[str, Callable[[ModerationExample], _Labelled | None]]] = {
    "davidson": _davidson,
    "tweeteval": _tweeteval,
    "openai_moderation": _openai_moderation,
    "hatecheck_en": _hatecheck,
    "xstest_prompts": _xstest,
}
TEXT_SETS: Final = tuple(_READERS)
"""Names that ``text_items`` knows."""


def text_items(
    name: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    keep: Callable[[ModerationExample], bool] = lambda row: True,
) -> Iterator[Item]:
    """Items of a text set, whole groups drawn at random under ``limit``.

    Args:
        name: one of ``TEXT_SETS``.
        limit: at most so many; all when ``None``.
        seed: of the draw.
        root: the data folder.
        keep: rows that may be drawn, for example those of a split.

    Raises:
        ConfigError: an unknown name.
        NotFoundError: the source is not in the data folder.
    """
    if name not in _READERS:
        raise ConfigError(f"no text set is named `{name}`", hint=suggest(name, TEXT_SETS))
    labelled = [(row, found) for row in load_source(name, root) if keep(row) and (found := _READERS[name](row))]
    chosen = {row.id for row in draw_groups([row for row, _ in labelled], limit, seed=seed)}
    for row, (style, category, kind) in labelled:
        if row.id in chosen:
            yield text_item(row, style=style, category=category, benign_kind=kind)


def control_items(*, places: int, seed: int = 0) -> Iterator[Item]:
    """Our own controls: harmless texts about grave subjects and their everyday twins, of so many places a pair."""
    for row in benign_controls(places=places, seed=seed):
        kind: BenignKind = "sensitive" if row.raw["kind"] == "sensitive" else "plain"
        yield text_item(row, style=_control_style(str(row.raw["style"])), category=BENIGN, benign_kind=kind)


def _control_style(style: str) -> str:
    return {"news": "news", "fiction_review": "review", "product": "review"}.get(style, "other")
