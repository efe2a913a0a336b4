"""Exports of ``corral quantize`` in vLLM: the same log-probabilities as ours?

    CORRAL_VLLM_PYTHON=.../bin/python python benchmarks/quantization_in_vllm.py [--schemes W4A16-asymmetric W8A8]

SmolLM2 is quantized into compressed-tensors, and the same folder is read by Corral and by vLLM, each in the dtype that
vLLM takes it in. Compared over 512 positions of WikiText-2's validation split: the largest difference of the
log-probabilities of vLLM's five likeliest tokens, how many positions keep it within 0.1, and how many have the same
likeliest token. JSON on standard output, a table on standard error. What vLLM refuses is listed with its words.

Rounding of float32 leaves a difference of some 1e-4, float16 and bfloat16 more. Where activations are integers a
difference in the last place becomes another code, and that many others: no two programs agree within 0.1. So for W8A8
``nudged`` stands beside it: the same comparison of Corral with itself when the embeddings change by a part in 10^7.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor

MODEL: Final = "embedded:smollm2-135m-instruct"
UNQUANTIZED: Final = "unquantized"
SCHEMES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "W4A16-asymmetric": ("rtn", {"bits": 4, "group_size": 64}),
    "W4A16-symmetric": ("rtn", {"bits": 4, "group_size": 64, "symmetric": True}),
    "W8A16-symmetric": ("rtn", {"bits": 8, "group_size": 64, "symmetric": True}),
    "W8A8": ("smoothquant", {"bits": 8, "activation_bits": 8}),
}
INTEGERS: Final = "W8A8"
NUDGE: Final = 1e-7
TOP: Final = 5
MOST_DIFFERENCE: Final = 0.1
LEAST_SAME_ARGMAX: Final = 0.99
WINDOW: Final = 257
"""Tokens; the first is context alone."""
CHILD: Final = Path(__file__).with_name("vllm_logprobs.py")


def write_models(schemes: list[str], work: Path, calibration_windows: int) -> dict[str, Path]:
    """A folder for every scheme, those of an earlier run found again."""
    from corral.models.loading import load_causal_lm, load_tokenizer
    from corral.quant.calibration import CalibrationSettings
    from corral.quant.methods import METHODS
    from corral.quant.quantize import quantize

    folders = {}
    for scheme in schemes:
        folders[scheme] = work / scheme
        if folders[scheme].exists():
            continue
        if scheme == UNQUANTIZED:
            load_causal_lm(MODEL).save_pretrained(folders[scheme])
            load_tokenizer(MODEL).save_pretrained(folders[scheme])
            continue
        method, settings = SCHEMES[scheme]
        text = CalibrationSettings(source="wikitext2_valid", windows=calibration_windows)
        quantize(
            MODEL, method, METHODS.get(method)(**settings), folders[scheme], text=text, layout="compressed-tensors"
        )
    return folders


def evaluation_windows(positions: int) -> list[list[int]]:
    """Windows of token ids in which so many tokens have one before them."""
    from corral.data.wikitext import wikitext_half
    from corral.models.chat import ChatTokenizer
    from corral.models.loading import load_tokenizer

    ids = ChatTokenizer(load_tokenizer(MODEL)).encode_text("\n\n".join(wikitext_half("evaluation")))
    count = positions // (WINDOW - 1)
    return [list(ids[i * WINDOW : (i + 1) * WINDOW]) for i in range(count)]


def ask_vllm(python: Path, folder: Path, windows: list[list[int]], given: argparse.Namespace) -> dict[str, Any]:
    """What vLLM says of a folder in the first dtype that it takes it in, and why it refused those before."""
    from corral.bench.vllm import vllm_environment

    task, result = folder.parent / "task.json", folder.parent / "result.json"
    environment = vllm_environment(python, cpus=given.cpus) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    command = [str(python), str(CHILD), str(task), str(result)]
    refused: dict[str, str] = {}
    version = None
    for dtype in given.dtypes:
        task.write_text(json.dumps({"folder": str(folder), "dtype": dtype, "windows": windows, "top": TOP}))
        result.unlink(missing_ok=True)
        ended = subprocess.run(command, env=environment, cwd=folder.parent, stdout=sys.stderr, check=False)
        found = json.loads(result.read_text()) if result.exists() else {}
        version = found.get("version", version)
        if "top" in found:
            return {"version": version, "dtype": dtype, "refused": refused, "top": found["top"]}
        refused[dtype] = found.get("refused", f"vLLM ended with exit code {ended.returncode}")
    return {"version": version, "dtype": None, "refused": refused}


def our_logprobs(folder: Path, dtype: str, windows: list[list[int]], *, nudge: float = 0.0) -> list[Tensor]:
    """Log-probabilities (positions, V) of every window, of the folder as Corral reads it.

    Args:
        folder: the export.
        dtype: of the computation.
        windows: token ids.
        nudge: relative standard deviation of noise on the embeddings.
    """
    import torch

    from corral.models.loading import load_causal_lm

    model = load_causal_lm(folder, dtype=getattr(torch, dtype))
    if nudge:
        embeddings = model.get_input_embeddings().weight
        noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))
        embeddings.data = embeddings.data * (1 + nudge * noise).to(embeddings.dtype)
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1) for ids in windows]


def likeliest(logprobs: list[Tensor]) -> list[list[dict[str, float]]]:
    """Ours in the form of vLLM's answer."""
    found = []
    for logprobs_PV in logprobs:
        values_P5, tokens_P5 = logprobs_PV.topk(TOP)
        pairs = zip(tokens_P5.tolist(), values_P5.tolist(), strict=True)
        found.append([{str(token): value for token, value in zip(*pair, strict=True)} for pair in pairs])
    return found


