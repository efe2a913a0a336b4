"""``corral moderate`` with the scripted guard: what it prints, keeps, refuses and exits with."""

import base64
import io
import json
import os
import sys
from dataclasses import dataclass, replace

import pytest

from corral.cli.main import main
from corral.cli.moderation_output import held_interrupts
from corral.guards.scripted import ScriptedGuard

KEYS = [
    "id",
    "action",
    "flagged",
    "status",
    "p_harm",
    "p_refusal",
    "p_attack",
    "categories",
    "target",
    "guard",
    "windows",
    "latency_ms",
]


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def rows(self):
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capsys, monkeypatch):
    def run(*arguments, stdin=b"", terminal=False, guard="scripted"):
        pipe = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", pipe)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
        named = ["--guard", guard] if guard else []
        code = main(["moderate", *map(str, arguments), *named])
        return Result(code, *capsys.readouterr())

    return run


def chats(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def user(text, **extra):
    return extra | {"messages": [{"role": "user", "content": text}]}


def exchange(prompt, response, **extra):
    return extra | {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]}


# --- a single text


def test_a_text_is_judged_as_one_json_line(run):
    result = run("a TRIGGER b")
    (row,) = result.rows
    assert list(row) == KEYS
    assert (result.code, row["action"], row["flagged"], row["status"], row["target"]) == (
        3,
        "block",
        True,
        "ok",
        "prompt",
    )
    assert result.err == ""


def test_a_harmless_text_exits_with_0(run):
    result = run("how do I bake bread")
    assert (result.code, result.rows[0]["action"], result.rows[0]["id"]) == (0, "allow", None)


def test_people_get_the_action_the_scores_and_what_to_do_next(run):
    result = run("TRIGGER the secret", terminal=True)
    assert result.code == 3
    for said in ("BLOCK", "0.99", "prompt by scripted", "scripted:prompt.harm:block", "Next:"):
        assert said in result.out
    assert "secret" not in result.out


def test_categories_have_names(run):
    result = run("gun TRIGGER", "--set", "scripted.categories={gun: llama_guard_3/S9}", "--format", "table")
    assert "Indiscriminate Weapons (llama_guard_3/S9)" in result.out


def test_a_text_can_be_judged_as_a_response(run):
    assert run("TRIGGER", "--target", "response").rows[0]["target"] == "response"


def test_json_is_one_object(run):
    assert list(json.loads(run("hello", "--json").out)) == KEYS


@pytest.mark.parametrize(("on_error", "code"), [("undecided", 4), ("block", 3), ("flag", 3), ("allow", 0)])
def test_a_missing_verdict_is_the_policys_business_and_is_told(run, tmp_path, on_error, code):
    (tmp_path / "p.yaml").write_text(f"on_error: {on_error}\n")
    result = run("BOOM", "--set", "scripted.faults={BOOM: raise}", "--policy", tmp_path / "p.yaml")
    (row,) = result.rows
    assert (result.code, row["action"], row["flagged"], row["status"]) == (code, on_error, None, "error")
    assert "RuntimeError" in result.err
    assert "BOOM" not in result.err


def test_a_message_of_5_mb_is_refused_clearly_and_fast(run):
    result = run("-", stdin=b"a" * 5_000_000)
    assert result.rows[0]["status"] == "error"
    assert result.rows[0]["action"] == "block"
    assert "-:1: scripted: the prompt has 5000000 characters, over the limit of 200000" in result.err
    assert result.code == 1


def test_the_limit_can_be_set(run):
    assert run("hello", "--max-chars", "4").rows[0]["status"] == "error"
    assert run("hello", "--max-chars", "5").rows[0]["status"] == "ok"


# --- a file


def test_every_row_of_a_file_is_answered_in_order(run, tmp_path):
    path = chats(tmp_path / "c.jsonl", *(user("TRIGGER" if i % 3 == 0 else "ok", id=f"r{i}") for i in range(10)))
    result = run(path, "--batch-size", "4")
    assert [row["id"] for row in result.rows] == [f"r{i}" for i in range(10)]
    assert [row["flagged"] for row in result.rows] == [i % 3 == 0 for i in range(10)]
    assert all(list(row) == KEYS for row in result.rows)
    assert result.code == 0
    assert "10 rows: 6 allow, 4 block" in result.err


def test_both_targets_come_from_one_call(run, tmp_path):
    path = chats(tmp_path / "c.jsonl", exchange("hi", "TRIGGER", id="a"), user("TRIGGER", id="b"))
    first, second = run(path, "--target", "both").rows
    assert list(first) == [*KEYS, "verdicts"]
    assert list(first["verdicts"]) == ["prompt", "response"]
    assert all(list(verdict) == KEYS for verdict in first["verdicts"].values())
    assert [first["verdicts"][t]["action"] for t in ("prompt", "response")] == ["allow", "block"]
    assert (first["action"], first["flagged"], first["target"]) == ("block", True, "both")
    assert second["verdicts"]["response"] is None


