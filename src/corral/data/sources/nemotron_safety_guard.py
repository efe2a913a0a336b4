"""Reader of the published CultureGuard data (Nemotron-Safety-Guard-Dataset-v3, CC-BY-4.0), from the user's copy.

One row is a prompt, perhaps with a response, in one of nine languages; translations of a row share its ``id``. Columns:
``id``, ``prompt``, ``response``, ``prompt_label``, ``response_label`` (safe or unsafe, null when not judged),
``violated_categories`` (names of ``aegis_2``, comma-separated), ``language``, ``tag`` (generic, adapted, jailbreaking).
The set has grown since it was published, so pin a revision.

- A prompt that upstream replaced by ``REDACTED`` is taken from ``originals`` by its id; without one it is left out.
- All translations of a row are one group, so that a split keeps them on one side.
- The list of categories is of prompt and response together: it is set on whichever of the two is unsafe.
- ``jailbreaking`` rows inherit their categories from the plain request, which holds at the binary level only: they are
  read without categories, so that training masks them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from corral.core.errors import DataError
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation, Target
from corral.data.readers import read_rows
from corral.data.taxonomy import load_taxonomy, qualified

NAME: Final = "nemotron_safety_guard"
TAXONOMY: Final = "aegis_2"
LANGUAGES: Final = ("en", "ar", "de", "es", "fr", "hi", "ja", "th", "zh")
TAGS: Final = ("generic", "adapted", "jailbreaking")
REDACTED: Final = "REDACTED"
_LICENCE: Final = "CC-BY-4.0"
_LABELS: Final[Mapping[object, bool | None]] = {"safe": False, "unsafe": True, None: None, "": None}


@dataclass(frozen=True, slots=True)
class NemotronRows:
    """The examples of a file, in its order, and an account of the rest.

    Attributes:
        examples: a prompt a row, and its response where it has one.
        left_out: rows by reason: a redacted prompt without its original, a blank prompt.
        unknown_categories: names that ``aegis_2`` does not have, with their number; they set no label.
    """

    examples: tuple[ModerationExample, ...]
    left_out: Mapping[str, int]
    unknown_categories: Mapping[str, int]


def read_nemotron_safety_guard(
    path: Path | str, *, originals: Mapping[str, str] = MappingProxyType({})
) -> NemotronRows:
    """Read a file of the set.

    Args:
        path: JSON lines, CSV or Parquet.
        originals: id to the prompt that upstream redacted.

    Raises:
        NotFoundError: no such file.
        DataError: a column is missing, or a label, tag or language is none of the set's; names the line.
    """
    examples: list[ModerationExample] = []
    left_out: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for row in read_rows(path, strict=True):
        value = {**row.value}
        if value.get("prompt") == REDACTED:
            value["prompt"] = originals.get(str(value.get("id")), "")
            if not value["prompt"]:
                left_out["redacted"] += 1
                continue
        if not str(value.get("prompt") or "").strip():
            left_out["no prompt"] += 1
            continue
        examples += nemotron_examples(value, where=row.where, unknown=unknown)
    return NemotronRows(tuple(examples), dict(left_out), dict(unknown))


def nemotron_examples(
    value: Mapping[str, Any], *, where: str, unknown: Counter[str] | None = None
) -> Iterator[ModerationExample]:
    """The examples of one row whose prompt is there.

    Args:
        value: its columns.
        where: for errors.
        unknown: takes the names of unknown categories.

    Raises:
        DataError: as ``read_nemotron_safety_guard``.
    """
    tag = _one_of(value, "tag", TAGS, where)
    language = _one_of(value, "language", LANGUAGES, where)
    identity, prompt, response = str(value.get("id", "")), str(value["prompt"]), value.get("response")
    named = _categories(value.get("violated_categories"), unknown)
    parts: list[tuple[Target, Conversation, str]] = [("prompt", Conversation.user(prompt), "prompt_label")]
    if isinstance(response, str) and response.strip():
        parts.append(("response", Conversation.exchange(prompt, response), "response_label"))
    for target, conversation, column in parts:
        harmful = _label(value, column, where)
        categories = named if harmful and tag != "jailbreaking" else {}
        yield ModerationExample(
            conversation,
            target,
            harmful=harmful,
            attack=True if tag == "jailbreaking" and target == "prompt" else None,
            categories=categories,
            taxonomy=TAXONOMY if categories else "",
            language=language,
            source=NAME,
            licence=_LICENCE,
            id=f"{identity}:{language}:{target}",
            group=f"{NAME}/{identity}",
            raw={"tag": tag, "pair": identity},
        )


@cache
def _codes_by_name() -> Mapping[str, str]:
    taxonomy = load_taxonomy(TAXONOMY)
    return {category.name.casefold(): qualified(taxonomy, category.code) for category in taxonomy.categories}


def _categories(names: object, unknown: Counter[str] | None) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for name in filter(None, (each.strip() for each in str(names or "").split(","))):
        code = _codes_by_name().get(name.casefold())
        if code is not None:
            found[code] = True
        elif unknown is not None:
            unknown[name] += 1
    return found


def _one_of(value: Mapping[str, Any], column: str, known: tuple[str, ...], where: str) -> str:
    found = value.get(column)
    if found not in known:
        hint = f"Known: {', '.join(f'`{name}`' for name in known)}."
        raise DataError(f"unknown value `{found}` in `{column}`", where=where, hint=hint)
    return str(found)


def _label(value: Mapping[str, Any], column: str, where: str) -> bool | None:
    try:
        return _LABELS[value.get(column)]
    except (KeyError, TypeError):
        raise DataError(
            f"unknown label `{value.get(column)}` in `{column}`", where=where, hint="Known: `safe`, `unsafe`."
        ) from None
