"""``corral moderate``: judge a text, standard input, or a file of conversations.

Exit codes: 0 fine (for a file: every row was answered), 1 a row could not be read or got no verdict, 2 the user's
mistake, 130 interrupted; for a single text, or a file with ``--check``: 3 flagged or blocked, 4 undecided.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from corral.cli.guard_settings import settings_by_guard
from corral.cli.moderation_input import choose_input
from corral.cli.moderation_output import JsonArray, JsonLines, TableLines, Writer, json_line, judged_rows, print_verdict
from corral.cli.moderation_rows import INTERRUPTED, action_exit_code, missing_verdicts
from corral.cli.moderation_stream import Stream, TargetOption, judge, row_of
from corral.cli.output import print_json, remark
from corral.core.errors import UserError
from corral.data.messages import Conversation, Message
from corral.guards.loading import load_guard
from corral.guards.moderator import Moderator
from corral.guards.policy import Policy


class Format(StrEnum):
    """Shapes of the output."""

    TABLE = "table"
    JSONL = "jsonl"
    JSON = "json"


class TargetChoice(StrEnum):
    """What to judge; ``auto`` is the response when the assistant spoke last, else the prompt."""

    AUTO = "auto"
    PROMPT = "prompt"
    RESPONSE = "response"
    BOTH = "both"


def moderate(
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT|FILE|-", help="A text, an existing file, or - for standard input.", show_default=False
        ),
    ] = None,
    *,
    file: Annotated[Path | None, typer.Option("--file", help="A file, whatever its name.", show_default=False)] = None,
    target: Annotated[
        TargetChoice,
        typer.Option(help="What to judge; auto: the response if the assistant spoke last, else the prompt."),
    ] = TargetChoice.AUTO,
    guard: Annotated[
        list[str] | None,
        typer.Option(
            help="Guard to ask: default, duoguard, or scripted (a test guard that flags TRIGGER). Repeatable."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="GUARD.KEY=VALUE", help="A guard's setting. Repeatable.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="YAML file of thresholds and actions; the default blocks harm.", show_default=False),
    ] = None,
    format: Annotated[
        Format | None, typer.Option(help="Default: table on a terminal, else jsonl.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
    input_format: Annotated[
        str | None,
        typer.Option(
            help="jsonl, json, csv, tsv, parquet or text; default: by the file's name or content.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write JSON lines to this file; the same command again continues it.", show_default=False),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="For a file: exit with 3 if a row is flagged or blocked.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be read.")] = False,
    max_chars: Annotated[
        int | None, typer.Option(min=1, help="Longest message a guard reads; default: the guard's.", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows read and judged at once.")] = 64,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for the model; default: one a core.", show_default=False)
    ] = None,
    show_content: Annotated[
        bool, typer.Option("--show-content", help="Show the beginning of each text in tables.")
    ] = False,
) -> None:
    """Judge a text, standard input or a file of conversations.

    A file holds one conversation a line: JSONL with messages (or prompt and response, or text), or plain lines; also
    CSV, TSV, Parquet and JSON, by its ending.

    Exit codes: 0 fine (for a file: every row was answered), 1 a row could not be read or got no verdict, 2 your
    mistake, 130 interrupted; for a single text, or a file with --check: 3 flagged or blocked, 4 undecided.
    """
    try:
        given = choose_input(text, file)
        shape = _format(format, json=json)
        _refuse_contradictions(single=isinstance(given, Conversation), format=format, out=out)
        loaded_policy = Policy.default() if policy is None else Policy.load(policy)
        settings = guard_settings(guard or loaded_policy.guards or ("default",), setting or [], max_chars)
        moderator = Moderator([load_guard(name, **chosen) for name, chosen in settings.items()], loaded_policy)
        _use_threads(threads)
        if isinstance(given, Conversation):
            code = _one(moderator, given, target.value, shape)
        else:
            stream = Stream(
                moderator,
                given,
                target=target.value,
                format=input_format,
                batch_size=batch_size,
                strict=strict,
                show_content=show_content,
                show_progress=out is not None or not sys.stdout.isatty(),
                settings={f"{name}.{key}": value for name, chosen in settings.items() for key, value in chosen.items()},
            )
            code = _many(stream, shape, out, check=check)
    except KeyboardInterrupt:
        remark(_how_to_resume(out))
        code = INTERRUPTED
    raise typer.Exit(code)


def guard_settings(names: Sequence[str], settings: Sequence[str], max_chars: int | None) -> dict[str, dict[str, Any]]:
    """The settings that each guard is loaded with.

    Args:
        names: of the guards; each counts once.
        settings: ``guard.key=value``.
        max_chars: longest message, for every guard that has no such setting of its own; ``None`` leaves each its own.

    Raises:
        ConfigError: a setting of another form, or of a guard that is not named.
    """
    chosen = settings_by_guard(settings, list(dict.fromkeys(names)))
    common = {} if max_chars is None else {"max_chars": max_chars}
    return {name: common | own for name, own in chosen.items()}


def _format(format: Format | None, *, json: bool) -> Format:
    if json and format not in (None, Format.JSON):
        raise UserError(f"--json and --format {format} were both given", hint="Give one of them.")
    if json:
        return Format.JSON
    return format or (Format.TABLE if sys.stdout.isatty() else Format.JSONL)


def _refuse_contradictions(*, single: bool, format: Format | None, out: Path | None) -> None:
    if out is not None and single:
        raise UserError("--out is for files and standard input", hint="Leave it out, or put the text in a file.")
    if out is not None and format is Format.TABLE:
        raise UserError("--out writes JSON lines, not a table", hint="Leave --format out.")


def _use_threads(threads: int | None) -> None:
    """Set the threads of torch, if a guard brought it in."""
    if threads is not None and (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def _one(moderator: Moderator, conversation: Conversation, target: TargetOption, shape: Format) -> int:
    """Judge a single text and return the exit code."""
    if target == "response":
        conversation = Conversation(tuple(Message("assistant", m.content) for m in conversation.messages))
    (decisions,) = judge(moderator, [conversation], target)
    row = row_of(conversation, decisions, target)
    missing = missing_verdicts(decisions.values())
    if shape is Format.TABLE:
        policy = f"{moderator.policy.id} ({moderator.policy.hash})"
        print_verdict(
            judged_rows(row)[0],
            reasons=[r for d in decisions.values() for r in d.reasons],
            missing=missing,
            policy=policy,
        )
    else:
        print_json(row) if shape is Format.JSON else print(json_line(row))
        for line in missing:
            remark(f"no verdict: {line}")
    return action_exit_code([row["action"]])


def _many(stream: Stream, shape: Format, out: Path | None, *, check: bool) -> int:
    """Judge a file or stream and return the exit code."""
    if out is None:
        stream.to_writer(_writer(shape))
    else:
        stream.to_journal(out)
        if shape is Format.JSON:
            print_json(stream.tally.to_json() | {"out": str(out)})
    remark(str(stream.tally))
    return stream.tally.exit_code(check=check)


def _writer(shape: Format) -> Writer:
    if shape is Format.TABLE:
        return TableLines()
    return JsonArray() if shape is Format.JSON else JsonLines()


def _how_to_resume(out: Path | None) -> str:
    if out is None:
        return "Interrupted. With --out FILE the same command again continues where it stopped."
    return f"Interrupted. What is done is in {out}; the same command again continues there."
