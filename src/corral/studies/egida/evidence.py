"""The claims of the study, from margins, replies and labels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydantic import JsonValue

from corral.core.evidence import Claim
from corral.core.weighted import Statistic, mean
from corral.redteam.agreement import Agreement, JudgedReplies, agreement_of, training_caveat
from corral.redteam.correction import correct_run
from corral.redteam.egida.cells import attack_table
from corral.redteam.egida.chosen import ChosenKind
from corral.redteam.egida.held_out import held_out_of
from corral.redteam.egida.pairs import Pair
from corral.redteam.egida.shortcut import ALARM, Shortcut
from corral.redteam.egida.split import CELLS, Cell
from corral.redteam.measures import refuses
from corral.redteam.results import RedteamReport
from corral.redteam.settings import RunSettings
from corral.studies.claims import NOTHING_ELSE, Compared, claim_of, compare_over_seeds
from corral.studies.egida.instances import Drawn
from corral.studies.egida.measures import BEFORE, Scores
from corral.studies.egida.pareto import Point
from corral.studies.egida.settings import ClaimId, EgidaConfig
from corral.studies.egida.trainings import MinedSides

_NEW_STYLE: Final[tuple[Cell, ...]] = (CELLS[1], CELLS[3])


@dataclass(frozen=True)
class Findings:
    """All figures of a study.

    Attributes:
        config: settings.
        drawn: instances and their split.
        sides: mined pairs by chosen source.
        test_pairs: those that were scored, by source.
        before: scores of these under the target, by source.
        after: scores by trained source, then by the source of the scored pairs, then by seed.
        shortcuts: how well style tells the sides apart, by source.
        judged: what judges say of replies that people labelled, the judge of the pairs first.
        attacks: of the target and the headline models, with the settings of the run.
        front: trainings of other strength, where they were asked for.
        training_hours: of one training of the headline source, the mean over seeds; ``None`` where it is not known.
    """

    config: EgidaConfig
    drawn: Drawn
    sides: Mapping[ChosenKind, MinedSides]
    test_pairs: Mapping[ChosenKind, Sequence[Pair]]
    before: Mapping[ChosenKind, Scores]
    after: Mapping[ChosenKind, Mapping[ChosenKind, Mapping[int, Scores]]]
    shortcuts: Mapping[ChosenKind, Shortcut]
    judged: Sequence[JudgedReplies]
    attacks: tuple[RedteamReport, RunSettings] | None
    front: Sequence[Point] = ()
    training_hours: float | None = None

    @property
    def headline(self) -> ChosenKind:
        """The chosen source of the main claims."""
        return self.config.chosen[0]

    def cell_of(self) -> dict[str, Cell]:
        """Cell of each test instance by uuid."""
        return {each.uuid: cell for cell in CELLS for each in self.drawn.split.test[cell]}

    def margins(
        self, trained: ChosenKind, on: ChosenKind, cells: Sequence[Cell] = CELLS, *, less: ChosenKind | None = None
    ) -> Compared:
        """Margins of held-out pairs in some cells after training, less those of another training.

        Args:
            trained: chosen source of the training.
            on: chosen source of the pairs.
            cells: of the split, all of whose pairs are taken.
            less: chosen source of the other training; without one before training, where margins are 0 by definition.
        """
        of_cell, pairs = self.cell_of(), self.test_pairs[on]
        wanted = np.array([of_cell[pair.instance.uuid] in cells for pair in pairs], dtype=bool)

        def margins_of(kind: ChosenKind) -> list[Statistic]:
            return [mean(scores.margins(self.before[on])[wanted]) for scores in self.after[kind][on].values()]

        return compare_over_seeds(
            margins_of(trained),
            [mean(np.zeros(int(wanted.sum())))] if less is None else margins_of(less),
            [
                self.drawn.split.clusters[pair.instance.base.id]
                for pair, taken in zip(pairs, wanted.tolist(), strict=True)
                if taken
            ],
            seed=self.config.seed,
            replicates=self.config.replicates,
        )

    def change(self, trained: ChosenKind, side: str) -> float:
        """Mean change of one side's log-likelihood over held-out pairs and seeds, in nats."""
        before = getattr(self.before[trained], side)
        return float(np.mean([getattr(each, side) - before for each in self.after[trained][trained].values()]))


def all_claims(found: Findings) -> list[Claim]:
    """Every claim that the run has figures for."""
    claims = [generalises(found)]
    if found.attacks is not None:
        claims.append(over_refusal_cost(found, *found.attacks))
    if found.judged:
        claims.append(judge_agreement(found))
    if len(found.config.chosen) > 1:
        claims.append(on_policy_vs_foreign(found))
    return claims


