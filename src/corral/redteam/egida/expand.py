"""Every base request in every attack style, each with where it is from and a name that never changes.

An instance depends on its request, style and seed alone: neither on the order of the requests nor on what else is
expanded. Base requests come from the user's files or public sets by loader; none is shipped.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from corral.core.errors import DataError
from corral.core.files import sha256_json
from corral.core.progress import milestone
from corral.data.readers import read_rows
from corral.redteam.attempts import Attempt
from corral.redteam.egida.topics import topics
from corral.redteam.goals import LEFT_OUT, Goal, load_goals
from corral.redteam.styles import AttackPrompt, NotApplicable, Style, StyleContext, seeded

_FIRST_TRY: Final = 0


@dataclass(frozen=True, slots=True)
class BaseRequest:
    """A request as it is, with its topics.

    Attributes:
        goal: id, text, source and licence.
        topics: at least one.
        by_machine: a model named the topics (``tagging``); otherwise the source, or a file of the user's.
    """

    goal: Goal
    topics: tuple[str, ...]
    by_machine: bool = False

    @property
    def id(self) -> str:
        """Unique among base requests."""
        return self.goal.id


@dataclass(frozen=True, slots=True)
class Instance:
    """A base request in a style.

    Attributes:
        uuid: hash of request, style with its version, and seed.
        base: the request.
        style: name of the style.
        style_id: with version and hash of its wording.
        prompt: what is sent.
    """

    uuid: str
    base: BaseRequest
    style: str
    style_id: str
    prompt: AttackPrompt

    def attempt(self, restart: int) -> Attempt:
        """The instance as something the red-team runner asks a target."""
        return Attempt(self.base.goal, self.style, self.style_id, restart, self.prompt)

    def to_json(self) -> dict[str, Any]:
        """As a row of the published form, provenance included."""
        return {
            "uuid": self.uuid,
            "base_id": self.base.id,
            "source": self.base.goal.source,
            "licence": self.base.goal.licence,
            "style": self.style,
            "style_id": self.style_id,
            "topics": dict.fromkeys(self.base.topics, True),
            "topics_by": "machine" if self.base.by_machine else "source",
            "goal": self.base.goal.text,
            "messages": self.prompt.shown.to_openai(),
            "decode": None if self.prompt.answer_code is None else self.prompt.answer_code.name,
        }


@dataclass(frozen=True)
class Expanded:
    """All instances.

    Attributes:
        instances: request by request, in the order of the styles.
        not_applicable: by style, how many requests it gives no prompt for.
    """

    instances: tuple[Instance, ...]
    not_applicable: Mapping[str, int]


def expand(
    base: Sequence[BaseRequest], styles: Sequence[Style], *, seed: int = 0, context: StyleContext | None = None
) -> Expanded:
    """Put every request in every style.

    Args:
        base: requests with their topics; ids are unique.
        styles: see ``choose_styles``; styles of several turns or without a chat template are not for pairs.
        seed: of the styles' chances.
        context: what styles may know of the target.

    Raises:
        DataError: no requests, one without a topic, or two of one id.
    """
    _check(base)
    given = context or StyleContext()
    instances: list[Instance] = []
    left_out: Counter[str] = Counter()
    for request in base:
        for style in styles:
            rng = seeded(seed, _FIRST_TRY, style.id, request.goal.text)
            made = style.apply(request.goal.text, rng=rng, context=replace(given, language=request.goal.language))
            if isinstance(made, NotApplicable):
                left_out[style.name] += 1
            else:
                instances.append(Instance(_uuid(request.id, style.id, seed), request, style.name, style.id, made))
    return Expanded(tuple(instances), dict(left_out))


def load_base(
    names: Sequence[str],
    *,
    limit: int | None = None,
    seed: int = 0,
    leave_out: Sequence[str] = LEFT_OUT,
    skip_missing: bool = False,
) -> list[BaseRequest]:
    """Base requests of public sets and files; the topic is the ``category``, or a file's ``topics``.

    Requests whose words speak of sex or of minors are left out: a model is asked to answer what comes from here.

    Args:
        names: of sources, or paths of files with ``goal`` and ``category``, or ``topics``: a list, or names to true.
        limit: at most so many, drawn at random.
        seed: of the draw.
        leave_out: words; requests of a category whose name has one of them are left out.
        skip_missing: go on without public sources that are not in the data folder, and say so.

    Raises:
        NotFoundError: neither a source nor a file.
        DataError: an empty file, a malformed row, or a request without a topic.
    """
    loaded = load_goals(
        names, limit=limit, seed=seed, leave_out=leave_out, no_sex_or_minors=True, skip_missing=skip_missing
    )
    for name in loaded.missing:
        milestone(f"source `{name}` is left out: it is not in the data folder")
    if loaded.left_out:
        milestone(f"{loaded.left_out} requests are left out: of categories that are not asked for, of sex or of minors")
    tagged = {key: found for name in names if Path(name).is_file() for key, found in _topics_in(Path(name))}
    return [BaseRequest(goal, tagged.get(goal.text) or _topic_of(goal)) for goal in loaded.goals]


def _topic_of(goal: Goal) -> tuple[str, ...]:
    return (topics().of_category(goal.category),) if goal.category else ()


def _topics_in(path: Path) -> Iterable[tuple[str, tuple[str, ...]]]:
    for row in read_rows(path, strict=True):
        named = row.value.get("topics")
        if named is None:
            continue
        if isinstance(named, Mapping):
            named = [topic for topic, holds in named.items() if holds is True]
        if not isinstance(named, list) or not all(isinstance(topic, str) for topic in named):
            raise DataError("expected a list of names, or names to true or false", where=f"{row.where}: topics")
        yield str(row.value.get("goal")), tuple(named)


def _check(base: Sequence[BaseRequest]) -> None:
    if not base:
        raise DataError("there are no base requests", hint="Name a source or a file with `goal` and `category`.")
    seen: set[str] = set()
    for request in base:
        if not request.topics:
            raise DataError(
                "the request has no topic",
                where=request.id,
                hint="Give its row a `category`, or `topics`, or let a model name them: `--tagger MODEL`.",
            )
        if request.id in seen:
            raise DataError(
                f"two requests have the id `{request.id}`", hint="Ids name the requests that a split keeps apart."
            )
        seen.add(request.id)


def _uuid(base_id: str, style_id: str, seed: int) -> str:
    return str(uuid.UUID(hex=sha256_json([base_id, style_id, seed])[:32]))
