"""The task: the subject and a rival answer each request, and a judge compares the two in both orders.

A pair counts 1, 0.5 or 0 in each order, and their mean as a whole: a judge that prefers whichever answer comes first
makes a tie, not a win. Identical answers are a tie, and counted: no judge is asked, who could only follow the order. A
pair of which either order could not be read is unscored, and counted; it is nobody's win. So is one on which the judge
failed, which a rerun asks again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeVar

from corral.core.errors import ConfigError, CorralError, EngineError
from corral.core.files import sha256_json
from corral.data.examples import prompt_key
from corral.data.messages import Conversation
from corral.evals.sample_cache import SampleCache, item_hash
from corral.evals.tasks.formulas import Formula, LengthControlledWinRate, Mean
from corral.evals.tasks.task import Measure, Progress, SampleScore, Subject, TaskResult
from corral.evals.tasks.win_rate.judging import (
    JUDGE_VERSION,
    LETTERS,
    OPENING,
    Preference,
    judge_prompt,
    likeliest_mark,
    parse_preference,
    subject_share,
)
from corral.evals.tasks.win_rate.prompts import ComparisonPrompt, packaged_prompts
from corral.models.engines.base import GenerationSettings
from corral.models.engines.each import generate_each
from corral.models.engines.labels import label_logprobs_each

_ANSWERING: Final = GenerationSettings(max_new_tokens=256)
_JUDGE_TOKENS: Final = 256
_BATCH: Final = 8
_EVEN: Final = 0.5
_ANSWERS_VERSION: Final = "1"
"""Raised whenever how answers are asked for changes."""
_TIE: Final[Mapping[str, float | None]] = {"win": _EVEN, "tie": 1.0, "identical": 1.0}
"""Of identical answers; what is said of the judge does not apply."""

Reply = TypeVar("Reply")
JudgedBy = Literal["words", "likelihood"]


class _Comparison(NamedTuple):
    """Two answers in the order in which the judge reads them."""

    prompt: str
    first: str
    second: str


@dataclass(frozen=True)
class WinRate:
    """How often a judge prefers the subject's answers to a rival's.

    Guards have no part in it.

    Attributes:
        judge: the model that compares; neither the subject nor the rival, which prefer their own words.
        rival: the model to compare with; ``None`` for the references of the prompts.
        prompts: what both answer.
        limit: at most the first so many prompts; all when ``None``.
        generation: how both answer.
        judging: how the judge answers in words.
        by: the judge writes its verdict in words, or says how likely each is.
        batch_size: items that are asked between two writes to the cache.

    Raises:
        ConfigError: no prompt, an id that occurs twice, or a prompt without reference where there is no rival.
    """

    judge: Subject
    rival: Subject | None = None
    prompts: tuple[ComparisonPrompt, ...] = field(default_factory=packaged_prompts)
    limit: int | None = None
    generation: GenerationSettings = _ANSWERING
    judging: GenerationSettings = field(default_factory=lambda: GenerationSettings(max_new_tokens=_JUDGE_TOKENS))
    by: JudgedBy = "words"
    batch_size: int = _BATCH

    def __post_init__(self) -> None:
        ids = [prompt.id for prompt in self.prompts]
        if not ids or len(set(ids)) != len(ids):
            raise ConfigError("expected prompts with different ids", where="prompts")
        without = [prompt.id for prompt in self.prompts if prompt.reference is None]
        if self.rival is None and without:
            raise ConfigError(
                f"prompt `{without[0]}` has no reference to compare with", where="prompts", hint="Name a rival model."
            )
        for setting, value in (("limit", self.limit), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"`{value}` is below 1", where=setting)

    @property
    def name(self) -> str:
        """``win_rate``."""
        return "win_rate"

    @property
    def version(self) -> str:
        """Raised whenever rules change; the judge's question has a version of its own."""
        return "2"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The win rate, the same at equal length, and how far the judge can be trusted."""
        length = LengthControlledWinRate(win="win", difference="length_difference")
        return (
            _measure("win_rate", "Win rate", Mean(value="win"), True, chance=_EVEN, headline=True),
            _measure("win_rate_length_controlled", "Win rate at equal length", length, True, chance=_EVEN),
            _measure("ties", "Ties, orders that disagree among them", Mean(value="tie"), None),
            _measure("identical", "Identical answers, ties no judge was asked about", Mean(value="identical"), None),
            _measure(
                "order_agreement",
                "Judge names the same winner in both orders",
                Mean(value="consistent"),
                None,
                chance=_EVEN,
            ),
            _measure("first_position", "Judge prefers the first answer", Mean(value="first"), None, chance=_EVEN),
            _measure("unparseable", "Judge's replies that cannot be read", Mean(value="unparseable"), None),
        )

    def run(self, subject: Subject, cache: SampleCache, progress: Progress) -> TaskResult:
        """Answer and judge every prompt, reading what an earlier run found from the cache.

        Raises:
            DataError: a prompt that the subject or the rival cannot read.
            EngineError: a model could not answer, or the judge failed on every pair; what was answered before is kept.
        """
        prompts = self.prompts[: self.limit]
        progress.start(len(prompts) * (3 if self.rival is None else 4))

        def asked(model: Subject) -> list[str]:
            return answers(model, prompts, cache, progress, generation=self.generation, batch_size=self.batch_size)

        ours = asked(subject)
        theirs = [str(prompt.reference) for prompt in prompts] if self.rival is None else asked(self.rival)
        pairs = list(zip(prompts, ours, theirs, strict=True))
        differing = [(prompt.text, a, b) for prompt, a, b in pairs if a != b]
        progress.advance(2 * (len(pairs) - len(differing)))
        orders = [_Comparison(text, *order) for text, a, b in differing for order in ((a, b), (b, a))]
        found, failed = self._judge(orders, cache, progress)
        said = iter(found)
        samples = [
            _sample(prompt, _TIE if a == b else _decided(next(said), next(said)), a, b) for prompt, a, b in pairs
        ]
        return TaskResult.of(
            self,
            samples,
            data_hash=sha256_json({"answers": [[prompt.text, b] for prompt, _, b in pairs]}),
            judge_revision=f"{self.judge.name}@{self.judge.revision}/{JUDGE_VERSION}"
            + ("" if self.by == "words" else f"/{self.by}"),
            caveats=list(self._caveats(failed)),
        )

    def _judge(
        self, comparisons: Sequence[_Comparison], cache: SampleCache, progress: Progress
    ) -> tuple[list[Preference | None], int]:
        """What the judge says of each, and how often it failed: nobody's win, and not kept."""
        keys = [item_hash(comparison) for comparison in comparisons]
        with cache.open(self.judge, "win_rate_judgements", JUDGE_VERSION, self._asked_how()) as kept:
            missing = {key: each for key, each in zip(keys, comparisons, strict=True) if key not in kept}
            progress.advance(len(comparisons) - len(missing))
            failures = []
            for start in range(0, len(missing), self.batch_size):
                batch = list(missing.items())[start : start + self.batch_size]
                replies = self._ask([each for _, each in batch])
                for (key, _), reply in zip(batch, replies, strict=True):
                    if isinstance(reply, EngineError):
                        failures.append(reply)
                    else:
                        kept.put(key, {"reply": reply})
                kept.flush()
                progress.advance(len(batch))
            if failures and len(failures) == len(keys):
                raise failures[0]
            return [parse_preference(kept[key]["reply"]) if key in kept else None for key in keys], len(failures)

    def _asked_how(self) -> dict[str, Any]:
        return asdict(self.judging) if self.by == "words" else {"by": self.by, "opening": OPENING}

    def _ask(self, batch: Sequence[_Comparison]) -> list[str | EngineError]:
        """The judge's replies, or its error; an empty one where the two answers do not fit its context."""
        prompts = [judge_prompt(*comparison) for comparison in batch]
        if self.by == "words":
            said = _as_many(generate_each(self.judge.engine, prompts, self.judging), batch)
            return [_reply(each if isinstance(each, CorralError) else each.text) for each in said]
        scores = label_logprobs_each(self.judge.engine, prompts, LETTERS, answer_prefixes=[OPENING] * len(prompts))
        likeliest = [each if isinstance(each, CorralError) else likeliest_mark(each) for each in scores]
        return [_reply(each) for each in _as_many(likeliest, batch)]

    def _caveats(self, failed: int) -> Iterator[str]:
        rival = "the prompts' own references" if self.rival is None else f"`{self.rival.name}`"
        yield f"Against {rival}, judged by `{self.judge.name}` in both orders, by {self.by}."
        yield "A judge's preference is not a person's; a weak judge follows position and length."
        if failed:
            yield f"The judge failed on {failed} questions, which count for nobody; the same command asks them again."


