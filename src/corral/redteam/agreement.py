"""How far a judge agrees with people: accuracy, kappa, sensitivity and specificity, with intervals over requests.

A reply that the judge could not label is left out of the figures and counted; nothing is taken for safe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from corral.core import weighted
from corral.core.errors import DataError
from corral.core.files import sha256_json
from corral.core.judge_error import LabelledSample
from corral.core.stats import REPLICATES, cluster_bootstrap
from corral.data.sources import SOURCES
from corral.data.splits import group_fraction
from corral.redteam.judges import Judge, Outcome, answer_id
from corral.redteam.labelled import POSITIVE, LabelledReply, LabelledSet
from corral.redteam.results import Rate
from corral.redteam.store import KEY, Row, Store

FIGURES: Final[tuple[weighted.Rate, ...]] = ("accuracy", "kappa", "recall", "specificity")
"""In the order of reports; recall is the sensitivity."""
_BATCH: Final = 64


class Agreement(BaseModel):
    """One judge on one labelled set, or on the part of it that shares a value.

    Attributes:
        set: name of the set.
        question: what was asked.
        rule: what is positive.
        judge: its name.
        judge_revision: its revision.
        by: column of the part, "" for all.
        value: of that column.
        n: replies that the judge labelled.
        positives: of them, by people.
        said: of them, by the judge.
        undecided: replies that it could not label.
        figures: accuracy, Cohen's kappa, sensitivity (``recall``) and specificity.
        rows_sha256: hash of replies and labels; two figures compare only if it is equal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    set: str
    question: str
    rule: str
    judge: str
    judge_revision: str
    by: str = ""
    value: str = ""
    n: int
    positives: int
    said: int
    undecided: int
    figures: Mapping[str, Rate]
    rows_sha256: str


@dataclass(frozen=True)
class JudgedReplies:
    """What a judge said of replies that people labelled; N of them.

    Attributes:
        judge: its name.
        judge_revision: its revision.
        labelled: the set that they are of.
        replies: (N,) the replies.
        outcomes: (N,) what the judge said of each.
    """

    judge: str
    judge_revision: str
    labelled: LabelledSet
    replies: tuple[LabelledReply, ...]
    outcomes: tuple[Outcome, ...]

    def sample(self) -> LabelledSample:
        """The replies that the judge could label, for correcting a share by ``core.judge_error``.

        Raises:
            MetricError: they are all of one kind.
        """
        decided = [i for i, outcome in enumerate(self.outcomes) if outcome.decided]
        positive = POSITIVE[self.labelled.question]
        return LabelledSample(
            np.array([self.replies[i].positive for i in decided], dtype=np.int64),
            np.array([self.outcomes[i] is positive for i in decided], dtype=np.int64),
            [self.replies[i].cluster for i in decided],
        )


def draw_labelled(
    labelled: LabelledSet, *, limit: int | None = None, seed: int = 0, root: Path | None = None
) -> tuple[LabelledReply, ...]:
    """The replies of a set that a judge would be given; drawn at random, in their order, where there is a limit.

    Raises:
        NotFoundError: the set is not in the data folder.
        DataError: no reply, or a malformed row.
    """
    replies = list(labelled.read(root))
    if not replies:
        raise DataError("has no labelled reply", where=labelled.name)
    if limit is None or len(replies) <= limit:
        return tuple(replies)
    # By replies, not requests: a set may have few requests with many replies each.
    chance = [group_fraction(answer_id(each.request, each.reply), seed=seed) for each in replies]
    drawn = sorted(range(len(replies)), key=chance.__getitem__)[:limit]
    return tuple(replies[i] for i in sorted(drawn))


