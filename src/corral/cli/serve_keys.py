"""``corral serve keys``: make, list and revoke the keys of a moderation server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.output import print_json, print_table, remark
from corral.cli.serve_options import DatabaseOption, StateOption, open_database

if TYPE_CHECKING:
    from corral.serve.keys import ApiKey

keys_app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make, list and revoke API keys.")


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    *,
    tenant: Annotated[
        str, typer.Option(help="Whose policy applies, and whose decisions the console shows; default sees all.")
    ] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="moderate, chat, metrics, review or admin; default: moderate and chat. Repeatable.", show_default=False
        ),
    ] = None,
    per_minute: Annotated[int, typer.Option(min=0, help="Requests a minute; 0 for no limit.")] = 0,
    state: StateOption = None,
    database: DatabaseOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a key and print its secret, this once.

    From the first key on, every route of the server but /healthz and /readyz needs one.
    """
    from corral.serve.keys import KeyStore

    with open_database(state, database, migrate=True) as opened:
        key, secret = KeyStore(opened).create(
            name, tenant=tenant, scopes=scope or ("moderate", "chat"), per_minute=per_minute
        )
    if as_json:
        print_json(_as_json(key) | {"secret": secret})
    else:
        remark(f"{key.id}: tenant {key.tenant}, scopes {', '.join(sorted(key.scopes))}; kept as a hash, so note it now")
        print(secret)


@keys_app.command("ls")
def list_keys(
    *,
    state: StateOption = None,
    database: DatabaseOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the keys, without their secrets."""
    from corral.serve.keys import KeyStore

    with open_database(state, database) as opened:
        keys = KeyStore(opened).all()
    if as_json:
        print_json([_as_json(key) for key in keys])
        return
    print_table(
        ("id", "name", "tenant", "scopes", "a minute", "made", "revoked"),
        (
            (
                k.id,
                k.name,
                k.tenant,
                " ".join(sorted(k.scopes)),
                k.per_minute or None,
                _day(k.at_us),
                _day(k.revoked_us),
            )
            for k in keys
        ),
    )


@keys_app.command()
def revoke(
    id: Annotated[str, typer.Argument(help="As `corral serve keys ls` shows it.")],
    *,
    state: StateOption = None,
    database: DatabaseOption = None,
) -> None:
    """Make a key useless; running servers notice within seconds."""
    from corral.serve.keys import KeyStore

    with open_database(state, database) as opened:
        KeyStore(opened).revoke(id)
    remark(f"{id} is revoked")


def _as_json(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": sorted(key.scopes),
        "per_minute": key.per_minute,
        "created": _day(key.at_us),
        "revoked": _day(key.revoked_us),
    }


def _day(at_us: int | None) -> str | None:
    return None if at_us is None else datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="seconds")