def answers(
    model: Subject,
    prompts: Sequence[ComparisonPrompt],
    cache: SampleCache,
    progress: Progress,
    *,
    generation: GenerationSettings = _ANSWERING,
    batch_size: int = _BATCH,
) -> list[str]:
    """What a model says to each prompt, which ``WinRate`` with the same settings then finds in the cache.

    Raises:
        DataError: a prompt that the model cannot read.
        EngineError: the model could not answer; what was answered before is kept.
    """

    def compute(batch: Sequence[str]) -> list[dict[str, str]]:
        replies = model.engine.generate([Conversation.user(text) for text in batch], generation)
        return [{"answer": reply.text} for reply in _as_many(replies, batch)]

    texts = [prompt.text for prompt in prompts]
    values = cache.fill(
        model,
        "win_rate_answers",
        _ANSWERS_VERSION,
        settings=asdict(generation),
        items=texts,
        keys=[item_hash(text) for text in texts],
        compute=compute,
        batch_size=batch_size,
        progress=progress,
    )
    return [value["answer"] for value in values]


def _reply(said: str | CorralError) -> str | EngineError:
    """What is kept: an error of the prompt, which stays one, is an empty reply."""
    if isinstance(said, CorralError):
        return said if isinstance(said, EngineError) else ""
    return said


