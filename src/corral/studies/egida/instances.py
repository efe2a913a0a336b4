"""Base requests of the study, expanded into styles and split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from corral.core.files import sha256_json
from corral.data.dedup import deduplicate
from corral.data.never_answered import speaks_of_sex_or_minors
from corral.data.splits import group_fraction
from corral.redteam.egida.expand import BaseRequest, expand, load_base
from corral.redteam.egida.split import CELLS, Split, SplitSettings, split_instances
from corral.redteam.egida.topics import topics
from corral.redteam.goals import LEFT_OUT, Goal, load_goals
from corral.redteam.styles import choose_styles
from corral.studies.egida.settings import STAND_IN, EgidaConfig
from corral.studies.egida.stand_ins import stand_in_benign, stand_in_requests

_NEVER: Final = ("adult", "child")


@dataclass(frozen=True)
class Drawn:
    """What the study asks.

    Attributes:
        split: instances to train and to test on.
        benign: harmless controls.
        account: plain JSON that depends on these alone.
    """

    split: Split
    benign: tuple[Goal, ...]
    account: dict[str, Any]

    def test_requests(self, limit: int) -> list[Goal]:
        """Base requests of the test side, those of unseen topics and others in turn, so many at the most."""
        of_cell = [list(dict.fromkeys(e.base.goal for e in self.split.test[cell])) for cell in (CELLS[2], CELLS[0])]
        found: list[Goal] = []
        for number in range(max(map(len, of_cell), default=0)):
            found += [goals[number] for goals in of_cell if number < len(goals)]
        return list(dict.fromkeys(found))[:limit]


def draw_instances(config: EgidaConfig) -> Drawn:
    """Draw requests, leave near duplicates out, expand and split.

    Raises:
        NotFoundError: a source is not in the data folder.
        DataError: a request without a topic, an empty side, or a leak between the sides.
    """
    asked = config.requests
    base = _base(config)
    unique = deduplicate([request.goal.text for request in base])
    styles, _ = choose_styles(asked.styles)
    expanded = expand([base[index] for index in unique.kept], styles, seed=config.seed)
    held_out = SplitSettings(asked.held_out_topics, asked.held_out_styles, asked.test_share, config.seed)
    split = split_instances(expanded.instances, held_out)
    benign = _benign(config)
    account = {
        "base_requests": len(unique.kept),
        "near_duplicates_left_out": [
            {"request": base[pair.second].id, "repeats": base[pair.first].id, "similarity": round(pair.similarity, 3)}
            for pair in unique.removed
        ],
        "instances": len(expanded.instances),
        "not_applicable": dict(expanded.not_applicable),
        "train": len(split.train),
        "test": {cell: len(split.test[cell]) for cell in CELLS},
        "unused": split.unused,
        "benign": len(benign),
        "licences": {request.goal.source: request.goal.licence for request in base},
        "sha256": sha256_json([each.uuid for each in expanded.instances] + [goal.text for goal in benign]),
    }
    return Drawn(split, tuple(benign), account)


def source_names(config: EgidaConfig) -> Iterator[str]:
    """Public sources that the study reads."""
    yield from (name for name in (*config.requests.sources, *config.requests.benign) if name != STAND_IN)


def _base(config: EgidaConfig) -> list[BaseRequest]:
    asked = config.requests
    if asked.sources == (STAND_IN,):
        return stand_in_requests(asked.limit)
    leave_out = (*LEFT_OUT, *_NEVER)
    usable = [each for each in load_base(asked.sources, leave_out=leave_out) if _is_used(each)]
    drawn = sorted(usable, key=lambda each: group_fraction(f"egida/{each.id}", seed=config.seed))
    return drawn[: asked.limit]


def _is_used(request: BaseRequest) -> bool:
    """Of a named topic, English, and neither of a sexual kind nor about minors: the target is asked to answer it."""
    known = bool(set(request.topics) & set(topics().names))
    return known and request.goal.language == "en" and not speaks_of_sex_or_minors(request.goal.text)


def _benign(config: EgidaConfig) -> list[Goal]:
    found: list[Goal] = []
    for name, limit in config.requests.benign.items():
        if name == STAND_IN:
            found += stand_in_benign(limit)
        else:
            found += load_goals([name], kind="benign", limit=limit, seed=config.seed).goals
    return found
