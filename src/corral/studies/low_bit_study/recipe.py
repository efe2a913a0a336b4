"""The recipe: every cell of the matrix once, adapters on quantized bases, safety before and after, and the claims."""

from __future__ import annotations

from typing import Final

from corral.core.evidence import Claim
from corral.core.files import atomic_write_json, atomic_write_text
from corral.core.runs import Run
from corral.data.self_written.replies import helpful_answers
from corral.models.tiny import TINY, write_tiny_llama
from corral.studies.claims import tell, write_evidence
from corral.studies.low_bit_study.cells import Cell, Cells, rows_of
from corral.studies.low_bit_study.drift import guard_drift, guard_rows, safety_drift, safety_rows
from corral.studies.low_bit_study.findings import (
    lora_finetuning_does_not_recover,
    ordering_against_paper,
    table,
    ultra_low_bits_collapse,
)
from corral.studies.low_bit_study.guard_quality import measure_guards
from corral.studies.low_bit_study.report import Findings, report
from corral.studies.low_bit_study.safety import measure_safety
from corral.studies.low_bit_study.settings import LowBitConfig
from corral.studies.low_bit_study.tuning import tuned_cell

TABLE: Final = "matrix.json"
REPORT: Final = "report.html"
_TINY_CONTEXT: Final = 256


class LowBitStudyRecipe:
    """Quantizes a model in many ways and says what each costs."""

    name = "low_bit_study"
    config_class = LowBitConfig

    def plan(self, config: LowBitConfig) -> list[str]:
        """What the run will do, a line a step."""
        rows = list(rows_of(config))
        text = "packaged text (a toy)" if config.toy else "the evaluation half of WikiText-2's validation split"
        steps = [
            f"score {config.model} on {config.windows} windows of {text}, and on {len(config.out_of_domain)} others"
        ]
        steps += [f"quantize and score {quantizer.name}, seed {seed}" for quantizer, seed in rows]
        if config.tuning is not None:
            bases = ", ".join(base.name for base in config.tuning.bases)
            steps.append(f"train adapters on {bases}, seeds {', '.join(map(str, config.seeds))}")
        if config.safety is not None:
            names = ", ".join(quantizer.name for quantizer in config.safety.quantizers)
            steps.append(f"ask {config.safety.model} before and after: {names}")
        if config.guard is not None:
            names = ", ".join(quantizer.name for quantizer in config.guard.quantizers)
            steps.append(f"score {', '.join(config.guard.sets)} with the English guard before and after: {names}")
        return [*steps, f"write artefacts/{TABLE}, artefacts/{REPORT} and artefacts/evidence.json"]

    def run(self, config: LowBitConfig, run: Run) -> None:
        """Do it; a second call goes on after the last whole cell, and within one after the last whole block.

        Raises:
            NotFoundError: a text, a source of requests or a set is not in the data folder.
            MissingDependencyError: an embedded model or the training libraries are not installed.
        """
        config = _with_model(config, run)
        cells = Cells(config, run)
        reference = cells.reference()
        matrix = [cells.quantized(quantizer, seed) for quantizer, seed in rows_of(config)]
        claims = [
            tell(ordering_against_paper(config, matrix)),
            tell(ultra_low_bits_collapse(config, matrix, reference)),
        ]
        tuned: dict[str, list[Cell]] = {}
        if config.tuning is not None:
            untouched = {base.name: cells.quantized(base, 0) for base in config.tuning.bases}
            tuned = {
                base.name: [tuned_cell(cells, config, base, seed) for seed in config.seeds]
                for base in config.tuning.bases
            }
            matrix += [cell for cell in untouched.values() if cell not in matrix]
            claims.append(tell(lora_finetuning_does_not_recover(config, untouched, tuned)))
        found = Findings(table([reference, *matrix, *(cell for each in tuned.values() for cell in each)]))
        claims += _drift(config, run, found)
        atomic_write_json(run.artefacts / TABLE, found.matrix)
        atomic_write_text(run.artefacts / REPORT, report(config, claims, found))
        write_evidence(run, config, claims)
        run.add_output(run.artefacts)
        run.report({"claims": [claim.model_dump(mode="json") for claim in claims], "matrix": found.matrix})


def _drift(config: LowBitConfig, run: Run, found: Findings) -> list[Claim]:
    """The claims of the safety half, and its rows into what is reported."""
    claims = []
    if config.safety is not None:
        replies = measure_safety(config, config.safety, run)
        found.safety += safety_rows(config, config.safety, replies)
        claims.append(tell(safety_drift(config, config.safety, replies)))
    if config.guard is not None:
        scores = measure_guards(config, config.guard, run)
        found.guards += guard_rows(config, scores)
        claims.append(tell(guard_drift(config, config.guard, scores)))
    return claims


def _with_model(config: LowBitConfig, run: Run) -> LowBitConfig:
    """Settings with ``tiny:random`` replaced by a tiny random model that knows the words of the packaged answers."""
    safety = config.safety
    if TINY not in (config.model, None if safety is None else safety.model):
        return config
    words = [text for pair in helpful_answers() for text in pair]
    base = write_tiny_llama(
        run.path / "base", seed=config.seed, layers=2, hidden_size=64, context=_TINY_CONTEXT, words_of=words
    )
    if safety is not None and safety.model == TINY:
        config = config.model_copy(update={"safety": safety.model_copy(update={"model": str(base)})})
    return config.model_copy(update={"model": str(base)}) if config.model == TINY else config


RECIPE: Final = LowBitStudyRecipe()
