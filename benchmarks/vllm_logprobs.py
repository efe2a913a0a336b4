"""Log-probabilities of given tokens by vLLM, in the environment of vLLM: see ``quantization_in_vllm.py``.

    python vllm_logprobs.py TASK.json RESULT.json

Every folder is loaded in the first dtype that vLLM runs it in; what it says of one that it refuses is kept.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


def top_logprobs(folder: str, dtype: str, windows: list[list[int]], top: int) -> list[list[dict[str, float]]]:
    """Of every window, for every token after the first: the likeliest tokens and their log-probabilities."""
    longest = max(map(len, windows)) + 1
    # Eager, as compiling takes longer than a few hundred tokens; nothing else of the arithmetic differs.
    model = LLM(folder, dtype=dtype, max_model_len=longest, enforce_eager=True, max_num_seqs=1)
    asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=top)
    answers = model.generate([{"prompt_token_ids": ids} for ids in windows], asked, use_tqdm=False)
    del model
    cleanup_dist_env_and_memory()
    return [
        [
            {
                str(token): found.logprob
                for token, found in position.items()
                if found.rank is not None and found.rank <= top
            }
            for position in answer.prompt_logprobs[1:]
        ]
        for answer in answers
    ]


def first_that_runs(folder: str, task: dict[str, Any]) -> dict[str, Any]:
    """The log-probabilities of a folder with the dtype, and why dtypes before it were refused."""
    refused = {}
    for dtype in task["dtypes"]:
        try:
            return {
                "dtype": dtype,
                "refused": refused,
                "top": top_logprobs(folder, dtype, task["windows"], task["top"]),
            }
        except Exception as error:
            refused[dtype] = " ".join(str(error).split())[:300]
            gc.collect()
    return {"dtype": None, "refused": refused}


def main(task_path: str, result_path: str) -> None:
    """Do what the task says; results are written folder by folder."""
    import vllm

    task = json.loads(Path(task_path).read_text())
    found: dict[str, Any] = {"version": vllm.__version__, "folders": {}}
    for folder in task["folders"]:
        found["folders"][folder] = first_that_runs(folder, task)
        Path(result_path).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