def test_auto_judges_the_last_speaker(run, tmp_path):
    path = chats(tmp_path / "c.jsonl", exchange("TRIGGER", "no"), user("TRIGGER"))
    assert [(row["target"], row["flagged"]) for row in run(path).rows] == [("response", False), ("prompt", True)]


def test_plain_lines_are_prompts_with_line_numbers_as_ids(run, tmp_path):
    (tmp_path / "lines").write_text("hello\n\na TRIGGER\n")
    rows = run(tmp_path / "lines").rows
    assert [(row["id"], row["flagged"]) for row in rows] == [("1", False), ("3", True)]


def test_other_formats_are_told_by_the_ending(run, tmp_path):
    (tmp_path / "c.csv").write_text("id,prompt,response\n7,hi,TRIGGER\n")
    assert run(tmp_path / "c.csv").rows[0]["flagged"]
    (tmp_path / "c.json").write_text('[{"text": "TRIGGER"}]')
    assert run(tmp_path / "c.json").rows[0]["flagged"]


def test_standard_input_is_read_like_a_file(run):
    assert [r["flagged"] for r in run("-", stdin=b"TRIGGER\nok\n").rows] == [True, False]
    assert run(stdin=json.dumps(user("TRIGGER")).encode()).rows[0]["flagged"]
    assert run("-", "--input-format", "csv", stdin=b"text\nTRIGGER\n").rows[0]["flagged"]


@pytest.mark.parametrize("content", [b"TRIGGER\n", b'{"text": "TRIGGER"}\n'], ids=["text", "jsonl"])
def test_a_pipe_given_by_path_is_told_by_its_content(run, content):
    """As a shell's ``<(command)`` is."""
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    try:
        (row,) = run(f"/dev/fd/{reading}").rows
    finally:
        os.close(reading)
    assert (row["id"], row["flagged"]) == ("1", True)


def test_a_json_array_holds_all_rows(run, tmp_path):
    path = chats(tmp_path / "c.jsonl", user("a"), user("b"))
    assert [row["id"] for row in json.loads(run(path, "--json").out)] == ["1", "2"]


def test_tables_show_ids_and_no_text_unless_asked(run, tmp_path):
    path = chats(tmp_path / "c.jsonl", exchange("my secret \x1b[31m TRIGGER", "ok", id="x1"))
    plain = run(path, "--target", "both", terminal=True)
    assert "x1" in plain.out
    assert "secret" not in plain.out
    assert plain.out.count("\n") == 3
    shown = run(path, "--target", "prompt", "--show-content", terminal=True)
    assert "my secret" in shown.out
    assert "\x1b[31m TRIGGER" not in shown.out


def test_both_targets_are_shown_with_their_own_text(run, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"prompt": "the question", "response": "the answer"}\n')
    lines = run(path, "--target", "both", "--show-content", terminal=True).out.splitlines()
    assert [line.rpartition("· ")[2] for line in lines[1:]] == ["the question", "the answer"]


@pytest.mark.parametrize(
    ("texts", "policy", "code"),
    [
        (["ok", "ok"], "{}", 0),
        (["ok", "TRIGGER"], "{}", 3),
        (["ok", "TRIGGER"], "prompt: {action: flag}", 3),
        (["ok", "BOOM"], "on_error: undecided", 4),
        (["TRIGGER", "BOOM"], "on_error: undecided", 3),
        (["ok", "BOOM"], "on_error: allow", 1),
    ],
)
def test_check_turns_findings_into_exit_codes(run, tmp_path, texts, policy, code):
    (tmp_path / "p.yaml").write_text(policy)
    path = chats(tmp_path / "c.jsonl", *map(user, texts))
    result = run(path, "--check", "--policy", tmp_path / "p.yaml", "--set", "scripted.faults={BOOM: error}")
    assert result.code == code


# --- what cannot be read


def broken_file(path):
    lines = [json.dumps(user("ok", id=f"r{i}")) for i in range(30)]
    lines[4] = '{"messages": [{"role": "wizard", "content": "hi"}]}'
    lines[9] = "{not json"
    path.write_bytes("\n".join(lines).encode() + b'\n{"text": "caf\xe9"}\n')
    return path


def test_broken_rows_are_listed_by_line_and_the_rest_is_answered(run, tmp_path):
    path = broken_file(tmp_path / "c.jsonl")
    result = run(path, "--batch-size", "7")
    assert len(result.rows) == 28
    assert result.code == 1
    for line, reason in ((5, "unknown role `wizard`"), (10, "not JSON"), (31, "invalid UTF-8")):
        assert f"{path}:{line}: " in result.err
        assert reason in result.err


