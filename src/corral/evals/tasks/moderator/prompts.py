"""Where the prompts of the moderator task come from: a public source by name, or a file of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corral.core.errors import DataError, NotFoundError, suggest
from corral.core.files import sha256_json
from corral.data.conversations import conversations_from_rows
from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation
from corral.data.readers import read_rows
from corral.data.sources import SOURCES, load_source
from corral.data.splits import draw_groups


def load_prompts(
    name: str, *, harmful: bool, limit: int | None = None, seed: int = 0, root: Path | None = None
) -> list[ModerationExample]:
    """The harmful, or the benign, prompts of a source or file.

    Args:
        name: of a source in ``SOURCES``, whose prompts with that harm label are taken; or the path of a file with a
            column ``prompt``, ``text`` or ``messages``, all of whose rows are. Replies in a file are left out.
        harmful: which of the two.
        limit: at most so many, whole groups drawn at random; all when ``None``.
        seed: of the draw.
        root: the data folder of sources; ``data_root()`` when ``None``.

    Raises:
        NotFoundError: neither a source nor a file, or the source is not in the data folder.
        DataError: a malformed row, an id that occurs twice, or no prompt of that kind.
    """
    if Path(name).is_file():
        rows = list(_from_file(Path(name), harmful=harmful))
    elif name in SOURCES:
        rows = [row for row in load_source(name, root) if row.target == "prompt" and row.harmful is harmful]
    else:
        hint = f"{suggest(name, SOURCES)} Or give the path of a file with a column `prompt`."
        raise NotFoundError(f"`{name}` is neither a source nor a file", hint=hint)
    if not rows:
        raise DataError(f"`{name}` has no {'harmful' if harmful else 'benign'} prompt", hint="Choose another source.")
    return draw_groups(rows, limit, seed=seed)


def prompt_conversation(example: ModerationExample) -> Conversation:
    """The conversation up to and including the prompt: what the target is asked and the guard checks first.

    Raises:
        DataError: there is no prompt.
    """
    index = example.conversation.judged_index("prompt")
    if index is None:
        raise DataError("the conversation has no prompt", where=f"{example.source}/{example.id}")
    return Conversation(example.conversation.messages[: index + 1])


def prompt_hash(example: ModerationExample) -> str:
    """24 hex digits that name what the target is asked; rows that ask the same share a reply."""
    return sha256_json(prompt_conversation(example).to_openai())[:24]


def plain_request(example: ModerationExample) -> str:
    """What a judge reads as the request: the goal that an attack wraps, where the source tells it, else the prompt."""
    goal = example.raw.get("goal")
    return goal if isinstance(goal, str) and goal.strip() else example.text


def _from_file(path: Path, *, harmful: bool) -> Iterator[ModerationExample]:
    seen: set[str] = set()
    for conversation in conversations_from_rows(read_rows(path, strict=True), strict=True):
        id = str(conversation.id)
        if id in seen:
            raise DataError(f"the id `{id}` occurs twice", where=str(path))
        seen.add(id)
        example = ModerationExample(conversation, "prompt", harmful=harmful, source=path.name, id=id)
        yield ModerationExample(
            prompt_conversation(example),
            "prompt",
            harmful=harmful,
            source=path.name,
            id=id,
            group=prompt_key(example.text),
        )
