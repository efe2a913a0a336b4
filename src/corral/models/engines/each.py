"""Generation that tells the error of one prompt apart from those of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from corral.core.errors import CorralError, DataError, EngineError
from corral.models.engines.base import Engine, Generation, GenerationSettings, Prompt


@runtime_checkable
class EachEngine(Protocol):
    """An engine that does so by itself."""

    def generate_each(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation | CorralError]:
        """As ``generate``, with the error of a prompt that failed in its place."""


def generate_each(
    engine: Engine, prompts: Sequence[Prompt], settings: GenerationSettings
) -> list[Generation | CorralError]:
    """One answer a prompt, or the error that it alone causes; same length and order as given.

    After a call that failed, an engine that does not tell errors apart is asked one by one, so that a prompt that does
    not fit takes no other with it. Sampled answers then depend on the prompt alone, not on its place in the call.
    """
    if not prompts:
        return []
    if isinstance(engine, EachEngine):
        return engine.generate_each(prompts, settings)
    try:
        return list(engine.generate(prompts, settings))
    except (DataError, EngineError) as error:
        if len(prompts) == 1:
            return [error]
        return [answer for prompt in prompts for answer in generate_each(engine, [prompt], settings)]
