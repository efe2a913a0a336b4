"""The report of a matrix as one HTML file: the tables, and a gallery of the worst errors.

Without ``show_content`` a text is its length and a picture a thumbnail of twelve pixels, which the browser scales up to
a blur: what was in the picture is not in the file.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from corral.core.errors import MediaError
from corral.data.media import MediaLimits
from corral.data.media.access import read_file
from corral.data.media.extra import media_library
from corral.data.media.opening import open_media
from corral.evals.reporting.markup import Markup, element, join
from corral.evals.reporting.page import bullets, page, paragraph, plain_table, section
from corral.evals.tasks.content_moderation.items import Item
from corral.evals.tasks.content_moderation.matrix import Cell
from corral.evals.tasks.content_moderation.report import (
    NO_PUBLISHED,
    RATES,
    RATES_NOTE,
    MatrixReport,
    labels,
    shown_text,
)

THUMBNAIL: Final = 160
"""Pixels of the longer side of a thumbnail, as shown."""

BLURRED: Final = 12
"""Pixels of the longer side of a thumbnail whose content is left out."""

_FIGURE_STYLE: Final = f"display:inline-block;vertical-align:top;margin:0 1em 1em 0;width:{THUMBNAIL}px"
_IMAGE_STYLE: Final = f"display:block;width:{THUMBNAIL}px;height:auto"


def html(report: MatrixReport, *, show_content: bool = False) -> str:
    """The whole page."""
    missing = report.result.missing
    return page(
        "Content moderation",
        paragraph(NO_PUBLISHED),
        paragraph(f"Not finished: {len(missing)} cells are missing, the first: {missing[0]}.") if missing else None,
        *[
            section(
                table.title,
                paragraph(RATES_NOTE) if table.title == RATES else None,
                plain_table(table.columns, [[str(cell or "") for cell in row] for row in table.rows]),
            )
            for table in report.tables()
            if table.rows
        ],
        section(
            "Worst errors",
            paragraph("Texts are left out; a picture is one of twelve pixels, scaled up.")
            if not show_content
            else None,
            *_galleries(report, show_content=show_content),
        ),
        section("What to know", bullets(report.notes)),
        pictures=True,
    )


def _galleries(report: MatrixReport, *, show_content: bool) -> Iterator[Markup]:
    errors = groupby(report.worst_errors(), key=lambda cell: cell.moderator)
    for moderator, cells in errors:
        yield element("h3", moderator)
        shown = list(cells)
        texts = [cell for cell in shown if report.result.items[cell.item].modality == "text"]
        if texts:
            rows = [_text_row(report.result.items[cell.item], cell, show_content) for cell in texts]
            yield plain_table(("item", "is", "flagged", "score", "content"), rows)
        pictures = [cell for cell in shown if cell not in texts]
        yield join(*[_figure(report.result.items[cell.item], cell, show_content) for cell in pictures])


def _text_row(item: Item, cell: Cell, show_content: bool) -> tuple[str, ...]:
    return (item.id, *labels(item, cell), shown_text(item) if show_content else f"({len(item.text)} characters)")


def _figure(item: Item, cell: Cell, show_content: bool) -> Markup:
    kind, flagged, score = labels(item, cell)
    uri = thumbnail_uri(item, THUMBNAIL if show_content else BLURRED)
    alt = f"{item.modality} {item.id}" + ("" if show_content else ", blurred")
    picture = paragraph("cannot be decoded") if uri is None else element("img", src=uri, alt=alt, style=_IMAGE_STYLE)
    caption = element("figcaption", f"{item.id}: is {kind}; flagged: {flagged}, score {score}")
    return element("figure", picture, caption, style=_FIGURE_STYLE)


def thumbnail_uri(item: Item, longest_side: int) -> str | None:
    """A picture, or the middle frame of a clip, scaled down to so many pixels, as a PNG in a ``data:`` URI.

    ``None`` where the file is gone or cannot be decoded within the limits.
    """
    limits = MediaLimits()
    try:
        if item.path is None:
            return None
        media = open_media(read_file(item.path, limits), limits)
        frame = next(iter(media.frames([len(media.starts_s) // 2])))
    except (MediaError, StopIteration):
        return None
    pillow = media_library("PIL.Image")
    image = pillow.fromarray(frame.rgb)
    scale = longest_side / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size], pillow.Resampling.BOX)
    with io.BytesIO() as buffer:
        image.save(buffer, format="PNG")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
