"""Models that are quantized for as long as they are measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corral.core.files import sha256_json
from corral.quant.quantize import quantize
from corral.studies.low_bit_study.settings import LowBitConfig, QuantizerConfig
from corral.studies.verdict_store import file_name


def depends_on(config: LowBitConfig, quantizer: QuantizerConfig, weights: str, seed: int) -> dict[str, Any]:
    """What a quantized model depends on, as JSON; ``weights`` is the revision of the model it is made from."""
    return {
        "weights": weights,
        "method": quantizer.build().model_dump(mode="json"),
        "blocks": quantizer.blocks or config.quantized_blocks,
        "calibration": config.calibration.model_dump(mode="json"),
        "seed": seed,
    }


def lost_output(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the layers of a report lose of their outputs, in sum: ``None`` where no second moments were seen.

    ``to_nearest`` counts the layers whose weight was also rounded to nearest on the same grids with the same moments:
    in how many the method loses less, and both sums over them.
    """
    losses = [(layer["proxy_loss"], layer["proxy_loss_rtn"]) for layer in layers if layer["proxy_loss"] is not None]
    compared = [(ours, nearest) for ours, nearest in losses if nearest is not None]
    if not losses:
        return None
    to_nearest = {
        "layers": len(compared),
        "below": sum(ours < nearest for ours, nearest in compared),
        "sum": sum(ours for ours, _ in compared),
        "sum_of_rounding": sum(nearest for _, nearest in compared),
    }
    return {
        "layers": len(losses),
        "sum": sum(ours for ours, _ in losses),
        "to_nearest": to_nearest if compared else None,
    }


@contextmanager
def quantized_model(
    config: LowBitConfig, model: str, quantizer: QuantizerConfig, seed: int, work: Path, *, dequantized: bool = False
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A quantized model's folder, removed afterwards, and the report on it without its layers.

    An interrupted quantization goes on after its last whole block.

    Args:
        config: calibration text and blocks.
        model: that is quantized.
        quantizer: how.
        seed: of the calibration.
        work: folder for it.
        dequantized: write an ordinary model, whose weights are those that the codes stand for.
    """
    named = sha256_json([model, quantizer.model_dump(mode="json"), seed, dequantized, config.quantized_blocks])[:12]
    folder = work / f"{file_name(quantizer.name)}-{named}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        report = quantize(
            model,
            quantizer.method,
            quantizer.build(),
            folder,
            text=config.calibration.model_copy(update={"seed": config.calibration.seed + seed}),
            layout="dequantized" if dequantized else "corral",
            blocks=quantizer.blocks or config.quantized_blocks,
        ).to_json()
        report["proxy_loss"] = lost_output(report.pop("layers"))
        yield folder, {key: value for key, value in report.items() if key != "out"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
