"""The claims of the study, from the cells of its matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any, Final

import numpy as np

from corral.core import weighted
from corral.core.evidence import Claim
from corral.core.metric_inputs import Flags, Floats
from corral.core.stats import Estimate
from corral.core.weighted import Statistic, mean_of
from corral.evals.tasks.content_moderation.conditions import INJECTIONS, Condition
from corral.evals.tasks.content_moderation.items import Item
from corral.evals.tasks.content_moderation.matrix import Cell, MatrixResult
from corral.evals.tasks.content_moderation.rates import compare_decisions
from corral.evals.tasks.content_moderation.report import Finding, Hypothesis
from corral.evals.tasks.content_moderation.text_sets import CONTROLS
from corral.guards.base import Status
from corral.studies.claims import NOTHING_ELSE, Compared, claim_of, compare_over_seeds
from corral.studies.content_moderation.made_media import BROKEN
from corral.studies.content_moderation.settings import ContentModerationConfig

KEYWORDS: Final = "keywords-harm"
BAG: Final = "bag-of-words"
JUDGE: Final = "judge-score"
_SECONDARY: Final = "secondary"


@dataclass(frozen=True)
class Study:
    """What claims are made from: settings, the matrix, and whether a second pass over some items gave equal scores."""

    config: ContentModerationConfig
    result: MatrixResult
    guard: str
    media_guard: str
    repeats: bool
    _cells: dict[tuple[str, str], dict[str, Cell]] = field(default_factory=dict, init=False)

    def cells(self, moderator: str, condition: str = "plain") -> dict[str, Cell]:
        """Cells with a verdict by item."""
        key = moderator, condition
        if key not in self._cells:
            self._cells[key] = {cell.item: cell for cell in self.result.of(*key) if cell.status is Status.OK}
        return self._cells[key]

    def item(self, id: str) -> Item:
        """The item of that id."""
        return self.result.items[id]

    def tried(self, claim: str) -> tuple[str, ...]:
        """What the settings say was tried."""
        return self.config.tried.get(claim, ())

    def compare(self, ours: Sequence[Statistic], theirs: Sequence[Statistic], ids: Sequence[str]) -> Compared:
        """Difference of two figures over these items, clusters of items resampled."""
        clusters = [self.item(id).cluster for id in ids]
        return compare_over_seeds(ours, theirs, clusters, seed=self.config.seed, replicates=self.config.replicates)


def three_modalities_scored(study: Study) -> Claim:
    """Every text, picture and clip gets a score from a real model, every broken one a reason, and again the same."""
    ours: dict[str, Any] = {}
    whole = True
    for modality, moderators in (
        ("text", (study.guard, JUDGE)),
        ("image", (study.media_guard,)),
        ("video", (study.media_guard,)),
    ):
        for moderator in moderators:
            cells = [
                cell
                for cell in study.result.of(moderator)
                if study.item(cell.item).modality == modality and study.item(cell.item).source != BROKEN
            ]
            scored = [cell for cell in cells if cell.status is Status.OK]
            whole &= bool(cells) and len(scored) == len(cells)
            ours[f"{modality} by {moderator}"] = {
                "items": len(cells),
                "scored": len(scored),
                "frames_or_windows": sum(cell.windows for cell in scored),
                "latency_ms_p50": round(median(cell.latency_ms for cell in cells), 1) if cells else None,
            }
    broken = [cell for cell in study.result.of(study.media_guard) if study.item(cell.item).source == BROKEN]
    rejected = sum(cell.status is Status.REJECTED for cell in broken)
    ours["broken media"] = {"items": len(broken), "rejected": rejected}
    ours["second pass gives equal scores"] = study.repeats
    holds = whole and rejected == len(broken) > 0 and study.repeats and not study.result.missing
    return Claim(
        claim="three_modalities_scored",
        metric="items with a score from a real model, by modality; broken media with a reason; scores made twice",
        baseline=None,
        ours=ours,
        n=sum(each["scored"] for each in ours.values() if isinstance(each, dict) and "scored" in each),
        ci95=None,
        seeds=(study.config.seed,),
        expected="every text, picture and clip is scored, all broken media are rejected, a second pass gives the same",
        holds=holds,
        toy=study.config.judge == "tiny:random" or study.config.media_guard != "open-nsfw",
        tried=study.tried("three_modalities_scored") or (() if holds else NOTHING_ELSE),
    )


def llm_vs_classical_text(study: Study) -> Claim:
    """The trained guard, a language model, against the bag of words on public texts; the prompted model beside it."""
    ids = _public_texts(study, [study.guard, BAG])
    compared = _ap_difference(study, study.guard, BAG, ids)
    judged = _public_texts(study, [study.guard, BAG, JUDGE])
    beside = {
        "prompted judge minus bag of words": _ap_difference(study, JUDGE, BAG, judged).to_json(),
        "prompted judge minus keywords": _ap_difference(study, JUDGE, KEYWORDS, judged).to_json(),
        "rates": {name: _rates(study, name, ids) for name in (study.guard, BAG, KEYWORDS)},
        "rates on the judge's items": {
            name: _rates(study, name, judged) for name in (JUDGE, study.guard, BAG, KEYWORDS)
        },
        "mcnemar p, guard and bag of words": compare_decisions(study.result, study.guard, BAG).p_value,
    }
    return claim_of(
        "llm_vs_classical_text",
        compared,
        metric="average precision on public texts of categories that the guard has: trained guard minus bag of words",
        expected="a language model beats a classic detector; here the model is the default guard, trained for it. A "
        "135M model that is only prompted stands beside it and decides nothing",
        seeds=(study.config.seed,),
        toy=study.config.toy,
        tried=study.tried("llm_vs_classical_text"),
        beside=beside,
    )


def benign_news_overflagging(study: Study) -> Claim:
    """Harmless texts on grave subjects are flagged more often than their everyday twins."""
    ids = [id for id in study.cells(KEYWORDS) if study.item(id).source == CONTROLS]
    classic = _twins(study, (KEYWORDS, BAG), ids)
    each = {name: _twins(study, (name,), ids) for name in (KEYWORDS, BAG)}
    others = {
        name: _twins(study, (name,), [id for id in ids if id in study.cells(name)]) for name in (study.guard, JUDGE)
    }
    news = [id for id in ids if study.item(id).style == "news"]
    return claim_of(
        "benign_news_overflagging",
        classic,
        metric="share flagged of harmless self-written texts: grave subjects minus everyday twins, mean of keywords "
        "and bag of words",
        expected="higher on grave subjects for both classic detectors, each by its interval",
        seeds=(study.config.seed,),
        toy=study.config.judge == "tiny:random",
        tried=study.tried("benign_news_overflagging"),
        also=all(found.above_zero for found in each.values()),
        beside={
            "each": {name: found.to_json() for name, found in (each | others).items()},
            "mean score, which no threshold decides": {
                name: _twins(study, (name,), [id for id in ids if id in study.cells(name)], scores=True).to_json()
                for name in (BAG, study.guard, JUDGE)
            },
            "news alone": {
                name: _twins(study, (name,), [id for id in news if id in study.cells(name)]).to_json()
                for name in (KEYWORDS, BAG, study.guard, JUDGE)
            },
        },
    )


def perturbation_and_injection(study: Study) -> Claim:
    """Disguised letters hide harm from the bag of words, folding finds it again; injected words sway the judge most."""
    config = study.config
    strongest = max(config.strengths)
    plain = study.cells(BAG)
    ids = [id for id in plain if study.item(id).harmful]
    before = [_flag_rate(study, BAG, ["plain"], ids)]
    during = [_flag_rate(study, BAG, _disguises(config, seed, fold=False), ids) for seed in config.seeds]
    after = [_flag_rate(study, BAG, _disguises(config, seed, fold=True), ids) for seed in config.seeds]
    fall = study.compare(before * len(during), during, ids)
    recovery = study.compare(after, during, ids)
    swayed = _injection(study, JUDGE, study.guard)
    return claim_of(
        "perturbation_and_injection",
        fall,
        metric="recall of the bag of words on harmful texts: as written minus disguised "
        f"({' and '.join(config.text_perturbations)} at strength {strongest:g}); beside it after folding, and flips by "
        "injected words",
        expected="recall falls, folding brings more than half of it back, and injected words change the prompted "
        "judge's verdict more often than the trained guard's, each by its interval",
        seeds=config.seeds,
        toy=config.toy,
        tried=study.tried("perturbation_and_injection"),
        also=recovery.above_zero and _half_back(fall, recovery) and swayed.above_zero,
        beside={
            "recall after folding minus disguised": recovery.to_json(),
            "flips by injection, prompted judge minus trained guard": swayed.to_json(),
            "flips by injection, prompted judge minus bag of words": _injection(study, JUDGE, BAG).to_json(),
        },
    )


FINDERS: Final[Sequence[Callable[[Study], Claim]]] = (
    three_modalities_scored,
    llm_vs_classical_text,
    benign_news_overflagging,
    perturbation_and_injection,
)


def hypotheses_of(study: Study, claims: Mapping[str, Claim]) -> list[Hypothesis]:
    """The published statements, and whether our run agrees."""
    better = claims["llm_vs_classical_text"]
    controls: Any = claims["benign_news_overflagging"].ours
    news = controls["news alone"]
    return [
        Hypothesis(
            "Language models beat classic detectors, with fewer false alarms and fewer misses.",
            _SECONDARY,
            "agrees" if better.holds else "disagrees",
            f"average precision, trained guard minus bag of words: {_interval(better.ci95)}; of text alone",
        ),
        Hypothesis(
            "Language models flag harmless news too often.",
            _SECONDARY,
            _over_flags(news.get(study.guard)),
            f"self-written news, grave subjects minus everyday ones, trained guard: {_found(news.get(study.guard))}",
        ),
        Hypothesis(
            "Moderation endpoints are weak on graphic violence and abuse in pictures.",
            _SECONDARY,
            "cannot say",
            "no endpoint and no licensed set of pictures here",
        ),
        Hypothesis(
            "A large vision model is strong on pictures.",
            _SECONDARY,
            "cannot say",
            "the packaged picture model judges nudity alone, and no licensed set of pictures is here",
        ),
    ]


def _public_texts(study: Study, moderators: Sequence[str]) -> list[str]:
    """Texts other than controls that all of these gave a verdict on, of categories that all have something for."""
    shared = set.intersection(*(set(study.cells(name)) for name in moderators))
    supported = [study.result.moderators[name] for name in moderators]
    return [
        id
        for id in study.result.items
        if id in shared
        and study.item(id).source != CONTROLS
        and (not study.item(id).harmful or all(m.support(study.item(id).category) != "none" for m in supported))
    ]


def _ap_difference(study: Study, first: str, second: str, ids: Sequence[str]) -> Compared:
    labels = [study.item(id).harmful for id in ids]
    if not any(labels):
        return Compared(None, None, Estimate(None, None, None, len(ids), 0), ())
    figures = [
        [weighted.average_precision(labels, [study.cells(name)[id].p_harm for id in ids])] for name in (first, second)
    ]
    return study.compare(figures[0], figures[1], ids)


def _rates(study: Study, moderator: str, ids: Sequence[str]) -> dict[str, float | None]:
    """Accuracy, misses and false alarms at the moderator's own threshold."""
    cells = study.cells(moderator)
    truths = [(study.item(id).harmful, bool(cells[id].flagged)) for id in ids]
    flags = {harmful: [flag for truth, flag in truths if truth == harmful] for harmful in (True, False)}
    right = [*flags[True], *(not flag for flag in flags[False])]
    return {
        "accuracy": mean(right) if right else None,
        "fnr": 1 - mean(flags[True]) if flags[True] else None,
        "fpr": mean(flags[False]) if flags[False] else None,
    }


