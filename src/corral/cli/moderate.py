"""``corral moderate``: judge a text, an image or clip, standard input, or a file of conversations.

Exit codes: 0 fine (for a file: every row was answered), 1 a row could not be read or got no verdict, 2 the user's
mistake, 130 interrupted; for a single text, or a file with ``--check``: 3 flagged or blocked, 4 undecided.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import IO, Annotated, Any

import typer

from corral.cli.guard_settings import chosen_specs, names_in, parse_guards, settings_by_guard
from corral.cli.moderation_input import choose_input
from corral.cli.moderation_media import (
    DEFAULT_MEDIA_GUARD,
    decide_media,
    frame_notes,
    is_media,
    media_channel,
    media_explanation,
)
from corral.cli.moderation_output import JsonArray, JsonLines, TableLines, Writer, json_line, judged_rows, print_verdict
from corral.cli.moderation_parts import composition_notes, explanation
from corral.cli.moderation_rows import INTERRUPTED, action_exit_code, decision_row, missing_verdicts
from corral.cli.moderation_stream import Stream, TargetOption, judge, row_of
from corral.cli.output import print_json, remark
from corral.core.errors import UserError
from corral.data.languages import NoIdentifier, find_identifier
from corral.data.messages import Conversation, Message
from corral.guards.composition.specs import GuardSpec, name_of
from corral.guards.loading import load_guard
from corral.guards.media.moderator import MediaModerator
from corral.guards.moderator import Moderator
from corral.guards.policy import Decision, Policy


class Format(StrEnum):
    """Shapes of the output."""

    TABLE = "table"
    JSONL = "jsonl"
    JSON = "json"


class PresetChoice(StrEnum):
    """Operating points by name."""

    STRICT = "strict"
    BALANCED = "balanced"
    PERMISSIVE = "permissive"


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
            help="Guard to ask: default, duoguard, moderation-api, ..., scripted (a test guard that flags TRIGGER), or "
            "a composition: '{cascade: [default, duoguard], band: [0.2, 0.8]}'. Repeatable."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="GUARD.KEY=VALUE", help="A guard's setting. Repeatable.")
    ] = None,
    preset: Annotated[
        PresetChoice | None,
        typer.Option(
            help="Operating point of every guard of text, by language; default: as it ships.", show_default=False
        ),
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(
            help="File of the preset's thresholds, from `corral eval calibrate presets`; default: the one beside the "
            "guard's weights, if there is one.",
            show_default=False,
        ),
    ] = None,
    media: Annotated[bool, typer.Option("--media", help="The file is an image or clip, whatever its name.")] = False,
    media_guard: Annotated[
        str,
        typer.Option(
            help="Guard of images and clips: open-nsfw, vision, moderation-api-media, or scripted-media (flags red "
            "pictures)."
        ),
    ] = DEFAULT_MEDIA_GUARD,
    media_root: Annotated[
        Path | None,
        typer.Option(
            help="Folder under which rows may name images by path; default: data URIs only.", show_default=False
        ),
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
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Add to each row what parts of compositions said and who decided; of an image or clip, its frames.",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows read and judged at once.")] = 64,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for the model; default: one a core.", show_default=False)
    ] = None,
    show_content: Annotated[
        bool, typer.Option("--show-content", help="Show the beginning of each text in tables.")
    ] = False,
) -> None:
    """Judge a text, an image or clip, standard input or a file of conversations.

    A file named as an image or video (PNG, JPEG, WebP, GIF, MP4, MOV, WebM, MKV, AVI) is one. Any other holds one
    conversation a line: JSONL with messages (or prompt and response, or text), or plain lines; also CSV, TSV, Parquet
    and JSON, by its ending.

    Exit codes: 0 fine (for a file: every row was answered), 1 a row could not be read or got no verdict, 2 your
    mistake, 130 interrupted; for a single text, or a file with --check: 3 flagged or blocked, 4 undecided.
    """
    try:
        given = choose_input(text, file)
        shape = _format(format, json=json)
        as_media = is_media(given, asked=media, input_format=input_format)
        _refuse_contradictions(single=as_media or isinstance(given, Conversation), format=format, out=out)
        loaded_policy = _policy(policy, preset, thresholds)
        specs = parse_guards(guard) if guard else list(loaded_policy.guards or ("default",))
        settings = guard_settings(names_in(specs), setting or [], max_chars, media_guard=media_guard)
        media_settings = settings.pop(media_guard)
        if as_media:
            _refuse_text_options(preset, thresholds)
            raise typer.Exit(_one_media(given, loaded_policy, media_guard, media_settings, shape, explain=explain))
        moderator = _moderator(specs, settings, loaded_policy)
        _use_threads(threads)
        if isinstance(given, Conversation):
            code = _one(moderator, given, target.value, shape, explain=explain)
        else:
            moderator = MediaModerator(moderator, media_channel(media_guard, media_settings, media_root))
            stream = Stream(
                moderator,
                given,
                target=target.value,
                format=input_format,
                batch_size=batch_size,
                strict=strict,
                show_content=show_content,
                explain=explain,
                show_progress=out is not None or not sys.stdout.isatty(),
                settings=_stream_settings(settings | {media_guard: media_settings}, media_guard, media_root),
            )
            code = _many(stream, shape, out, check=check)
    except KeyboardInterrupt:
        remark(_how_to_resume(out))
        code = INTERRUPTED
    raise typer.Exit(code)


def guard_settings(
    names: Sequence[str], settings: Sequence[str], max_chars: int | None, *, media_guard: str
) -> dict[str, dict[str, Any]]:
    """The settings that each guard is loaded with, that of images and clips last.

    Args:
        names: of the guards; each counts once.
        media_guard: name of the guard of images and clips, to which ``max_chars`` means nothing.
        settings: ``guard.key=value``.
        max_chars: longest message, for every guard that has no such setting of its own; ``None`` leaves each its own.

    Raises:
        ConfigError: a setting of another form, or of a guard that is not named.
    """
    chosen = settings_by_guard(settings, list(dict.fromkeys([*names, media_guard])))
    common = {} if max_chars is None else {"max_chars": max_chars}
    return {name: own if name == media_guard else common | own for name, own in chosen.items()}


def _policy(path: Path | None, preset: PresetChoice | None, thresholds: Path | None) -> Policy:
    """The policy, with the preset and its thresholds that the command line names."""
    policy = Policy.default() if path is None else Policy.load(path)
    given = {"preset": preset and preset.value, "thresholds": thresholds and str(thresholds)}
    changed = policy.model_copy(update={name: value for name, value in given.items() if value is not None})
    if changed.thresholds is not None and changed.preset is None:
        raise UserError("--thresholds is for --preset", hint="Add `--preset balanced`, strict or permissive.")
    return changed


def _moderator(specs: Sequence[GuardSpec], settings: Mapping[str, Mapping[str, Any]], policy: Policy) -> Moderator:
    """The guards, loaded, under the policy's preset; what tells languages apart is said if it is missing."""
    chosen = [policy.under_preset(spec) for spec in chosen_specs(specs, settings)]
    moderator = Moderator([load_guard(spec) for spec in chosen], policy, specs={name_of(spec): spec for spec in chosen})
    if policy.preset is not None and isinstance(find_identifier(), NoIdentifier):
        remark("Languages are not told apart, common thresholds apply. `pip install 'corral[languages]'` mends it.")
    return moderator


