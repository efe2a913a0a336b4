"""Writing the scorecard for people: Markdown and one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from corral.core.files import atomic_write_text
from corral.evals.scorecard.html import html
from corral.evals.scorecard.markdown import markdown
from corral.evals.scorecard.results import Scorecard
from corral.evals.tasks.task import SampleScore

HTML: Final = "scorecard.html"
MARKDOWN: Final = "scorecard.md"


def write_reports(
    card: Scorecard, samples: Mapping[str, Sequence[SampleScore]], out: Path, *, show_content: bool = False
) -> None:
    """Write both files, each whole or not at all.

    Args:
        card: the figures.
        samples: task to its samples.
        out: folder, made when needed.
        show_content: print requests and replies, which may describe serious harm.
    """
    atomic_write_text(out / MARKDOWN, markdown(card))
    atomic_write_text(out / HTML, html(card, samples, show_content=show_content))