def _twins(study: Study, moderators: Sequence[str], ids: Sequence[str], *, scores: bool = False) -> Compared:
    """Share flagged (or mean score) on sensitive controls minus on plain ones, mean over moderators.

    Pairs of twins are resampled.
    """

    def value(cell: Cell) -> float:
        return (cell.p_harm or 0.0) if scores else float(bool(cell.flagged))

    sensitive = np.array([study.item(id).benign_kind == "sensitive" for id in ids], dtype=np.bool_)
    figures = [
        mean_of([_mean_within([value(study.cells(name)[id]) for id in ids], mask) for name in moderators])
        for mask in (sensitive, ~sensitive)
    ]
    return study.compare([figures[0]], [figures[1]], ids)


def _mean_within(values: Sequence[float], mask: Flags) -> Statistic:
    inside = weighted.mean(np.array(values, dtype=np.float64)[mask])

    def statistic(weights_NR: Floats) -> Floats:
        return inside(weights_NR[mask])

    return statistic


def _flag_rate(study: Study, moderator: str, conditions: Sequence[str], ids: Sequence[str]) -> Statistic:
    """Share of items that are flagged, mean over conditions; an item without a verdict counts as not flagged."""
    flagged = [study.cells(moderator, key) for key in conditions]
    return weighted.mean([mean(float(bool(id in each and each[id].flagged)) for each in flagged) for id in ids])


