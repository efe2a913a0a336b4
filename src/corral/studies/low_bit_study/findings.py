"""The claims of the study, from its cells alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from corral.core.evidence import Claim
from corral.core.stats import Estimate, cluster_bootstrap
from corral.core.weighted import Statistic, mean_of
from corral.studies.claims import (
    NOT_COMPARED,
    NOTHING_ELSE,
    Compared,
    claim_of,
    compare_over_seeds,
    point_of,
    undecided,
)
from corral.studies.low_bit_study.cell_files import reference_failed
from corral.studies.low_bit_study.cells import IN_DOMAIN, Cell
from corral.studies.low_bit_study.settings import ORDERED_METHODS, ClaimId, LowBitConfig

COLLAPSE: Final = 10.0
"""Times the perplexity of the model as it was, from which on it counts as collapsed."""
_COLLAPSING: Final = ("rtn", "gptq", "awq")
_UNIT: Final = "bits per byte of the evaluation half of WikiText-2's validation split"


def table(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The matrix: perplexity and bits per byte of every text, effective bits in both counts, cost, errors."""
    return [_line(cell) for cell in cells]


def ordering_against_paper(config: LowBitConfig, cells: Sequence[Cell]) -> Claim:
    """GPTQ and AWQ lose less than rounding to nearest, at 3 and at 4 bits."""
    compared: dict[str, Statistic] = {}
    used: list[Cell] = []
    for bits in (4, 3):
        nearest = _scored(cells, "rtn", bits)
        for method in ORDERED_METHODS:
            ours = _scored(cells, method, bits)
            if nearest and ours:
                used += [*nearest, *ours]
                compared[f"rtn less {method}, {bits} bits"] = _difference(_mean(nearest), _mean(ours))
    single = {name: _estimate(statistic, cells, config) for name, statistic in compared.items()}
    whole = _estimate(mean_of(list(compared.values())), cells, config) if compared else None
    missing = 2 * len(ORDERED_METHODS) - len(compared)
    failed = _failed(cells, used)
    holds = not missing and not failed and all(found.low is not None and found.low > 0 for found in single.values())
    return _claim(
        "ordering_against_paper",
        config,
        used,
        metric=f"{_UNIT}: rounding to nearest less GPTQ and AWQ",
        baseline=_value([cell for bits in (4, 3) for cell in _scored(cells, "rtn", bits)], cells),
        ours={name: found.to_json() for name, found in single.items()}
        | {"in_words": _ordering_in_words(single)}
        | {"not_measured": missing, "failed": failed}
        | {"proxy_loss": _losses(used)}
        | undecided(f"{missing} of {2 * len(ORDERED_METHODS)} differences were not measured" if missing else ""),
        estimate=whole,
        expected="every difference above zero, its whole interval (windows resampled, mean over calibration seeds); "
        "the interval beside is that of their mean",
        holds=holds,
    )


def ultra_low_bits_collapse(config: LowBitConfig, cells: Sequence[Cell], reference: Cell) -> Claim:
    """At 2 bits rounding to nearest, GPTQ and AWQ break the model; methods made for such widths do not.

    Not decided where the model as it was could not be measured.
    """
    single: dict[str, Estimate] = {}
    statistics = []
    used: list[Cell] = []
    for method in _COLLAPSING if not reference.error else ():
        if found := _scored(cells, method, 2):
            used += found
            grown = _difference(_nats(found), _nats([reference]))
            statistics.append(grown)
            single[method] = _estimate(grown, cells, config)
    failed = _failed(cells, used)
    holds = (
        len(single) == len(_COLLAPSING)
        and not failed
        and all(found.low is not None and found.low > math.log(COLLAPSE) for found in single.values())
    )
    few_bits = [
        line for line in table(cells) if line["nominal_bits"] and line["nominal_bits"] <= 2 and not line["error"]
    ]
    low = {line["name"]: line["texts"][IN_DOMAIN] for line in few_bits}
    return _claim(
        "ultra_low_bits_collapse",
        config,
        used,
        metric="logarithm of how many times the perplexity grows, evaluation half of WikiText-2's validation split",
        baseline=math.log(COLLAPSE),
        ours={
            "growth": {name: found.to_json() for name, found in single.items()},
            "at_2_bits_and_below": low,
            "failed": failed,
            "in_words": _collapse_in_words(single),
        }
        | undecided(reference_failed(reference)),
        estimate=_estimate(mean_of(statistics), cells, config) if statistics else None,
        expected=f"with 2 bits the perplexity of {', '.join(_COLLAPSING)} grows more than {COLLAPSE:g} times, the "
        "whole interval of each above that",
        holds=holds,
    )


def lora_finetuning_does_not_recover(
    config: LowBitConfig, untouched: Mapping[str, Cell], tuned: Mapping[str, Sequence[Cell]]
) -> Claim:
    """A quantized base with a trained adapter is no better than the base untouched."""
    pairs = [
        (cell.scores[IN_DOMAIN].bits_per_byte, untouched[base].scores[IN_DOMAIN].bits_per_byte)
        for base, found in tuned.items()
        for cell in found
        if not cell.error and not untouched[base].error
    ]
    compared = (
        compare_over_seeds(
            [ours for ours, _ in pairs],
            [base for _, base in pairs],
            range(_windows(list(untouched.values()))),
            seed=config.seed,
            replicates=config.replicates,
        )
        if pairs
        else NOT_COMPARED
    )
    lines = [_line(cell) for cell in (*untouched.values(), *(cell for found in tuned.values() for cell in found))]
    return claim_of(
        "lora_finetuning_does_not_recover",
        compared,
        metric=f"{_UNIT}: tuned less untouched",
        expected="adapters that were trained on a quantized base leave it worse than it was, the interval above zero",
        seeds=config.seeds,
        toy=config.toy,
        tried=config.tried.get("lora_finetuning_does_not_recover", ()),
        beside={"rows": lines, "in_words": _tuning_in_words(compared, tuned)}
        | undecided("" if pairs else "no base was measured both untouched and tuned"),
    )


