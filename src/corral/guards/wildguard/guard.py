"""The WildGuard guard: conversations to prompts, answers to verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from corral.core.errors import ConfigError, suggest
from corral.core.files import sha256_json
from corral.data.messages import Target
from corral.guards.limits import MAX_CHARS
from corral.guards.prompted.exchange_guard import AskedWindow, ExchangeGuard, ExchangeItem
from corral.guards.prompted.exchanges import Exchange
from corral.guards.prompted.framing import FrameName, check_frame, framed
from corral.guards.prompted.leads import find_answer_lead
from corral.guards.prompted.loading import load_or_connect, require_tokenizer
from corral.guards.prompted.meters import meter_for, window_for
from corral.guards.wildguard.answers import FIELDS, LINES, NO, YES, Answers, FieldName, format_answers
from corral.guards.wildguard.fitting import wildguard_fitter
from corral.guards.wildguard.prompts import INSTRUCTION, render
from corral.guards.wildguard.scoring import (
    MAX_NEW_TOKENS,
    LineAnswer,
    Question,
    Reading,
    generate_lines,
    score_lines,
)
from corral.guards.wildguard.verdict import LinePart, WildGuardVerdict, part_of
from corral.models.engines.base import Engine

Decode = Literal["score", "generate"]
DECODES: Final[tuple[Decode, ...]] = ("score", "generate")
THRESHOLD: Final = 0.5
MIN_MASS: Final = 0.5


class WildGuard(ExchangeGuard[Reading]):
    """Judges harm of the request, refusal, and harm of the reply, in one pass over the conversation.

    A prompt verdict is about the request, in the sight of the reply when there is one; a response verdict is about the
    reply's harm and whether it refuses. A line is ``unparseable`` whose labels hold less than ``min_mass`` of the
    probability, or that says n/a about a reply that is there; the other lines stand. No categories are scored.

    A message too long for one prompt is read in windows: harm and refusal are each the largest over windows. For
    refusal that follows the definition of the paper, where declining a part of the request counts.

    Args:
        engine: the model.
        frame: chat format around the prompt; ``chat`` is the engine's own.
        decode: ``score`` takes the probabilities of yes and no on each line; ``generate`` reads what the model writes,
            as the released code does, and gives no probabilities.
        answer_lead: what the model writes before its first line, when scoring.
        thresholds: of ``prompt``, ``refusal`` and ``response``, each strictly between 0 and 1 and 0.5 when not given;
            only with ``score``.
        window: tokens of a prompt and its answer; by default the model's context, 8,192 at most.
        overlap: tokens of a long message that windows share; an eighth of the room for turns by default.
        min_mass: least probability of a line's labels together.
        max_chars: a judged message of more characters is refused, never cut.
        model_revision: content hash of the weights; the engine's name when not given.

    Raises:
        ConfigError: an unknown frame, mode or field, a number out of range, or no room for a message.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        frame: FrameName = "chat",
        decode: Decode = "score",
        answer_lead: str = "",
        thresholds: Mapping[str, float] | None = None,
        window: int | None = None,
        overlap: int | None = None,
        min_mass: float = MIN_MASS,
        max_chars: int = MAX_CHARS,
        model_revision: str = "",
    ) -> None:
        check_frame(frame)
        _check(decode, min_mass, max_chars)
        self.engine = engine
        self.decode = decode
        self.thresholds = _thresholds(thresholds, decode)
        self._frame = frame
        self._lead = answer_lead
        self._min_mass = min_mass
        meter = meter_for(engine)
        answer = answer_lead + format_answers(Answers(True, None, None))
        whole_window = window_for(engine, window)
        fitter = wildguard_fitter(
            meter,
            frame=frame,
            window=whole_window,
            answer_tokens=MAX_NEW_TOKENS if decode == "generate" else len(meter.spans(answer)) + 1,
            overlap=overlap,
        )
        super().__init__(fitter, max_chars=max_chars)
        settings = [frame, decode, answer_lead, self.thresholds, whole_window, overlap, min_mass, max_chars]
        self._revision = sha256_json([model_revision or engine.name, INSTRUCTION, settings])[:16]

    @classmethod
    def load(
        cls,
        *,
        model: str | Path,
        server: str | None = None,
        tokenizer: str | Path | None = None,
        frame: Literal["auto", "chat", "wildguard"] = "auto",
        decode: Decode = "score",
        answer_lead: str | None = None,
        thresholds: Mapping[str, float] | None = None,
        window: int | None = None,
        overlap: int | None = None,
        min_mass: float = MIN_MASS,
        max_chars: int = MAX_CHARS,
        dtype: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
    ) -> WildGuard:
        """Load a checkpoint into this process, or connect to a server that hosts it.

        Args:
            model: folder, hub id or other reference of a causal language model; with ``server``, its name there.
            server: base URL of an OpenAI-compatible server. Give ``window`` too where it serves less than 8,192 tokens.
            tokenizer: with ``server``, reference of the model's tokenizer; ``score`` needs it.
            frame: chat format; ``auto`` is the released one where the vocabulary has its control tokens (without a
                tokenizer: where the name says WildGuard), else the model's own template.
            decode: see the class.
            answer_lead: what the model writes before its first line; ``None`` finds it.
            thresholds: see the class.
            window: see the class.
            overlap: see the class.
            min_mass: see the class.
            max_chars: see the class.
            dtype: of the weights, ``float32`` or ``bfloat16``; ``auto`` keeps the stored one.
            device: torch device.
            threads: torch threads; ``None`` leaves torch's choice.

        Raises:
            NotFoundError: nothing at ``model`` or ``tokenizer``.
            ConfigError: scores from a server without a tokenizer, or as the class says.
            EngineError: the server does not answer.
        """
        if decode == "score":
            require_tokenizer(server, tokenizer)
        wanted: FrameName = "wildguard" if frame == "auto" else frame
        engine, revision, left = load_or_connect(
            model,
            server,
            tokenizer,
            frame=wanted,
            unchecked="chat" if frame == "auto" and "wildguard" not in str(model).lower() else wanted,
            dtype=dtype,
            device=device,
            threads=threads,
        )
        if answer_lead is None:
            answer_lead = _find_lead(engine) if decode == "score" else ""
        return cls(
            engine,
            frame=left,
            decode=decode,
            answer_lead=answer_lead,
            thresholds=thresholds,
            window=window,
            overlap=overlap,
            min_mass=min_mass,
            max_chars=max_chars,
            model_revision=revision,
        )

    @property
    def name(self) -> str:
        """Name in policies."""
        return "wildguard"

    @property
    def revision(self) -> str:
        """Hash of weights, prompt and settings."""
        return self._revision

    @property
    def taxonomy(self) -> str:
        """No categories are scored."""
        return ""

    def read_windows(self, windows: Sequence[AskedWindow]) -> list[Reading]:
        """The answers to the lines that each window's targets need."""
        questions = [
            Question(framed(render(exchange), self._frame), len(FIELDS) if "response" in targets else 1)
            for exchange, targets in windows
        ]
        if self.decode == "generate":
            return generate_lines(self.engine, questions)
        return score_lines(self.engine, questions, lead=self._lead)

    def conclude(self, item: ExchangeItem[Reading], target: Target) -> WildGuardVerdict:
        """The verdict that the lines about a target give."""
        if target in item.failures:
            failure = item.failures[target]
            return WildGuardVerdict(
                target,
                self.name,
                self.revision,
                status=failure.status,
                windows=0,
                latency_ms=item.latency_ms,
                detail=failure.detail,
            )
        parts = self._parts(item, target)
        judged = parts["prompt" if target == "prompt" else "response"]
        refusal = parts.get("refusal")
        return WildGuardVerdict(
            target,
            self.name,
            self.revision,
            status=judged.status,
            flagged=judged.flagged,
            p_harm=judged.score,
            p_refusal=refusal.score if refusal else None,
            unanswered=("refusal",) if refusal and refusal.flagged is None else (),
            windows=len(item.readings[target]),
            context_dropped=item.fitted[target].context_dropped,
            latency_ms=item.latency_ms,
            detail=judged.detail,
            prompt=parts.get("prompt"),
            refusal=refusal,
            response=parts.get("response"),
            warnings=_ignored(item.fitted[target].windows, item.readings[target]),
        )

    def _parts(self, item: ExchangeItem[Reading], target: Target) -> dict[FieldName, LinePart]:
        """The answers that a verdict rests on; that to the first question wherever the same prompts give it."""
        if target == "prompt":
            fields: tuple[FieldName, ...] = ("prompt",)
        else:
            fields = FIELDS if item.together else ("refusal", "response")
        return {
            name: part_of(
                [reading.answers[FIELDS.index(name)] for reading in item.readings[target]],
                threshold=self.thresholds[name],
                min_mass=self._min_mass,
            )
            for name in fields
        }


