"""``corral quantize``: a model into a few bits a weight."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from corral.cli.output import print_fields, print_json, remark
from corral.core.errors import ConfigError

if TYPE_CHECKING:
    from corral.quant.methods import Method
    from corral.quant.plan import QuantizationPlan
    from corral.quant.quantize import QuantizationReport

_CHANNEL = "channel"


class Dtype(StrEnum):
    """Of everything that is not quantized."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder, GGUF file or embedded model.")],
    *,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="rtn, gptq, awq, smoothquant, quip, pb_llm, billm, db_llm, nf4 (QLoRA) or icq (IR-QLoRA).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="New folder of the quantized model.", show_default=False),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what it would take and leave; reads the model's config alone.")
    ] = False,
    bits: Annotated[
        int | None, typer.Option("--bits", help="Bits of a code; default: the method's.", show_default=False)
    ] = None,
    group_size: Annotated[
        str | None,
        typer.Option(
            "--group-size",
            "--group",
            metavar="N|channel",
            help="Columns that share a scale, or `channel` for one a row; default: the method's.",
            show_default=False,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another setting of the method. Repeatable."),
    ] = None,
    calibration: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="A file of text, a corpus of the data folder, or the text packaged with Corral."
        ),
    ] = "packaged",
    windows: Annotated[int, typer.Option(min=1, help="Windows of calibration text.")] = 32,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the windows' places.")] = 0,
    layout: Annotated[
        Literal["auto", "corral", "compressed-tensors", "dequantized"],
        typer.Option(help="auto: compressed-tensors (also for transformers and vLLM) where it can hold the weights."),
    ] = "auto",
    blocks: Annotated[
        int | None, typer.Option(min=1, help="Only so many of the lowest decoder blocks.", show_default=False)
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of everything that is not quantized; auto keeps it.")] = Dtype.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Quantize a model with a published method, into a folder that commands which run a Llama read.

    The same command continues an interrupted run; `--plan` says beforehand what it will take. Effective bits are
    printed twice: as papers count them, and with scales, zero points and masks.

    For example: corral quantize embedded:smollm2-135m-instruct --method gptq --bits 4 --group-size 64 --out small
    """
    from corral.core.progress import progress
    from corral.quant.calibration import PACKAGED, CalibrationSettings
    from corral.quant.quantize import quantize as quantize_model

    chosen = _method(method, bits, group_size, setting or [])
    if chosen.needs == "nothing" and calibration != PACKAGED:
        remark(f"`{method}` looks at weights alone; `{calibration}` is not read")
    text = CalibrationSettings(source=calibration, windows=windows, length=length, seed=seed)
    if plan:
        from corral.quant.plan import plan_quantization

        planned = plan_quantization(
            model,
            method,
            chosen,
            text=text,
            layout=None if layout == "auto" else layout,
            blocks=blocks,
            dtype=dtype.value,
        )
        print_json(planned.to_json()) if as_json else _print_plan(planned)
        return
    if out is None:
        raise ConfigError("no folder to write to", where="--out", hint="Give `--out FOLDER`, or `--plan`.")
    with progress(None, "Quantizing blocks") as bar:
        report = quantize_model(
            model,
            method,
            chosen,
            out,
            text=text,
            layout=None if layout == "auto" else layout,
            blocks=blocks,
            dtype=dtype.value,
            on_block=lambda _done, _total: bar.advance(),
        )
    for warning in report.warnings:
        remark(f"warning: {warning}")
    if as_json:
        print_json(report.to_json())
    else:
        _print(report)


def _method(name: str, bits: int | None, group_size: str | None, settings: list[str]) -> Method:
    """The method with its settings.

    Raises:
        NotFoundError: no such method.
        ConfigError: a setting that it does not have, or a value that does not fit.
    """
    from corral.core.config import load_config
    from corral.quant.methods import METHODS

    found = METHODS.get(name)
    values: dict[str, Any] = {}
    for option, field, value in (("--bits", "bits", bits), ("--group-size", "group_size", _columns(group_size))):
        if value is None:
            continue
        if field not in found.model_fields:
            own = ", ".join(found.model_fields) or "none"
            raise ConfigError(f"`{name}` has a fixed number of these; its settings: {own}", where=option)
        values[field] = None if value == 0 else value
    return load_config(found, values, settings)


def _columns(text: str | None) -> int | None:
    """A group size; 0 for one scale a row."""
    if text is None or text == _CHANNEL:
        return None if text is None else 0
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(
            f"`{text}` is not a number of columns", where="--group-size", hint=f"For example 64, or `{_CHANNEL}`."
        )
    return int(text)


def _print_plan(plan: QuantizationPlan) -> None:
    done, total = plan.blocks
    tokens = plan.calibration_tokens
    few = tokens is not None and tokens < plan.widest_input
    print_fields(
        [
            ("method", _described(plan.method)),
            ("layout", plan.layout),
            ("blocks", f"{done} of {total}"),
            *(
                (
                    f"{shape.rows} x {shape.columns}",
                    f"{shape.count} of {', '.join(name.partition('.')[2] for name in shape.names)}: "
                    f"{shape.nominal_bits:.3f} bits as papers count, {shape.stored_bits:.3f} stored",
                )
                for shape in plan.shapes
            ),
            ("bits a weight", _both(plan.nominal_bits, plan.stored_bits)),
            ("weights file", f"{plan.tensor_bytes:,} bytes of tensors; not quantized {plan.unquantized_bytes:,}"),
            (
                "calibration",
                "none" if tokens is None else f"{tokens} tokens, for inputs of {plan.widest_input} channels",
            ),
            ("too few", "second moments have no full rank; give more windows" if few else None),
            ("memory", f"about {plan.peak_memory_mb} MB at most"),
        ]
    )


def _described(method: Mapping[str, Any]) -> str:
    return f"{method['name']} ({', '.join(f'{key} {value}' for key, value in method.items() if key != 'name')})"


def _both(nominal: float, stored: float) -> str:
    return f"{nominal:.3f} as papers count, {stored:.3f} with all that is stored"


def _print(report: QuantizationReport) -> None:
    text = report.calibration
    losses = [layer for layer in report.layers if layer.proxy_loss is not None and layer.proxy_loss_rtn is not None]
    better = sum(layer.proxy_loss < layer.proxy_loss_rtn for layer in losses)  # type: ignore[operator]
    calibrated = (
        "none"
        if text is None
        else f"{text['tokens']} tokens of {text['source']}, {text['distinct_tokens']} distinct (seed {text['seed']})"
    )
    print_fields(
        [
            ("folder", report.out),
            ("layout", report.layout),
            ("method", _described(report.method)),
            ("calibration", calibrated),
            ("layers", len(report.layers)),
            ("bits a weight", _both(report.bits.nominal, report.bits.stored)),
            ("weights file", f"{report.file_bytes:,} bytes, of which {report.tensor_bytes:,} are tensors"),
            (
                "lost output",
                f"less than by rounding to nearest in {better} of {len(losses)} layers" if losses else None,
            ),
            ("blocks kept", f"{report.resumed_blocks} from an earlier run" if report.resumed_blocks else None),
            ("took", f"{report.seconds:.0f} s, {report.max_rss_mb:.0f} MB"),
        ]
    )
