"""``corral serve``: the moderation server; ``keys`` and ``audit`` look after its database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli.guard_settings import names_in, parse_guards, settings_by_guard
from corral.cli.output import remark
from corral.cli.serve_audit import audit_app
from corral.cli.serve_keys import keys_app
from corral.cli.serve_options import DatabaseOption, StateOption, require_serve_libraries

if TYPE_CHECKING:
    from corral.serve.settings import ServeSettings

app = typer.Typer(add_completion=False)
app.add_typer(keys_app, name="keys")
app.add_typer(audit_app, name="audit")


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    *,
    host: Annotated[str, typer.Option(help="Address to bind; any but loopback needs an API key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 lets the system choose.")] = 8000,
    upstream: Annotated[
        str | None,
        typer.Option(
            help="Model behind the chat gateway: the URL of an OpenAI-compatible API (its key: $CORRAL_OPENAI_API_KEY),"
            " embedded:NAME, a model folder, or none; default: the embedded model.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="Policy file, or a folder of TENANT.yaml with a default.yaml; read again when it changes.",
            show_default=False,
        ),
    ] = None,
    guard: Annotated[
        list[str] | None, typer.Option(help="Guard to load; default: the default guard. Repeatable.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="GUARD.KEY=VALUE", help="A guard's setting. Repeatable.")
    ] = None,
    media_guard: Annotated[str, typer.Option(help="Guard of images; loaded with the first.")] = "open-nsfw",
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of settings (limits too); options on the command line win.", show_default=False),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name, beside loopback's, by which an open server may be called. Repeatable."),
    ] = None,
    fetch_images: Annotated[
        bool, typer.Option("--fetch-images", help="Follow public http and https addresses of images.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for the guard; default: one a core.", show_default=False)
    ] = None,
    state: StateOption = None,
    database: DatabaseOption = None,
) -> None:
    """Serve OpenAI's moderation API, a guarded chat gateway and a console.

    Without keys the server is open to this machine and says so; once `corral serve keys create` made one, every route
    but /healthz and /readyz needs it.
    """
    if context.invoked_subcommand is not None:
        return
    require_serve_libraries()
    from corral.serve.memory import bound_kept_products
    from corral.serve.run import serve as run
    from corral.serve.server import build_server
    from corral.serve.telemetry import configure_logging

    bound_kept_products()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    given: dict[str, Any] = {
        "host": _unless_default(context, "host", host),
        "port": _unless_default(context, "port", port),
        "upstream": upstream,
        "policies": policy,
        "guards": parse_guards(guard) if guard else None,
        "media_guard": _unless_default(context, "media_guard", media_guard),
        "hosts": allow_host or None,
        "fetch_images": fetch_images or None,
        "state": state,
        "database": database,
    }
    settings = read_settings(config, {name: value for name, value in given.items() if value is not None}, setting or [])
    configure_logging()
    server = build_server(settings)

    def announce(url: str) -> None:
        if not server.keys.required:
            remark("open: no API key exists, so everybody on this machine may use the server")
        remark(f"serving on {url}, console at {url}/console, database {server.database.shown}")

    run(server, ready=announce)


def read_settings(config: Path | None, given: dict[str, Any], guard_settings: list[str]) -> ServeSettings:
    """Settings from a file and from the command line, which wins.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """
    from corral.core.config import load_config
    from corral.serve.settings import ServeSettings

    overrides = {name: _plain(value) for name, value in given.items()}
    settings = load_config(ServeSettings, {} if config is None else config, overrides)
    if not guard_settings:
        return settings
    chosen = settings_by_guard(guard_settings, [*names_in(settings.guards), settings.media_guard])
    merged = {
        name: {**settings.guard_settings.get(name, {}), **chosen.get(name, {})}
        for name in {*settings.guard_settings, *(name for name, own in chosen.items() if own)}
    }
    return settings.model_copy(update={"guard_settings": merged})


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value


def _unless_default(context: typer.Context, name: str, value: Any) -> Any:
    """The value where it was typed; a file's setting must not lose against a default."""
    source = context.get_parameter_source(name)
    return None if source is not None and source.name == "DEFAULT" else value