def _ordering_in_words(single: Mapping[str, Estimate]) -> str:
    """The outcome in a sentence, whichever way it came out; so the two below."""
    if not single:
        return "Nothing could be compared with rounding to nearest."
    found = [f"{name.removeprefix('rtn less ')} {_with_ends(each)}" for name, each in single.items()]
    return f"Bits per byte saved over rounding to nearest: {'; '.join(found)}."


def _collapse_in_words(single: Mapping[str, Estimate]) -> str:
    grown = [f"{name} {_times(each.value)}" for name, each in single.items() if each.value is not None]
    return f"With 2 bits the perplexity grows: {', '.join(grown)}." if grown else "No growth was measured."


def _tuning_in_words(compared: Compared, tuned: Mapping[str, Sequence[Cell]]) -> str:
    if not compared.by_seed:
        return "No tuned base could be compared with itself untouched."
    return (
        f"Adapters trained on {', '.join(tuned)} change bits per byte by {_with_ends(compared.difference)} on average "
        "against the same base untouched; less is better."
    )


def _with_ends(found: Estimate) -> str:
    if found.value is None or found.ci95 is None:
        return "unknown"
    return f"{found.value:+.4f} (95 % interval {found.ci95[0]:+.4f} to {found.ci95[1]:+.4f})"


def _times(logarithm: float) -> str:
    grown = math.exp(min(logarithm, 700.0))
    return f"{grown:.1f} times" if grown < 100 else f"{grown:,.0f} times" if grown < 1e9 else f"{grown:.0e} times"


def _claim(
    name: ClaimId,
    config: LowBitConfig,
    used: Sequence[Cell],
    *,
    metric: str,
    baseline: float | None,
    ours: dict[str, Any],
    estimate: Estimate | None,
    expected: str,
    holds: bool,
) -> Claim:
    return Claim(
        claim=name,
        metric=metric,
        baseline=baseline,
        ours=ours,
        n=0 if estimate is None else estimate.n,
        ci95=None if estimate is None else estimate.ci95,
        seeds=tuple(sorted({cell.seed for cell in used})),
        expected=expected,
        holds=holds,
        toy=config.toy,
        tried=tuple(config.tried.get(name, ())) or (() if holds else NOTHING_ELSE),
    )


def _losses(cells: Sequence[Cell]) -> dict[str, Any]:
    """Shares of layers' outputs that are lost, of the cells that know; see ``quantized_models.lost_output``."""
    found = {f"{cell.name}, seed {cell.seed}": (cell.quantization or {}).get("proxy_loss") for cell in cells}
    return {name: losses for name, losses in found.items() if losses}


def _failed(cells: Sequence[Cell], used: Sequence[Cell]) -> list[str]:
    """Seeds that failed of the rows that a claim rests on: what is left of such a row is no mean over its seeds."""
    names = {cell.name for cell in used}
    return [f"{cell.name}, seed {cell.seed}" for cell in cells if cell.error and cell.name in names]


def _scored(cells: Sequence[Cell], method: str, bits: int) -> list[Cell]:
    """Cells of a method and bit width that did not fail, one a seed; of the first settings where there are several."""
    fitting = [
        cell
        for cell in cells
        if cell.method == method and not cell.error and not cell.partial and cell.nominal_bits == bits
    ]
    return [cell for cell in fitting if cell.name == fitting[0].name]


def _nats(cells: Sequence[Cell]) -> Statistic:
    return mean_of([cell.scores[IN_DOMAIN].nats_per_token for cell in cells])


def _mean(cells: Sequence[Cell]) -> Statistic:
    return mean_of([cell.scores[IN_DOMAIN].bits_per_byte for cell in cells])


def _difference(one: Statistic, other: Statistic) -> Statistic:
    return lambda weights_NR: one(weights_NR) - other(weights_NR)


def _windows(cells: Sequence[Cell]) -> int:
    return next((len(cell.scores[IN_DOMAIN].nats) for cell in cells if not cell.error), 0)


def _estimate(statistic: Statistic, cells: Sequence[Cell], config: LowBitConfig) -> Estimate:
    return cluster_bootstrap(
        statistic,
        range(_windows(cells)),
        seed=config.seed,
        replicates=config.replicates,
        rule="95 % percentile interval, windows resampled",
    )


def _value(chosen: Sequence[Cell], cells: Sequence[Cell]) -> float | None:
    return point_of(_mean(chosen), _windows(cells)) if chosen else None


def _line(cell: Cell) -> dict[str, Any]:
    texts = {}
    lost = (cell.quantization or {}).get("proxy_loss")
    for name, scores in cell.scores.items():
        n = len(scores.nats)
        nats, bits_per_byte = point_of(scores.nats_per_token, n), point_of(scores.bits_per_byte, n)
        texts[name] = {
            "perplexity": None if nats is None or nats > 700 else math.exp(nats),
            "bits_per_byte": bits_per_byte,
            "windows": n,
        }
    return {
        "name": cell.name,
        "seed": cell.seed,
        "error": cell.error,
        "partial": cell.partial,
        "nominal_bits": cell.nominal_bits,
        "stored_bits": cell.stored_bits,
        "lost_output": None if not lost else lost["sum"] / lost["layers"],
        "texts": texts,
        "seconds": cell.seconds,
        "max_rss_mb": cell.max_rss_mb,
    }