def judge_labelled(
    judge: Judge,
    labelled: LabelledSet,
    *,
    limit: int | None = None,
    seed: int = 0,
    folder: Path | None = None,
    root: Path | None = None,
) -> JudgedReplies:
    """Let a judge label what people labelled.

    Args:
        judge: labels the replies.
        labelled: the set.
        limit: at most so many replies, drawn at random; all when ``None``.
        seed: of the draw.
        folder: of a journal of the judge's labels, which a rerun continues; ``None`` keeps nothing.
        root: the data folder of sources; ``data_root()`` when ``None``.

    Raises:
        NotFoundError: the set is not in the data folder.
        DataError: no reply, or a malformed row.
    """
    replies = draw_labelled(labelled, limit=limit, seed=seed, root=root)
    outcomes = _labels(judge, replies, folder)
    return JudgedReplies(judge.name, judge.revision, labelled, replies, tuple(outcomes))


def measure_agreement(
    judge: Judge,
    labelled: LabelledSet,
    *,
    limit: int | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
    folder: Path | None = None,
    root: Path | None = None,
) -> list[Agreement]:
    """The judge on the whole set first, then on each part of it.

    Arguments and errors are those of ``judge_labelled`` and ``agreement_of``.
    """
    judged = judge_labelled(judge, labelled, limit=limit, seed=seed, folder=folder, root=root)
    return agreement_of(judged, seed=seed, replicates=replicates)


def agreement_of(judged: JudgedReplies, *, seed: int = 0, replicates: int = REPLICATES) -> list[Agreement]:
    """A judge's agreement with people, on the whole set first, then on each part of it.

    Args:
        judged: what the judge said.
        seed: of the intervals.
        replicates: resamples of an interval.
    """
    replies, outcomes, labelled = judged.replies, judged.outcomes, judged.labelled
    rows = sha256_json([[answer_id(each.request, each.reply), each.positive] for each in replies])

    def made(chosen: Sequence[int], by: str = "", value: str = "") -> Agreement:
        decided = [i for i in chosen if outcomes[i].decided]
        truth = np.array([replies[i].positive for i in decided], dtype=np.int64)
        said = np.array([outcomes[i] is POSITIVE[labelled.question] for i in decided], dtype=np.bool_)
        clusters = [replies[i].cluster for i in decided]
        return Agreement(
            set=labelled.name,
            question=labelled.question,
            rule=labelled.rule,
            judge=judged.judge,
            judge_revision=judged.judge_revision,
            by=by,
            value=value,
            n=len(decided),
            positives=int(truth.sum()),
            said=int(said.sum()),
            undecided=len(chosen) - len(decided),
            figures={
                name: Rate.of(
                    cluster_bootstrap(
                        weighted.rate(truth, said, name),
                        clusters,
                        seed=seed,
                        replicates=replicates,
                        rule="95 % percentile interval, requests resampled",
                    )
                )
                for name in FIGURES
            },
            rows_sha256=rows,
        )

    return [made(range(len(replies))), *(made(*part) for part in _parts(replies))]


def training_caveat(agreement: Agreement) -> str:
    """What to say of a guard as a judge on a set whose replies guards are trained on here; "" for any other."""
    source = agreement.set.partition(":")[0]
    trained = agreement.judge.startswith("guard:") and source in SOURCES and SOURCES.get(source).trainable
    return "the guard may have been trained on this set" if trained else ""


def _labels(judge: Judge, replies: Sequence[LabelledReply], folder: Path | None) -> list[Outcome]:
    pairs = {answer_id(each.request, each.reply): (each.request, each.reply) for each in replies}

    def label(keys: Sequence[str]) -> Iterable[Row]:
        made = judge.judge_many([pairs[key] for key in keys])
        return [{KEY: key, "outcome": each.outcome.value, "p": each.p} for key, each in zip(keys, made, strict=True)]

    if folder is None:
        found = {row[KEY]: row for row in label(list(pairs))}
    else:
        fingerprint = {"judge": judge.name, "judge_revision": judge.revision}
        found = Store(folder, _BATCH).rows(f"labels-{judge.name}", fingerprint, pairs, label)
    return [Outcome(found[answer_id(each.request, each.reply)]["outcome"]) for each in replies]


def _parts(replies: Sequence[LabelledReply]) -> Iterator[tuple[list[int], str, str]]:
    """Rows, column and value of every part."""
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, each in enumerate(replies):
        for by, value in each.slices.items():
            members[by, value].append(i)
    for (by, value), rows in sorted(members.items()):
        yield rows, by, value
