"""Competing objectives: following instructions against declining (Wei et al., arXiv 2307.02483)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from corral.redteam.styles.templates import StyleFactory, templated

STYLES: Final[Mapping[str, StyleFactory]] = templated("competing")
