"""Looking inside guards that are made of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from corral.guards.base import Guard


@runtime_checkable
class MadeOfGuards(Protocol):
    """A guard that asks other guards."""

    @property
    def parts(self) -> Mapping[str, Guard]:
        """The guards that it asks, by their names within it."""


def guards_within(guard: Guard) -> Iterator[tuple[str, Guard]]:
    """The guards at the bottom of a composition, each with its path, such as ``careful/costly``.

    Nothing for a guard that is made of no other.
    """
    if not isinstance(guard, MadeOfGuards):
        return
    for name, part in guard.parts.items():
        path = f"{guard.name}/{name}"
        inner = [(f"{path}{rest.removeprefix(part.name)}", leaf) for rest, leaf in guards_within(part)]
        yield from inner or [(path, part)]