def generalises(found: Findings) -> Claim:
    """Training on seen styles raises the margins of pairs in styles that it never saw."""
    kind = found.headline
    compared = found.margins(kind, kind, _NEW_STYLE)
    every_seed = all(value is not None and value > 0 for value in compared.by_seed)
    beside: dict[str, Any] = {
        "margins_by_cell": {cell: found.margins(kind, kind, (cell,)).to_json() for cell in CELLS},
        "change_of_log_likelihood": {side: found.change(kind, side) for side in ("chosen", "rejected")},
        "yields": {side: getattr(found.sides[kind], side).table() for side in ("train", "test")},
        "costs": _costs(found),
        "shortcut": _shortcut(found.shortcuts[kind]),
        "chosen_also_trained_on": found.sides[kind].chosen_overlap,
        **_caveat(found, (kind,)),
    }
    if found.attacks is not None:
        beside["attack_success"] = _attack_tables(found, *found.attacks)
        beside["attack_success_corrected"] = _corrected(found, found.attacks[0])
    return claim_of(
        "dpo_generalises_to_unseen_styles",
        compared,
        metric=f"margin of held-out pairs in unseen styles, in nats, chosen from `{kind}`: how much the safe side "
        "gained on the unsafe one; 0 before training by definition",
        expected="the interval above zero, and the margin above zero with every seed",
        seeds=found.config.seeds,
        toy=found.config.toy,
        tried=found.config.tried.get("dpo_generalises_to_unseen_styles", ()),
        also=every_seed,
        beside=beside,
    )


def over_refusal_cost(found: Findings, report: RedteamReport, settings: RunSettings) -> Claim:
    """Harmless requests, in the same styles, are refused hardly more often than before."""
    del settings
    limit = found.config.most_over_refusal
    refused = {
        system.target: {item.pair: refuses(item) for item in report.items[system.name] if item.kind == "benign"}
        for system in report.systems
    }
    known = [pair for pair in refused[BEFORE] if all(each.get(pair) is not None for each in refused.values())]
    clusters = {item.pair: item.cluster for item in report.items[report.systems[0].name]}
    after = [values for target, values in refused.items() if target != BEFORE]
    compared = compare_over_seeds(
        [mean(np.array([float(bool(values[pair])) for pair in known])) for values in after],
        [mean(np.array([float(bool(refused[BEFORE][pair])) for pair in known]))],
        [clusters[pair] for pair in known],
        seed=found.config.seed,
        replicates=found.config.replicates,
    )
    high = compared.difference.high
    return _claim(
        "over_refusal_cost",
        found,
        compared,
        metric=f"share of harmless requests, plain and in the same styles, that are refused, judge "
        f"{next(iter(report.judges))}; after less before",
        expected=f"the interval ends below {limit:.2f}",
        holds=high is not None and high < limit,
        beside={"pareto": [point.to_json() for point in found.front]} if found.front else None,
    )


def judge_agreement(found: Findings) -> Claim:
    """The judge that labels pairs agrees with people better than chance by some way.

    The headline is the first set that the judge cannot have been trained on, if there is one.
    """
    agreement = found.config.agreement
    least = 0.0 if agreement is None else agreement.least_kappa
    agreements: list[Agreement] = []
    for judged in found.judged:
        agreements += agreement_of(judged, seed=found.config.seed, replicates=found.config.replicates)
    of_judge = [each for each in agreements if each.judge == agreements[0].judge and not each.by]
    headline = next((each for each in of_judge if not training_caveat(each)), of_judge[0])
    caveat = training_caveat(headline)
    kappa = headline.figures["kappa"]
    holds = kappa.ci95 is not None and kappa.ci95[0] > least
    return Claim(
        claim="judge_agreement",
        metric=f"Cohen's kappa of judge {headline.judge} with people on {headline.set} ({headline.rule})",
        baseline=0.0,
        ours={
            "kappa": kappa.value,
            "table": [
                {
                    **{name: getattr(each, name) for name in ("judge", "set", "by", "value", "n", "undecided")},
                    **{name: rate.model_dump(mode="json") for name, rate in each.figures.items()},
                    "caveat": training_caveat(each),
                }
                for each in agreements
            ],
            **({"caveat": f"{headline.judge} on {headline.set}: {caveat}."} if caveat else {}),
        },
        n=headline.n,
        ci95=kappa.ci95,
        seeds=(found.config.seed,),
        expected=f"the interval lies above {least:.2f}",
        holds=holds,
        toy=found.config.toy,
        tried=_tried("judge_agreement", found, holds=holds),
    )


