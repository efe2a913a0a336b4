"""QLoRA and IR-QLoRA: adapters trained on a base in few bits, which stays as it is (arXiv 2305.14314, 2402.05445).

The base is written out dequantized, so that what is trained reads deq(W) x + alpha / r B A x, as QLoRA does. Merging
adds B A to deq(W) in float32: the merged model computes what base and adapter compute. IR-QLoRA's base has shifted
blocks (``quant/methods/icq``), and its adapter IEC's bridges (``train/elastic_lora``).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from corral.core.files import atomic_directory, sha256_json
from corral.data.examples import PromptCompletionExample
from corral.data.messages import Conversation
from corral.data.self_written.replies import helpful_answers
from corral.studies.low_bit_study.cells import Cell, Cells
from corral.studies.low_bit_study.quantized_models import quantized_model
from corral.studies.low_bit_study.settings import LowBitConfig, QuantizerConfig, TuningConfig
from corral.studies.verdict_store import file_name

SOURCE = "self_written/helpful_answers"


def tuned_cell(cells: Cells, config: LowBitConfig, base: QuantizerConfig, seed: int) -> Cell:
    """The scores of a quantized base with an adapter trained on it."""
    tuning = config.tuning or TuningConfig()
    training = tuning.training.model_copy(update={"seed": seed})
    elastic = base.method in tuning.elastic
    key = {
        "base": base.model_dump(mode="json"),
        "model": config.model,
        "blocks": config.quantized_blocks,
        "training": training.model_dump(mode="json"),
        "rows": tuning.rows,
        "elastic": elastic,
    }
    name = f"{base.name} tuned seed={seed}"

    def make() -> Path:
        from corral.train.elastic_lora import prepare_elastic
        from corral.train.sft import train_sft

        prepare = prepare_elastic if elastic else None
        merged = cells.work / f"{file_name(name)}-{sha256_json(key)[:12]}"
        checkpoints = merged.with_name(f"{merged.name}-checkpoints")
        with quantized_model(config, config.model, base, 0, cells.work, dequantized=True) as (folder, _):
            tuned = train_sft(_rows(tuning.rows), str(folder), training, checkpoints, prepare=prepare)
            with atomic_directory(merged, replace=True) as staged:
                tuned.merged().save_pretrained(staged)
                for file in folder.glob("*token*"):
                    (staged / file.name).write_bytes(file.read_bytes())
        shutil.rmtree(checkpoints)
        return merged

    return cells.made(name, key, make)


def _rows(count: int) -> list[PromptCompletionExample]:
    return [
        PromptCompletionExample(Conversation.user(prompt), answer, SOURCE, "Apache-2.0")
        for prompt, answer in helpful_answers()[:count]
    ]
