"""``corral moderate`` as a process of its own: Ctrl-C, a closed pipe, and what it imports."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

COMMAND = [sys.executable, "-m", "corral.cli.main", "moderate"]
ENVIRONMENT = os.environ | {"PYTHONUNBUFFERED": "1"}
ROWS = 300


@pytest.fixture
def chats(tmp_path):
    """Rows of which every tenth is broken."""
    path = tmp_path / "chats.jsonl"
    rows = [json.dumps({"id": str(i), "prompt": f"hello {i}"}) if i % 10 else "{broken" for i in range(ROWS)]
    path.write_text("\n".join(rows) + "\n")
    return path


def start(*arguments, **options):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--guard", "scripted"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        **options,
    )


def wait_for_rows(path, count):
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, "no rows were written"
        time.sleep(0.02)


def test_ctrl_c_and_a_rerun_lose_and_double_nothing(chats, tmp_path):
    out = tmp_path / "out.jsonl"
    arguments = (chats, "--out", out, "--batch-size", 7, "--set", "scripted.delay=0.01")
    process = start(*arguments)
    wait_for_rows(out, 20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command again continues" in err
    assert "Traceback" not in err
    interrupted = out.read_text()
    assert interrupted.endswith("\n")
    assert interrupted.count("\n") < ROWS * 0.9

    _, err = start(*arguments).communicate(timeout=60)
    assert "are there already" in err
    assert out.read_text().startswith(interrupted)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [str(i) for i in range(ROWS) if i % 10]
    rejects = (tmp_path / "out.jsonl.rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in rejects] == [i + 1 for i in range(ROWS) if not i % 10]


def test_ctrl_c_leaves_whole_lines_on_standard_output(chats):
    process = start(chats, "--batch-size", 1, "--set", "scripted.delay=0.02")
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--out FILE" in err
    assert all(json.loads(line)["action"] == "allow" for line in (first + rest).splitlines())


def test_a_closed_pipe_ends_the_command_quietly(tmp_path):
    (tmp_path / "many.txt").write_text("hello\n" * 20_000)
    process = start(tmp_path / "many.txt")
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_a_text_is_judged_without_importing_what_it_does_not_need():
    heavy = ("torch", "transformers", "sklearn", "scipy", "pandas", "datasets", "pyarrow")
    code = (
        "import sys; from corral.cli.main import main; "
        "main(['moderate', 'hello', '--guard', 'scripted', '--json']); "
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"


def test_results_are_utf8_whatever_the_locale(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": "Grüße-日本", "text": "hello"}\n', encoding="utf-8")
    command = [*COMMAND, str(file), "--guard", "scripted", "--format", "jsonl"]
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout.decode("utf-8"))["id"] == "Grüße-日本"