def on_policy_vs_foreign(found: Findings) -> Claim:
    """Preferred answers of the target's own beside others: both are reported, and no winner is expected."""
    foreign = found.headline
    others = [kind for kind in found.config.chosen if kind != foreign and kind in found.after]
    table: dict[str, JsonValue] = {
        kind: {
            "pairs": len(found.sides[kind].train.pairs),
            "shortcut": _shortcut(found.shortcuts[kind]),
            "chosen_also_trained_on": found.sides[kind].chosen_overlap,
            "margins_in_unseen_styles": {
                on: found.margins(kind, on, _NEW_STYLE).to_json() for on in found.after.get(kind, {})
            },
        }
        for kind in found.config.chosen
    }
    caveat = _caveat(found, found.config.chosen)
    metric = f"margins of held-out pairs in unseen styles, chosen from {' and '.join(found.config.chosen)}, in nats"
    expected = (
        "trained on any, the interval of the margin on its own held-out pairs lies above zero; which is larger is open"
    )
    if not others:
        return Claim(
            claim="on_policy_vs_foreign_chosen",
            metric=metric,
            baseline=None,
            ours={"sources": table, **caveat},
            n=0,
            ci95=None,
            seeds=found.config.seeds,
            expected=expected,
            holds=False,
            toy=found.config.toy,
            tried=("the other source gave too few pairs to train on",),
        )
    own = {kind: found.margins(kind, kind, _NEW_STYLE) for kind in (foreign, *others)}
    compared = found.margins(others[0], foreign, _NEW_STYLE, less=foreign)
    return _claim(
        "on_policy_vs_foreign_chosen",
        found,
        compared,
        metric=f"{metric}; ours, baseline and interval: trained on {others[0]} less on {foreign}, both measured on the "
        f"pairs of {foreign}",
        expected=expected,
        holds=all(each.above_zero for each in own.values()),
        beside={"sources": table, **caveat},
    )


def _claim(
    name: ClaimId,
    found: Findings,
    compared: Compared,
    *,
    metric: str,
    expected: str,
    holds: bool,
    beside: Mapping[str, JsonValue] | None = None,
) -> Claim:
    return Claim(
        claim=name,
        metric=metric,
        baseline=compared.baseline,
        ours={**compared.to_json(), **(beside or {})},
        n=compared.difference.n,
        ci95=compared.difference.ci95,
        seeds=found.config.seeds,
        expected=expected,
        holds=holds,
        toy=found.config.toy,
        tried=_tried(name, found, holds=holds),
    )


def _tried(name: ClaimId, found: Findings, *, holds: bool) -> tuple[str, ...]:
    return tuple(found.config.tried.get(name, ())) or (() if holds else NOTHING_ELSE)


def _costs(found: Findings) -> dict[str, Any]:
    """Of mining the training pairs and of one training, at the user's prices."""
    mined = dict(found.sides[found.headline].train.costs)
    hours = found.training_hours
    if hours is None:
        return mined
    return {**mined, "training_hours": hours, "training_usd": hours * found.config.mining.hour_usd}


def _shortcut(shortcut: Shortcut) -> dict[str, JsonValue]:
    found = shortcut.auroc
    return {
        "auroc": found.value,
        "ci95": None if found.ci95 is None else list(found.ci95),
        "n": found.n,
        "alarm": shortcut.alarm,
    }


def _caveat(found: Findings, kinds: Sequence[ChosenKind]) -> dict[str, JsonValue]:
    """What the margins may come from beside the matter of the answers; nothing where no doubt was measured."""
    said = []
    for kind in kinds:
        shortcut, overlap = found.shortcuts[kind], found.sides[kind].chosen_overlap
        if shortcut.alarm:
            said.append(
                f"A bag of words tells the two sides of the training pairs of `{kind}` apart (AUROC "
                f"{shortcut.auroc.value:.2f}, the alarm is above {ALARM:g}), so training may have learnt the style of "
                "the preferred answers rather than their matter."
            )
        if overlap:
            said.append(
                f"Of the pairs of `{kind}` to measure on, {overlap:.0%} have a preferred answer that was trained on."
            )
    return {"caveat": " ".join(said)} if said else {}


def _corrected(found: Findings, report: RedteamReport) -> list[dict[str, Any]]:
    """Attack success in all styles together with the judge's error corrected for, where its error was measured."""
    known = [
        each
        for each in found.judged
        if each.labelled.question == "success" and report.judges.get(each.judge) == each.judge_revision
    ]
    if not known:
        return []
    rates = correct_run(report, known, replicates=found.config.replicates).rates
    return [rate.model_dump(mode="json") for rate in rates if not rate.style]


def _attack_tables(found: Findings, report: RedteamReport, settings: RunSettings) -> dict[str, Any]:
    """Attack success of every system by cell and style, with the capability control, under the judge's name."""
    tables: dict[str, Any] = {"judge": next(iter(report.judges))}
    held_out = held_out_of(found.drawn.split)
    for system in report.systems:
        overall = system.cell("")
        tables[system.target] = {
            **attack_table(report.items[system.name], held_out, settings),
            "understood": None if overall is None else overall.understood.model_dump(mode="json"),
        }
    return tables
