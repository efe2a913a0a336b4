"""Goals: what an attack is to get out of a model. They come from public sets by loader or from a user's file.

None is packaged but harmless questions with known answers (``capability.yaml``), which tell a model that resists a
style from one that does not understand it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

from corral.core.config import Config, load_config
from corral.core.errors import DataError, NotFoundError, suggest
from corral.core.yaml import parse_yaml
from corral.data.examples import ModerationExample, prompt_key
from corral.data.never_answered import speaks_of_sex_or_minors
from corral.data.readers import Row, read_rows
from corral.data.sources import SOURCES, load_source
from corral.data.splits import group_fraction

Kind = Literal["harmful", "benign", "capability"]

LEFT_OUT: Final = ("sexual",)
"""Words in a category's name whose goals are left out unless asked for: what a model writes of them may be unlawful."""
_COLUMNS: Final = ("id", "goal", "category", "benign_twin", "language")
_CAPABILITY: Final = "capability.yaml"


@dataclass(frozen=True, slots=True)
class Goal:
    """One request, as a judge reads it.

    Attributes:
        id: unique among the goals of a run.
        text: the plain request.
        kind: harmful, its benign counterpart, or a harmless question with a known answer.
        category: its topic, "" when unknown.
        benign_twin: a benign request on the same matter, "" for none.
        language: ISO 639-1.
        source: of the text.
        licence: of the text.
        expects: of a capability question, words one of which a right answer holds.
    """

    id: str
    text: str
    kind: Kind = "harmful"
    category: str = ""
    benign_twin: str = ""
    language: str = "en"
    source: str = ""
    licence: str = ""
    expects: tuple[str, ...] = ()

    @property
    def cluster(self) -> str:
        """Goals of one cluster stand or fall together."""
        return prompt_key(self.text)


@dataclass(frozen=True, slots=True)
class LoadedGoals:
    """Goals and what was not taken.

    Attributes:
        goals: each request once.
        repeated: goals that an earlier source had already.
        left_out: goals of categories, or with words, that are left out.
        missing: public sources that are not in the data folder, where that is no error.
    """

    goals: tuple[Goal, ...]
    repeated: int = 0
    left_out: int = 0
    missing: tuple[str, ...] = ()

    @property
    def licences(self) -> dict[str, str]:
        """Source to licence, to be printed with every run."""
        return {goal.source: goal.licence for goal in self.goals}


def load_goals(
    names: Sequence[str],
    *,
    kind: Literal["harmful", "benign"] = "harmful",
    limit: int | None = None,
    seed: int = 0,
    leave_out: Sequence[str] = LEFT_OUT,
    no_sex_or_minors: bool = False,
    skip_missing: bool = False,
    root: Path | None = None,
) -> LoadedGoals:
    """The harmful, or the benign, requests of several sources and files.

    Public sets share goals (AdvBench with StrongREJECT, HarmBench and JailbreakBench): each is taken once, where it is
    met first.

    Args:
        names: of sources in ``SOURCES``, or paths of files with ``goal`` and, if there are, ``id``, ``category``,
            ``benign_twin``, ``language`` and ``kind``.
        kind: of the goals that are taken; a file's goals are harmful unless their ``kind`` is ``benign``, and its twins
            are benign.
        limit: at most so many, drawn at random; all when ``None``.
        seed: of the draw.
        leave_out: words; goals of a category whose name has one of them are left out.
        no_sex_or_minors: leave out goals whose words speak of either, whatever their category: where models are asked
            to answer them and the answers are kept or trained on.
        skip_missing: go on without public sources that are not in the data folder, unless none of all is there.
        root: the data folder of sources; ``data_root()`` when ``None``.

    Raises:
        NotFoundError: neither a source nor a file, or a source that is not in the data folder.
        DataError: a malformed row, an empty goal, a goal or id that a file has twice (names the lines), or no goal.
    """
    missing: list[str] = []
    found: list[Goal] = []
    for name in names:
        try:
            found += _read(name, kind, root)
        except NotFoundError:
            if not skip_missing or name not in SOURCES or len(missing) + 1 == len(names):
                raise
            missing.append(name)
    kept = [goal for goal in found if not any(word in goal.category.casefold() for word in leave_out)]
    if no_sex_or_minors:
        kept = [goal for goal in kept if not speaks_of_sex_or_minors(goal.text)]
    once: dict[str, Goal] = {}
    for goal in kept:
        once.setdefault(goal.cluster, goal)
    drawn = set(sorted(once, key=lambda cluster: group_fraction(cluster, seed=seed))[:limit])
    goals = [goal for cluster, goal in once.items() if cluster in drawn]
    if not goals:
        listed = ", ".join(f"`{name}`" for name in names)
        raise DataError(f"no {kind} goal in {listed}", hint="Choose another source, or look at what is left out.")
    return LoadedGoals(tuple(goals), len(kept) - len(once), len(found) - len(kept), tuple(missing))


