"""What one writes first: FastAPI around transformers, with the interface of a moderation server.

    python benchmarks/naive_server.py PORT DTYPE THREADS

The model is transformers' ``LlamaModel`` with the base and layers of the default guard's English half, without adapter
and heads, which costs it nothing. It reads every text, where the guard reads most harmless ones with its smaller
network alone: a ratio to it holds for such texts. ``/v1/moderations`` judges one text after the other; ``/padded`` all
texts of a request as one padded batch, as a second version would. One computation at a time: more would share the same
cores.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI

from corral.core.files import read_json
from corral.guards.default.guard import ENGLISH_WEIGHTS, GUARD_FILE
from corral.models.loading import load_backbone, load_tokenizer


def make_app(dtype: str) -> FastAPI:
    """The server, its model loaded."""
    made_from = read_json(ENGLISH_WEIGHTS / GUARD_FILE)
    tokenizer = load_tokenizer(made_from["base"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = load_backbone(made_from["base"], layers=made_from["layers"], dtype=getattr(torch, dtype))
    one_at_a_time = threading.Lock()
    app = FastAPI()

    def scores(texts: list[str]) -> list[float]:
        chats = [[{"role": "user", "content": text}] for text in texts]
        batch = tokenizer.apply_chat_template(chats, padding=True, return_tensors="pt", return_dict=True)
        with one_at_a_time, torch.inference_mode():
            return [float(row.mean()) for row in model(**batch).last_hidden_state.float()]

    def answer(found: list[float]) -> dict[str, Any]:
        return {"results": [{"flagged": score > 0, "score": score} for score in found]}

    def texts_of(body: dict[str, Any]) -> list[str]:
        return body["input"] if isinstance(body["input"], list) else [body["input"]]

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {}

    @app.post("/v1/moderations")
    def moderate(body: dict[str, Any]) -> dict[str, Any]:
        return answer([scores([text])[0] for text in texts_of(body)])

    @app.post("/padded")
    def moderate_padded(body: dict[str, Any]) -> dict[str, Any]:
        return answer(scores(texts_of(body)))

    return app


if __name__ == "__main__":
    port, dtype, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    uvicorn.run(
        make_app(dtype), port=int(port), log_level="error", access_log=False, backlog=2048, timeout_keep_alive=30
    )
