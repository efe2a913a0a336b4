"""Writing a comparison: JSON for programs, Markdown and one HTML file for people."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from corral.core.files import atomic_write_json, atomic_write_text
from corral.evals.compare.html import html
from corral.evals.compare.markdown import markdown
from corral.evals.compare.results import Comparison

JSON: Final = "compare.json"
MARKDOWN: Final = "compare.md"
HTML: Final = "compare.html"


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write the three files, each whole or not at all; the folder is made when needed."""
    atomic_write_json(out / JSON, comparison.model_dump(mode="json"))
    atomic_write_text(out / MARKDOWN, markdown(comparison))
    atomic_write_text(out / HTML, html(comparison))
