"""The CultureGuard guard: conversations to prompts, JSON answers to verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from corral.core.errors import ConfigError, suggest
from corral.core.files import sha256_json
from corral.data.messages import TARGETS, Target
from corral.data.taxonomy import Taxonomy
from corral.guards.cultureguard.answers import USER_KEY, format_answer, format_until
from corral.guards.cultureguard.fitting import cultureguard_fitter
from corral.guards.cultureguard.prompts import CategoryList, Detail
from corral.guards.cultureguard.scoring import MAX_NEW_TOKENS, Question, Reading, generate_answers, score_answers
from corral.guards.cultureguard.verdict import CultureGuardVerdict, part_of
from corral.guards.limits import MAX_CHARS
from corral.guards.prompted.exchange_guard import AskedWindow, ExchangeGuard, ExchangeItem
from corral.guards.prompted.exchanges import Exchange
from corral.guards.prompted.framing import FrameName, check_frame, framed
from corral.guards.prompted.leads import find_answer_lead
from corral.guards.prompted.loading import load_or_connect, require_tokenizer
from corral.guards.prompted.meters import meter_for, window_for
from corral.guards.prompted.parts import AnswerPart
from corral.models.engines.base import Engine

Decode = Literal["score", "generate"]
DECODES: Final[tuple[Decode, ...]] = ("score", "generate")
THRESHOLD: Final = 0.5
MIN_MASS: Final = 0.5


class CultureGuard(ExchangeGuard[Reading]):
    """Judges the safety of a request and of the reply to it, in any language that its model reads.

    A prompt verdict is about the last request, in the sight of the reply when there is one. An answer that contradicts
    itself or cannot be read is ``unparseable`` for the message that this concerns, never safe (``answers``); one whose
    two labels hold less than ``min_mass`` of the probability is too. A message too long for one prompt is read in
    windows; the most unsafe one counts.

    Args:
        engine: the model.
        categories: in the prompt; the 23 of ``aegis_2`` when not given.
        frame: chat format around the prompt; ``chat`` is the engine's own.
        decode: ``score`` takes the probabilities of ``safe`` and ``unsafe``; ``generate`` reads what the model writes,
            and gives no probabilities.
        name_categories: with ``score``, let the model write the categories of what it calls unsafe.
        answer_lead: what the model writes before its object, when scoring.
        thresholds: of ``prompt`` and ``response``, each strictly between 0 and 1 and 0.5 when not given; only with
            ``score``.
        window: tokens of a prompt and its answer; by default the model's context, 8,192 at most.
        overlap: tokens of a long message that windows share; an eighth of the room for turns by default.
        min_mass: least probability of the two labels together.
        max_chars: a judged message of more characters is refused, never cut.
        model_revision: content hash of the weights; the engine's name when not given.

    Raises:
        ConfigError: an unknown frame, mode or target, a number out of range, or no room for a message.
    """

    def __init__(
        self,
        engine: Engine,
        categories: CategoryList | None = None,
        *,
        frame: FrameName = "chat",
        decode: Decode = "score",
        name_categories: bool = True,
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
        self.categories = categories or CategoryList.of()
        self.decode = decode
        self.thresholds = _thresholds(thresholds, decode)
        self._frame = frame
        self._name_categories = name_categories
        self._lead = answer_lead
        self._min_mass = min_mass
        meter = meter_for(engine)
        whole_window = window_for(engine, window)
        writes = decode == "generate" or name_categories
        verdicts = len(meter.spans(answer_lead + format_answer(True, True))) + 1
        fitter = cultureguard_fitter(
            self.categories,
            meter,
            frame=frame,
            window=whole_window,
            answer_tokens=verdicts + (MAX_NEW_TOKENS if writes else 0),
            overlap=overlap,
        )
        super().__init__(fitter, max_chars=max_chars)
        shown = self.categories.render(Exchange(""))
        version = self.categories.taxonomy.version
        settings = [frame, decode, name_categories, answer_lead, self.thresholds, whole_window, overlap, min_mass]
        self._revision = sha256_json([model_revision or engine.name, shown, version, settings, max_chars])[:16]

    @classmethod
    def load(
        cls,
        *,
        model: str | Path,
        server: str | None = None,
        tokenizer: str | Path | None = None,
        taxonomy: Taxonomy | str | Path | Mapping[str, str] | None = None,
        detail: Detail | None = None,
        frame: Literal["chat", "llama_3"] = "chat",
        decode: Decode = "score",
        name_categories: bool = True,
        answer_lead: str | None = None,
        thresholds: Mapping[str, float] | None = None,
        window: int | None = None,
        overlap: int | None = None,
        min_mass: float = MIN_MASS,
        max_chars: int = MAX_CHARS,
        dtype: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
    ) -> CultureGuard:
        """Load a checkpoint into this process, or connect to a server that hosts it.

        Args:
            model: folder, hub id or other reference of a causal language model; with ``server``, its name there.
            server: base URL of an OpenAI-compatible server. Give ``window`` too where it serves less than 8,192 tokens.
            tokenizer: with ``server``, reference of the model's tokenizer; ``score`` needs it.
            taxonomy: see ``CategoryList.of``.
            detail: see ``CategoryList.of``.
            frame: chat format; ``chat`` is the model's own template, ``llama_3`` the bare turns of that generation,
                without the system prompt that its template adds.
            decode: see the class.
            name_categories: see the class.
            answer_lead: what the model writes before its object; ``None`` finds it.
            thresholds: see the class.
            window: see the class.
            overlap: see the class.
            min_mass: see the class.
            max_chars: see the class.
            dtype: of the weights, ``float32`` or ``bfloat16``; ``auto`` keeps the stored one.
            device: torch device.
            threads: torch threads; ``None`` leaves torch's choice.

        Raises:
            NotFoundError: nothing at ``model`` or ``tokenizer``, or no such taxonomy.
            ConfigError: scores from a server without a tokenizer, or as the class and ``CategoryList`` say.
            EngineError: the server does not answer.
        """
        if decode == "score":
            require_tokenizer(server, tokenizer)
        categories = CategoryList.of(taxonomy, detail=detail)
        engine, revision, left = load_or_connect(
            model, server, tokenizer, frame=frame, unchecked=frame, dtype=dtype, device=device, threads=threads
        )
        if answer_lead is None:
            answer_lead = _find_lead(engine, categories) if decode == "score" else ""
        return cls(
            engine,
            categories,
            frame=left,
            decode=decode,
            name_categories=name_categories,
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
        return "cultureguard"

    @property
    def revision(self) -> str:
        """Hash of weights, prompt and settings."""
        return self._revision

    @property
    def taxonomy(self) -> str:
        """Id of the taxonomy in the prompt."""
        return self.categories.taxonomy.id

    def read_windows(self, windows: Sequence[AskedWindow]) -> list[Reading]:
        """The model's answers; a window with a reply is asked about both messages."""
        questions = [
            Question(framed(self.categories.render(exchange), self._frame), exchange.response is not None)
            for exchange, _ in windows
        ]
        if self.decode == "generate":
            return generate_answers(self.engine, questions, self.categories.resolve)
        return score_answers(
            self.engine, questions, self.categories.resolve, lead=self._lead, categories=self._name_categories
        )

    def conclude(self, item: ExchangeItem[Reading], target: Target) -> CultureGuardVerdict:
        """The verdict that the answer's key about a target gives."""
        version = self.categories.taxonomy.version
        if target in item.failures:
            failure = item.failures[target]
            return CultureGuardVerdict(
                target,
                self.name,
                self.revision,
                status=failure.status,
                windows=0,
                latency_ms=item.latency_ms,
                detail=failure.detail,
                taxonomy_version=version,
            )
        readings = item.readings[target]
        parts = {each: self._part(readings, each) for each in TARGETS if each == target or self._stands(item, each)}
        judged = parts[target]
        unsafe = [reading for reading in readings if reading.decided(target)] if judged.flagged else []
        scored = judged.score if judged.score is not None else 0.0
        return CultureGuardVerdict(
            target,
            self.name,
            self.revision,
            status=judged.status,
            flagged=judged.flagged,
            p_harm=judged.score,
            categories={code: scored for reading in unsafe for code in reading.categories},
            windows=len(readings),
            context_dropped=item.fitted[target].context_dropped,
            latency_ms=item.latency_ms,
            detail=judged.detail,
            prompt=parts.get("prompt"),
            response=parts.get("response") if target == "response" else None,
            unknown_categories=sum(reading.unknown_categories for reading in readings),
            ignored=sum(reading.ignored for reading in readings),
            categories_failure=next((r.categories_failure for r in unsafe if r.categories_failure), None),
            taxonomy_version=version,
        )

    def _stands(self, item: ExchangeItem[Reading], target: Target) -> bool:
        """Whether a response verdict can show the request's part: the same prompts gave it."""
        return target == "prompt" and item.together

    def _part(self, readings: Sequence[Reading], target: Target) -> AnswerPart:
        answers = [reading.answers[target] for reading in readings]
        return part_of(answers, threshold=self.thresholds[target], min_mass=self._min_mass)


