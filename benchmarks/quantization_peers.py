"""GPTQ and AWQ beside maintained libraries, on the same tokens: perplexity, time, memory.

    python benchmarks/quantization_peers.py [--blocks 30] [--windows 16] [--group-sizes 64] [--seeds 0 1 2] [--out FILE]

Each library quantizes the same float32 folder on the same calibration windows, in a process of its own with the same
number of threads. The weights that it then computes with are put back into the model, and Corral scores all of them on
the same windows of the evaluation half of WikiText-2's validation split. JSON on standard output, a table on standard
error.

Peers run in environments of their own, as their pins exclude ours. Make one, install the library for the CPU, and name
its interpreter: ``CORRAL_GPTQMODEL_PYTHON`` (gptqmodel), ``CORRAL_LLMCOMPRESSOR_PYTHON`` (llmcompressor),
``CORRAL_AUTO_ROUND_PYTHON`` (auto-round). A library without one is left out, with the reason. ``--methods signround``
adds auto-round's own method as a reference row; over 30 blocks it takes more than an hour of a core.

Which windows calibrate moves the perplexity of one and the same library by several percent: with more than one seed a
second table has, for every peer, the geometric mean of the ratios of perplexity, and its 95 % t-interval over seeds.

With ``--blocks N`` every library gets a model cut to its N lowest blocks, and the whole model is scored with these
blocks quantized. CPU seconds are to be compared where other programs share the machine; wall seconds stand beside them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL: Final = "embedded:smollm2-135m-instruct"
SIGNROUND: Final = "signround"
"""auto-round's own method, which trains its rounding: a reference row."""
METHODS: Final = {
    "gptq": ("llmcompressor", "gptqmodel"),
    "awq": ("llmcompressor", "gptqmodel", "auto-round"),
    SIGNROUND: ("auto-round",),
}
"""Method to the peers that have it; Corral has all but signround."""
VARIABLES: Final = {
    "llmcompressor": "CORRAL_LLMCOMPRESSOR_PYTHON",
    "gptqmodel": "CORRAL_GPTQMODEL_PYTHON",
    "auto-round": "CORRAL_AUTO_ROUND_PYTHON",
}
TOLERANCE: Final = 0.01
CHILD: Final = Path(__file__).with_name("quantization_peer.py")


@dataclass(frozen=True)
class Bench:
    """What all rows of one seed share."""

    seed: int
    given: argparse.Namespace
    work: Path
    model: PreTrainedModel
    linears: list[str]
    windows: list[list[int]]
    manifest: dict[str, Any]

    def row(self, library: str, method: str, group_size: int) -> dict[str, Any]:
        """One library's figures, or why there are none."""
        row: dict[str, Any] = {"method": method, "group_size": group_size, "seed": self.seed, "library": library}
        misfit = self._misfit(group_size)
        python = sys.executable if library == "corral" else os.environ.get(VARIABLES[library], "")
        if misfit or not python:
            return row | {"absent": misfit or f"{VARIABLES[library]} names no interpreter"}
        weights, out = self.work / "weights.safetensors", self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        weights.unlink(missing_ok=True)
        task = {
            "library": library,
            "method": method,
            "bits": self.given.bits,
            "group_size": group_size,
            "model": str(self.work / "model"),
            "windows": self.windows,
            "manifest": self.manifest,
            "iterations": self.given.iterations,
            "threads": self.given.threads,
            "linears": self.linears,
            "weights": str(weights),
            "out": str(out),
        }
        found = self._child(python, task)
        if "absent" in found:
            return row | found
        row |= found | {"perplexity": round(perplexity(self._put_back(weights), self.given), 4)}
        ours = self.work / f"ours-{method}.safetensors"
        if library == "corral":
            weights.replace(ours)
        elif ours.exists():
            row["same_weights"] = same_weights(ours, weights, self.linears[:3])
        return row

    def _misfit(self, group_size: int) -> str:
        columns = {self.model.get_submodule(name).in_features for name in self.linears}
        misfit = sorted(int(n) for n in columns if n % group_size)  # type: ignore[arg-type]
        return f"groups of {group_size} do not divide {misfit[0]} columns" if misfit else ""

    def _child(self, python: str, task: dict[str, Any]) -> dict[str, Any]:
        task_path, result_path = self.work / "task.json", self.work / "result.json"
        task_path.write_text(json.dumps(task))
        result_path.unlink(missing_ok=True)
        threads = str(self.given.threads)
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
        environment["GPTQMODEL_CPU_WORKERS"] = "2"  # with fewer it does not start
        command = [python, str(CHILD), str(task_path), str(result_path)]
        log = self.work / "log.txt"
        with log.open("w") as lines:
            ended = subprocess.run(
                command, env=os.environ | environment, cwd=self.work, stdout=lines, stderr=lines, check=False
            )
        if ended.returncode or not result_path.exists():
            print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-20:]), file=sys.stderr)
            said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            return {"absent": f"failed: {said[-1] if said else f'exit code {ended.returncode}'}"}
        found: dict[str, Any] = json.loads(result_path.read_text())
        return found

    def _put_back(self, weights: Path) -> PreTrainedModel:
        from safetensors.torch import load_file

        surplus = self.model.load_state_dict(load_file(weights), strict=False).unexpected_keys
        if surplus:
            raise RuntimeError(f"the library renamed `{surplus[0]}`")
        return self.model


