"""Preference pairs from a target's own unsafe answers.

For each instance the target answers so many times, and the judge reads each answer. The first unsafe one is the
rejected side, the first safe one of the chosen source the preferred side; both sides follow the prompt that was sent.
What a judge could not label is neither safe nor unsafe and never becomes a side.

Answers and labels are journalled row by row; a killed run goes on where it stopped and gives the same pairs. Instances
are taken in an order that mixes styles and topics, until the budget of pairs or of money is reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from corral.core.errors import ConfigError, DataError
from corral.core.files import atomic_write_json, atomic_write_text
from corral.core.journal import Journal
from corral.core.progress import milestone
from corral.data.messages import Conversation
from corral.data.never_answered import speaks_of_sex_or_minors
from corral.data.readers import as_json
from corral.data.splits import group_fraction
from corral.models.engines.base import GenerationSettings
from corral.redteam.answers import Answers, answer, answers_fingerprint, too_many_failed
from corral.redteam.attempts import Target
from corral.redteam.defences import judged
from corral.redteam.egida.chosen import ChosenSource, Proposal
from corral.redteam.egida.costs import CostMeter, Prices
from corral.redteam.egida.expand import Instance
from corral.redteam.egida.pairs import Mined, Pair, Yield
from corral.redteam.judges import Judge, Outcome, answer_id
from corral.redteam.settings import RunSettings
from corral.redteam.store import KEY, Row, Store

PAIRS: Final = "pairs.jsonl"
YIELDS: Final = "yields.json"
COSTS: Final = "costs.json"
_SAFE: Final = (Outcome.REFUSES, Outcome.SAFE)


@dataclass(frozen=True, slots=True)
class MiningSettings:
    """How pairs are mined.

    Attributes:
        budget: pairs to stop at.
        samples: answers of the target an instance; more than one needs a temperature.
        generation: how it answers.
        batch_size: instances at a time; what was answered reaches the disk after each batch.
        prices: what things cost, and where to stop.
        seed: of the order of instances and of sampling.

    Raises:
        ConfigError: a count below 1, or several samples without a temperature.
    """

    budget: int = 2000
    samples: int = 1
    generation: GenerationSettings = field(default_factory=lambda: GenerationSettings(max_new_tokens=256))
    batch_size: int = 16
    prices: Prices = field(default_factory=Prices)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("budget", "samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{getattr(self, name)}` is below 1", where=name)
        if self.samples > 1 and self.generation.temperature == 0:
            raise ConfigError(
                "several samples are the same without a temperature", where="samples", hint="Set `temperature`."
            )


def mine_pairs(
    instances: Sequence[Instance],
    target: Target,
    judge: Judge,
    chosen: ChosenSource,
    *,
    folder: Path,
    settings: MiningSettings,
    journals: Path | None = None,
) -> Mined:
    """Mine until the budget is reached or no instance is left, and write pairs, yields and costs into a folder.

    A budget that cannot be reached is said, with the styles that gave nothing; what was made is kept. Mining is given
    up once more than 5 % of all answers failed. Instances that an earlier session finished are read from the journals:
    they cost nothing, and are taken even where the money is spent.

    Args:
        instances: of the training side of a split.
        target: whose answers are the rejected side.
        judge: labels answers, decoded, against the plain request.
        chosen: where the preferred side is from.
        folder: of the results; a rerun continues.
        settings: see there.
        journals: folder of answers and labels, which several minings of one target may share; inside ``folder`` if not
            given.

    Raises:
        ConfigError: an instance in a style of several turns, or beyond the chat template: no pair can be trained on it.
        DataError: a request that speaks of sex or of minors (``load_base`` leaves such out): no model is asked it.
    """
    _require_single_turns(instances)
    _require_answerable(instances)
    store = Store(journals or folder / "journals", settings.batch_size)
    planned = len(instances) * settings.samples
    miner = _Miner(target, judge, chosen, store=store, folder=folder, settings=settings, planned=planned)
    ordered = sorted(instances, key=lambda each: group_fraction(f"mining/{each.uuid}", seed=settings.seed))
    pairs: list[Pair] = []
    yields = dict.fromkeys((each.uuid for each in instances), Yield.NOT_REACHED)
    stopped = None
    for start in range(0, len(ordered), settings.batch_size):
        some = ordered[start : start + settings.batch_size]
        stopped = miner.reason_to_stop(some, len(pairs))
        if stopped is not None:
            break
        for each, outcome, pair in miner.batch(some):
            if pair is not None and len(pairs) == settings.budget:
                break
            yields[each.uuid] = outcome
            if pair is not None:
                pairs.append(pair)
    mined = Mined(tuple(pairs), yields, tuple(instances), miner.meter.to_json(), stopped)
    _write(mined, folder)
    _say(mined, settings)
    return mined


class _Miner:
    """Answers, labels and preferred sides of some instances at a time."""

    def __init__(
        self,
        target: Target,
        judge: Judge,
        chosen: ChosenSource,
        *,
        store: Store,
        folder: Path,
        settings: MiningSettings,
        planned: int,
    ) -> None:
        self._target, self._judge, self._chosen, self._store = target, judge, chosen, store
        self._settings = settings
        self._asking = RunSettings(generation=settings.generation, seed=settings.seed, batch_size=settings.batch_size)
        self._planned = planned
        self._failed = 0
        self._given_up: str | None = None
        self.meter = CostMeter(folder / COSTS, settings.prices)
        with self._finished() as journal:
            self._kept = {row[KEY] for row in journal.entries()}

    def reason_to_stop(self, instances: Sequence[Instance], pairs: int) -> str | None:
        """Why some instances are not to be begun, ``None`` when they are."""
        if pairs >= self._settings.budget:
            return f"the budget of {self._settings.budget} pairs is reached"
        if self._given_up is not None:
            return self._given_up
        if self.meter.exhausted and not self._is_kept(instances):
            return f"{self.meter.usd:.2f} USD are spent"
        return None

    def batch(self, instances: Sequence[Instance]) -> Iterable[tuple[Instance, Yield, Pair | None]]:
        """What became of each instance, in order."""
        with nullcontext() if self._is_kept(instances) else self.meter.running():
            attempts = [each.attempt(sample) for each in instances for sample in range(self._settings.samples)]
            answers = answer(self._target, attempts, self._store, self._asking)
            labels = judged(self._judge, answers, self._store)
            self.meter.judged(*(f"{row['goal']}{row['decoded'] or ''}" for row in answers.rows.values()))
            rejected = {each.uuid: self._first(each, answers, labels, (Outcome.COMPLIES,)) for each in instances}
            wanted = [each for each in instances if rejected[each.uuid] is not None]
            preferred = self._preferred(wanted, answers, labels)
        self._failed += sum(answers.failed.values())
        self._given_up = answers.stopped or too_many_failed(self._failed, self._planned)
        self._keep(instances, answers)
        return [
            (each, *self._result(each, rejected[each.uuid], preferred.get(each.uuid), answers, labels))
            for each in instances
        ]

    def _is_kept(self, instances: Sequence[Instance]) -> bool:
        return all(each.uuid in self._kept for each in instances)

    def _keep(self, instances: Sequence[Instance], answers: Answers) -> None:
        """Note the instances that are finished; one without an answer is asked again by the next session."""
        with self._finished() as journal:
            for each in instances:
                if each.uuid not in journal and all(key in answers.rows for key in self._keys(each)):
                    journal.append({KEY: each.uuid})

    def _finished(self) -> AbstractContextManager[Journal]:
        """The journal of finished instances."""
        depends_on = {
            **answers_fingerprint(self._target, self._asking),
            **self._preferring(),
            "samples": self._settings.samples,
        }
        return self._store.open("mined", depends_on)

    def _preferring(self) -> dict[str, str]:
        """What the choice of preferred sides depends on."""
        return {
            "judge": self._judge.name,
            "judge_revision": self._judge.revision,
            "chosen": self._chosen.name,
            "chosen_revision": self._chosen.revision,
        }

    def _result(
        self,
        instance: Instance,
        rejected: Row | None,
        chosen: Proposal | None,
        answers: Answers,
        labels: Mapping[str, Outcome],
    ) -> tuple[Yield, Pair | None]:
        if rejected is not None:
            if chosen is None:
                return Yield.NO_SAFE, None
            rejected_text, rejected_complete = _said(rejected)
            return Yield.PAIR, Pair(instance, chosen.text, rejected_text, chosen.complete, rejected_complete)
        known = [labels[key] for key in self._keys(instance) if key in answers.rows]
        if not known:
            return Yield.FAILED, None
        return (Yield.NO_UNSAFE if any(label.decided for label in known) else Yield.UNPARSED), None

    def _preferred(
        self, instances: Sequence[Instance], answers: Answers, labels: Mapping[str, Outcome]
    ) -> dict[str, Proposal]:
        """The first safe answer of the chosen source to each instance."""
        if self._chosen.name == "self_safe":
            own = {each.uuid: self._first(each, answers, labels, _SAFE) for each in instances}
            return {key: _said(row) for key, row in own.items() if row is not None}
        proposed = self._chosen.propose(instances)
        safe = self._judged_safe({each.uuid: each for each in instances}, proposed)
        found: dict[str, Proposal] = {}
        for each in instances:
            first = next((some for some in proposed[each.uuid] if _name(each, some) in safe), None)
            if first is not None:
                found[each.uuid] = first
        return found

    def _judged_safe(self, instances: Mapping[str, Instance], proposed: Mapping[str, Sequence[Proposal]]) -> set[str]:
        """Names of the proposals that the judge calls safe, decoded as the style asks."""
        read = {
            _name(instances[key], each): (instances[key].base.goal.text, _decoded(instances[key], each.text))
            for key, some in proposed.items()
            for each in some
        }
        self.meter.judged(*(f"{request}{text}" for request, text in read.values()))

        def label(names: Sequence[str]) -> list[Row]:
            made = self._judge.judge_many([read[name] for name in names])
            return [{KEY: name, "outcome": each.outcome.value} for name, each in zip(names, made, strict=True)]

        rows = self._store.rows(f"chosen-{self._chosen.name}", self._preferring(), read, label)
        return {name for name, row in rows.items() if Outcome(row["outcome"]) in _SAFE}

    def _first(
        self,
        instance: Instance,
        answers: Answers,
        labels: Mapping[str, Outcome],
        wanted: Sequence[Outcome],
    ) -> Row | None:
        """The first sample of an instance with one of the labels."""
        keys = (key for key in self._keys(instance) if key in answers.rows and labels.get(key) in wanted)
        return next((answers.rows[key] for key in keys), None)

    def _keys(self, instance: Instance) -> list[str]:
        return [instance.attempt(sample).key for sample in range(self._settings.samples)]


def _require_single_turns(instances: Sequence[Instance]) -> None:
    for each in instances:
        if each.prompt.follow_ups or not isinstance(each.prompt.prompt, Conversation):
            raise ConfigError(
                f"style `{each.style}` takes several turns or leaves the chat template, so no pair can be made of it",
                where="styles",
                hint="`corral redteam styles` shows what each style needs.",
            )


def _require_answerable(instances: Sequence[Instance]) -> None:
    for each in instances:
        if speaks_of_sex_or_minors(each.base.goal.text):
            raise DataError(
                "the request speaks of sex or of minors, and no model is asked it to mine its answer",
                where=each.base.id,
                hint="Leave such requests out, as `load_base` does.",
            )


def _said(row: Row) -> Proposal:
    """An answer of the journal."""
    return Proposal(str(row["answer"]), row["finish_reason"] == "stop")


def _name(instance: Instance, proposal: Proposal) -> str:
    """Names what the judge reads, so that a label never passes to another text when a pool proposes one on a rerun."""
    return f"{instance.uuid}/{answer_id(instance.base.goal.text, _decoded(instance, proposal.text))}"


def _decoded(instance: Instance, text: str) -> str:
    """A proposal as the judge reads it. Plain words are read as they are where the style asks for a code."""
    decoded = instance.prompt.decode(text)
    return text if decoded is None else decoded


def _write(mined: Mined, folder: Path) -> None:
    atomic_write_text(folder / PAIRS, "".join(f"{as_json(pair.to_json())}\n" for pair in mined.pairs))
    atomic_write_json(folder / YIELDS, mined.table())


def _say(mined: Mined, settings: MiningSettings) -> None:
    milestone(f"{len(mined.pairs)} pairs from {len(mined.instances)} instances, {mined.costs['usd']:.2f} USD")
    if mined.stopped is not None:
        milestone(f"stopped: {mined.stopped}")
    if len(mined.pairs) < settings.budget:
        without = ", ".join(mined.table()["styles_without_pairs"])
        milestone(
            f"the budget of {settings.budget} pairs was not reached"
            + (f"; styles without a pair: {without}" if without else "")
        )