def _as_many(replies: Sequence[Reply], asked: Sequence[object]) -> Sequence[Reply]:
    if len(replies) != len(asked):
        raise EngineError("the engine gave another number of replies than was asked for")
    return replies


def _sample(prompt: ComparisonPrompt, values: Mapping[str, float | None], ours: str, theirs: str) -> SampleScore:
    texts = {"request": prompt.text, "answer": ours, "rival": theirs}
    values = {**values, "length_difference": float(len(ours) - len(theirs))}
    return SampleScore(prompt.id, prompt_key(prompt.text), values, texts=texts)


def _decided(in_front: Preference | None, behind: Preference | None) -> Mapping[str, float | None]:
    """What the judge says of two answers with the subject's in front, and behind; nothing unless both were read."""
    first, second = subject_share(in_front, subject_first=True), subject_share(behind, subject_first=False)
    values: dict[str, float | None] = {"identical": 0.0, "unparseable": (in_front, behind).count(None) / 2}
    if first is None or second is None:
        return values | dict.fromkeys(("win", "tie", "consistent", "first"))
    win = (first + second) / 2
    return values | {
        "win": win,
        "tie": float(win == _EVEN),
        "consistent": float(first == second),
        "first": (first + 1 - second) / 2,
    }


def _measure(
    name: str,
    title: str,
    formula: Formula,
    higher_is_better: bool | None,
    *,
    chance: float | None = None,
    headline: bool = False,
) -> Measure:
    return Measure(
        name=name,
        title=title,
        unit="share",
        higher_is_better=higher_is_better,
        area="ability",
        formula=formula,
        chance=chance,
        headline=headline,
    )
