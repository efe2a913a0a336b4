"""The `corral` program: how verbs are found, what errors look like, and what the start imports."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import typer

from corral.cli import main as cli
from corral.core.errors import CorralError, DataError

HEAVY = ("torch", "transformers", "sklearn", "scipy", "numpy", "pydantic", "rich", "typer", "yaml")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Installs a function as the verb `probe`."""

    def install(function: Callable[..., object]) -> None:
        module = ModuleType("corral_test_probe")
        module.probe = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.VERBS, "probe", cli.Verb(module.__name__, "probe", "A verb of the tests."))

    return install


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, verb in cli.VERBS.items():
        assert f"  {name}" in shown
        assert verb.summary in shown


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"], []])
def test_start_imports_nothing_heavy(arguments: list[str]) -> None:
    probe = f"""
import sys
from corral.cli.main import main
main({arguments!r})
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(cli.VERBS))
def test_every_verb_explains_itself_without_importing_torch(name: str) -> None:
    probe = f"""
import sys
from corral.cli.main import main
assert main([{name!r}, "--help"]) == 0
sys.exit("torch" in sys.modules or "transformers" in sys.modules or "sklearn" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Usage: corral {name}" in done.stdout


def test_no_verb_at_all_is_a_usage_error_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: corral")


def test_unknown_verb_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["modrate", "hello"]) == 2
    assert capsys.readouterr().err == "error: there is no command `modrate`\nDid you mean `moderate`?\n"


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"corral {version('corral')}\n"


def test_error_says_what_where_and_what_next(verb: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    def probe() -> None:
        raise DataError("unknown role `wizard`", where="chat.jsonl:7", hint="Use `user`.")

    verb(probe)
    assert cli.main(["probe"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: chat.jsonl:7: unknown role `wizard`\nUse `user`.\n"


def test_failure_that_is_not_the_users_exits_with_1(verb: Callable) -> None:
    def probe() -> None:
        raise CorralError("out of luck")

    verb(probe)
    assert cli.main(["probe"]) == 1


@pytest.mark.parametrize("arguments", [["--debug", "probe"], ["probe", "--debug"]])
def test_debug_lets_the_traceback_through(verb: Callable, arguments: list[str]) -> None:
    def probe() -> None:
        raise DataError("bad row")

    verb(probe)
    with pytest.raises(DataError, match="bad row"):
        cli.main(arguments)


def test_debug_after_a_double_dash_is_an_argument(verb: Callable) -> None:
    seen = []

    def probe(text: str) -> None:
        seen.append(text)

    verb(probe)
    assert cli.main(["probe", "--", "--debug"]) == 0
    assert seen == ["--debug"]


def test_unforeseen_error_asks_for_a_report_without_a_traceback(
    verb: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    def probe() -> None:
        raise ZeroDivisionError("division by zero")

    verb(probe)
    assert cli.main(["probe"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in err
    assert "--debug" in err
    assert "Traceback" not in err


def test_full_disk_is_named_with_its_file(verb: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    def probe() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.jsonl")

    verb(probe)
    assert cli.main(["probe"]) == 1
    assert capsys.readouterr().err == f"error: out.jsonl: {os.strerror(errno.ENOSPC)}\n"


def test_control_characters_in_an_error_cannot_reach_the_terminal(
    verb: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    def probe() -> None:
        raise DataError("unknown role `\x1b[2Jsystem\u202e`")

    verb(probe)
    cli.main(["probe"])
    assert capsys.readouterr().err == "error: unknown role `\\x1b[2Jsystem\\u202e`\n"


def test_interrupt_exits_with_130(verb: Callable) -> None:
    def probe() -> None:
        raise KeyboardInterrupt

    verb(probe)
    assert cli.main(["probe"]) == 130


def test_wrong_option_exits_with_2(verb: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    def probe() -> None:
        pass

    verb(probe)
    assert cli.main(["probe", "--no-such-option"]) == 2
    assert "--no-such-option" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1, 3, 4])
def test_verb_chooses_its_exit_code(verb: Callable, code: int) -> None:
    def probe() -> None:
        raise typer.Exit(code)

    verb(probe)
    assert cli.main(["probe"]) == code


def test_reader_that_goes_away_ends_the_program_quietly() -> None:
    # Far more than a pipe holds, so that writing must meet the closed end.
    program = """
import sys
from types import ModuleType
from corral.cli import main as cli
module = sys.modules["probe"] = ModuleType("probe")
module.probe = lambda: [print("x" * 1000) for _ in range(2000)]
cli.VERBS["probe"] = cli.Verb("probe", "probe", "")
sys.exit(cli.main(["probe"]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 1
