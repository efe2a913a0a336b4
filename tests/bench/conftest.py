"""A tiny model with the words of the benchmark in its vocabulary, and a server that speaks like vLLM."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FAKE_VLLM = '''#!{python}
"""Stands in for an interpreter with vllm: takes its command line, answers every prompt with equal probabilities."""
import json, math, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OPTIONS = dict(zip(sys.argv[1:], sys.argv[2:]))
VOCABULARY = 4096
EVEN = -math.log(VOCABULARY)
LISTED = {{f"token_id:{{i}}": EVEN for i in range(VOCABULARY)}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer({{"version": "fake"}} if self.path == "/version" else {{}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ids = body["prompt"]
        usage = {{"prompt_tokens": len(ids)}}
        if len(ids) > int(OPTIONS["--max-model-len"]):
            self.answer({{"error": {{"message": "longer than the maximum context length"}}}}, status=400)
        elif body.get("stream"):
            events = [{{"choices": [{{"text": "bread", "finish_reason": "length"}}]}}]
            lines = [*(f"data: {{json.dumps(event)}}" for event in events), "data: [DONE]", ""]
            self.send(200, "text/event-stream", "\\n\\n".join(lines).encode())
        else:
            known = ids if body.get("echo") else []
            tokens = [f"token_id:{{i}}" for i in [*known, 0]]
            logprobs = {{"tokens": tokens, "token_logprobs": [EVEN] * len(tokens)}}
            logprobs["top_logprobs"] = [LISTED] if not known else [{{token: EVEN}} for token in tokens]
            choice = {{"text": "bread", "finish_reason": "length", "logprobs": logprobs, "token_ids": [0]}}
            self.answer({{"choices": [choice], "usage": usage}})

    def answer(self, value, status=200):
        self.send(status, "application/json", json.dumps(value).encode())

    def send(self, status, kind, data):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


ThreadingHTTPServer(("127.0.0.1", int(OPTIONS["--port"])), Handler).serve_forever()
'''


@pytest.fixture(scope="session")
def fake_vllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An "interpreter" that serves as soon as it is started."""
    script = tmp_path_factory.mktemp("bin") / "python-with-vllm"
    script.write_text(FAKE_VLLM.format(python=sys.executable))
    script.chmod(0o755)
    return script


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random Llama to which most words are one token."""
    from corral.bench.guard_throughput.policy_guard import policy_prompt
    from corral.bench.requests import benign_requests
    from corral.models.tiny import write_tiny_llama

    prompt = policy_prompt("")
    assert not isinstance(prompt, str)
    texts = [prompt.messages[0].text, *benign_requests(200), "safe", "unsafe"]
    return str(write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", layers=2, context=2048, words_of=texts))


@pytest.fixture(scope="session")
def tiny_guard(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a default guard on the tiny model, its heads random and its adapter zero."""
    import json

    import torch
    from safetensors.torch import save_file

    from corral.guards.default.guard import GUARD_FILE, HEAD_WEIGHTS
    from corral.guards.default.network import GuardHeads, category_codes
    from corral.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
    from corral.models.loading import weights_revision

    folder = tmp_path_factory.mktemp("guard")
    made_from = {"base": tiny_model, "base_revision": weights_revision(tiny_model), "layers": 2}
    (folder / GUARD_FILE).write_text(json.dumps(made_from | {"categories": category_codes()}))
    save_file(GuardHeads(32, len(category_codes())).state_dict(), folder / HEAD_WEIGHTS)
    (folder / ADAPTER_CONFIG).write_text(json.dumps({"r": 1, "lora_alpha": 1}))
    name = "base_model.model.layers.0.self_attn.q_proj"
    zero = {f"{name}.lora_A.weight": torch.zeros(1, 32), f"{name}.lora_B.weight": torch.zeros(32, 1)}
    save_file(zero, folder / ADAPTER_WEIGHTS)
    return str(folder)
