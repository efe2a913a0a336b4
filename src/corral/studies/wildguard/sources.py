"""Where the study's rows come from: public sources, self-written and templated rows, the user's copy of WildGuardMix.

Every row says in ``raw`` what a mixture may ask for beside the source's own columns: ``messages``, how many there are,
and for a reply ``prompt_harmful``, the label of the prompt it answers where the source has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from corral.core.errors import ConfigError, DataError
from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation
from corral.data.readers import read_rows
from corral.data.self_written import PREFIX as SELF_WRITTEN
from corral.data.self_written import self_written_rows
from corral.data.sources import SOURCES, data_root, load_source
from corral.studies.drawing import described
from corral.studies.wildguard.templated import TEMPLATED, templated_rows

WILDGUARDMIX: Final = "wildguardmix:"
"""Prefix of a file of WildGuardMix in its published columns; the set is gated, so the file is the user's."""
_LICENCE: Final = "ODC-BY-1.0, gated by the publisher"
_HARM: Final[Mapping[object, bool | None]] = {"harmful": True, "unharmful": False, None: None}
_REFUSAL: Final[Mapping[object, bool | None]] = {"refusal": True, "compliance": False, None: None}


class RowSource:
    """Reads the rows of sources by name, each once."""

    def __init__(self) -> None:
        self._read: dict[str, list[ModerationExample]] = {}

    def __call__(self, name: str) -> list[ModerationExample]:
        """The rows of a source, in its order.

        Raises:
            NotFoundError: unknown, or not in the data folder.
            DataError: a file differs from the record, or a row is malformed.
        """
        if name not in self._read:
            self._read[name] = described(_rows(name))
        return self._read[name]


def is_packaged(name: str) -> bool:
    """Whether rows come with the package, so that no file of the user's is read."""
    return name == TEMPLATED or name.startswith(SELF_WRITTEN)


def require_trainable(name: str, *, where: str) -> None:
    """Refuse to train on a public source whose licence does not let weights ship.

    Raises:
        ConfigError: it is for evaluation only.
    """
    if not is_packaged(name) and not name.startswith(WILDGUARDMIX) and not SOURCES.get(name).trainable:
        raise ConfigError(f"`{name}` is for evaluation only", where=where)


def input_files(names: Iterable[str]) -> Iterator[Path]:
    """Files that these sources are read from."""
    for name in dict.fromkeys(names):
        if name.startswith(WILDGUARDMIX):
            yield Path(name.removeprefix(WILDGUARDMIX))
        elif not is_packaged(name):
            yield from (data_root() / relative for relative in SOURCES.get(name).files)


def _rows(name: str) -> Iterable[ModerationExample]:
    if name == TEMPLATED:
        return templated_rows()
    if name.startswith(SELF_WRITTEN):
        return self_written_rows(name)
    if name.startswith(WILDGUARDMIX):
        return wildguardmix_rows(name.removeprefix(WILDGUARDMIX))
    return load_source(name)


def wildguardmix_rows(path: Path | str) -> Iterator[ModerationExample]:
    """Rows of WildGuardTrain or WildGuardTest: a prompt example, and one of the reply where there is one.

    Columns as published: ``prompt``, ``adversarial``, ``response``, ``prompt_harm_label``, ``response_refusal_label``,
    ``response_harm_label``, ``subcategory``; a missing label is unknown.

    Args:
        path: JSON lines, CSV or Parquet.

    Raises:
        NotFoundError: no such file.
        DataError: a row without a prompt, or an unknown label; names the line.
    """
    for row in read_rows(path, strict=True):
        value = row.value
        prompt, response = value.get("prompt"), value.get("response")
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError("no text in `prompt`", where=row.where)
        shared: dict[str, Any] = {
            "language": "en",
            "source": "wildguardmix",
            "licence": _LICENCE,
            "group": prompt_key(prompt),
            "raw": {"subcategory": value.get("subcategory"), "adversarial": value.get("adversarial")},
        }
        attack = value.get("adversarial")
        yield ModerationExample(
            Conversation.user(prompt),
            "prompt",
            harmful=_meaning(value, "prompt_harm_label", _HARM, row.where),
            attack=attack if isinstance(attack, bool) else None,
            id=f"{row.line}:prompt",
            **shared,
        )
        if isinstance(response, str) and response.strip():
            yield ModerationExample(
                Conversation.exchange(prompt, response),
                "response",
                harmful=_meaning(value, "response_harm_label", _HARM, row.where),
                refusal=_meaning(value, "response_refusal_label", _REFUSAL, row.where),
                id=f"{row.line}:response",
                **shared,
            )


def _meaning(value: Mapping[str, Any], column: str, meanings: Mapping[object, bool | None], where: str) -> bool | None:
    try:
        return meanings[value.get(column) or None]
    except (KeyError, TypeError):
        known = ", ".join(f"`{name}`" for name in meanings if name)
        raise DataError(
            f"unknown label `{value.get(column)}` in `{column}`", where=where, hint=f"Known: {known}."
        ) from None
