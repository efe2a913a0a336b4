"""``corral bench``: measure speed and agreement beside peers, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from corral.cli.output import print_fields, print_json, print_table, remark

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Measure speed and agreement beside peers.")

Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPUs to use; default: all.", show_default=False)]


@app.callback()
def bench() -> None:
    """Measure speed and agreement beside peers."""


@app.command("guard-throughput")
def guard_throughput(
    *,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Model of the policy guard and of its peers.")
    ] = "embedded:smollm2-135m-instruct",
    requests: Annotated[int, typer.Option(min=1, help="Requests of a round.")] = 64,
    accuracy_prompts: Annotated[int, typer.Option(min=1, help="Prompts that bfloat16 and float32 are compared on.")] = (
        1000
    ),
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Guards beside transformers and vLLM.

    A policy-prompted guard against `generate` one by one and, where CORRAL_VLLM_PYTHON names the interpreter of an
    environment with vllm, against its server; its bfloat16 scores against float32; and the default guard against plain
    transformers. Takes a quarter of an hour on two idle cores with vLLM, less without. Exits with 1 when a bound does
    not hold; one that was not measured does not count. The bounds are meant for the default sizes.
    """
    from corral.bench.guard_throughput.run import measure_guard_throughput
    from corral.bench.guard_throughput.settings import ThroughputSettings

    chosen = {} if threads is None else {"threads": threads}
    settings = ThroughputSettings(model=model, requests=requests, accuracy_prompts=accuracy_prompts, **chosen)
    report = measure_guard_throughput(settings, remark)
    if as_json:
        print_json(report)
    else:
        _print_guard_throughput(report)
    failed = {name: check for name, check in report["checks"].items() if check["ok"] is False}
    for name, check in failed.items():
        remark(f"bound not met: {name} is {check['value']:.4g}, expected {check['bound']}")
    if failed:
        raise typer.Exit(1)


def _print_guard_throughput(report: dict[str, Any]) -> None:
    print_table(("measure", "ours", "peer", "ratio", "bound", "holds"), _rows(report))
    if report["ratio_vs_vllm_reason"]:
        print(f"vLLM was not measured, nor our `openai` engine with it: {report['ratio_vs_vllm_reason']}.")
    if report["default_guard_int8_reason"]:
        print(f"The default guard was not measured in 8 bits: {report['default_guard_int8_reason']}.")
    else:
        print(_int8_verdict(report))
    accuracy = report["accuracy"]
    print_fields(
        [
            ("accuracy on", f"{accuracy['prompts']} prompts ({accuracy['source']})"),
            ("scores", f"{accuracy['p05']:.3f} to {accuracy['p95']:.3f} (5th to 95th percentile)"),
            ("near 0.5", f"{accuracy['near_threshold']} within 0.02; {accuracy['unsafe']} at 0.5 or above"),
            ("at the median", f"{accuracy['label_agreement_at_median']:.4f} keep their side of the median score"),
            ("prompt", f"{report['policy_tokens']} tokens and {report['tokens_per_request']:.0f} of the request"),
        ]
    )


def _int8_verdict(report: dict[str, Any]) -> str:
    """Whether 8 bits say the same as float32, in a sentence."""
    from corral.bench.guard_throughput.bounds import LABEL_AGREEMENT, MAX_DELTA_P

    agrees, labels, delta = (
        report[f"default_guard_int8_{name}"] for name in ("agrees", "label_agreement", "max_delta_p")
    )
    return (
        f"The default guard in 8 bits {'agrees' if agrees else 'does NOT agree'} with float32 as bfloat16 has to: "
        f"{labels:.2%} same labels ({LABEL_AGREEMENT:.0%} are asked for), scores up to {delta:.3f} apart "
        f"({MAX_DELTA_P}). It is a mode to choose (`--set default.dtype=int8`), not the default."
    )


_HOLDS: Final[dict[bool | None, str]] = {True: "yes", False: "NO", None: "not measured"}


def _rows(report: dict[str, Any]) -> Iterator[tuple[str | None, ...]]:
    """Measure, ours, peer, ratio, bound, whether it holds; a dash for what there is none of."""

    def row(
        measure: str, check: str, ours: str | None, peer: str | None = None, ratio: float | None = None
    ) -> tuple[str | None, ...]:
        found = report["checks"].get(check)
        bound, holds = (found["bound"], _HOLDS[found["ok"]]) if found else (None, None)
        return (measure, ours, peer, None if ratio is None else f"{ratio:.2f}", bound, holds)

    policy = f"{report['policy_prompts_per_second']:.2f}/s"
    yield row(
        "policy guard, generate",
        "ratio_vs_generate",
        policy,
        f"{report['generate_per_second']:.2f}/s",
        report["ratio_vs_generate"],
    )
    served = None if report["vllm"] is None else f"{report['vllm_per_second']:.2f}/s"
    yield row("policy guard, vLLM", "ratio_vs_vllm", policy, served, report["ratio_vs_vllm"])
    yield row("our openai engine with vLLM", "openai_engine_works", None)
    yield row("same label as float32", "label_agreement", f"{report['label_agreement']:.4f}")
    yield row("largest difference to float32", "max_delta_p", f"{report['max_delta_p']:.4f}")
    yield row(
        "shared prefix to whole prompt", "shared_prefix_max_delta_p", f"{report['shared_prefix_max_delta_p']:.1e}"
    )
    yield row("real prompts among those compared", "accuracy_real_prompts", str(report["accuracy"]["real_prompts"]))
    uniform = report["default_guard"]["uniform"]
    yield row(
        "default guard, transformers",
        "default_guard_ratio_vs_transformers",
        f"{uniform['per_second']:.1f}/s",
        f"{uniform['transformers_per_second']:.1f}/s",
        uniform["ratio"],
    )
    english = report["english_guard"]["uniform"]
    yield row(
        "its English half, transformers",
        "english_guard_ratio_vs_transformers",
        f"{english['per_second']:.1f}/s",
        f"{english['transformers_per_second']:.1f}/s",
        english["ratio"],
    )
    latency = f"default guard, median of one ({report['default_guard']['asked_all']:.0%} read by both)"
    yield row(latency, "default_guard_p50_ms", f"{report['default_guard_p50_ms']:.1f} ms")
    yield row("default guard, memory", "max_rss_mb", f"{report['max_rss_mb']:.0f} MB")
    if report["default_guard_int8_per_second"] is not None:
        yield row(
            "default guard in 8 bits",
            "default_guard_int8_ratio_vs_transformers",
            f"{report['default_guard_int8_per_second']:.1f}/s",
            f"{uniform['transformers_per_second']:.1f}/s",
            report["default_guard_int8_ratio_vs_transformers"],
        )
        yield row("... median of one", "default_guard_int8_p50_ms", f"{report['default_guard_int8_p50_ms']:.1f} ms")
        yield row(
            "... largest difference to float32",
            "default_guard_int8_max_delta_p",
            f"{report['default_guard_int8_max_delta_p']:.4f}",
        )
    yield row("the whole command", "seconds", f"{report['seconds']:.0f} s")