def test_without_an_output_file_every_rejected_row_is_told_as_it_is_met(run, tmp_path, monkeypatch):
    (tmp_path / "c.jsonl").write_text("{}\n" * 25 + json.dumps(user("ok")) + "\n")
    monkeypatch.setattr(sys, "stdout", sys.stderr)
    lines = run(tmp_path / "c.jsonl").err.splitlines()
    assert [line.split(": ")[0] for line in lines[:25]] == [f"{tmp_path}/c.jsonl:{n}" for n in range(1, 26)]
    assert json.loads(lines[25])["id"] == "26"
    assert lines[26] == "25 rows rejected"


def test_with_an_output_file_the_first_ten_are_listed_and_the_rest_is_counted(run, tmp_path):
    (tmp_path / "c.jsonl").write_text("{}\n" * 25 + json.dumps(user("ok")) + "\n")
    err = run(tmp_path / "c.jsonl", "--out", tmp_path / "out.jsonl").err
    assert err.count("c.jsonl:") == 10
    assert "25 rows rejected" in err
    assert "and 15 more" in err


def test_rows_judged_without_their_older_turns_are_counted(run, tmp_path, monkeypatch):
    class Forgetful(ScriptedGuard):
        def classify(self, conversations, *, target="auto"):
            verdicts = super().classify(conversations, target=target)
            pairs = zip(conversations, verdicts, strict=True)
            return [replace(v, context_dropped=7 * (len(c.messages) - 1)) for c, v in pairs]

    monkeypatch.setattr(ScriptedGuard, "load", classmethod(lambda cls: Forgetful()))
    path = chats(tmp_path / "c.jsonl", exchange("a", "b"), user("c"), exchange("d", "e"))
    assert "2 rows had older turns that the guard's window had no room for" in run(path).err
    assert "older turns" not in run(chats(path, user("c"))).err


def test_rejected_rows_are_kept_beside_the_output(run, tmp_path):
    out = tmp_path / "out.jsonl"
    result = run(broken_file(tmp_path / "c.jsonl"), "--out", out)
    kept = [json.loads(line) for line in (tmp_path / "out.jsonl.rejects.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in kept] == [5, 10, 31]
    assert [entry["encoding"] for entry in kept] == ["text", "text", "base64"]
    assert base64.b64decode(kept[2]["raw"]) == b'{"text": "caf\xe9"}'
    assert "out.jsonl.rejects.jsonl" in result.err
    assert (result.code, result.out) == (1, "")


def test_strict_stops_at_the_first_broken_row_after_answering_those_before(run, tmp_path):
    result = run(broken_file(tmp_path / "c.jsonl"), "--strict")
    assert result.code == 2
    assert [row["id"] for row in result.rows] == ["r0", "r1", "r2", "r3"]
    assert "c.jsonl:5" in result.err


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_said_to_be_empty(run, tmp_path, content):
    (tmp_path / "c.jsonl").write_bytes(content)
    for result in (run(tmp_path / "c.jsonl"), run("-", stdin=content)):
        assert result.code == 2
        assert "holds no rows" in result.err
        assert result.out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jsonl"], "there is no such file"),
        (["--file", "nowhere.jsonl"], "there is no such file"),
        ([""], "the text is empty"),
        (["\udcff"], "not valid UTF-8"),
        (["hello", "--file", "x"], "both given"),
        (["hello", "--json", "--format", "table"], "both given"),
        (["hello", "--out", "x.jsonl"], "--out is for files"),
        (["hello", "--set", "nonsense"], "guard.key=value"),
        (["hello", "--set", "duoguard.model=x"], "--guard duoguard"),
        (["hello", "--set", "scripted.wrds=x"], "words"),
        (["hello", "--guard", "scriptd"], "scripted"),
        (["hello", "--policy", "nowhere.yaml"], "nowhere.yaml"),
        (["hello", "--batch-size", "0"], "batch-size"),
        (["."], "is a folder"),
        (["/dev/null"], "holds no rows"),
        (["hello", "--set", "scripted.words=5"], "scripted.words"),
        (["hello", "--set", "scripted.name=x"], "scripted.name"),
    ],
)
def test_mistakes_exit_with_2_and_say_what_to_do(run, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err


def test_nothing_given_on_a_terminal_is_a_mistake(capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert main(["moderate"]) == 2
    assert "corral moderate" in capsys.readouterr().err


# --- resuming


def session(run, path, out, *more):
    return run(path, "--out", out, *more)


def ids(out):
    return [json.loads(line)["id"] for line in out.read_text().splitlines()]


def test_a_rerun_adds_what_is_missing_and_nothing_twice(run, tmp_path):
    path, out = broken_file(tmp_path / "c.jsonl"), tmp_path / "out.jsonl"
    session(run, path, out, "--batch-size", "8")
    whole = ids(out)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:11]) + lines[11][:20])  # as a crash leaves it: rows lost, one torn
    sidecar = tmp_path / "out.jsonl.journal.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"rows": 0, "rejects": 0}))
    result = session(run, path, out)
    assert ids(out) == whole
    assert len((tmp_path / "out.jsonl.rejects.jsonl").read_text().splitlines()) == 3
    assert "are there already" in result.err
    assert result.code == 1
    again = session(run, path, out)
    assert ids(out) == whole
    assert "28 rows" in again.err
    assert "3 rejected" in again.err
    assert again.code == 1


