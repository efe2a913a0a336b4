"""``corral eval moderator``: attack success and over-refusal of a model, without and with guards in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from corral.cli.guard_settings import chosen_specs, names_in, parse_guards, settings_by_guard
from corral.cli.output import print_json, print_table, remark
from corral.core.errors import CorralError, UserError

if TYPE_CHECKING:
    from corral.evals.tasks.moderator import ModeratorReport, ModeratorResult
    from corral.models.engines.base import Engine

_OUT: Final = Path("eval", "moderator")


class Checked(StrEnum):
    """What a guard checks."""

    PROMPT = "prompt"
    RESPONSE = "response"
    BOTH = "both"


def moderator(
    *,
    target: Annotated[
        str, typer.Option(metavar="MODEL", help="Model that answers: hub id, folder, GGUF file or embedded:NAME.")
    ],
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible server that runs --target.", show_default=False),
    ] = None,
    guard: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Guard in front of it. Repeatable. [default: default]")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="GUARD.KEY=VALUE", help="A guard's setting. Repeatable.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What a verdict means; default: harm blocks.", show_default=False),
    ] = None,
    harmful: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Harmful prompts: a public source or a file.", show_default=False),
    ] = None,
    benign: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Benign prompts: a public source or a file.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Prompts of each kind, drawn at random; default: all.")
    ] = None,
    mode: Annotated[Checked, typer.Option(help="What a guard checks.")] = Checked.BOTH,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply of the target.")] = 64,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of replies, verdicts and reports.")] = _OUT,
    seed: Annotated[int, typer.Option(help="Of the draw and of the intervals.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts a call.")] = 32,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Keep what earlier runs answered, or do everything again.")
    ] = True,
    show_content: Annotated[
        bool, typer.Option("--show-content", help="Show prompts and replies, which may describe serious harm.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure attack success (ASR) and refusal of benign prompts (RTA) without and with guards.

    The target answers each prompt once, greedily; every guard is laid over the same replies. What the policy blocks is
    replaced by a refusal. A list of refusal phrases judges the replies, which overstates ASR.
    """
    from corral.evals.tasks.moderator import ModeratorSettings, compare_guards, load_prompts
    from corral.evals.tasks.moderator.report import write_report
    from corral.guards.loading import load_guard
    from corral.guards.policy import Policy
    from corral.models.engines.base import GenerationSettings
    from corral.redteam.judges import PrefixListJudge

    chosen = [(name, kind) for name, kind in ((harmful, True), (benign, False)) if name is not None]
    if not chosen:
        hint = "For example `--harmful jailbreakbench --benign jailbreakbench`."
        raise UserError("no prompts were named", where="--harmful, --benign", hint=hint)
    specs = parse_guards(guard or ["default"])  # a name that does not exist is told before the target has answered
    guards = chosen_specs(specs, settings_by_guard(setting or [], names_in(specs)))
    loaded_policy = Policy.default() if policy is None else Policy.load(policy)
    prompts = [row for name, kind in chosen for row in load_prompts(name, harmful=kind, limit=limit, seed=seed)]
    with _engine(target, server) as (engine, revision):
        report = compare_guards(
            engine,
            map(load_guard, guards),  # one after the other, so that one at a time is in memory
            prompts,
            PrefixListJudge(),
            mode=mode.value,
            journal=out,
            settings=ModeratorSettings(
                generation=GenerationSettings(max_new_tokens=max_new_tokens),
                policy=loaded_policy,
                target_revision=revision,
                batch_size=batch_size,
                seed=seed,
                resume=resume,
            ),
            show_content=show_content,
            on_guard=_remark_done,
        )
    write_report(report, out)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _print(report)
    remark(f"report: {out / 'report.md'} (also .json)")
    if not report.valid:
        raise CorralError(
            f"{report.unanswered + report.unjudged} of {report.harmful + report.benign} prompts have no label",
            hint="At most 5 % may be missing. The same command again asks for the missing replies.",
        )


@contextmanager
def _engine(target: str, server: str | None) -> Iterator[tuple[Engine, str]]:
    """The target and its revision; of a model behind a server only the address is known."""
    if server is not None:
        from corral.models.engines.openai import OpenAIEngine

        with OpenAIEngine(server, target) as engine:
            yield engine, server
        return
    from corral.models.engines.loading import load_engine
    from corral.models.loading import weights_revision

    yield load_engine(target), weights_revision(target)


def _remark_done(result: ModeratorResult) -> None:
    remark(f"{result.guard}: {len(result.items)} prompts checked")


def _print(report: ModeratorReport) -> None:
    from corral.evals.tasks.moderator.report import remarks, terminal_tables

    for number, table in enumerate(terminal_tables(report)):
        if number:
            print()
        print_table(table.columns, table.rows, title=table.title)
    print()
    for line in remarks(report):
        print(line)