def compare(ours: list[Tensor], top: list[list[dict[str, float]]]) -> dict[str, Any]:
    """Differences at vLLM's likeliest tokens, position by position."""
    differences, same = [], []
    for logprobs_PV, positions in zip(ours, top, strict=True):
        for logprobs_V, theirs in zip(logprobs_PV, positions, strict=True):
            differences.append(max(abs(float(logprobs_V[int(token)]) - value) for token, value in theirs.items()))
            same.append(int(logprobs_V.argmax()) == int(max(theirs, key=theirs.__getitem__)))
    share_same = sum(same) / len(same)
    within = sum(value <= MOST_DIFFERENCE for value in differences) / len(differences)
    return {
        "positions": len(same),
        "same_argmax": round(share_same, 4),
        "largest_difference": round(max(differences), 5),
        "mean_of_largest": round(sum(differences) / len(differences), 5),
        "within_0.1": round(within, 4),
        "passes": within == 1.0 and share_same >= LEAST_SAME_ARGMAX,
    }


def measure(given: argparse.Namespace, python: Path) -> dict[str, Any]:
    """Every scheme's comparison."""
    with tempfile.TemporaryDirectory(prefix="quantization-in-vllm-") as temporary:
        work = Path(temporary) if given.work is None else given.work
        work.mkdir(parents=True, exist_ok=True)
        folders = write_models(given.schemes, work.absolute(), given.calibration_windows)
        windows = evaluation_windows(given.positions)
        rows: dict[str, Any] = {}
        for scheme, path in folders.items():
            found = ask_vllm(python, path, windows, given)
            rows[scheme] = {key: found[key] for key in ("version", "dtype", "refused")}
            if found["dtype"] is not None:
                ours = our_logprobs(path, found["dtype"], windows)
                rows[scheme] |= compare(ours, found["top"])
                if scheme == INTEGERS:
                    nudged = our_logprobs(path, found["dtype"], windows, nudge=NUDGE)
                    rows[scheme] |= {"nudged": compare(ours, likeliest(nudged))}
            print(json.dumps({scheme: rows[scheme]}), file=sys.stderr, flush=True)
    return {"model": MODEL, "top": TOP, "schemes": rows}


def as_table(report: dict[str, Any]) -> str:
    """The rows for a person."""
    lines = [report["model"]]
    for scheme, row in report["schemes"].items():
        refused = "; ".join(f"{dtype}: {why}" for dtype, why in row["refused"].items())
        if row["dtype"] is None:
            lines.append(f"{scheme}: refused by vLLM {row['version']} ({refused})")
            continue
        parts = [
            f"same likeliest token in {row['same_argmax']:.2%} of {row['positions']}",
            f"largest difference {row['largest_difference']} (mean {row['mean_of_largest']})",
            f"within 0.1 in {row['within_0.1']:.2%}",
            "passes" if row["passes"] else "does not pass",
            *([_in_words(row["nudged"])] if "nudged" in row else []),
            *([f"refused in {refused}"] if refused else []),
        ]
        lines.append(f"{scheme} in {row['dtype']}, vLLM {row['version']}: {', '.join(parts)}")
    return "\n".join(lines)


def _in_words(nudged: dict[str, Any]) -> str:
    return f"Corral nudged {nudged['same_argmax']:.2%}, mean {nudged['mean_of_largest']}"


def arguments() -> argparse.Namespace:
    """Of the command line."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    names = [UNQUANTIZED, *SCHEMES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", choices=names, default=names)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16", "bfloat16"], help="tried in this order")
    parser.add_argument("--work", type=Path, help="folder that keeps the exports for another run")
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--calibration-windows", type=int, default=4, help="of 512 tokens, for W8A8")
    parser.add_argument("--cpus", type=int, nargs="+", default=cores, help="that vLLM computes on")
    return parser.parse_args()


def main() -> int:
    """Measure and print; 1 where an export that vLLM takes does not compute the same."""
    from corral.bench.vllm import PYTHON_VARIABLE, vllm_interpreter

    given, python = arguments(), vllm_interpreter()
    if python is None:
        print(f"{PYTHON_VARIABLE} names no interpreter with vllm: nothing to compare with", file=sys.stderr)
        return 2
    report = measure(given, python)
    print(as_table(report), file=sys.stderr)
    print(json.dumps(report, indent=2))
    rows = report["schemes"].values()
    return 0 if all(row.get("passes", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