def same_weights(ours: Path, theirs: Path, linears: list[str]) -> float:
    """Share of weights that both libraries round to the same level, in Linears that read the same inputs.

    Those are q, k and v of the first block. The same means within 2 % of the standard deviation of the weights: Corral
    keeps scales in float16, others in float32, and a level is about a third of it.
    """
    from safetensors.torch import load_file

    own, other = load_file(ours), load_file(theirs)
    same = total = 0
    for name in (f"{linear}.weight" for linear in linears):
        same += int(((own[name] - other[name]).abs() <= 0.02 * own[name].std()).sum())
        total += own[name].numel()
    return round(same / total, 4)


def perplexity(model: PreTrainedModel, given: argparse.Namespace) -> float:
    """Of the evaluation half of WikiText-2's validation split, windows spread evenly over it."""
    from corral.data.wikitext import wikitext_half
    from corral.evals.tasks.perplexity.passages import passage_scorer
    from corral.evals.tasks.perplexity.texts import Document, TextSet
    from corral.models.chat import ChatTokenizer
    from corral.models.engines.torch import TorchEngine
    from corral.models.loading import load_tokenizer

    articles = tuple(Document(str(number), text) for number, text in enumerate(wikitext_half("evaluation")))
    scorer = passage_scorer(TorchEngine(model, ChatTokenizer(load_tokenizer(MODEL))), given.eval_length)
    passages = scorer.cut(TextSet("evaluation", articles))
    count = min(given.eval_windows, len(passages))
    chosen = [passages[(2 * i + 1) * len(passages) // (2 * count)] for i in range(count)]
    found = [likelihood for passage in chosen for likelihood in scorer.score([passage])]
    return math.exp(-sum(each.nats for each in found) / sum(each.tokens for each in found))


def prepare(given: argparse.Namespace, seed: int, work: Path) -> Bench:
    """The model's folder, cut to the blocks that are quantized, and the calibration windows of a seed."""
    from corral.models.chat import ChatTokenizer
    from corral.models.loading import load_causal_lm, load_tokenizer
    from corral.quant.blocks import LINEARS
    from corral.quant.calibration import CalibrationSettings, calibration

    tokenizer = load_tokenizer(MODEL)
    cut = load_causal_lm(MODEL, layers=given.blocks)
    cut.save_pretrained(work / "model")
    tokenizer.save_pretrained(work / "model")
    settings = CalibrationSettings(source="wikitext2_valid", windows=given.windows, length=given.length, seed=seed)
    drawn = calibration(settings, ChatTokenizer(tokenizer), context=int(cut.config.max_position_embeddings))
    names = [f"model.layers.{block}.{linear}" for block in range(len(cut.model.layers)) for linear in LINEARS]
    return Bench(seed, given, work, load_causal_lm(MODEL), names, drawn.windows_WT.tolist(), asdict(drawn.manifest))


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Corral beside each peer over the seeds that both have: mean ratios, and whether ours is within the tolerance.

    The ratio of perplexity is a geometric mean with a 95 % t-interval over seeds (none for one seed). CPU and wall
    seconds are of all seeds together, the memory is the largest. signround, which Corral lacks, stands beside each of
    ours.
    """
    there = [row for row in rows if "absent" not in row]
    pairs: dict[tuple[str, int, str], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for ours, theirs in itertools.product(there, there):
        alike = ours["seed"] == theirs["seed"] and ours["group_size"] == theirs["group_size"]
        of_a_kind = theirs["method"] in (ours["method"], SIGNROUND)
        if alike and of_a_kind and ours["library"] == "corral" and theirs["library"] != "corral":
            own_method = "" if theirs["method"] == ours["method"] else f" {theirs['method']}"
            key = (ours["method"], ours["group_size"], theirs["library"] + own_method)
            pairs.setdefault(key, []).append((ours, theirs))
    return [
        {"method": method, "group_size": group_size, "library": library, **_beside(found)}
        for (method, group_size, library), found in pairs.items()
    ]


def _beside(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    mean, interval = geometric_mean([ours["perplexity"] / theirs["perplexity"] for ours, theirs in pairs])
    own, peer = zip(*pairs, strict=True)
    return {
        "seeds": [row["seed"] for row in own],
        "perplexity_ratio": round(mean, 4),
        "ci95": interval and [round(end, 4) for end in interval],
        "no_worse_than_1_percent": mean <= 1 + TOLERANCE,
        "cpu_ratio": round(_total(own, "cpu_seconds") / _total(peer, "cpu_seconds"), 2),
        "wall_ratio": round(_total(own, "seconds") / _total(peer, "seconds"), 2),
        "max_rss_mb": [max(row["max_rss_mb"] for row in each) for each in (own, peer)],
    }


def _total(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(sum(row[name] for row in rows))


def geometric_mean(ratios: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Of positive ratios, and a 95 % interval by Student's t on their logarithms; ``None`` for one ratio."""
    from scipy.stats import gmean, ttest_1samp

    mean = float(gmean(ratios))
    if len(ratios) < 2:
        return mean, None
    low, high = ttest_1samp([math.log(ratio) for ratio in ratios], 0).confidence_interval(0.95)
    return mean, (math.exp(low), math.exp(high))


ROW_COLUMNS: Final = (
    "method", "group_size", "seed", "library", "version", "perplexity", "cpu_seconds", "seconds", "max_rss_mb",
    "same_weights",
)  # fmt: skip
BESIDE_COLUMNS: Final = (
    "method", "group_size", "library", "seeds", "perplexity_ratio", "ci95", "no_worse_than_1_percent", "cpu_ratio",
    "wall_ratio", "max_rss_mb",
)  # fmt: skip


def as_table(rows: list[dict[str, Any]], columns: tuple[str, ...] = ROW_COLUMNS) -> str:
    """The rows for a person."""
    lines = [columns, *(tuple(str(row.get(name, "-")) for name in columns) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    absent = [
        f"{row['library']} {row['method']} g{row['group_size']}: {row['absent']}" for row in rows if "absent" in row
    ]
    return "\n".join([*text, *dict.fromkeys(absent)])


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Every row, and what it was measured on."""
    rows: list[dict[str, Any]] = []
    calibration = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory(prefix="quantization-peers-") as folder:
            bench = prepare(given, seed, Path(folder))
            before = round(perplexity(bench.model, given), 4)
            calibration.append(bench.manifest)
            for group_size in given.group_sizes:
                rows += rows_of(bench, group_size)
    return {
        "beside": compared(rows),
        "rows": rows,
        "unquantized_perplexity": before,
        "bits": given.bits,
        "blocks": len(bench.linears) // 7,
        "calibration": calibration,
        "evaluation": {"windows": given.eval_windows, "length": given.eval_length},
        "threads": given.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.platform()}",
        "load": os.getloadavg()[0],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def rows_of(bench: Bench, group_size: int) -> list[dict[str, Any]]:
    """Corral and every peer at every method; each is told on standard error when it is done."""
    wanted = [
        (library, method)
        for method in bench.given.methods
        for library in ("corral", *(peer for peer in METHODS[method] if peer in bench.given.peers))
        if (library, method) != ("corral", SIGNROUND)
    ]
    rows = []
    for library, method in wanted:
        rows.append(bench.row(library, method, group_size))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["gptq", "awq"])
    parser.add_argument("--peers", nargs="*", choices=VARIABLES, default=list(VARIABLES))
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--blocks", type=int, help="quantize only so many of the lowest blocks; default: all")
    parser.add_argument("--windows", type=int, default=16, help="of calibration")
    parser.add_argument("--length", type=int, default=512, help="tokens of a window of calibration")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the windows of calibration")
    parser.add_argument("--eval-windows", type=int, default=16)
    parser.add_argument("--eval-length", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=200, help="of signround, for each block")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = arguments()
    report = measure(chosen)
    print(as_table(report["rows"]), file=sys.stderr)
    print("\n" + as_table(report["beside"], BESIDE_COLUMNS), file=sys.stderr)
    print(json.dumps(report, indent=2))
    if chosen.out:
        chosen.out.write_text(json.dumps(report, indent=2) + "\n")