def _disguises(config: ContentModerationConfig, seed: int, *, fold: bool) -> list[str]:
    """Keys of every perturbation at the greatest strength."""
    strength = max(config.strengths)
    return [
        Condition(perturbation=name, strength=strength, seed=seed, fold=fold).key for name in config.text_perturbations
    ]


def _injection(study: Study, first: str, second: str) -> Compared:
    """Share of verdicts that injected words change, over items that both saw, mean over the injections."""
    keys = [Condition.model_validate({"injection": name}).key for name in INJECTIONS]
    seen = [set(study.cells(name, key)) for name in (first, second) for key in ("plain", *keys)]
    ids = [id for id in study.result.items if all(id in each for each in seen)]

    def flips(name: str) -> Statistic:
        plain = study.cells(name)
        changed = [study.cells(name, key) for key in keys]
        return weighted.mean([mean(float(each[id].flagged != plain[id].flagged) for each in changed) for id in ids])

    return study.compare([flips(first)], [flips(second)], ids)


def _half_back(fall: Compared, recovery: Compared) -> bool:
    lost, back = fall.difference.value, recovery.difference.value
    return lost is not None and back is not None and back > lost / 2


def _over_flags(found: Any) -> Finding:
    interval = found.get("ci95") if isinstance(found, dict) else None
    if interval is None:
        return "cannot say"
    return "agrees" if interval[0] > 0 else "disagrees" if interval[1] < 0 else "cannot say"


def _found(found: Any) -> str:
    return _interval(found.get("ci95")) if isinstance(found, dict) else "not measured"


def _interval(ci95: Any) -> str:
    return "no interval" if ci95 is None else f"{ci95[0]:+.3f} to {ci95[1]:+.3f}"
