"""Topics of unsafe requests: 21 published keys, six free slots, coarse groups, and the names that public sets use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

from corral.core.config import Config, load_config
from corral.core.errors import DataError, suggest
from corral.core.yaml import parse_yaml

_FILE: Final = "topics.yaml"


class Topics(Config):
    """The topic file.

    Attributes:
        version: of the file.
        groups: coarse group to its topics.
        free: names for a user's own topics.
        aliases: topic to categories of public sets, in lower case.
    """

    version: int
    groups: Mapping[str, tuple[str, ...]]
    free: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """All topics, free slots included."""
        return (*(topic for topics in self.groups.values() for topic in topics), *self.free)

    def group_of(self, topic: str) -> str:
        """The coarse group of a topic; the topic itself where it has none."""
        return next((group for group, topics in self.groups.items() if topic in topics), topic)

    def of_category(self, category: str) -> str:
        """The topic of a category of a public set; the category itself, in one form, where none is known."""
        folded = category.casefold().strip()
        if folded in self.names:
            return folded
        known = next((topic for topic, others in self.aliases.items() if folded in others), None)
        return known or "_".join(folded.split())


@cache
def topics() -> Topics:
    """The packaged topics."""
    text = (files(__package__) / _FILE).read_text(encoding="utf-8")
    return load_config(Topics, parse_yaml(text, where=_FILE))


def require_topics(named: tuple[str, ...], known: frozenset[str], where: str) -> None:
    """Refuse topics that no request has.

    Raises:
        DataError: names the topic.
    """
    for topic in named:
        if topic not in known:
            raise DataError(f"no request has the topic `{topic}`", where=where, hint=suggest(topic, known))
