"""``corral redteam expand``, ``mine`` and ``cells``: requests in many styles, pairs of answers, what they taught."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from corral.cli.output import print_json, print_table, remark
from corral.core.errors import UserError

if TYPE_CHECKING:
    from corral.models.engines.base import GenerationSettings
    from corral.redteam.egida.chosen import ChosenSource
    from corral.redteam.egida.expand import BaseRequest, Expanded, Instance
    from corral.redteam.egida.pairs import Mined
    from corral.redteam.store import Store

Goals = Annotated[
    list[str],
    typer.Option(
        metavar="SOURCE",
        help="Requests: a public source, or a file with `goal` and `category` or `topics`. Repeatable.",
    ),
]
Styles = Annotated[str, typer.Option(metavar="NAMES", help="Presets and styles by commas; see `redteam styles`.")]
HoldOut = Annotated[list[str] | None, typer.Option(metavar="STYLE", help="Style that no pair is mined in. Repeatable.")]
HoldOutTopic = Annotated[
    list[str] | None, typer.Option(metavar="TOPIC", help="Topic that no pair is mined on. Repeatable.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Requests, drawn at random; default: all.")]
Seed = Annotated[int, typer.Option(help="Of draws, styles, split and sampling.")]
Tagger = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Names the topics of requests without a known one; marked as a machine's.",
        show_default=False,
    ),
]
TaggerServer = Annotated[
    str | None, typer.Option(metavar="URL", help="OpenAI-compatible server that runs it.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_STYLES: Final = "egida18"
_TAGGED_AT_A_TIME: Final = 16


class Chosen(StrEnum):
    """Where the safe side comes from."""

    GOLD = "gold"
    SELF_SAFE = "self_safe"
    POOL = "pool"


def expand(
    *,
    goals: Goals,
    styles: Styles = _STYLES,
    limit: Limit = None,
    seed: Seed = 0,
    tagger: Tagger = None,
    tagger_server: TaggerServer = None,
    out: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="Where the instances go.")],
    as_json: Json = False,
) -> None:
    """Put every request in every style, each row with its provenance and a stable uuid.

    The file holds harmful requests, as the sources do.
    """
    from corral.core.files import atomic_write_text
    from corral.data.readers import as_json as row_json

    if out.exists():
        raise UserError("exists", where=str(out), hint="Choose another file.")
    base = _base(goals, limit, seed, tagger=tagger, server=tagger_server, journals=out.with_suffix(".topics"))
    expanded = _expanded(base, styles, seed)
    rows = [instance.to_json() for instance in expanded.instances]
    atomic_write_text(out, "".join(f"{row_json(row)}\n" for row in rows))
    licences = {row["source"]: row["licence"] for row in rows}
    if as_json:
        print_json(
            {
                "instances": len(rows),
                "not_applicable": dict(expanded.not_applicable),
                "licences": licences,
                "out": str(out),
            }
        )
        return
    styled = [row["style"] for row in rows]
    print_table(("style", "instances"), ((style, styled.count(style)) for style in dict.fromkeys(styled)))
    remark(f"wrote {out}")


def mine(
    *,
    goals: Goals,
    target: Annotated[str, typer.Option(metavar="MODEL", help="Model whose unsafe answers are the rejected side.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of pairs, yields, costs and journals.")],
    styles: Styles = _STYLES,
    hold_out: HoldOut = None,
    hold_out_topic: HoldOutTopic = None,
    tagger: Tagger = None,
    tagger_server: TaggerServer = None,
    test_share: Annotated[float, typer.Option(min=0.0, max=0.9, help="Of the other requests, kept for testing.")] = 0.1,
    limit: Limit = None,
    judge: Annotated[str, typer.Option(metavar="NAME", help="As for `redteam run`.")] = "guard:default",
    chosen: Annotated[Chosen, typer.Option(help="Where the safe side comes from.")] = Chosen.GOLD,
    pool: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="With --chosen pool: a model of it. Repeatable.")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="Pairs to stop at.")] = 2000,
    samples: Annotated[int, typer.Option(min=1, help="Answers an instance; more than one needs a temperature.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the target; 0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Instances at a time.")] = 16,
    hour_usd: Annotated[float, typer.Option(min=0.0, help="Price of an hour of this machine.")] = 0.0,
    million_judged_usd: Annotated[float, typer.Option(min=0.0, help="Price of a million judged tokens.")] = 0.0,
    stop_after_usd: Annotated[
        float | None, typer.Option(min=0.0, help="Begin no instance after so much.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of models that are loaded here.")] = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Mine preference pairs from a model's own unsafe answers; the same command continues.

    Then: corral train dpo FOLDER/pairs.jsonl --base MODEL --out MODEL-FOLDER. What is kept for testing is in
    FOLDER/held_out.jsonl: attack both models with it (redteam run --goals), then redteam cells.
    """
    from corral.models.engines.base import GenerationSettings
    from corral.redteam.attempts import Target
    from corral.redteam.egida.costs import Prices
    from corral.redteam.egida.held_out import HELD_OUT, write_held_out
    from corral.redteam.egida.mining import MiningSettings, mine_pairs
    from corral.redteam.egida.shortcut import style_shortcut
    from corral.redteam.egida.split import SplitSettings, split_instances
    from corral.redteam.loading import open_engine, open_judges
    from corral.redteam.store import Store

    if (chosen is Chosen.POOL) != bool(pool):
        raise UserError("`--chosen pool` and `--pool MODEL` go together", where="--pool")
    settings = MiningSettings(
        budget=budget,
        samples=samples,
        generation=GenerationSettings(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed),
        batch_size=batch_size,
        prices=Prices(hour_usd, million_judged_usd, stop_after_usd),
        seed=seed,
    )
    base = _base(goals, limit, seed, tagger=tagger, server=tagger_server, journals=out / "journals")
    instances: tuple[Instance, ...] = _expanded(base, styles, seed).instances
    held_out = SplitSettings(tuple(hold_out_topic or ()), tuple(hold_out or ()), test_share, seed)
    if held_out.topics or held_out.styles or test_share:
        split = split_instances(instances, held_out)
        remark(f"{len(split.train)} instances to mine, {len(split.tested)} kept for testing, {split.unused} in neither")
        write_held_out(split, out / HELD_OUT)
        instances = split.train
    store = Store(out / "journals", batch_size)
    with open_engine(target, dtype=dtype) as (engine, revision), open_judges([judge]) as judges:
        source = _source(chosen, pool or [], store, generation=settings.generation, dtype=dtype, seed=seed)
        mined = mine_pairs(
            instances, Target(engine, target, revision), judges[0], source, folder=out, settings=settings
        )
    shortcut = style_shortcut(mined.pairs, seed=seed)
    _print(mined, as_json=as_json)
    if shortcut.alarm:
        remark(f"alarm: style alone tells the sides apart (AUROC {shortcut.auroc.value:.2f}); try another --chosen")
    remark(f"{len(mined.pairs)} pairs: {out / 'pairs.jsonl'}")