def _ignored(windows: Sequence[Exchange], readings: Sequence[Reading]) -> int:
    """Lines that say yes or no about a reply which their prompt does not have."""
    return sum(
        isinstance(answer, LineAnswer) and answer.label in (YES, NO)
        for exchange, reading in zip(windows, readings, strict=True)
        if exchange.response is None
        for answer in reading.answers[1:]
    )


def _find_lead(engine: Engine) -> str:
    return find_answer_lead(engine, framed(render(Exchange("Hello!")), "chat"), f"{LINES[0]}:")


def _thresholds(given: Mapping[str, float] | None, decode: Decode) -> dict[FieldName, float]:
    given = given or {}
    for name, value in given.items():
        where = f"thresholds.{name}"
        if name not in FIELDS:
            raise ConfigError(f"no field `{name}`", where="thresholds", hint=suggest(name, FIELDS))
        if not 0 < value < 1:
            raise ConfigError(f"`{value}` is not strictly between 0 and 1", where=where)
        if decode == "generate":
            raise ConfigError("without scores there is no threshold", where=where, hint='Use `decode="score"`.')
    return {name: given.get(name, THRESHOLD) for name in FIELDS}


def _check(decode: str, min_mass: float, max_chars: int) -> None:
    if decode not in DECODES:
        raise ConfigError(f"no way to decode `{decode}`", where="decode", hint=f"Use {' or '.join(DECODES)}.")
    if not 0 <= min_mass <= 1:
        raise ConfigError(f"`{min_mass}` is not a probability", where="min_mass")
    if max_chars < 1:
        raise ConfigError(f"`{max_chars}` is below 1", where="max_chars", hint="Use a positive number.")
