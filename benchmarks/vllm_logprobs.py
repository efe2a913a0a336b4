"""Log-probabilities of given tokens by vLLM, in the environment of vLLM: see ``quantization_in_vllm.py``.

    python vllm_logprobs.py TASK.json RESULT.json

One folder in one dtype: after a model that it refused, vLLM loads no other in the same process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def top_logprobs(task: dict[str, Any]) -> list[list[dict[str, float]]]:
    """Of every window, for every token after the first: the likeliest tokens and their log-probabilities."""
    from vllm import LLM, SamplingParams

    windows, top = task["windows"], task["top"]
    longest = max(map(len, windows)) + 1
    # Eager, as compiling takes longer than a few hundred tokens; nothing else of the arithmetic differs.
    model = LLM(task["folder"], dtype=task["dtype"], max_model_len=longest, enforce_eager=True, max_num_seqs=1)
    asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=top)
    answers = model.generate([{"prompt_token_ids": ids} for ids in windows], asked, use_tqdm=False)
    return [
        [
            {str(token): found.logprob for token, found in position.items() if (found.rank or top + 1) <= top}
            for position in answer.prompt_logprobs[1:]
        ]
        for answer in answers
    ]


def main(task_path: str, result_path: str) -> None:
    """Do what the task says, or write why vLLM would not."""
    import vllm

    found: dict[str, Any] = {"version": vllm.__version__}
    try:
        found["top"] = top_logprobs(json.loads(Path(task_path).read_text()))
    except Exception as error:  # whatever a kernel or the configuration says
        found["refused"] = " ".join(str(error).split())[:300]
    Path(result_path).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
