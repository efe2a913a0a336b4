"""Harmless texts about grave subjects, each with a twin about an everyday one: what over-flagging is measured on.

Six styles: news reports, medical, legal and historical texts, fiction reviews and product descriptions. All are written
for this project and synthetic: made from templates (``benign_controls.yaml``) by this generator under a seed, which is
in every row. Twins share template, place and length, so that what flags one and not the other is the subject alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Literal

import numpy as np

from corral.core.yaml import parse_yaml
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation

Kind = Literal["sensitive", "plain"]
SOURCE: Final = "self_written/benign_controls"
GENERATOR: Final = "corral.data.self_written.benign_controls/1"
KINDS: Final[tuple[Kind, ...]] = ("sensitive", "plain")
_FILE: Final = "benign_controls.yaml"


@dataclass(frozen=True, slots=True)
class _Template:
    style: str
    number: int
    text: str
    fillings: Mapping[Kind, list[Mapping[str, str]]]


def benign_controls(*, places: int = 8, seed: int = 0) -> list[ModerationExample]:
    """The rows, twins one after the other.

    Args:
        places: how many places each pair of twins is told of; 1 to 8.
        seed: of the draw of places.

    Returns:
        Rows with ``harmful`` false. ``group`` names the pair of fillings, whatever the place; ``raw`` holds ``style``,
        ``kind``, ``synthetic`` (true), ``generator`` and ``seed``.
    """
    value = _read()
    generator = np.random.default_rng(seed)
    rows = []
    for template in _templates(value):
        for pair in range(len(template.fillings["plain"])):
            drawn = generator.permutation(len(value["places"]))[:places]
            chosen = [value["places"][index] for index in drawn.tolist()]
            told = chosen if "{place}" in template.text else chosen[:1]
            rows += [_row(template, pair, place, kind, seed) for place in told for kind in KINDS]
    return rows


def _row(template: _Template, pair: int, place: str, kind: Kind, seed: int) -> ModerationExample:
    text = template.text.format(place=place, **template.fillings[kind][pair])
    group = f"{SOURCE}/{template.style}/{template.number}/{pair}"
    return ModerationExample(
        Conversation.user(text[0].upper() + text[1:]),
        "prompt",
        harmful=False,
        attack=False,
        language="en",
        source=SOURCE,
        licence="Apache-2.0",
        id=f"{group}/{kind}/{place}",
        group=group,
        raw={"style": template.style, "kind": kind, "synthetic": True, "generator": GENERATOR, "seed": seed},
    )


def _templates(value: Mapping[str, Any]) -> Iterator[_Template]:
    for style, templates in value["styles"].items():
        for number, template in enumerate(templates):
            yield _Template(style, number, template["text"], {kind: template[kind] for kind in KINDS})


def _read() -> Mapping[str, Any]:
    text = (resources.files(__package__) / _FILE).read_text(encoding="utf-8")
    value: Mapping[str, Any] = parse_yaml(text, where=_FILE)
    return value
