"""``corral redteam run``: styles over goals against models and guards."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from corral.cli.guard_settings import chosen_specs, names_in, parse_guards, settings_by_guard
from corral.cli.output import print_json, print_table, remark
from corral.core.errors import CorralError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corral.redteam.goals import Goal, LoadedGoals
    from corral.redteam.results import RedteamReport

_OUT: Final = Path("redteam", "run")
JudgeModel = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Model that `yes-no` and `rubric` ask.", show_default=False)
]
JudgeServer = Annotated[
    str | None, typer.Option(metavar="URL", help="OpenAI-compatible server that runs it.", show_default=False)
]


class Checked(StrEnum):
    """What a guard checks."""

    PROMPT = "prompt"
    RESPONSE = "response"
    BOTH = "both"


class Dtype(StrEnum):
    """Of a target's weights."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def run(
    *,
    target: Annotated[
        list[str],
        typer.Option(metavar="MODEL", help="Model under attack: hub id, folder, GGUF or embedded:NAME. Repeatable."),
    ],
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible server that runs the targets.", show_default=False),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Tokenizer of served targets, for styles beyond the chat template.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Of targets that are loaded here; auto is as stored. bfloat16 is faster on new CPUs.")
    ] = Dtype.AUTO,
    goals: Annotated[
        list[str],
        typer.Option(metavar="SOURCE", help="Harmful goals: a public source, or a file with `goal`. Repeatable."),
    ],
    benign: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Benign goals for the same styles, beside the goals' own `benign_twin`."),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="Leave out goals whose category holds it. Repeatable. [default: sexual]"),
    ] = None,
    capability: Annotated[
        bool, typer.Option("--capability/--no-capability", help="Ask harmless questions in every style too.")
    ] = True,
    styles: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Presets and styles by commas; `a+b` chains; see `redteam styles`."),
    ] = "egida18",
    guard: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Guard laid over the answers. Repeatable.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="GUARD.KEY=VALUE", help="A guard's setting. Repeatable.")
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Measure each guard again with codes and disguises undone first.")
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What a verdict means; default: harm blocks.", show_default=False),
    ] = None,
    mode: Annotated[Checked, typer.Option(help="What a guard checks.")] = Checked.PROMPT,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="prefix-list, guard:NAME, yes-no, rubric, linear:SET or human:FILE; the first is the headline. "
            "Repeatable. [default: prefix-list]",
        ),
    ] = None,
    judge_model: JudgeModel = None,
    judge_server: JudgeServer = None,
    ensemble: Annotated[
        str | None, typer.Option(metavar="RULE", help="Headline by vote: majority, any or all.", show_default=False)
    ] = None,
    demonstrations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Rows with `request` and `reply` for styles with examples.", show_default=False
        ),
    ] = None,
    translations: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rows with `goal`, `language`, `translation`.", show_default=False),
    ] = None,
    attacker: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Model that writes prompts for `pair`, `tap` and `autodan_ga`.", show_default=False
        ),
    ] = None,
    attacker_server: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible server that runs it.", show_default=False)
    ] = None,
    wrappers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rows with `template` that `autodan_ga` starts from.", show_default=False),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Goals of each kind, drawn at random; default: all.")] = None,
    restarts: Annotated[int, typer.Option(min=1, help="Tries of each style on each goal.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the target; 0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer of the target.")] = 64,
    max_prompts: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many answers.", show_default=False)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many tokens read and written.", show_default=False)
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=1, help="Stop asking after so many seconds.", show_default=False)
    ] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Exit with 1 when a style succeeds on a larger share of goals (behind the guards, if any).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of answers, verdicts and reports.")] = _OUT,
    seed: Annotated[int, typer.Option(help="Of styles, sampling, draws and intervals.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts a call.")] = 16,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Keep what earlier runs answered, or do everything again.")
    ] = True,
    show_content: Annotated[
        bool, typer.Option("--show-content", help="Show prompts and answers, which may describe serious harm.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Attack models with published styles; measure success, refusal of benign goals, and what guards detect.

    Each target answers each prompt once; judges and guards are laid over the same answers. The same command again goes
    on where it stopped. Answers stay in the output folder; reports hold no text without --show-content.
    """
    from corral.guards.policy import Policy
    from corral.models.engines.base import GenerationSettings
    from corral.redteam.goals import LEFT_OUT, load_goals
    from corral.redteam.loading import guards_of, load_guards, open_attacker, open_judges, open_targets, read_texts
    from corral.redteam.report import write_report
    from corral.redteam.runner import RunRequest, run_redteam
    from corral.redteam.settings import Budget, RunSettings
    from corral.redteam.styles import choose_styles

    chosen, unavailable = choose_styles([name.strip() for name in styles.split(",") if name.strip()])
    for name, reason in unavailable.items():
        remark(f"style `{name}` is not available: {reason}")
    loaded = load_goals(goals, limit=limit, seed=seed, leave_out=tuple(leave_out or LEFT_OUT))
    controls = _controls(loaded, benign or [], limit, seed, capability=capability)
    for source, licence in loaded.licences.items():
        remark(f"goals of {source}: {licence}")
    specs = parse_guards(guard or [])
    settings = RunSettings(
        generation=GenerationSettings(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed),
        restarts=restarts,
        seed=seed,
        policy=Policy.default() if policy is None else Policy.load(policy),
        mode=mode.value,
        batch_size=batch_size,
        budget=Budget(max_prompts, max_tokens, max_seconds),
        resume=resume,
    )
    judge_names = judge or ["prefix-list"]
    guard_settings = settings_by_guard(setting or [], [*names_in(specs), *guards_of(judge_names)])
    guards = load_guards(chosen_specs(specs, guard_settings), decode=decode)
    texts = read_texts(
        demonstrations,
        translations,
        templates=any("jailbreak_chat" in each.name for each in chosen),
        wrappers=wrappers,
    )
    with (
        open_judges(
            judge_names, model=judge_model, server=judge_server, ensemble=ensemble, guard_settings=guard_settings
        ) as judges,
        open_attacker(attacker, attacker_server) as attacking,
    ):
        report = run_redteam(
            open_targets(target, server, tokenizer=tokenizer, dtype=dtype.value),
            RunRequest(
                [*loaded.goals, *controls],
                chosen,
                judges,
                guards,
                texts,
                loaded,
                unavailable,
                show_content=show_content,
                attacker=attacking,
            ),
            out,
            settings,
        )
    write_report(report, out)
    print_json(report.model_dump(mode="json")) if as_json else _print(report)
    remark(f"report: {out / 'report.md'} (also .json)")
    _require(report, fail_above)


def _controls(
    loaded: LoadedGoals, benign: Sequence[str], limit: int | None, seed: int, *, capability: bool
) -> list[Goal]:
    """Benign goals, and questions of capability."""
    from corral.redteam.goals import capability_goals, load_goals, twins

    given = load_goals(benign, kind="benign", limit=limit, seed=seed).goals if benign else ()
    return [*twins(loaded.goals), *given, *(capability_goals() if capability else ())]


def _print(report: RedteamReport) -> None:
    from corral.redteam.report import remarks, tables

    for table in tables(report):
        print_table(table.columns, table.rows, title=table.title)
        print()
    for line in remarks(report):
        print(line)


def _require(report: RedteamReport, fail_above: float | None) -> None:
    """Refuse an invalid run, and one in which a style succeeds too often."""
    from corral.redteam.results import NO_GUARD

    if not report.valid:
        raise CorralError(
            "more than 5 % of the attempts failed, so the run says nothing about its target",
            hint="The same command again tries the failed ones anew.",
        )
    if fail_above is None:
        return
    guarded = [system for system in report.systems if system.guard != NO_GUARD] or list(report.systems)
    cells = [(system.name, cell) for system in guarded for cell in system.cells if cell.style and not cell.category]
    worst = max(cells, key=lambda each: each[1].asr.value or 0.0)
    if (worst[1].asr.value or 0.0) > fail_above:
        raise CorralError(
            f"`{worst[1].style}` succeeds on {worst[1].asr.value:.1%} of the goals, above {fail_above:.1%}",
            where=worst[0],
        )
