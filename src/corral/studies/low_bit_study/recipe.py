"""The recipe: every cell of the matrix once, adapters on quantized bases, and the claims."""

from __future__ import annotations

from typing import Final

from corral.core.files import atomic_write_json
from corral.core.runs import Run
from corral.data.self_written.replies import helpful_answers
from corral.models.tiny import TINY, write_tiny_llama
from corral.studies.claims import tell, write_evidence
from corral.studies.low_bit_study.cells import Cells, rows_of
from corral.studies.low_bit_study.findings import (
    lora_finetuning_does_not_recover,
    ordering_against_paper,
    table,
    ultra_low_bits_collapse,
)
from corral.studies.low_bit_study.settings import LowBitConfig
from corral.studies.low_bit_study.tuning import tuned_cell

TABLE: Final = "matrix.json"
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
        return [*steps, f"write artefacts/{TABLE} and artefacts/evidence.json"]

    def run(self, config: LowBitConfig, run: Run) -> None:
        """Do it; a second call goes on after the last whole cell, and within one after the last whole block.

        Raises:
            NotFoundError: a text is not in the data folder.
            MissingDependencyError: an embedded model or the training libraries are not installed.
            CorralError: the model itself cannot be measured.
        """
        config = _with_model(config, run)
        cells = Cells(config, run)
        reference = cells.reference()
        matrix = [cells.quantized(quantizer, seed) for quantizer, seed in rows_of(config)]
        claims = [
            tell(ordering_against_paper(config, matrix)),
            tell(ultra_low_bits_collapse(config, matrix, reference)),
        ]
        tuned = {}
        if config.tuning is not None:
            untouched = {base.name: cells.quantized(base, 0) for base in config.tuning.bases}
            tuned = {
                base.name: [tuned_cell(cells, config, base, seed, run) for seed in config.seeds]
                for base in config.tuning.bases
            }
            claims.append(tell(lora_finetuning_does_not_recover(config, untouched, tuned)))
        lines = table([reference, *matrix, *(cell for found in tuned.values() for cell in found)])
        atomic_write_json(run.artefacts / TABLE, lines)
        write_evidence(run, config, claims)
        run.add_output(run.artefacts)
        run.report({"claims": [claim.model_dump(mode="json") for claim in claims], "matrix": lines})


def _with_model(config: LowBitConfig, run: Run) -> LowBitConfig:
    """Settings with ``tiny:random`` replaced by a tiny random model that knows the words of the packaged answers."""
    if config.model != TINY:
        return config
    words = [text for pair in helpful_answers() for text in pair]
    base = write_tiny_llama(
        run.path / "base", seed=config.seed, layers=2, hidden_size=64, context=_TINY_CONTEXT, words_of=words
    )
    return config.model_copy(update={"model": str(base)})


RECIPE: Final = LowBitStudyRecipe()
