"""Jailbreak tactics: wrappers that put a prompt, harmful or benign, into adversarial form.

WildTeaming (arXiv 2406.18510), as WildGuard uses it, draws 2-7 tactics that were mined from real chats and has a model
rewrite the prompt with them. Ours come packaged, in our own words, and are benign in themselves. Each is a template,
so that ``compose`` needs no model, and a definition, for an engine that rewrites (``adversarial``). Tactics of a user's
WildTeaming file have a definition only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from corral.core.config import Config, load_config
from corral.core.errors import ConfigError, DataError, suggest
from corral.core.yaml import parse_yaml
from corral.data.readers import read_rows
from corral.synth.wildguard.encodings import ENCODINGS

SLOT: Final = "{text}"
FEWEST_TACTICS: Final = 2
MOST_TACTICS: Final = 7
_PACKAGED: Final = "tactics.yaml"


@dataclass(frozen=True, slots=True)
class Tactic:
    """One way to put a request into adversarial form.

    Attributes:
        name: unique in its file.
        family: tactics of one idea; splits keep a family whole.
        template: the wrapper, with ``{text}`` once; "" for a tactic that only an engine can apply.
        definition: what an engine that rewrites is told to do; "" for a tactic that only wraps.
        encoding: name in ``ENCODINGS`` of how the request is written inside the wrapper, "" for as it is.

    Raises:
        ConfigError: neither template nor definition, a template without one ``{text}``, or an unknown encoding.
    """

    name: str
    family: str
    template: str
    definition: str = ""
    encoding: str = ""

    def __post_init__(self) -> None:
        where = f"tactic `{self.name}`"
        if not self.name or not self.family:
            raise ConfigError("a tactic needs a name and a family", where=where)
        if not (self.template or self.definition):
            raise ConfigError("has neither a template nor a definition", where=where)
        if self.template and self.template.count(SLOT) != 1:
            raise ConfigError(f"the template must hold `{SLOT}` once", where=where)
        if self.encoding and self.encoding not in ENCODINGS:
            raise ConfigError(
                f"no encoding is named `{self.encoding}`", where=where, hint=suggest(self.encoding, ENCODINGS)
            )

    def wrap(self, text: str) -> str:
        """The template around a text, which is not encoded here.

        Raises:
            ConfigError: the tactic has no template.
        """
        if not self.template:
            raise ConfigError(
                f"tactic `{self.name}` has a definition only",
                hint="An engine can apply it by rewriting; to wrap without one, give tactics with a template.",
            )
        before, _, after = self.template.partition(SLOT)
        return f"{before}{text}{after}"


def load_tactics(path: Path | str | None = None) -> tuple[Tactic, ...]:
    """The packaged tactics, or a user's.

    Args:
        path: YAML of the packaged file's shape, or rows (JSON lines, CSV, Parquet) with ``name`` and ``definition``,
            as in WildTeaming's file. A row's ``family`` and ``template`` are read if it has them; without a family, a
            tactic is a family of its own.

    Raises:
        NotFoundError: no such file.
        ConfigError: a malformed YAML file or tactic, none at all, or a name that occurs twice.
        DataError: a row that cannot be read or has no name; names the line.
    """
    if path is None:
        tactics = _packaged()
    elif Path(path).suffix in {".yaml", ".yml"}:
        tactics = _from_file(load_config(_TacticFile, Path(path)))
    else:
        tactics = tuple(_from_row(row.value, row.where) for row in read_rows(path, strict=True))
    where = str(path or _PACKAGED)
    if not tactics:
        raise ConfigError("holds no tactics", where=where)
    names = [tactic.name for tactic in tactics]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"tactic `{repeated[0]}` is given twice", where=where)
    return tactics


def split_tactics(
    tactics: Sequence[Tactic], held_out: float = 0.3, seed: int = 0
) -> tuple[tuple[Tactic, ...], tuple[Tactic, ...]]:
    """Tactics to train on and tactics held out, without a family in common; each in the order given.

    Args:
        tactics: of at least two families, unless ``held_out`` is 0.
        held_out: share of the families, in [0, 1); above 0, at least one family is held out and one is left.
        seed: which families.

    Raises:
        ConfigError: a share out of range, or too few families to split.
    """
    if not 0.0 <= held_out < 1.0:
        raise ConfigError(f"`{held_out}` is outside [0, 1)", where="held_out")
    families = sorted({tactic.family for tactic in tactics})
    if held_out == 0.0:
        return tuple(tactics), ()
    if len(families) < 2:
        raise ConfigError("tactics of at least two families are needed to hold one out", where="tactics")
    count = min(max(round(held_out * len(families)), 1), len(families) - 1)
    chosen = set(random.Random(seed).sample(families, count))  # noqa: S311  not for secrets
    train = tuple(tactic for tactic in tactics if tactic.family not in chosen)
    return train, tuple(tactic for tactic in tactics if tactic.family in chosen)


def draw_tactics(tactics: Sequence[Tactic], *, seed: int, key: str = "") -> tuple[Tactic, ...]:
    """Draw 2-7 different tactics, the number uniform, in random order; depends on nothing but the arguments.

    At most one of them encodes: what was written in other letters twice is noise. So fewer than two come out only when
    fewer are given, or all of them encode.

    Args:
        tactics: to draw from.
        seed: of the whole data set.
        key: what the tactics are for; another key gives another draw under the same seed.

    Raises:
        ConfigError: no tactics.
    """
    if not tactics:
        raise ConfigError("there are no tactics to draw from", where="tactics")
    chance = random.Random(f"tactics/{seed}/{key}")  # noqa: S311  not for secrets
    wanted = chance.randint(FEWEST_TACTICS, MOST_TACTICS)
    drawn: list[Tactic] = []
    for tactic in chance.sample(list(tactics), len(tactics)):
        if len(drawn) == wanted:
            break
        if not (tactic.encoding and any(other.encoding for other in drawn)):
            drawn.append(tactic)
    return tuple(drawn)


def apply_tactics(text: str, drawn: Sequence[Tactic]) -> str:
    """The text wrapped in every template, the first innermost; a tactic that encodes goes inside all others.

    Without an encoding tactic the text stands in the result unchanged.

    Raises:
        ConfigError: a tactic without a template.
    """
    for tactic in sorted(drawn, key=lambda tactic: not tactic.encoding):
        text = tactic.wrap(ENCODINGS[tactic.encoding](text) if tactic.encoding else text)
    return text


def compose(text: str, tactics: Sequence[Tactic], *, seed: int) -> str:
    """Wrap a text in 2-7 of the tactics, drawn by the seed and the text itself.

    So that two texts share their wrappers, use ``draw_tactics`` once and ``apply_tactics`` on both.

    Raises:
        ConfigError: no tactics, or one without a template is drawn.
    """
    return apply_tactics(text, draw_tactics(tactics, seed=seed, key=text))


class _TacticEntry(Config):
    name: str
    family: str
    template: str = ""
    definition: str = ""
    encoding: str = ""


class _TacticFile(Config):
    tactics: tuple[_TacticEntry, ...]


@cache
def _packaged() -> tuple[Tactic, ...]:
    text = files(__package__).joinpath(_PACKAGED).read_text(encoding="utf-8")
    return _from_file(load_config(_TacticFile, parse_yaml(text, where=_PACKAGED)))


def _from_file(file: _TacticFile) -> tuple[Tactic, ...]:
    return tuple(Tactic(**entry.model_dump()) for entry in file.tactics)


def _from_row(row: Mapping[str, Any], where: str) -> Tactic:
    texts = {field: row.get(field) or "" for field in ("name", "definition", "family", "template")}
    for field, value in texts.items():
        if not isinstance(value, str):
            raise DataError(f"`{field}` is not text", where=where)
    if not (texts["name"] and texts["definition"]):
        raise DataError("a tactic needs `name` and `definition`", where=where)
    return Tactic(texts["name"], texts["family"] or texts["name"], texts["template"], definition=texts["definition"])
