"""The guard over an OpenAI-compatible server on this machine."""

import itertools
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from corral.core.errors import ConfigError
from corral.data.messages import Conversation
from corral.guards.base import Status
from corral.guards.loading import load_guard
from corral.guards.wildguard.answers import LINES
from corral.models.chat import ChatTokenizer
from corral.models.engines.openai_connection import API_KEY_VARIABLE
from corral.models.loading import load_tokenizer

ANSWER = "Harmful request: yes\nResponse refusal: no\nHarmful response: no"
LEADS = {"": 0.97, " ": 0.01, "\n": 0.01, "\n\n": 0.01}
# What the server's model answers on each line, whatever it answered before.
SHARES = (
    {"yes": 0.8, "no": 0.2},
    {"yes": 0.1, "no": 0.7, "n/a": 0.2},
    {"yes": 0.3, "no": 0.6, "n/a": 0.1},
)
WHOLE_ANSWERS = {
    lead + "\n".join(f"{line}: {label}" for line, label in zip(LINES, labels, strict=True)): weight
    * math.prod(shares[label] for shares, label in zip(SHARES, labels, strict=True))
    for lead, weight in LEADS.items()
    for labels in itertools.product(*SHARES)
}


def next_tokens(chat, prompt_ids):
    """Log-probability of each next token of a model that writes ``WHOLE_ANSWERS``."""
    text = chat.tokenizer.decode(prompt_ids, clean_up_tokenization_spaces=False)
    written = text.rpartition("<|assistant|>\n")[2]
    following = {}
    for answer, weight in WHOLE_ANSWERS.items():
        if answer.startswith(written) and answer != written:
            token = chat.encode_text(answer.removeprefix(written))[0]
            following[token] = following.get(token, 0.0) + weight
    total = sum(following.values())
    return {f"token_id:{token}": math.log(weight / total) for token, weight in following.items()}


@pytest.fixture
def server(checkpoint, monkeypatch):
    """Writes the same answer to everything, or tells what could come next; refuses what holds the word ``broken``."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    chat = ChatTokenizer(load_tokenizer(checkpoint))
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, body))
            ids = body.get("prompt") if "logprobs" in body else None
            choice = {"index": 0, "finish_reason": "stop", "text": ANSWER, "message": {"content": ANSWER}}
            if ids is not None:
                listed = next_tokens(chat, ids)
                first = max(listed, key=listed.__getitem__)
                logprobs = {"tokens": [first], "token_logprobs": [listed[first]], "top_logprobs": [listed]}
                choice |= {"finish_reason": "length", "text": "", "logprobs": logprobs}
            read = json.dumps(body) if ids is None else chat.tokenizer.decode(ids)
            usage = {"prompt_tokens": 9 if ids is None else len(ids)}
            data = json.dumps({"choices": [choice], "usage": usage}).encode()
            self.send_response(400 if "broken" in read else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1", requests
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_released_model_is_sent_the_released_frame(server):
    url, requests = server
    guard = load_guard("wildguard", model="allenai/wildguard", server=url, decode="generate")
    (both,) = guard.classify_both([Conversation.exchange("ask", "answer")])
    guard.engine.close()
    assert (both["prompt"].flagged, both["response"].flagged, both["response"].refusal.flagged) == (True, False, False)
    ((path, body),) = requests
    assert path.endswith("/completions")
    assert body["prompt"].startswith("<s><|user|>\n[INST] ")
    assert (body["temperature"], body["max_tokens"]) == (0.0, 128)


def test_another_model_is_sent_a_chat(server):
    url, requests = server
    guard = load_guard("wildguard", model="my-guard", server=url, decode="generate")
    verdicts = guard.classify([Conversation.user("ask"), Conversation.user("broken"), Conversation.user("more")])
    guard.engine.close()
    assert [v.status for v in verdicts] == [Status.OK, Status.ERROR, Status.OK]
    assert verdicts[0].warnings == 2
    assert requests[0][0].endswith("/chat/completions")
    assert "Human user:" in requests[0][1]["messages"][0]["content"]


def test_scores_are_read_from_the_log_probabilities_of_a_server(server, checkpoint):
    url, requests = server
    guard = load_guard("wildguard", model="allenai/wildguard", server=url, tokenizer=checkpoint)
    both, alone, broken = guard.classify_both(
        [Conversation.exchange("ask", "answer"), Conversation.user("ask"), Conversation.exchange("broken", "answer")]
    )
    guard.engine.close()
    prompt, response = both["prompt"], both["response"]
    assert (prompt.flagged, response.flagged, response.refusal.flagged) == (True, False, False)
    assert prompt.prompt.p == pytest.approx(0.8)
    assert (response.p_harm, response.p_refusal) == (pytest.approx(0.3 / 0.9), pytest.approx(0.1 / 0.8))
    assert (response.response.p_na, response.refusal.p_na) == (pytest.approx(0.1), pytest.approx(0.2))
    # The lead that was found is given, so that the labels hold everything.
    assert [part.mass for part in (prompt.prompt, response.refusal, response.response)] == [pytest.approx(1.0)] * 3
    assert alone["prompt"].p_harm == pytest.approx(0.8)
    assert {v.status for v in broken.values()} == {Status.ERROR}
    # Line 2 is asked after the decided line 1, as greedy decoding would have written it.
    chat = guard.engine.chat
    asked = [chat.tokenizer.decode(body["prompt"]) for _, body in requests]
    assert any(text.endswith("<|assistant|>\nHarmful request: yes\nResponse refusal:") for text in asked)
    assert all(path.endswith("/completions") and body["max_tokens"] == 1 for path, body in requests)


def test_scores_over_a_server_need_the_tokenizer(server):
    url, _ = server
    with pytest.raises(ConfigError, match="tokenizer"):
        load_guard("wildguard", model="allenai/wildguard", server=url)