def _stream_settings(
    settings: Mapping[str, Mapping[str, Any]], media_guard: str, media_root: Path | None
) -> dict[str, Any]:
    """What a journal's rows depend on beside text guards, policy and input."""
    values = {f"{name}.{key}": value for name, chosen in settings.items() for key, value in chosen.items()}
    return values | {"media_guard": media_guard, "media_root": None if media_root is None else str(media_root)}


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


def _refuse_text_options(preset: PresetChoice | None, thresholds: Path | None) -> None:
    """Presets are thresholds of guards of text: without effect on a picture, they must not seem to have one."""
    for option, value in (("--preset", preset), ("--thresholds", thresholds)):
        if value is not None:
            raise UserError(
                f"{option} is for guards of text, and an image or clip was given",
                hint="Leave it out. What is flagged of pictures moves with `prompt: {threshold: ...}` of a `--policy`.",
            )


def _use_threads(threads: int | None) -> None:
    """Set the threads of torch, if a guard brought it in."""
    if threads is not None and (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def _one(
    moderator: Moderator, conversation: Conversation, target: TargetOption, shape: Format, *, explain: bool
) -> int:
    """Judge a single text and return the exit code."""
    if target == "response":
        conversation = Conversation(tuple(Message("assistant", m.content) for m in conversation.messages))
    (decisions,) = judge(moderator, [conversation], target)
    row = row_of(conversation, decisions, target) | (explanation(decisions) if explain else {})
    notes = composition_notes(decisions.values())
    _print_one(row, list(decisions.values()), moderator.policy, shape, notes=notes)
    return action_exit_code([row["action"]])


def _print_one(
    row: Mapping[str, Any],
    decisions: Sequence[Decision],
    policy: Policy,
    shape: Format,
    *,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    missing = missing_verdicts(decisions)
    if shape is Format.TABLE:
        print_verdict(
            judged_rows(row)[0],
            reasons=[reason for decision in decisions for reason in decision.reasons],
            missing=missing,
            policy=f"{policy.id} ({policy.hash})",
            notes=notes,
        )
        return
    print_json(row) if shape is Format.JSON else print(json_line(row))
    for line in missing:
        remark(f"no verdict: {line}")


def _one_media(
    source: Conversation | Path | IO[bytes],
    policy: Policy,
    guard: str,
    settings: Mapping[str, Any],
    shape: Format,
    *,
    explain: bool,
) -> int:
    """Judge a single image or clip and return the exit code."""
    if isinstance(source, Conversation):
        raise UserError("--media is for files and standard input, and a text was given", hint="Give a file or `-`.")
    name, decision, found = decide_media(source, policy, guard, settings)
    row = decision_row(name, decision) | (media_explanation(found) if explain else {})
    _print_one(row, [decision], policy, shape, notes=frame_notes(found))
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
    for line in stream.costs.lines():
        remark(line)
    return stream.tally.exit_code(check=check)


def _writer(shape: Format) -> Writer:
    if shape is Format.TABLE:
        return TableLines()
    return JsonArray() if shape is Format.JSON else JsonLines()


def _how_to_resume(out: Path | None) -> str:
    if out is None:
        return "Interrupted. With --out FILE the same command again continues where it stopped."
    return f"Interrupted. What is done is in {out}; the same command again continues there."
