"""Attacks that search for a prompt: they ask the target, and a judge, a second model or gradients, as they go."""

from collections.abc import Mapping
from typing import Final

from corral.redteam.styles.search import autodan, gcg, pair, tap
from corral.redteam.styles.search.tools import Attacker, Found, SearchTools
from corral.redteam.styles.templates import StyleFactory

STYLES: Final[Mapping[str, StyleFactory]] = {
    "pair": pair.pair,
    "tap": tap.tap,
    "autodan_ga": autodan.autodan_ga,
    "gcg": gcg.gcg,
}

__all__ = ["STYLES", "Attacker", "Found", "SearchTools"]
