"""Asking a moderation endpoint, and reading its answers strictly.

The shape is that of OpenAI's moderation API: one result with ``flagged``, ``categories`` and ``category_scores``. Each
input is a request of its own, so that one that fails takes no other with it.

The endpoint decides by thresholds of its own, a category each, which it does not tell; Corral's scores are flagged from
0.5 on. So that the two agree, a score of what the endpoint flags is never below 0.5, and of what it does not flag never
at or above it. Order within either side is the endpoint's.

Corral's own server says more, in its ``corral`` object, and there the result alone would mislead: it is flagged where
the server's guards failed, and not flagged in shadow mode. So its decision is read from there: what its policy decided
rather than what was done, no verdict where its guards gave none, and no score of categories that nobody scored.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from corral.core.errors import ConfigError, CorralError, EngineError
from corral.core.files import sha256_json
from corral.data.taxonomy import load_taxonomy
from corral.guards.base import Status
from corral.models.engines.openai_connection import API_KEY_VARIABLE, ConnectionSettings, ServerConnection
from corral.models.engines.openai_loop import bounded_map

TAXONOMY: Final = "openai_moderation"
THRESHOLD: Final = 0.5
_BELOW: Final = math.nextafter(THRESHOLD, 0.0)
_READING: Final = 2
"""Raised whenever the same reply is read as something else."""


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


@dataclass(frozen=True, slots=True)
class NoModeration:
    """Why the endpoint gave no verdict on one input: a request that failed, or guards behind it that did.

    Attributes:
        status: never ok.
        detail: in words; holds no text of the input.
    """

    status: Status
    detail: str


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
    def revision(self) -> str:
        """Hash of the address, the name of the model and how answers are read: all that is known of a hosted model."""
        return sha256_json([self._connection.url, self.model, _READING])[:16]

    def ask(self, inputs: Sequence[Any]) -> list[Moderation | NoModeration]:
        """What the endpoint says of each input; same length and order as given.

        Args:
            inputs: texts, or lists of one part in OpenAI's shape (``{"type": "image_url", ...}``).
        """
        if not inputs:
            return []
        return self._connection.loop.run(bounded_map(inputs, self._ask, self._connection.settings.concurrency))

    def close(self) -> None:
        """Cancel what is under way and close the connections."""
        self._connection.close()

    async def _ask(self, _index: int, given: Any) -> Moderation | NoModeration:
        body = {"input": given} | ({"model": self.model} if self.model else {})
        try:
            return read_moderation(await self._connection.post("moderations", body), self._codes)
        except CorralError as error:
            # not the error's text: a server may quote what it was asked
            return NoModeration(Status.ERROR, f"the moderation endpoint gave no answer ({type(error).__name__})")


def read_moderation(reply: Mapping[str, Any], codes: frozenset[str]) -> Moderation | NoModeration:
    """One result of a reply.

    Args:
        reply: the JSON object.
        codes: of the categories to keep.

    Raises:
        EngineError: it is not of the shape; a score that is missing is never taken for 0.
    """
    result = _only(reply.get("results"), "result")
    flagged, decided, scores = (result.get(key) for key in ("flagged", "categories", "category_scores"))
    if not isinstance(flagged, bool) or not isinstance(decided, Mapping) or not isinstance(scores, Mapping):
        raise EngineError("a moderation result lacks `flagged`, `categories` or `category_scores`")
    if not scores or not all(_is_probability(score) for score in scores.values()):
        raise EngineError("a moderation result has a score that is not a probability, or none")
    if "corral" in reply:
        return _read_corral(reply["corral"], scores, codes)
    categories = {
        f"{TAXONOMY}/{code}": _on_side(float(score), decided.get(code) is True)
        for code, score in scores.items()
        if code in codes
    }
    return Moderation(flagged, _on_side(max(map(float, scores.values())), flagged), categories)


def _read_corral(said: Any, scores: Mapping[str, Any], codes: frozenset[str]) -> Moderation | NoModeration:
    """What Corral's server decided; its scores of categories already have their operating point at 0.5."""
    decision = _only(said.get("decisions") if isinstance(said, Mapping) else None, "decision")
    flagged, p_harm, unscored = (decision.get(key) for key in ("flagged", "p_harm", "unscored"))
    status = next((each for each in Status if each.value == decision.get("status")), None)
    sound = (flagged is None or isinstance(flagged, bool)) and (p_harm is None or _is_probability(p_harm))
    if status is None or not sound or not isinstance(unscored, list):
        raise EngineError("a decision of the server is not of the shape that Corral's have")
    if flagged is None or (status is not Status.OK and not flagged):
        failed = Status.ERROR if status is Status.OK else status
        return NoModeration(failed, f"the server's guards gave no verdict ({failed})")
    categories = {
        f"{TAXONOMY}/{code}": _on_side(float(score), flagged and score >= THRESHOLD)
        for code, score in scores.items()
        if code in codes and code not in unscored
    }
    # A guard that only says yes or no stands for its own decision.
    return Moderation(flagged, _on_side(float(flagged if p_harm is None else p_harm), flagged), categories)


def _only(items: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(items, list) or len(items) != 1 or not isinstance(items[0], Mapping):
        raise EngineError(f"the moderation endpoint did not answer with one {what}")
    return items[0]


def _is_probability(score: object) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and 0.0 <= score <= 1.0


def _on_side(score: float, flagged: bool) -> float:
    return max(score, THRESHOLD) if flagged else min(score, _BELOW)
