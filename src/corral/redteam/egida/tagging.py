"""Topics of requests that come without a known one, as a model names them; such topics are marked as a machine's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Final

from corral.core.config import Config, load_config
from corral.core.errors import CorralError
from corral.core.files import sha256_json
from corral.core.yaml import parse_yaml
from corral.data.messages import Conversation
from corral.models.engines.base import Engine, GenerationSettings
from corral.models.engines.each import generate_each
from corral.redteam.egida.expand import BaseRequest
from corral.redteam.egida.topics import topics
from corral.redteam.store import KEY, Row, Store
from corral.synth.templates import fill

_FILE: Final = "tagging.yaml"
_MOST: Final = 3
_ANSWER: Final = GenerationSettings(max_new_tokens=32)
_KEY_DIGITS: Final = 24


class _Question(Config):
    version: int
    question: str
    glosses: Mapping[str, str]


@dataclass(frozen=True)
class Tagged:
    """Requests that all have a topic.

    Attributes:
        requests: in the order given, with what the model named where they had nothing known.
        by_machine: how many got their topics from the model.
        left_out: ids of requests that the model names no topic of, or not in the form asked for.
    """

    requests: tuple[BaseRequest, ...]
    by_machine: int
    left_out: tuple[str, ...]


class TopicTagger:
    """Asks an engine, greedily, for the topics of requests; each answer is kept and not asked for again.

    Args:
        engine: follows instructions.
        revision: of its weights, where known; answers of another revision are not mixed up.
        store: of the answers.
    """

    def __init__(self, engine: Engine, store: Store, *, revision: str = "") -> None:
        self._engine = engine
        self._store = store
        self._revision = revision

    def tag(self, requests: Sequence[BaseRequest]) -> Tagged:
        """Give topics to requests that have none of the packaged ones; the others stay as they are.

        Raises:
            CorralError: the engine cannot answer.
        """
        known = set(topics().names)
        texts = {_key(each): each.goal.text for each in requests if not known & set(each.topics)}
        fingerprint = {"engine": self._engine.name, "revision": self._revision, "question": _revision()}

        def compute(keys: Sequence[str]) -> Iterable[Row]:
            asked = [question_about(texts[key]) for key in keys]
            for key, answer in zip(keys, generate_each(self._engine, asked, _ANSWER), strict=True):
                if isinstance(answer, CorralError):
                    raise answer
                yield {KEY: key, "answer": answer.text}

        rows = self._store.rows("topics", fingerprint, texts, compute)
        named = {key: topics_in(row["answer"]) for key, row in rows.items()}
        found = [
            replace(each, topics=named[_key(each)], by_machine=True) if _key(each) in named else each
            for each in requests
        ]
        kept = tuple(each for each in found if each.topics)
        left_out = tuple(each.id for each in found if not each.topics)
        return Tagged(kept, sum(each.by_machine for each in kept), left_out)


def question_about(request: str) -> Conversation:
    """What the engine is asked: the request as a JSON string, and the named topics; a user's free slots are not."""
    asked = _question()
    names = [name for name in topics().names if name not in topics().free]
    listed = "\n".join(f"{name}: {asked.glosses[name]}" if name in asked.glosses else name for name in names)
    return Conversation.user(fill(asked.question, request=json.dumps(request, ensure_ascii=False), topics=listed))


def topics_in(answer: str) -> tuple[str, ...]:
    """Topics that an answer names, closest first; none where it names something else, too many or none at all."""
    named = tuple(dict.fromkeys(part.strip(" \t\r\n.\"'`*").casefold() for part in answer.strip().split(",")))
    known = {name for name in topics().names if name not in topics().free}
    return named if len(named) <= _MOST and known.issuperset(named) else ()


def _key(request: BaseRequest) -> str:
    return sha256_json(request.goal.text)[:_KEY_DIGITS]


def _revision() -> str:
    return sha256_json([question_about("").to_openai(), _ANSWER.max_new_tokens])


@cache
def _question() -> _Question:
    text = (files(__package__) / _FILE).read_text(encoding="utf-8")
    return load_config(_Question, parse_yaml(text, where=_FILE))
