"""Taxonomies of harm, and crosswalks between them.

A taxonomy is an id, a version and categories. ``S6`` is privacy in one taxonomy and specialised advice in the next, so
a code is never stored bare: everywhere outside a taxonomy it is written ``llama_guard_3/S6`` (``qualified``,
``parse_code``).

A crosswalk says what a category corresponds to in another taxonomy: ``exact``, ``broader`` (the other category covers
more), ``narrower`` (it covers less), or explicitly nothing. The relation is about the bulk of what two categories
cover: published definitions never meet at every edge. Taxonomies and crosswalks are YAML in ``data/taxonomies``, with
descriptions in our own words; ``load_taxonomy`` reads a user's file of the same shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

from pydantic import Field

from corral.core.config import Config, load_config
from corral.core.errors import ConfigError, DataError, NotFoundError, suggest
from corral.core.yaml import parse_yaml

Relation = Literal["exact", "broader", "narrower"]

_INVERSE: Final[Mapping[Relation, Relation]] = {"exact": "exact", "broader": "narrower", "narrower": "broader"}
_PACKAGE: Final = "corral.data.taxonomies"
_CROSSWALKS: Final = "crosswalks"
_YAML_SUFFIXES: Final = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of harm; ``code`` is bare, ``group`` is the taxonomy's own heading over it ("" when it has none)."""

    code: str
    name: str
    description: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """Categories in the order of the model or API that uses them (the order of a classifier's heads).

    Attributes:
        id: lower case, digits and ``_``; the part of a qualified code before the first ``/``.
        version: of the published taxonomy.
        name: for people.
        source: who published it and where it is described.
        categories: at least one; codes are unique.
    """

    id: str
    version: str
    name: str
    source: str
    categories: tuple[Category, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """Bare codes, in order."""
        return tuple(category.code for category in self.categories)

    def category(self, code: str) -> Category:
        """The category of a bare or qualified code.

        Raises:
            NotFoundError: this taxonomy has no such category; the hint lists near codes.
        """
        bare = code.removeprefix(f"{self.id}/")
        for category in self.categories:
            if category.code == bare:
                return category
        raise NotFoundError(f"no category `{code}` in taxonomy `{self.id}`", hint=suggest(bare, self.codes))


class Counterpart(NamedTuple):
    """A category of another taxonomy (qualified code) and what it is to ours."""

    code: str
    relation: Relation


def qualified(taxonomy: Taxonomy | str, code: str) -> str:
    """``llama_guard_3/S6``."""
    return f"{taxonomy if isinstance(taxonomy, str) else taxonomy.id}/{code}"


def parse_code(code: str) -> tuple[str, str]:
    """Taxonomy id and bare code of a qualified code; the bare code may itself hold a ``/``.

    Raises:
        DataError: there is no taxonomy in front.
    """
    taxonomy, slash, bare = code.partition("/")
    if not (slash and taxonomy and bare):
        raise DataError(f"`{code}` does not say which taxonomy it is of", hint="Write it as `llama_guard_3/S6`.")
    return taxonomy, bare


def list_taxonomies() -> list[str]:
    """Ids of the packaged taxonomies, sorted."""
    stems = (Path(entry.name).stem for entry in files(_PACKAGE).iterdir() if entry.name.endswith(".yaml"))
    return sorted(stem for stem in stems if stem != _CROSSWALKS)


def load_taxonomy(source: str | Path) -> Taxonomy:
    """A packaged taxonomy by id, or a user's by the path of its YAML file.

    Raises:
        NotFoundError: no such id or file.
        ConfigError: a malformed file, a code given twice, or a user's taxonomy under the id of a packaged one.
    """
    if isinstance(source, str) and not source.endswith(_YAML_SUFFIXES):
        return _packaged(source)
    taxonomy = _taxonomy(load_config(_TaxonomyFile, Path(source)), where=str(source))
    if taxonomy.id in list_taxonomies():
        raise ConfigError(
            f"the id `{taxonomy.id}` belongs to a packaged taxonomy",
            where=f"{source}: id",
            hint="Choose another id: codes of the two would be mixed up.",
        )
    return taxonomy


def crosswalk(code: str, to: str) -> list[Counterpart]:
    """What a qualified code corresponds to in the packaged taxonomy ``to``: exact first, then broader, then narrower.

    The list is empty when the crosswalk says that ``to`` has nothing of the kind. ``crosswalk("llama_guard_3/S6",
    "aegis_2")`` is ``[("aegis_2/S21", "exact")]``.

    Raises:
        DataError: ``code`` is bare.
        NotFoundError: a category or packaged taxonomy that does not exist; users' taxonomies have no crosswalks.
    """
    taxonomy, bare = parse_code(code)
    _packaged(taxonomy).category(bare)
    _packaged(to)
    if taxonomy == to:
        return [Counterpart(code, "exact")]
    return list(_crosswalks()[taxonomy, to][bare])


_Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
_Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$", max_length=128)]
_Words = Annotated[str, Field(min_length=1)]


class _CategoryFile(Config):
    code: _Code
    name: _Words
    description: _Words
    group: str = ""


class _TaxonomyFile(Config):
    id: _Id
    version: _Words
    name: _Words
    source: _Words
    categories: Annotated[tuple[_CategoryFile, ...], Field(min_length=1)]


class _PairFile(Config):
    """One unordered pair, written from the first taxonomy's side; the other side is derived."""

    taxonomies: tuple[_Id, _Id]
    relations: dict[_Code, dict[Relation, tuple[_Code, ...]]]
    none: dict[_Id, tuple[_Code, ...]]


class _CrosswalksFile(Config):
    pairs: tuple[_PairFile, ...]


def _taxonomy(file: _TaxonomyFile, *, where: str) -> Taxonomy:
    codes = [category.code for category in file.categories]
    repeated = sorted({code for code in codes if codes.count(code) > 1})
    if repeated:
        raise ConfigError(f"the code `{repeated[0]}` is given twice", where=f"{where}: categories")
    categories = tuple(Category(c.code, c.name, c.description, c.group) for c in file.categories)
    return Taxonomy(file.id, file.version, file.name, file.source, categories)


@cache
def _packaged(name: str) -> Taxonomy:
    if name not in list_taxonomies():
        raise NotFoundError(f"no taxonomy is named `{name}`", hint=suggest(name, list_taxonomies()))
    return _taxonomy(load_config(_TaxonomyFile, _packaged_yaml(name)), where=name)


def _packaged_yaml(name: str) -> Any:
    resource = files(_PACKAGE) / f"{name}.yaml"
    return parse_yaml(resource.read_text(encoding="utf-8"), where=f"{name}.yaml")


_Table = Mapping[str, tuple[Counterpart, ...]]


@cache
def _crosswalks() -> Mapping[tuple[str, str], _Table]:
    """Every ordered pair of packaged taxonomies to its table of bare code to counterparts."""
    tables: dict[tuple[str, str], _Table] = {}
    for pair in load_config(_CrosswalksFile, _packaged_yaml(_CROSSWALKS)).pairs:
        for names, table in _both_directions(pair):
            if names in tables:
                raise ConfigError(f"the pair `{names[0]}`, `{names[1]}` is given twice", where=f"{_CROSSWALKS}.yaml")
            tables[names] = table
    missing = sorted(set(permutations(list_taxonomies(), 2)) - set(tables))
    if missing:
        raise ConfigError(f"no pair `{missing[0][0]}`, `{missing[0][1]}`", where=f"{_CROSSWALKS}.yaml")
    return tables


def _both_directions(pair: _PairFile) -> Iterator[tuple[tuple[str, str], _Table]]:
    """The tables of one pair and of its inverse.

    Raises:
        NotFoundError: an unknown code.
        ConfigError: a pair of codes given twice, or a category that is neither related nor in ``none`` (or is both).
    """
    first, second = (_packaged(name) for name in pair.taxonomies)
    edges = [(a, relation, b) for a, row in pair.relations.items() for relation, bs in row.items() for b in bs]
    for a, _, b in edges:
        first.category(a)
        second.category(b)
    where = f"{_CROSSWALKS}.yaml: {first.id} and {second.id}"
    if len({(a, b) for a, _, b in edges}) != len(edges):
        raise ConfigError("two categories are related twice", where=where)
    forward = [(a, Counterpart(qualified(second, b), relation)) for a, relation, b in edges]
    inverse = [(b, Counterpart(qualified(first, a), _INVERSE[relation])) for a, relation, b in edges]
    yield (first.id, second.id), _table(first, forward, pair.none.get(first.id, ()), where)
    yield (second.id, first.id), _table(second, inverse, pair.none.get(second.id, ()), where)


def _table(
    taxonomy: Taxonomy, counterparts: list[tuple[str, Counterpart]], none: tuple[str, ...], where: str
) -> _Table:
    table: dict[str, list[Counterpart]] = {code: [] for code in taxonomy.codes}
    for code, counterpart in counterparts:
        table[taxonomy.category(code).code].append(counterpart)
    for code in none:
        taxonomy.category(code)
    unsettled = sorted(code for code, found in table.items() if bool(found) == (code in none))
    if unsettled:
        raise ConfigError(
            f"`{unsettled[0]}` of `{taxonomy.id}` needs either relations or an entry in `none`", where=where
        )
    order = get_args(Relation)
    return {code: tuple(sorted(found, key=lambda c: order.index(c.relation))) for code, found in table.items()}