def _find_lead(engine: Engine, categories: CategoryList) -> str:
    return find_answer_lead(engine, framed(categories.render(Exchange("Hello!")), "chat"), format_until(USER_KEY))


def _thresholds(given: Mapping[str, float] | None, decode: Decode) -> dict[Target, float]:
    given = given or {}
    for name, value in given.items():
        where = f"thresholds.{name}"
        if name not in TARGETS:
            raise ConfigError(f"no target `{name}`", where="thresholds", hint=suggest(name, TARGETS))
        if not 0 < value < 1:
            raise ConfigError(f"`{value}` is not strictly between 0 and 1", where=where)
        if decode == "generate":
            raise ConfigError("without scores there is no threshold", where=where, hint='Use `decode="score"`.')
    return {target: given.get(target, THRESHOLD) for target in TARGETS}


def _check(decode: str, min_mass: float, max_chars: int) -> None:
    if decode not in DECODES:
        raise ConfigError(f"no way to decode `{decode}`", where="decode", hint=f"Use {' or '.join(DECODES)}.")
    if not 0 <= min_mass <= 1:
        raise ConfigError(f"`{min_mass}` is not a probability", where="min_mass")
    if max_chars < 1:
        raise ConfigError(f"`{max_chars}` is below 1", where="max_chars", hint="Use a positive number.")
