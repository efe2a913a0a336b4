"""The registry of sources: the packaged metadata joined with the readers of all families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from corral.core.registry import Registry
from corral.data.sources import attacks, benchmarks, benign, harmful_requests, hateful_text, responses
from corral.data.sources.record import Source, packaged_metadata, source_from_metadata
from corral.data.sources.rows import Reader

READERS: Final[Mapping[str, Reader]] = {
    **benchmarks.READERS,
    **harmful_requests.READERS,
    **hateful_text.READERS,
    **attacks.READERS,
    **responses.READERS,
    **benign.READERS,
}


def _register_all() -> Registry[Source]:
    registry: Registry[Source] = Registry("source")
    for entry in packaged_metadata():
        source = source_from_metadata(entry, READERS[entry["name"]].note)
        registry.register(source.name, source)
    return registry


SOURCES: Final = _register_all()
"""Every public data set with a reader, by name."""
