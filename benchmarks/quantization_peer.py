"""One quantization by one library, run by the interpreter of its environment: see ``quantization_peers.py``.

    python quantization_peer.py TASK.json RESULT.json

Needs torch, transformers, safetensors and the library, not Corral (which is one of the libraries). Writes the weights
that the quantized model computes with into a safetensors file, and seconds, CPU seconds and peak memory as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Task = dict[str, Any]


def with_corral(task: Task) -> torch.nn.Module:
    """``corral.quant``."""
    from corral.models.loading import load_causal_lm
    from corral.quant.calibration import Calibration, CalibrationManifest
    from corral.quant.methods import METHODS
    from corral.quant.quantize import quantize

    method = METHODS.get(task["method"])(bits=task["bits"], group_size=task["group_size"])
    text = Calibration(torch.tensor(task["windows"]), CalibrationManifest(**task["manifest"]))
    out = Path(task["out"])
    quantize(task["model"], task["method"], method, out, text=text, layout="dequantized", dtype="float32")
    return load_causal_lm(out)


def with_llmcompressor(task: Task) -> torch.nn.Module:
    """``oneshot`` with its sequential pipeline; the modules round their weights when they are called."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM

    if not torch.accelerator.is_available():  # release 0.14 pins what AWQ caches all the same, which then fails
        IntermediatesCache.pin_memory = lambda *_args, **_options: None
    weights = {"num_bits": task["bits"], "type": "int", "symmetric": False}
    weights |= {"strategy": "group", "group_size": task["group_size"]}
    scheme = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}
    # Columns in their own order, as ours by default.
    recipe = (
        [GPTQModifier(**scheme, dampening_frac=0.01, actorder=None)]
        if task["method"] == "gptq"
        else [AWQModifier(), QuantizationModifier(**scheme)]
    )
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32)
    batches = DataLoader(_rows(task), batch_size=None)
    oneshot(model=model, dataset=batches, recipe=recipe, pipeline="sequential", log_dir=None)
    return model


def with_gptqmodel(task: Task) -> torch.nn.Module:
    """``GPTQModel.quantize``, saved and loaded again for the CPU."""
    from gptqmodel import GPTQModel
    from gptqmodel.quantization.config import AWQConfig, GPTQConfig

    settings = {"bits": task["bits"], "group_size": task["group_size"], "sym": False, "device": "cpu"}
    if task["method"] == "gptq":
        chosen = GPTQConfig(**settings, desc_act=False, act_group_aware=False, damp_percent=0.01)
    else:
        chosen = AWQConfig(**settings)
    dtype = torch.float32 if task["method"] == "gptq" else torch.float16  # its AWQ packs and runs in no wider one
    model = GPTQModel.load(task["model"], chosen, dtype=dtype)
    rows = [{name: ids[0].tolist() for name, ids in row.items()} for row in _rows(task)]
    model.quantize(rows, batch_size=1, calibration_sort=None)
    model.save(task["out"])
    return GPTQModel.load(task["out"], device="cpu", dtype=torch.float16).model


def with_auto_round(task: Task) -> torch.nn.Module:
    """Its AWQ and then rounding to nearest; or signround, which trains its rounding."""
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32)
    windows = torch.tensor(task["windows"])
    trained = AutoRound(
        model,
        tokenizer=AutoTokenizer.from_pretrained(task["model"]),
        bits=task["bits"],
        group_size=task["group_size"],
        sym=False,
        alg_configs=task["method"],
        iters=task["iterations"] if task["method"] == "signround" else None,
        nsamples=len(windows),
        seqlen=windows.shape[1],
        batch_size=min(8, len(windows)),
        dataset=list(windows.split(1)),
        device_map="cpu",
        enable_torch_compile=False,
    )
    found, _ = trained.quantize()
    return found


LIBRARIES = {
    "corral": with_corral,
    "llmcompressor": with_llmcompressor,
    "gptqmodel": with_gptqmodel,
    "auto-round": with_auto_round,
}


def _rows(task: Task) -> list[dict[str, torch.Tensor]]:
    windows = torch.tensor(task["windows"]).split(1)
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows]


def effective_weights(model: torch.nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    """What each Linear of the blocks multiplies by, whatever stores it, and the norms as they are."""
    found = {
        name: values.detach().float().contiguous()
        for name, values in model.state_dict().items()
        if ".layers." in name and "norm" in name
    }
    for name in names:
        module = model.get_submodule(name)
        columns = int(module.in_features)  # type: ignore[arg-type]
        floats = (tensor.dtype for tensor in module.state_dict().values() if tensor.is_floating_point())
        with torch.no_grad():
            outputs_nm = module(torch.eye(columns, dtype=next(floats, torch.float32))).float()
            bias = getattr(module, "bias", None)
            found[f"{name}.weight"] = (outputs_nm if bias is None else outputs_nm - bias).t().contiguous()
    return found


def max_rss_mb() -> int:
    """Largest resident memory of this process, in 10^6 bytes; what its parent held is not its own."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024 / 1e6)


def main(task_path: str, result_path: str) -> None:
    """Quantize as the task says and write what came of it."""
    task = json.loads(Path(task_path).read_text())
    torch.set_num_threads(task["threads"])
    quantize = LIBRARIES[task["library"]]
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    model = quantize(task)
    after = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "version": version(task["library"]),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "max_rss_mb": max_rss_mb(),
    }
    save_file(effective_weights(model, task["linears"]), task["weights"])
    Path(result_path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
