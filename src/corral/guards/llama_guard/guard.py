"""The Llama Guard guard: conversations to prompts, prompts to label scores or written answers, these to verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal, NamedTuple, TypeVar

from corral.core.errors import ConfigError, CorralError, DataError
from corral.core.files import sha256_json
from corral.data.messages import Conversation, Target, TargetChoice
from corral.data.taxonomy import Taxonomy
from corral.guards.asking import present_targets
from corral.guards.base import Status, Verdict
from corral.guards.failures import bad_input, failure_detail
from corral.guards.limits import MAX_CHARS, unreadable
from corral.guards.llama_guard.checkpoint import generation_of
from corral.guards.llama_guard.fitting import Fitter
from corral.guards.llama_guard.prompts import Detail, PolicyPrompt, find_generation
from corral.guards.llama_guard.scoring import decode_codes, find_label_prefix, label_scores_each
from corral.guards.llama_guard.trimming import has_trimmed_head, save_trimmed_head
from corral.guards.llama_guard.turns import turns_to_judge
from corral.guards.llama_guard.verdict import LlamaGuardVerdict
from corral.guards.llama_guard.written import WrittenVerdict, write_verdicts
from corral.guards.prompted.batches import Failure, ask_apart
from corral.guards.prompted.framing import FrameName, check_frame, framed
from corral.guards.prompted.loading import load_or_connect
from corral.guards.prompted.meters import meter_for, window_for
from corral.guards.prompted.probabilities import LabelScore
from corral.guards.prompted.turns import Turn
from corral.models.engines.base import Engine, Prompt

Decode = Literal["score", "generate"]
DECODES: Final[tuple[Decode, ...]] = ("score", "generate")
CategoryMode = Literal["decoded", "scored", "none"]
CATEGORY_MODES: Final[tuple[CategoryMode, ...]] = ("decoded", "scored", "none")
THRESHOLD: Final = 0.5
MIN_MASS: Final = 0.5

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")
_Reading = LabelScore | WrittenVerdict


class _Question(NamedTuple):
    """A window of a message under a policy."""

    policy: PolicyPrompt
    prompt: Prompt


@dataclass(slots=True)
class _Item:
    """One (conversation, target) pair on its way to a verdict.

    ``readings`` holds, for each policy that is asked about (the whole one, then single categories), an answer a window.
    """

    target: Target
    windows: tuple[tuple[Turn, ...], ...] = ()
    context_dropped: int = 0
    readings: list[list[_Reading]] = field(default_factory=list)
    categories: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    seconds: float = 0.0


class LlamaGuard:
    """Judges the last message of a conversation by the policy in its prompt.

    Flags where ``p_unsafe`` is at least 0.5, the published operating point. An answer whose two labels hold less than
    ``min_mass`` of the probability is ``unparseable``, and so is one that was generated and is not exactly a verdict;
    one such window makes the whole message so.

    Args:
        engine: the model.
        policy: what it judges by; that of generation 3 when not given.
        frame: chat format around the prompt; ``chat`` is the engine's own.
        decode: ``score`` takes the probabilities of both labels; ``generate`` reads what the model writes by the strict
            grammar, as the released models are used, and gives no probabilities: scores are 1 or 0.
        category_mode: ``decoded`` reads the codes after ``unsafe``, each scored as the verdict that names it;
            ``scored`` asks about every category alone, whose score is ``p_unsafe`` of a prompt with that category only
            (one-vs-all); ``none`` scores none.
        label_prefix: what the model writes before a label, when scoring.
        window: tokens of a prompt and its answer; by default the model's context, 8,192 at most.
        overlap: tokens of a long message that windows share; an eighth of the room for turns by default.
        min_mass: least probability of the two labels together, when scoring; 0 for a model with a trimmed head.
        max_chars: a judged message of more characters is refused, never cut.
        model_revision: content hash of the weights; the engine's name when not given.

    Attributes:
        alternates: its prompts show User and Agent by turns; any other chat is refused (``prompted.alternating``).

    Raises:
        ConfigError: an unknown frame or mode, a mass outside [0, 1], a policy that leaves no room for a message, or a
            trimmed head that cannot write the policy's verdicts, or of which a mass is asked.
    """

    alternates: ClassVar[bool] = True

    def __init__(
        self,
        engine: Engine,
        policy: PolicyPrompt | None = None,
        *,
        frame: FrameName = "chat",
        decode: Decode = "score",
        category_mode: CategoryMode = "decoded",
        label_prefix: str = "",
        window: int | None = None,
        overlap: int | None = None,
        min_mass: float = MIN_MASS,
        max_chars: int = MAX_CHARS,
        model_revision: str = "",
    ) -> None:
        check_frame(frame)
        _check(decode, category_mode, min_mass, max_chars)
        self.engine = engine
        self.policy = policy or PolicyPrompt.of()
        self.decode = decode
        self.max_chars = max_chars
        self._frame = frame
        self._mode = category_mode
        self._prefix = label_prefix
        self._min_mass = min_mass
        self._trimmed = has_trimmed_head(engine, self.policy, label_prefix=label_prefix, min_mass=min_mass)
        self._window = window_for(engine, window)
        self._overlap = overlap
        self._fitter = Fitter(self.policy, meter_for(engine), frame=frame, window=self._window, overlap=overlap)
        self._model_revision = model_revision or engine.name
        single = [self.policy.with_categories([c.code]) for c in self.policy.categories]
        self._policies = [self.policy, *(single if category_mode == "scored" else [])]
        shown = self.policy.render([Turn("User", "")])
        version = self.policy.taxonomy.version
        settings = [frame, decode, category_mode, label_prefix, self._window, overlap, min_mass, max_chars, version]
        self._revision = sha256_json([self._model_revision, shown, settings])[:16]

    @classmethod
    def load(
        cls,
        *,
        model: str | Path,
        server: str | None = None,
        tokenizer: str | Path | None = None,
        generation: str | int = "auto",
        taxonomy: Taxonomy | str | Path | Mapping[str, str] | None = None,
        detail: Detail | None = None,
        examples: Mapping[str, Sequence[str]] | None = None,
        frame: Literal["auto", "chat", "inst", "llama_3", "llama_4"] = "auto",
        decode: Decode = "score",
        category_mode: CategoryMode = "decoded",
        label_prefix: str | None = None,
        window: int | None = None,
        overlap: int | None = None,
        min_mass: float = MIN_MASS,
        max_chars: int = MAX_CHARS,
        dtype: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
    ) -> LlamaGuard:
        """Load a checkpoint into this process, or connect to a server that hosts it.

        Args:
            model: folder, hub id or other reference of a causal language model; with ``server``, its name there.
            server: base URL of an OpenAI-compatible server. Give ``window`` too where it serves less than 8,192 tokens.
            tokenizer: with ``server``, reference of the model's tokenizer. Without it, labels that are not single
                tokens cannot be scored, nor codes decoded where the model's answer is no verdict; ``generate`` does
                without.
            generation: layout of the prompt, ``1``, ``2``, ``3``, ``3-1b`` or ``4``; ``auto`` reads it from the name
                of a released checkpoint.
            taxonomy: see ``PolicyPrompt.of``.
            detail: see ``PolicyPrompt.of``.
            examples: see ``PolicyPrompt.of``.
            frame: chat format; ``auto`` is the generation's where the vocabulary has its control tokens, else the
                tokenizer's own template. Without a tokenizer it is the generation's.
            decode: see the class.
            category_mode: see the class.
            label_prefix: what the model writes before a label, when scoring; ``None`` finds it.
            window: see the class.
            overlap: see the class.
            min_mass: see the class.
            max_chars: see the class.
            dtype: of the weights, ``float32`` or ``bfloat16``; ``auto`` keeps the stored one.
            device: torch device.
            threads: torch threads; ``None`` leaves torch's choice.

        Raises:
            NotFoundError: nothing at ``model`` or ``tokenizer``, or no such taxonomy.
            ConfigError: a generation that the name does not tell, a tokenizer without a server, or as the class and
                ``PolicyPrompt`` say.
            EngineError: the server does not answer.
        """
        layout = generation_of(str(model)) if generation == "auto" else str(generation)
        policy = PolicyPrompt.of(layout, taxonomy, detail=detail, examples=examples)
        wanted = find_generation(layout).frame if frame == "auto" else frame
        engine, revision, left = load_or_connect(
            model, server, tokenizer, frame=wanted, unchecked=wanted, dtype=dtype, device=device, threads=threads
        )
        if decode == "generate":
            label_prefix = ""
        elif label_prefix is None:
            small = policy.with_categories([policy.categories[0].code])
            label_prefix = find_label_prefix(engine, framed(small.render([Turn("User", "Hello!")]), left))
        return cls(
            engine,
            policy,
            frame=left,
            decode=decode,
            category_mode=category_mode,
            label_prefix=label_prefix,
            window=window,
            overlap=overlap,
            min_mass=min_mass,
            max_chars=max_chars,
            model_revision=revision,
        )

    @property
    def name(self) -> str:
        """Name in policies."""
        return "llama-guard"

    @property
    def revision(self) -> str:
        """Hash of weights, prompt and settings."""
        return self._revision

    @property
    def taxonomy(self) -> str:
        """Id of the taxonomy in the prompt."""
        return self.policy.taxonomy.id

    def with_policy(self, policy: PolicyPrompt) -> LlamaGuard:
        """The same model and settings under another policy; nothing is loaded again.

        Raises:
            ConfigError: the policy leaves no room for a message.
        """
        return LlamaGuard(
            self.engine,
            policy,
            frame=self._frame,
            decode=self.decode,
            category_mode=self._mode,
            label_prefix=self._prefix,
            window=self._window,
            overlap=self._overlap,
            min_mass=self._min_mass,
            max_chars=self.max_chars,
            model_revision=self._model_revision,
        )

    def save_trimmed(self, folder: Path) -> Path:
        """Write the model with its head cut to the tokens of verdicts under this policy; not while it judges.

        The guard's own model stays whole. Load what was written with this policy and ``min_mass=0``, since the mass no
        longer shows that the model would rather write something else. Scores are the same where both labels are one
        token each; elsewhere their later tokens are more probable, as shares among fewer.

        Raises:
            ConfigError: the model is on a server or quantized.
            DataError: a head that cannot be cut.
            RunError: the folder exists.
        """
        return save_trimmed_head(self.engine, self.policy, folder, label_prefix=self._prefix)

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; same length and order as given. A failure is a verdict with its status.

        What is wrong with a conversation is told with its index, and takes no other with it.
        The context of a judged message is the turns before it; what comes after is not read.
        """
        return self._judge([(i, each, each.target(target)) for i, each in enumerate(conversations)])

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response in one call; a target that the conversation does not have is absent."""
        wanted = [present_targets(conversation) for conversation in conversations]
        asked = [(i, c, t) for i, (c, present) in enumerate(zip(conversations, wanted, strict=True)) for t in present]
        verdicts = iter(self._judge(asked))
        return [{t: next(verdicts) for t in present} for present in wanted]

    def _judge(self, asked_about: Sequence[tuple[int, Conversation, Target]]) -> list[Verdict]:
        """One verdict each; the number is the conversation's index in the call."""
        items = [self._read(*asked) for asked in asked_about]
        self._ask(items)
        if self._mode == "decoded":
            self._name_categories(items)
        return [self._verdict(item) for item in items]

    def _read(self, index: int, conversation: Conversation, target: Target) -> _Item:
        started = time.perf_counter()
        item = _Item(target)
        if reason := unreadable(conversation, target, max_chars=self.max_chars):
            item.failure = Failure(Status.ERROR, bad_input(index, reason))
            return item
        try:
            fitted = self._fitter.fit(turns_to_judge(conversation, conversation.judged_index(target) or 0))
            item.windows, item.context_dropped = fitted.windows, fitted.context_dropped
            if not item.windows:
                item.failure = Failure(Status.ERROR, bad_input(index, "the judged message has no tokens"))
        except DataError as error:
            item.failure = Failure(Status.ERROR, bad_input(index, error.message, where=error.where))
        except Exception as error:
            item.failure = Failure(Status.ERROR, failure_detail("the message could not be tokenised", error))
        item.seconds = time.perf_counter() - started
        return item

    def _ask(self, items: Sequence[_Item]) -> None:
        """Fill ``readings`` of every item that can be judged, then see whether all of them are verdicts."""
        asked = [item for item in items if item.failure is None]
        questions = [
            _Question(p, self._prompt(p, turns)) for item in asked for p in self._policies for turns in item.windows
        ]
        owners = [item for item in asked for _ in self._policies for _ in item.windows]
        ask = self._written if self.decode == "generate" else self._labels
        answers: Iterator[_Reading | None] = iter(_answers(questions, owners, ask))
        for item in asked:
            rows = [[next(answers) for _ in item.windows] for _ in self._policies]
            if item.failure is None:
                item.readings = [[reading for reading in row if reading is not None] for row in rows]
                item.failure = self._unparseable(item)

    def _name_categories(self, items: Sequence[_Item]) -> None:
        """The codes of every window that is flagged: those that were written, or else decoded now."""
        flagged = [
            (item, turns, reading)
            for item in items
            if item.failure is None
            for turns, reading in zip(item.windows, item.readings[0], strict=True)
            if reading.p_unsafe is not None and reading.p_unsafe >= THRESHOLD
        ]
        if self.decode == "generate":
            named = [reading.codes for _, _, reading in flagged if isinstance(reading, WrittenVerdict)]
        else:
            prompts = [self._prompt(self.policy, turns) for _, turns, _ in flagged]
            named = _answers(prompts, [item for item, _, _ in flagged], self._codes)
        for (item, _, reading), codes in zip(flagged, named, strict=True):
            for code in map(self.policy.qualified, codes or ()):
                item.categories[code] = max(item.categories.get(code, 0.0), reading.p_unsafe or 0.0)

    def _labels(self, questions: Sequence[_Question]) -> list[_Reading | CorralError]:
        return [*label_scores_each(self.engine, [each.prompt for each in questions], label_prefix=self._prefix)]

    def _written(self, questions: Sequence[_Question]) -> list[_Reading | CorralError]:
        prompts, codes = [each.prompt for each in questions], [each.policy.codes for each in questions]
        return [*write_verdicts(self.engine, prompts, codes, max_new_tokens=self._fitter.answer_tokens)]

    def _codes(self, prompts: Sequence[Prompt]) -> list[tuple[str, ...] | CorralError]:
        limit = self._fitter.answer_tokens
        return decode_codes(self.engine, prompts, self.policy.codes, label_prefix=self._prefix, max_new_tokens=limit)

    def _prompt(self, policy: PolicyPrompt, turns: Sequence[Turn]) -> Prompt:
        return framed(policy.render(turns), self._frame)

    def _unparseable(self, item: _Item) -> Failure | None:
        for policy, row in zip(self._policies, item.readings, strict=True):
            for number, reading in enumerate(row, start=1):
                if problem := self._problem(reading):
                    about = "" if policy is self.policy else f" about `{policy.qualified(policy.codes[0])}`"
                    return Failure(
                        Status.UNPARSEABLE,
                        f"the answer{about} is no verdict: {problem} (window {number} of {len(row)})",
                    )
        return None

    def _problem(self, reading: _Reading) -> str:
        """Why an answer is no verdict; "" for one that is."""
        if isinstance(reading, WrittenVerdict):
            return reading.problem
        if reading.p_unsafe is None or reading.mass < self._min_mass:
            return f"the labels hold {reading.mass:.2g} of the probability, under {self._min_mass:g}"
        return ""

    def _verdict(self, item: _Item) -> Verdict:
        latency_ms = 1e3 * item.seconds
        taxonomy = self.policy.taxonomy
        # Of a trimmed head these would be shares among the kept tokens.
        scored = [[] if self._trimmed else [s for s in row if isinstance(s, LabelScore)] for row in item.readings]
        mass = min((score.mass for row in scored for score in row), default=None)
        if item.failure is not None:
            return LlamaGuardVerdict(
                item.target,
                self.name,
                self.revision,
                status=item.failure.status,
                windows=len(item.readings[0]) if item.readings else 0,
                latency_ms=latency_ms,
                detail=item.failure.detail,
                mass=mass,
                taxonomy=taxonomy.id,
                taxonomy_version=taxonomy.version,
            )
        p_unsafe, *by_category = [max(reading.p_unsafe or 0.0 for reading in row) for row in item.readings]
        singly = zip((p.qualified(p.codes[0]) for p in self._policies[1:]), by_category, strict=True)
        return LlamaGuardVerdict(
            item.target,
            self.name,
            self.revision,
            flagged=p_unsafe >= THRESHOLD,
            p_harm=p_unsafe,
            categories=item.categories | dict(singly),
            windows=len(item.windows),
            context_dropped=item.context_dropped,
            latency_ms=latency_ms,
            p_raw=max((score.raw for score in scored[0]), default=None),
            mass=mass,
            taxonomy=taxonomy.id,
            taxonomy_version=taxonomy.version,
        )


