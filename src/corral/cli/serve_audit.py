"""``corral serve audit``: check, export and prune the log of decisions."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from corral.cli.output import print_fields, print_json, remark
from corral.cli.serve_options import DatabaseOption, StateOption, open_database
from corral.core.errors import UserError

if TYPE_CHECKING:
    from corral.serve.audit.chain import Link

_MOST_DAYS: Final = 36_500
"""A hundred years; a calendar that goes back too far has no such day."""

audit_app = typer.Typer(add_completion=False, no_args_is_help=True, help="Check, export and prune the audit log.")


@audit_app.command()
def verify(
    *,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="SEQ:HASH", help="A head noted earlier: the log must still hold this row.", show_default=False
        ),
    ] = None,
    state: StateOption = None,
    database: DatabaseOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Follow the hash chain over every row; exits with 1 where it is broken.

    Keep the printed head elsewhere: whoever can write the database could forge a new chain, but not one with this row.
    """
    from corral.serve.audit.queries import verify_chain

    noted = None if expect is None else _link(expect)
    with open_database(state, database) as opened:
        report = verify_chain(opened, expect=noted)
    head = f"{report.head.seq}:{report.head.row_hash}"
    if as_json:
        print_json({"intact": report.intact, "rows": report.rows, "head": head, "problem": report.problem})
    else:
        print_fields(
            [
                ("chain", "intact" if report.intact else f"BROKEN: {report.problem}"),
                ("rows", report.rows),
                ("head", head),
            ]
        )
    if not report.intact:
        raise typer.Exit(1)


@audit_app.command()
def export(
    out: Annotated[Path | None, typer.Option(help="File of JSON lines; default: standard output.")] = None,
    *,
    since: Annotated[str | None, typer.Option(help="Only from this day or time (ISO 8601, UTC).")] = None,
    show_content: Annotated[
        bool, typer.Option("--show-content", help="With the kept texts, where the policy keeps them.")
    ] = False,
    state: StateOption = None,
    database: DatabaseOption = None,
) -> None:
    """Write the decisions as JSON lines, oldest first."""
    import json

    from corral.core.files import atomic_path
    from corral.serve.audit.queries import exported_rows

    since_us = None if since is None else _microseconds(since)
    count = 0
    with open_database(state, database) as opened:
        rows = exported_rows(opened, since_us=since_us, with_content=show_content)
        if out is None:
            for row in rows:
                sys.stdout.write(json.dumps(row) + "\n")
                count += 1
        else:
            with atomic_path(out) as path, path.open("w", encoding="utf-8") as stream:
                for row in rows:
                    stream.write(json.dumps(row) + "\n")
                    count += 1
    remark(f"{count} decisions")


@audit_app.command()
def prune(
    *,
    keep_days: Annotated[int, typer.Option(min=0, max=_MOST_DAYS, help="Remove decisions older than so many days.")],
    content_only: Annotated[
        bool, typer.Option("--content-only", help="Erase kept texts and keep the rows: the chain stays whole.")
    ] = False,
    state: StateOption = None,
    database: DatabaseOption = None,
) -> None:
    """Remove old decisions, or only their texts; the chain then begins after the last one removed."""
    from corral.serve.audit.queries import erase_content, prune_rows

    before_us = round((datetime.now(UTC) - timedelta(days=keep_days)).timestamp() * 1e6)
    with open_database(state, database) as opened:
        count = (erase_content if content_only else prune_rows)(opened, before_us)
    remark(f"{count} {'texts erased' if content_only else 'decisions removed'}")


def _link(text: str) -> Link:
    from corral.serve.audit.chain import Link
    from corral.serve.audit.tables import LARGEST_SEQ

    seq, colon, digest = text.partition(":")
    numbered = seq.isdecimal() and len(seq) < 20 and int(seq) <= LARGEST_SEQ
    if not (colon and numbered and len(digest) == 64):
        raise UserError(
            f"`{text[:100]}` is not a head", where="--expect", hint="As `corral serve audit verify` prints it."
        )
    return Link(int(seq), digest)


def _microseconds(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"`{text}` is not a day or time", where="--since", hint="For example 2026-01-31.") from error
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e6)
