"""The prompts that everything starts from: an operator's file, or examples of a public set.

Harmful goals are never written here: they come with a label from whoever gives the file. A prompt row has::

    id, prompt, harmful (true or false), adversarial, kind, group, source, licence

``group`` stays the same in everything that is made from a prompt, so that splits keep it together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from corral.core.errors import DataError
from corral.data.examples import ModerationExample, prompt_key
from corral.data.readers import read_rows
from corral.synth.rows import row_text


def load_prompts(path: Path | str) -> list[dict[str, Any]]:
    """Prompt rows of a file (JSON lines, CSV, Parquet) with ``prompt`` and ``harmful``, in order.

    ``id`` (by default the line number), ``adversarial`` (by default false), ``source`` (by default the file's name)
    and ``licence`` are read where given.

    Raises:
        NotFoundError: no such file.
        DataError: a row without a prompt or without a label; names the line.
    """
    rows = [_prompt_row(row.value, str(row.line), Path(path).name, row.where) for row in read_rows(path, strict=True)]
    if not rows:
        raise DataError("holds no prompts", where=str(path))
    return rows


def prompts_of(examples: Iterable[ModerationExample]) -> list[dict[str, Any]]:
    """Prompt rows of the examples that label a prompt's harm and are one user message; others are passed over."""
    rows = []
    for index, example in enumerate(examples):
        if example.target != "prompt" or example.harmful is None or len(example.conversation.messages) != 1:
            continue
        name = f"{example.source}/{example.id or index}"
        row = prompt_row(name, example.text, harmful=example.harmful, source=example.source, licence=example.licence)
        rows.append({**row, "adversarial": bool(example.attack), "group": example.group or row["group"]})
    return rows


def prompt_row(name: str, prompt: str, *, harmful: bool, source: str = "", licence: str = "") -> dict[str, Any]:
    """A prompt row of kind ``vanilla``, which is its own group."""
    return {
        "id": name,
        "prompt": prompt,
        "harmful": harmful,
        "adversarial": False,
        "kind": "vanilla",
        "group": prompt_key(prompt),
        "source": source,
        "licence": licence,
    }


def _prompt_row(value: Mapping[str, Any], line: str, file: str, where: str) -> dict[str, Any]:
    harmful = _flag(value.get("harmful"), f"{where}.harmful")
    if harmful is None:
        raise DataError("`harmful` is missing", where=where, hint="Say true or false: the pipeline does not guess.")
    name = str(value.get("id") or line)
    try:
        prompt = row_text(value, "prompt")
    except DataError as error:
        raise DataError("has no text under `prompt`", where=where) from error
    row = prompt_row(
        name,
        prompt,
        harmful=harmful,
        source=str(value.get("source") or file),
        licence=str(value.get("licence") or ""),
    )
    return {**row, "adversarial": bool(_flag(value.get("adversarial"), f"{where}.adversarial"))}


def _flag(value: object, where: str) -> bool | None:
    """A truth value, also as CSV writes it."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.casefold() in ("true", "false"):
        return value.casefold() == "true"
    raise DataError(f"is `{str(value)[:40]}`", where=where, hint="Use true or false.")
