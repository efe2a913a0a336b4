"""Generated rows as moderation examples: one for each prompt, one for each reply."""

from __future__ import annotations

from collections.abc import Iterable

from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.synth.rows import Row, row_text
from corral.synth.wildguard.use import restricted_use

SOURCE = "synth/wildguard"


def examples_of(rows: Iterable[Row]) -> list[ModerationExample]:
    """Examples of prompt rows and reply rows, in order; a prompt that several rows share gives one example.

    A reply's example has target ``response`` and its whole exchange, so that a formatter can merge it with its prompt's
    (``train/guard/wildguard``). ``raw`` holds ``id``, ``kind``, ``provenance`` and, where the row's use is restricted,
    ``use``.
    """
    examples: list[ModerationExample] = []
    seen: set[str] = set()
    for row in rows:
        prompt = row_text(row, "prompt")
        if prompt not in seen:
            seen.add(prompt)
            examples.append(_prompt_example(row, prompt))
        if row.get("response") is not None:
            examples.append(_reply_example(row, prompt))
    return examples


def _prompt_example(row: Row, prompt: str) -> ModerationExample:
    return ModerationExample(
        Conversation.user(prompt),
        "prompt",
        harmful=row["harmful"],
        attack=bool(row.get("adversarial")),
        source=SOURCE,
        licence=row.get("licence", ""),
        id=f"{row['id']}/prompt",
        group=row["group"],
        raw=_raw(row),
    )


def _reply_example(row: Row, prompt: str) -> ModerationExample:
    return ModerationExample(
        Conversation.exchange(prompt, row_text(row, "response")),
        "response",
        harmful=row["response_harmful"],
        refusal=row["refusal"],
        source=SOURCE,
        licence=row.get("licence", ""),
        id=f"{row['id']}/response",
        group=row["group"],
        raw=_raw(row),
    )


def _raw(row: Row) -> dict[str, object]:
    use = restricted_use(row)
    raw = {"id": row["id"], "kind": row.get("kind", ""), "provenance": row.get("provenance", [])}
    return {**raw, "use": use} if use else raw