def cells(
    held_out: Annotated[Path, typer.Argument(metavar="FILE", help="The held_out.jsonl that `mine` wrote.")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a `redteam run` with those goals.")],
    *,
    as_json: Json = False,
) -> None:
    """Attack success by what training saw: topics and styles, seen and unseen, and style by topic.

    For example, after `mine --hold-out base64 --out mined` and training: redteam run --goals mined/held_out.jsonl
    --target BEFORE --target AFTER --styles egida18 --out attacked, then redteam cells mined/held_out.jsonl attacked.
    Intervals resample clusters of near duplicates.
    """
    from corral.redteam.egida.cells import attack_table, cell_tables
    from corral.redteam.egida.held_out import read_held_out
    from corral.redteam.report import read_report
    from corral.redteam.settings import RunSettings

    side, report = read_held_out(held_out), read_report(run)
    settings = RunSettings(seed=int(report.settings.get("seed", 0)))
    tables = {name: attack_table(items, side, settings) for name, items in report.items.items()}
    if not any(table["styles"] for table in tables.values()):
        raise UserError(
            "the run asked none of these requests",
            where=str(run),
            hint=f"Run `corral redteam run --goals {held_out} --target MODEL --out FOLDER` first.",
        )
    if as_json:
        print_json({"judge": next(iter(report.judges)), "systems": tables})
        return
    for table in cell_tables(tables, judge=next(iter(report.judges))):
        print_table(table.columns, table.rows, title=table.title)
        print()


def _base(
    goals: list[str], limit: int | None, seed: int, *, tagger: str | None, server: str | None, journals: Path
) -> list[BaseRequest]:
    """Requests with topics, those that a model names included."""
    from corral.redteam.egida.expand import load_base
    from corral.redteam.egida.tagging import TopicTagger
    from corral.redteam.loading import open_engine
    from corral.redteam.store import Store

    base = load_base(goals, limit=limit, seed=seed, skip_missing=True)
    taken = Counter(request.goal.source for request in base)
    licences = {request.goal.source: request.goal.licence for request in base}
    for source, count in taken.items():
        remark(f"{source}: {count} requests, {licences[source]}")
    if tagger is None:
        if server is not None:
            raise UserError("no model is named", where="--tagger-server", hint="Name it with `--tagger`.")
        return base
    with open_engine(tagger, server) as (engine, revision):
        tagged = TopicTagger(engine, Store(journals, _TAGGED_AT_A_TIME), revision=revision).tag(base)
    remark(f"{tagged.by_machine} requests have the topics that `{tagger}` names")
    if tagged.left_out:
        remark(f"{len(tagged.left_out)} requests are left out: `{tagger}` names no topic of theirs")
    return list(tagged.requests)


def _expanded(base: list[BaseRequest], styles: str, seed: int) -> Expanded:
    from corral.redteam.egida.expand import expand as expand_requests
    from corral.redteam.styles import choose_styles

    chosen, unavailable = choose_styles([name.strip() for name in styles.split(",") if name.strip()])
    for name, reason in unavailable.items():
        remark(f"style `{name}` is not available: {reason}")
    return expand_requests(base, chosen, seed=seed)


def _source(
    chosen: Chosen, pool: list[str], store: Store, *, generation: GenerationSettings, dtype: str, seed: int
) -> ChosenSource:
    from corral.models.engines.loading import load_engine
    from corral.models.loading import find_dtype, weights_revision
    from corral.redteam.attempts import Target
    from corral.redteam.egida.chosen import GoldAnswers, OwnAnswers, PoolAnswers

    if chosen is Chosen.GOLD:
        return GoldAnswers(seed=seed)
    if chosen is Chosen.SELF_SAFE:
        return OwnAnswers()
    models = [Target(load_engine(name, dtype=find_dtype(dtype)), name, weights_revision(name)) for name in pool]
    return PoolAnswers(models, store, generation)


def _print(mined: Mined, *, as_json: bool) -> None:
    table = mined.table()
    if as_json:
        print_json({"pairs": len(mined.pairs), **table, "costs": dict(mined.costs)})
        return
    outcomes = list(table["all"])
    rows = [(style, *(counts.get(outcome, 0) for outcome in outcomes)) for style, counts in table["by_style"].items()]
    print_table(("style", *outcomes), [*rows, ("all", *(table["all"][outcome] for outcome in outcomes))])
