"""What every model does: its refusal curve, where it turns to refusal, whom it refuses without need, what it forgets.

Each model is measured once; its figures are kept in a file named by a hash of all that they depend on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from corral.core.files import atomic_write_json, read_json, sha256_json
from corral.core.metric_inputs import Floats
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.data.messages import Conversation
from corral.data.refusals import OPENING_CHARS, refusal_start, repeats_a_word
from corral.evals.refusal_curve import Probe, ProbedEngine, RefusalPosition, refusal_curve, refusal_positions
from corral.models.engines.base import GenerationSettings
from corral.studies.derta.rows import StudyRows
from corral.studies.derta.settings import DertaStudyConfig
from corral.studies.trained_models import open_trained, revision_of
from corral.train.objectives.refusal import RefusalToken, resolve_refusal_token

_VERSION: Final = 2
_ARRAYS: Final = ("harmful", "helpful", "help_nll", "refused", "refused_by_phrase", "repeated")


@dataclass(frozen=True)
class Measured:
    """One model's figures; P harmful probes, C helpful ones, S shares, L look-alikes.

    Attributes:
        token: the refusal token.
        harmful: (P, S) log-probability of refusal after shares of harmful answers.
        helpful: (C, S) the same of helpful answers.
        help_nll: (C,) negative log-likelihood a token of helpful answers.
        positions: where refusals begin after forced prefixes of harmful answers.
        refused: (L,) 1 where a harmless request is refused, the refusal word counted.
        refused_by_phrase: (L,) 1 where it is refused by one of the phrases of ``data/refusals``.
        repeated: (L,) 1 where the answer to it repeats the refusal word in a loop.
    """

    token: RefusalToken
    harmful: Floats
    helpful: Floats
    help_nll: Floats
    positions: tuple[RefusalPosition, ...]
    refused: Floats
    refused_by_phrase: Floats
    repeated: Floats

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "token": self.token.to_json(),
            "harmful": self.harmful.tolist(),
            "helpful": self.helpful.tolist(),
            "help_nll": self.help_nll.tolist(),
            "positions": [list(astuple(each)) for each in self.positions],
            "refused": self.refused.tolist(),
            "refused_by_phrase": self.refused_by_phrase.tolist(),
            "repeated": self.repeated.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measured:
        """What ``to_json`` wrote."""
        arrays = {name: np.asarray(value[name], np.float64) for name in _ARRAYS}
        positions = tuple(RefusalPosition(*each) for each in value["positions"])
        return cls(token=RefusalToken(**value["token"]), positions=positions, **arrays)


def measure(
    name: str, base: str, folder: Path | None, *, rows: StudyRows, config: DertaStudyConfig, run: Run
) -> Measured:
    """The figures of one model, from the run's files or measured now.

    Args:
        name: for logs.
        base: model reference.
        folder: what was trained from it; ``None`` for the base itself.
        rows: probes and look-alikes.
        config: settings.
        run: keeps the figures under ``cells``.
    """
    word = config.training.refusal
    depends_on = {
        "version": _VERSION,
        "revision": revision_of(base, folder, config.dtype),
        "probing": config.probing.model_dump(mode="json"),
        "refusal": word.model_dump(mode="json"),
        "rows": rows.account,
    }
    path = run.path / "cells" / "measures" / f"{name}-{sha256_json(depends_on)[:12]}.json"
    if path.is_file():
        return Measured.from_json(read_json(path))
    engine = open_trained(base, folder, name=name, dtype=config.dtype)
    token = resolve_refusal_token(engine.chat, word.word, word.variant)
    found = _measured(engine, token, rows, config)
    atomic_write_json(path, found.to_json())
    milestone(f"measured {name}")
    return found


def _measured(engine: ProbedEngine, token: RefusalToken, rows: StudyRows, config: DertaStudyConfig) -> Measured:
    probing = config.probing
    settings = GenerationSettings(max_new_tokens=probing.max_new_tokens)
    words = (config.training.refusal.word,)
    harmful, helpful = (
        refusal_curve(engine, probes, [token.id], probing.shares) for probes in (rows.harmful, rows.helpful)
    )
    probed = rows.harmful[: probing.position_probes]
    lookalikes = [Conversation.user(goal.text) for goal in rows.lookalikes]
    answers = [answer.text for answer in engine.generate(lookalikes, settings)] if lookalikes else []
    refused, by_phrase, repeated = refused_requests(answers, words)
    return Measured(
        token=token,
        harmful=harmful,
        helpful=helpful,
        help_nll=_nll(engine, rows.helpful),
        positions=tuple(refusal_positions(engine, probed, probing.forced, settings, words=words)),
        refused=refused,
        refused_by_phrase=by_phrase,
        repeated=repeated,
    )


def _nll(engine: ProbedEngine, probes: Sequence[Probe]) -> Floats:
    encoded = [(engine.chat.encode_prompt(each.prompt), engine.chat.encode_text(each.answer)) for each in probes]
    scored = engine.token_logprobs(encoded)
    return np.array([-each.total / len(each.logprobs) for each in scored])


def refused_requests(answers: Sequence[str], words: Sequence[str]) -> tuple[Floats, Floats, Floats]:
    """Three arrays (L,): 1 for each answer that refuses in its opening, that does by phrases alone, that is a loop.

    Args:
        answers: L texts.
        words: further phrases that count as a refusal in the first array, and that a loop repeats.
    """
    openings = [answer[:OPENING_CHARS] for answer in answers]
    refused = [refusal_start(opening, words=words) is not None for opening in openings]
    by_phrase = [refusal_start(opening) is not None for opening in openings]
    repeated = [repeats_a_word(answer, words) for answer in answers]
    return np.array(refused, np.float64), np.array(by_phrase, np.float64), np.array(repeated, np.float64)