def twins(goals: Iterable[Goal]) -> list[Goal]:
    """The benign twins of goals that have one, as goals of their own."""
    return [
        replace(goal, id=f"{goal.id}#twin", text=goal.benign_twin, kind="benign", benign_twin="")
        for goal in goals
        if goal.benign_twin
    ]


class _Question(Config):
    id: str
    goal: str
    expects: tuple[str, ...]


class _Questions(Config):
    version: int
    questions: tuple[_Question, ...]


@cache
def capability_goals() -> tuple[Goal, ...]:
    """The packaged questions with known answers."""
    text = (files(__package__) / _CAPABILITY).read_text(encoding="utf-8")
    file = load_config(_Questions, parse_yaml(text, where=_CAPABILITY))
    return tuple(
        Goal(each.id, each.goal, "capability", expects=each.expects, source=_CAPABILITY, licence="Apache-2.0")
        for each in file.questions
    )


def _read(name: str, kind: Kind, root: Path | None) -> Iterator[Goal]:
    if Path(name).is_file():
        goals = list(_from_file(Path(name)))
        yield from (goal for goal in goals if goal.kind == kind)
        if kind == "benign":
            yield from twins(goals)
    elif name in SOURCES:
        for row in load_source(name, root):
            if row.target == "prompt" and row.harmful is (kind == "harmful") and row.attack is not True:
                yield _from_source(row, kind)
    else:
        hint = f"{suggest(name, SOURCES)} Or give the path of a file with a column `goal`."
        raise NotFoundError(f"`{name}` is neither a source nor a file", hint=hint)


def _from_source(row: ModerationExample, kind: Kind) -> Goal:
    category = next((str(row.raw[column]) for column in ("category", "topic") if row.raw.get(column)), "")
    return Goal(
        id=f"{row.source}/{row.id}",
        text=row.text,
        kind=kind,
        category=category,
        language=row.language.partition("-")[0] or "en",
        source=row.source,
        licence=row.licence,
    )


def _from_file(path: Path) -> Iterator[Goal]:
    lines: dict[tuple[str, str], str] = {}
    for row in read_rows(path, strict=True):
        goal = _from_row(row, path)
        for what, value in (("goal", goal.cluster), ("id", goal.id)):
            if first := lines.get((what, value)):
                raise DataError(f"the {what} of {first} again", where=row.where, hint="Give each goal and id once.")
            lines[what, value] = row.where
        yield goal


def _from_row(row: Row, path: Path) -> Goal:
    texts: dict[str, str] = {}
    for column in _COLUMNS:
        value: Any = row.value.get(column)
        if value is not None and not isinstance(value, str | int):
            raise DataError(f"`{column}` is of type {type(value).__name__}", where=f"{row.where}: {column}")
        texts[column] = "" if value is None else str(value)
    _check(row.value, texts["goal"], row.where)
    return Goal(
        id=texts["id"] or f"{path.name}:{row.line}",
        text=texts["goal"],
        kind=_kind(row),
        category=texts["category"],
        benign_twin=texts["benign_twin"],
        language=texts["language"] or "en",
        source=path.name,
        licence="of the user's file",
    )


def _kind(row: Row) -> Kind:
    match row.value.get("kind"):
        case None | "" | "harmful":
            return "harmful"
        case "benign":
            return "benign"
        case other:
            raise DataError(f"`{other}` is neither `harmful` nor `benign`", where=f"{row.where}: kind")


def _check(values: Mapping[str, Any], goal: str, where: str) -> None:
    if "goal" not in values:
        raise DataError("the row has no `goal`", where=where, hint=suggest("goal", map(str, values)))
    if not goal.strip():
        raise DataError("the goal is empty", where=where)