def _answers(
    asked_about: Sequence[_Asked],
    owners: Sequence[_Item],
    ask: Callable[[Sequence[_Asked]], Sequence[_Answer | CorralError]],
) -> list[_Answer | None]:
    """One answer to each question; ``None`` where there is none, and its owner has failed."""
    answers: list[_Answer | None] = []
    for owner, asked in zip(owners, ask_apart(asked_about, ask), strict=True):
        owner.seconds += asked.seconds
        if isinstance(asked.answer, Failure):
            owner.failure = asked.answer
            answers.append(None)
        else:
            answers.append(asked.answer)
    return answers


def _check(decode: str, category_mode: str, min_mass: float, max_chars: int) -> None:
    if decode not in DECODES:
        raise ConfigError(f"no way to decode `{decode}`", where="decode", hint=f"Use {' or '.join(DECODES)}.")
    if category_mode not in CATEGORY_MODES:
        hint = f"Use {', '.join(CATEGORY_MODES)}."
        raise ConfigError(f"no category mode `{category_mode}`", where="category_mode", hint=hint)
    if not 0 <= min_mass <= 1:
        raise ConfigError(f"`{min_mass}` is not a probability", where="min_mass")
    if max_chars < 1:
        raise ConfigError(f"`{max_chars}` is below 1", where="max_chars", hint="Use a positive number.")
