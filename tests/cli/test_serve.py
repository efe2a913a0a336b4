"""``corral serve`` and the commands that look after its database."""

from __future__ import annotations

import asyncio
import doctest
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

import httpx2
import yaml

from corral.cli.main import main
from corral.cli.serve import read_settings
from corral.core.config import load_config
from corral.core.errors import ConfigError, UserError
from corral.serve.audit.database import Database
from corral.serve.server import build_server
from corral.serve.settings import ServeSettings


@contextmanager
def running(state: Path, *options: str, timeout: float = 120) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The program in a process of its own, and its address."""
    command = [sys.executable, "-m", "corral.cli.main", "serve", "--port", "0", "--state", str(state), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"CORRAL_DEBUG": ""}) as process:
        assert process.stderr is not None
        try:
            url = next(found[1] for line in process.stderr if (found := re.search(r"serving on (\S+),", line)))
            yield url, process
        finally:
            process.terminate()
            process.wait(timeout)


def test_a_server_starts_answers_and_ends_cleanly_with_its_rows_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, "--guard", "scripted", "--upstream", "none") as (url, process):
        assert httpx2.get(f"{url}/readyz", timeout=60).status_code == 200
        answer = httpx2.post(f"{url}/v1/moderations", json={"input": ["hi", "TRIGGER"]}, timeout=60)
        assert [result["flagged"] for result in answer.json()["results"]] == [False, True]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    state = ["--state", str(tmp_path)]
    assert main(["serve", "audit", "verify", "--json", *state]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["intact"], report["rows"]) == (True, 2)
    assert main(["serve", "audit", "verify", "--expect", report["head"], *state]) == 0
    assert main(["serve", "audit", "verify", "--expect", f"2:{'0' * 64}", *state]) == 1
    capsys.readouterr()
    assert main(["serve", "audit", "export", *state]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["action"] for row in rows] == ["allow", "block"]
    assert main(["serve", "audit", "export", "--since", "2999-01-01", "--out", str(tmp_path / "x.jsonl"), *state]) == 0
    assert (tmp_path / "x.jsonl").read_text() == ""
    assert main(["serve", "audit", "prune", "--keep-days", "1", *state]) == 0
    assert "0 decisions removed" in capsys.readouterr().err
    assert main(["serve", "audit", "prune", "--keep-days", "0", *state]) == 0
    assert main(["serve", "audit", "verify", "--expect", report["head"], *state]) == 0


def test_keys_are_made_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", str(tmp_path)]
    assert main(["serve", "keys", "create", "web", "--tenant", "acme", "--scope", "chat", "--json", *state]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["secret"].startswith("corral_")
    assert (made["tenant"], made["scopes"]) == ("acme", ["chat"])
    assert main(["serve", "keys", "revoke", made["id"], *state]) == 0
    assert main(["serve", "keys", "ls", "--json", *state]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["revoked"] is not None
    assert "secret" not in listed
    assert main(["serve", "keys", "ls", *state]) == 0
    assert made["secret"] not in capsys.readouterr().out
    assert main(["serve", "keys", "revoke", made["id"], *state]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "no API key exists"),
        (["--guard", "nonsense"], "nonsense"),
        (["--policy", "nowhere.yaml"], "nowhere.yaml"),
        (["--upstream", "ftp://x"], "ftp://x"),
        (["--upstream", "embedded:nonsense"], "nonsense"),
        (["--database", "mysql://x/y"], "mysql"),
        (["--set", "scripted.nonsense=1"], "nonsense"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["audit", "verify"], "there is no database"),
        (["keys", "ls"], "there is no database"),
        (["audit", "export", "--since", "yesterday"], "yesterday"),
        (["audit", "verify", "--expect", "x"], "not a head"),
        (["audit", "verify", "--expect", f"{2**63}:{'0' * 64}"], "not a head"),
        (["audit", "verify", "--expect", f"{'9' * 5000}:{'0' * 64}"], "not a head"),
        (["audit", "prune", "--keep-days", "999999999999"], "36500"),
        (["keys", "create", "x", "--per-minute", str(2**64)], "1,000,000"),
        (["--database", "sqlite:///:memory:"], "in memory"),
        (["--database", "sqlite://"], "in memory"),
        (["--database", "sqlite:////dev/null/x/serve.sqlite3"], "cannot be made"),
        (["--database", "sqlite:///file:x?mode=memory&uri=true"], "in memory"),
        (["keys", "create", "x", "--scope", "root"], "root"),
    ],
)
def test_mistakes_are_said_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    group = arguments[0] in ("audit", "keys")
    options = ["--state", str(tmp_path / "none")] + ([] if group else ["--port", "0"])
    chosen = [] if group or "--guard" in arguments else ["--guard", "scripted"]
    upstream = [] if group or "--upstream" in arguments else ["--upstream", "none"]
    assert main(["serve", *arguments, *options, *chosen, *upstream]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_file_of_settings_counts_where_the_command_line_is_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("host: 0.0.0.0\nupstream: none\nguards: [scripted]\n")
    assert main(["serve", "--config", str(config), "--state", str(tmp_path)]) == 2
    assert "0.0.0.0" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ["--guard", "scripted", "--upstream", "none", "--state", str(tmp_path), "--port", port]
        assert main(["serve", *options]) == 1
    assert "cannot be bound" in capsys.readouterr().err


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("port: 9000\nupstream: none\nlimits: {inputs: 5}\nguards: [scripted]\n")
    settings = read_settings(config, {"upstream": "http://127.0.0.1:1"}, ["scripted.delay=0.5"])
    assert (settings.port, settings.upstream, settings.limits.inputs) == (9000, "http://127.0.0.1:1", 5)
    assert settings.guard_settings == {"scripted": {"delay": 0.5}}
    config.write_text("prot: 9000\n")
    with pytest.raises(ConfigError, match="prot"):
        read_settings(config, {}, [])


def test_a_server_takes_guards_made_of_guards(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("guards: [{decode: scripted, name: careful}]\nupstream: none\n")
    settings = read_settings(config, {"state": tmp_path}, ["scripted.words=[BIG]"])
    server = build_server(settings)
    try:
        assert server.moderation.policies.guards_of(server.moderation.policies.of("anybody")) == ("careful",)
    finally:
        asyncio.run(server.stop())


def transcript(url: str) -> doctest.DocTest:
    """What the guide shows of the `openai` client, to be asked of this address."""
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "serve.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    assert "http://127.0.0.1:8000" in shown
    return doctest.DocTestParser().get_doctest(
        shown.replace("http://127.0.0.1:8000", url), {}, "docs/guides/serve.md", None, 0
    )


@pytest.mark.slow
def test_the_default_server_answers_the_openai_client_as_the_guide_shows(tmp_path: Path) -> None:
    """With the embedded models: moderations, a chat, a streamed chat, and one that is stopped."""
    pytest.importorskip("openai", reason="the openai client is not installed")
    said: list[str] = []
    with running(tmp_path) as (url, _):
        found = doctest.DocTestRunner().run(transcript(url), out=said.append)
    assert found.failed == 0, "".join(said)
    assert found.attempted >= 9
    with Database(f"sqlite:///{tmp_path / 'serve.sqlite3'}").read() as connection:
        stages = connection.exec_driver_sql("SELECT stage, taken FROM decisions ORDER BY seq").all()
    assert [tuple(each) for each in stages] == [
        ("input", "allow"), ("input", "block"), ("prompt", "allow"), ("response", "allow"), ("prompt", "allow"),
        ("response", "allow"), ("prompt", "block"),
    ]  # fmt: skip


def test_settings_are_the_same_when_written_and_read_again(tmp_path: Path) -> None:
    big = {"guard": "llama-guard", "name": "big", "settings": {"model": "M", "window": 1024}}
    settings = load_config(
        ServeSettings,
        {
            "guards": [{"cascade": ["default", big], "band": [0.2, 0.8], "name": "careful"}, {"decode": "scripted"}],
            "guard_settings": {"big": {"min_mass": 0.4}, "scripted": {"words": ["BIG"]}, "vision": {"frames": 3}},
            "media_guard": "vision",
            "policies": str(tmp_path / "policies"),
            "state": str(tmp_path),
            "hosts": ["corral.example"],
            "limits": {"inputs": 5, "linger_ms": 0.5},
        },
    )
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    assert read_settings(file, {}, []) == settings


TWICE = "guards: [{cascade: [scripted, {guard: scripted, name: b}], band: [0, 1]}, "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TWICE + "{cascade: [scripted, {guard: scripted, name: b}], band: [0.9, 0.91]}]\n", "two guards are named"),
        ("guards: [scripted, {guard: scripted, settings: {delay: 1}}]\n", "two guards are named"),
        ("guards: [scripted]\nguard_settings: {scriptd: {delay: 3}}\n", "scriptd"),
        ("guards: [scripted]\nguard_settings: {default: {window: 9}}\n", "default"),
        ("guards: [scripted]\nmedia_guard: scripted-media\nguard_settings: {scripted-media: {odd: 1}}\n", "odd"),
        ("guards: [scripted]\nmedia_guard: nonsense\n", "nonsense"),
    ],
)
def test_a_file_whose_guards_or_settings_would_not_count_is_refused(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(text + "upstream: none\n")
    with pytest.raises(UserError, match=said):
        build_server(read_settings(config, {"state": tmp_path}, []))


def test_settings_on_the_command_line_reach_the_guard_of_images(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("guards: [scripted]\nmedia_guard: scripted-media\nguard_settings: {scripted-media: {m: 2}}\n")
    settings = read_settings(config, {}, ["scripted-media.threshold=0.9"])
    assert settings.guard_settings["scripted-media"] == {"m": 2, "threshold": 0.9}