def test_findings_of_earlier_sessions_count(run, tmp_path):
    path, out = chats(tmp_path / "c.jsonl", user("TRIGGER"), user("ok")), tmp_path / "out.jsonl"
    assert session(run, path, out, "--check").code == 3
    assert session(run, path, out, "--check").code == 3


@pytest.mark.parametrize("change", ["target", "guard", "policy", "input", "limit", "setting"])
def test_resuming_under_other_settings_is_refused(run, tmp_path, change):
    path, out = chats(tmp_path / "c.jsonl", exchange("a", "b")), tmp_path / "out.jsonl"
    (tmp_path / "p.yaml").write_text("on_error: flag\n")
    session(run, path, out)
    if change == "input":
        chats(path, user("other"))
    more = {
        "target": ["--target", "prompt"],
        "guard": ["--set", "scripted.words=[OTHER]"],
        "policy": ["--policy", tmp_path / "p.yaml"],
        "limit": ["--max-chars", "9"],
        "setting": ["--set", "scripted.delay=0.001"],  # not part of the guard's revision
    }.get(change, [])
    before = out.read_text()
    result = session(run, path, out, *more)
    assert result.code == 2
    assert "other settings" in result.err
    assert out.read_text() == before


def test_the_setting_that_differs_is_named(run, tmp_path):
    path, out = chats(tmp_path / "c.jsonl", user("a")), tmp_path / "out.jsonl"
    session(run, path, out, "--max-chars", "9")
    assert "`scripted.max_chars`" in session(run, path, out, "--max-chars", "8").err
    assert session(run, path, out, "--set", "scripted.max_chars=9").code == 0


def test_standard_input_cannot_be_resumed(run, tmp_path):
    out = tmp_path / "out.jsonl"
    assert run("-", "--out", out, stdin=b"a\n").code == 0
    result = run("-", "--out", out, stdin=b"a\nb\n")
    assert result.code == 2
    assert "standard input" in result.err
    assert ids(out) == ["1"]


def test_a_file_that_is_not_a_journal_is_not_touched(run, tmp_path):
    path, out = chats(tmp_path / "c.jsonl", user("a")), tmp_path / "notes.txt"
    out.write_text("mine\n")
    assert session(run, path, out).code == 2
    assert out.read_text() == "mine\n"


def test_with_json_the_counts_are_printed(run, tmp_path):
    path, out = broken_file(tmp_path / "c.jsonl"), tmp_path / "out.jsonl"
    counts = json.loads(session(run, path, out, "--json").out)
    assert (counts["rows"], counts["allow"], counts["rejected"], counts["out"]) == (28, 28, 3, str(out))


# --- policies and guards


def test_a_policy_decides_by_category(run, tmp_path):
    (tmp_path / "p.yaml").write_text("categories: {llama_guard_3/S6: {action: allow}}\n")
    advice = ["--set", "scripted.categories={pills: llama_guard_3/S6}", "--policy", tmp_path / "p.yaml"]
    assert run("TRIGGER pills", *advice).rows[0]["action"] == "allow"
    assert run("TRIGGER", *advice).rows[0]["action"] == "block"


def test_a_policys_guards_are_asked(run, tmp_path):
    (tmp_path / "p.yaml").write_text("guards: [scripted]\n")
    assert run("TRIGGER", "--policy", tmp_path / "p.yaml", guard=None).rows[0]["guard"] == "scripted"


def test_a_guard_that_the_policy_asks_for_may_not_be_left_out(run, tmp_path):
    (tmp_path / "p.yaml").write_text("guards: [scripted, default]\n")
    result = run("TRIGGER", "--policy", tmp_path / "p.yaml")
    assert result.code == 2
    assert "`default`" in result.err


def test_a_broken_policy_names_file_and_field(run, tmp_path):
    (tmp_path / "p.yaml").write_text("prompt: {threshold: 2}\n")
    result = run("hello", "--policy", tmp_path / "p.yaml")
    assert result.code == 2
    assert "p.yaml" in result.err
    assert "prompt.threshold" in result.err


def test_an_interrupt_waits_for_the_block_to_end():
    import signal

    done = []
    with pytest.raises(KeyboardInterrupt), held_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("after the signal")
    assert done == ["after the signal"]
