"""The guard over an OpenAI-compatible server on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from corral.data.messages import Conversation
from corral.guards.base import Status
from corral.guards.loading import load_guard
from corral.models.engines.openai_connection import API_KEY_VARIABLE

ANSWER = "Harmful request: yes\nResponse refusal: no\nHarmful response: no"


@pytest.fixture
def server(monkeypatch):
    """Writes the same answer to everything; refuses what holds the word ``broken``."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, body))
            status = 400 if "broken" in json.dumps(body) else 200
            choice = {"index": 0, "finish_reason": "stop", "text": ANSWER, "message": {"content": ANSWER}}
            data = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9}}).encode()
            self.send_response(status)
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
