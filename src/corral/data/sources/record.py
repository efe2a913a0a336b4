"""What is known about a public data set: where it comes from, what may be done with it, and what its files hash to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

from corral.core.yaml import parse_yaml

Use = Literal["train_and_ship", "evaluate_only"]


@dataclass(frozen=True, slots=True)
class Source:
    """One public data set of moderation examples.

    Attributes:
        name: what ``load_source`` calls it.
        folder: its folder under the data folder (several translations share one).
        use: ``evaluate_only`` rows never train, tune or calibrate weights that ship.
        languages: BCP 47 codes of its rows.
        licence: licence of the text.
        upstream: public repository or package the data comes from.
        revision: upstream commit, ``None`` when it is not known.
        files: path from the data folder to the sha256 that the file must have.
        note: what the upstream labels mean and how they become ``ModerationExample`` labels.
    """

    name: str
    folder: str
    use: Use
    languages: tuple[str, ...]
    licence: str
    upstream: str
    revision: str | None
    files: Mapping[str, str]
    note: str

    @property
    def trainable(self) -> bool:
        """Whether weights trained on it may ship."""
        return self.use == "train_and_ship"

    @property
    def language(self) -> str:
        """The language of rows that do not name theirs: the only one of the set, else "" for unknown."""
        return self.languages[0] if len(self.languages) == 1 else ""


@cache
def packaged_metadata() -> tuple[Mapping[str, Any], ...]:
    """The entries of the packaged ``sources.yaml``, in its order."""
    text = (resources.files("corral.data.sources") / "sources.yaml").read_text(encoding="utf-8")
    return tuple(MappingProxyType(entry) for entry in parse_yaml(text, where="sources.yaml"))


def source_from_metadata(entry: Mapping[str, Any], note: str) -> Source:
    """The record of one entry of ``sources.yaml``."""
    return Source(
        name=entry["name"],
        folder=entry.get("set", entry["name"]),
        use=entry["use"],
        languages=tuple(entry["languages"]),
        licence=entry["licence"],
        upstream=entry["upstream"],
        revision=entry["revision"],
        files=MappingProxyType(entry["files"]),
        note=note,
    )
