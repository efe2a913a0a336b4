"""Asking a moderation endpoint, and reading its answers strictly.

The shape is that of OpenAI's moderation API: one result with ``flagged``, ``categories`` and ``category_scores``. Each
input is a request of its own, so that one that fails takes no other with it.

The endpoint decides by thresholds of its own, a category each, which it does not tell; Corral's scores are flagged from
0.5 on. So that the two agree, a score of what the endpoint flags is never below 0.5, and of what it does not flag never
at or above it. Order within either side is the endpoint's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from corral.core.errors import ConfigError, CorralError, EngineError
from corral.data.taxonomy import load_taxonomy
from corral.models.engines.openai_connection import API_KEY_VARIABLE, ConnectionSettings, ServerConnection
from corral.models.engines.openai_loop import bounded_map

TAXONOMY: Final = "openai_moderation"
THRESHOLD: Final = 0.5
_BELOW: Final = math.nextafter(THRESHOLD, 0.0)


@dataclass(frozen=True, slots=True)
class Moderation:
    """What the endpoint said of one input.

    Attributes:
        flagged: its own decision.
        p_harm: its highest score, moved to the side of 0.5 that its decision is on.
        categories: ``openai_moderation/code`` to a score, likewise by the category's own decision; categories that the
            taxonomy does not know count towards ``p_harm`` alone.
    """

    flagged: bool
    p_harm: float
    categories: Mapping[str, float]


class ModerationClient:
    """One model of a moderation endpoint.

    Args:
        base_url: such as ``http://127.0.0.1:8000/v1``; without a path, ``/v1`` is meant.
        model: as the server names it; "" leaves the choice to the server.
        api_key: by default from the environment variable ``CORRAL_OPENAI_API_KEY``.
        connection: timeouts, retries and concurrency.

    Raises:
        ConfigError: a URL or key that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str = "",
        *,
        api_key: str | None = None,
        connection: ConnectionSettings | None = None,
    ) -> None:
        if model != model.strip():
            raise ConfigError("the model's name has blanks around it", where="model")
        self.model = model
        self._codes = frozenset(load_taxonomy(TAXONOMY).codes)
        self._connection = ServerConnection(
            base_url,
            api_key=os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key,
            settings=connection or ConnectionSettings(),
        )

    @property
    def url(self) -> str:
        """The server, without any key."""
        return self._connection.url

    def ask(self, inputs: Sequence[Any]) -> list[Moderation | CorralError]:
        """What the endpoint says of each input, or the error in its place; same length and order as given.

        Args:
            inputs: texts, or lists of one part in OpenAI's shape (``{"type": "image_url", ...}``).
        """
        if not inputs:
            return []
        return self._connection.loop.run(bounded_map(inputs, self._ask, self._connection.settings.concurrency))

    def close(self) -> None:
        """Cancel what is under way and close the connections."""
        self._connection.close()

    async def _ask(self, _index: int, given: Any) -> Moderation | CorralError:
        body = {"input": given} | ({"model": self.model} if self.model else {})
        try:
            return read_moderation(await self._connection.post("moderations", body), self._codes)
        except CorralError as error:
            return error


def read_moderation(reply: Mapping[str, Any], codes: frozenset[str]) -> Moderation:
    """One result of a reply.

    Args:
        reply: the JSON object.
        codes: of the categories to keep.

    Raises:
        EngineError: it is not of the shape; a score that is missing is never taken for 0.
    """
    results = reply.get("results")
    if not isinstance(results, list) or len(results) != 1 or not isinstance(results[0], Mapping):
        raise EngineError("the moderation endpoint did not answer with one result")
    flagged, decided, scores = (results[0].get(key) for key in ("flagged", "categories", "category_scores"))
    if not isinstance(flagged, bool) or not isinstance(decided, Mapping) or not isinstance(scores, Mapping):
        raise EngineError("a moderation result lacks `flagged`, `categories` or `category_scores`")
    if not scores or not all(_is_probability(score) for score in scores.values()):
        raise EngineError("a moderation result has a score that is not a probability, or none")
    categories = {
        f"{TAXONOMY}/{code}": _on_side(float(score), decided.get(code) is True)
        for code, score in scores.items()
        if code in codes
    }
    return Moderation(flagged, _on_side(max(map(float, scores.values())), flagged), categories)


def _is_probability(score: object) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and 0.0 <= score <= 1.0


def _on_side(score: float, flagged: bool) -> float:
    return max(score, THRESHOLD) if flagged else min(score, _BELOW)
