"""The ``corral`` program: finds the verb, imports its module, and turns errors into messages and exit codes.

Verbs are imported only when they are called, and ``corral --help`` is written from the table below, so the start
needs neither typer nor torch. Exit codes: 0 fine, 1 failure, 2 the user's mistake, 130 interrupted; ``moderate``
adds 3 and 4.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Final

from corral.cli.output import print_error, remark
from corral.core.errors import CorralError, NotFoundError, UserError, suggest

if TYPE_CHECKING:
    from typer import Typer

INTERRUPTED: Final = 130
_USAGE: Final = "Usage: corral [--version] [--debug] VERB [ARGUMENTS]"


@dataclass(frozen=True, slots=True)
class Verb:
    """One command: where its code is and what it does, in one line."""

    module: str
    attribute: str
    summary: str

    def load(self) -> Typer:
        """Import the verb's module; a plain function becomes an application of one command."""
        import typer

        target: Any = getattr(importlib.import_module(self.module), self.attribute)
        if isinstance(target, typer.Typer):
            app = target
        else:
            app = typer.Typer(add_completion=False)
            app.command()(target)
        app.rich_markup_mode = None  # plain help reads the same in a pipe, in the docs and in a narrow terminal
        return app


VERBS: Final[dict[str, Verb]] = {
    "moderate": Verb("corral.cli.moderate", "moderate", "Judge a text, standard input or a file of conversations."),
    "serve": Verb("corral.cli.serve", "app", "Serve a moderation API, a guarded chat gateway and a console."),
    "eval": Verb("corral.cli.eval", "app", "Measure models and guards, beside published figures."),
    "train": Verb("corral.cli.train", "train", "Train with a method: shorthand of `corral recipes run`."),
    "quantize": Verb("corral.cli.quantize", "quantize", "Quantize a model with a published method."),
    "recipes": Verb("corral.cli.recipes", "app", "List, show, copy and run recipes."),
    "runs": Verb("corral.cli.runs", "app", "List, show, verify and resume run directories."),
    "compare": Verb("corral.cli.compare", "compare", "Compare scorecards: paired differences, ability against safety."),
    "redteam": Verb("corral.cli.redteam", "app", "Attack a model and its guards with published styles."),
    "bench": Verb("corral.cli.bench", "app", "Measure speed and agreement beside peers."),
    "doctor": Verb("corral.cli.doctor", "doctor", "Check this installation and say what to mend."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises but for a request to debug."""
    arguments, debug = _take_debug(list(sys.argv[1:] if argv is None else argv))
    _write_any_text()
    _quieten_libraries()
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # a closed pipe shows here, while it can still be answered quietly
    except BrokenPipeError:
        _silence_standard_output()
        return 1
    except KeyboardInterrupt:
        remark("interrupted")
        return INTERRUPTED
    except CorralError as error:
        if debug:
            raise
        print_error(error)
        return error.exit_code
    except OSError as error:
        if debug:
            raise
        where = None if error.filename is None else str(error.filename)
        print_error(CorralError(error.strerror or str(error), where=where))
        return 1
    except Exception as error:
        if debug:
            raise
        hint = "This is a defect in Corral: please report it with the traceback that `--debug` shows."
        print_error(CorralError(f"{type(error).__name__}: {error}", hint=hint))
        return 1
    return code


def _quieten_libraries() -> None:
    """Corral shows its own progress and turns what matters into errors; set before a library is imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _write_any_text() -> None:
    """Results are UTF-8 where a program reads them; a terminal keeps its encoding and escapes what that lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Remove ``--debug`` from anywhere before ``--``, so that it can be added to the end of a failing command."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, rest = arguments[:end], arguments[end:]
    debug = "--debug" in options or os.environ.get("CORRAL_DEBUG", "") not in {"", "0"}
    return [a for a in options if a != "--debug"] + rest, debug


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        print(_help(), file=sys.stderr)
        return UserError.exit_code
    name, rest = arguments[0], arguments[1:]
    if name in {"--help", "-h", "help"}:
        print(_help())
        return 0
    if name in {"--version", "-V"}:
        from importlib.metadata import version

        print(f"corral {version('corral')}")
        return 0
    if name not in VERBS:
        raise NotFoundError(f"there is no command `{name}`", hint=suggest(name, VERBS))
    return _run(name, rest)


def _run(name: str, arguments: list[str]) -> int:
    from typer.main import get_command

    command = get_command(VERBS[name].load())
    try:
        command.main(args=arguments, prog_name=f"corral {name}")
    except SystemExit as stop:  # typer's way to return, usage errors included
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    return f"""{_USAGE}

Guard an assistant built on an open-weight model, change the model safely, and see what each costs.

Verbs:
{verbs}

Options:
  --version  Print the version.
  --debug    Show the traceback of an error (anywhere in the command; or set CORRAL_DEBUG=1).
  --help     Print this text; `corral VERB --help` explains one verb."""


def _silence_standard_output() -> None:
    """Point standard output at nothing, so that the interpreter's last flush does not complain of the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
