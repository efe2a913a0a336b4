"""Benign contrast prompts of two kinds, written by an engine (WildGuard, section 3.1).

Look-alikes take the words of a given prompt and are harmless for one of the ten reasons of XSTest (arXiv 2308.01263);
sensitive prompts ask something safe about a delicate topic. Both teach a guard not to flag by surface.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from functools import cache, partial
from importlib.resources import files
from typing import Any, Final

from corral.core.config import Config, load_config
from corral.core.errors import ConfigError
from corral.core.yaml import parse_yaml
from corral.data.examples import normalise_prompt, prompt_key
from corral.data.messages import Conversation
from corral.models.engines.base import Engine, Generation, GenerationSettings
from corral.synth.rows import Row, Task, Unusable, row_text
from corral.synth.steps import DEFAULT_GENERATION, DEFAULT_RETRIES, EngineStep
from corral.synth.templates import fill
from corral.synth.wildguard.prompts import prompt_row
from corral.synth.written_text import one_text

MOST_WORDS: Final = 60

_FILE: Final = "contrast.yaml"
_LOOK_ALIKE: Final = (
    "Write one short question that looks a little like the request below but is completely harmless, because {why}. "
    "An example of such a question: {example}\nRequest: {prompt}\nWrite only the new question."
)
_SENSITIVE: Final = (
    "Write one short question that an ordinary person might ask about {topic}. The question should sound delicate but "
    "be safe to answer. Write only the question."
)


class LookAlike(Config):
    """One reason why a prompt that looks unsafe is not."""

    id: str
    why: str
    example: str


class SensitiveTopic(Config):
    """A subject that is delicate and safe."""

    id: str
    topic: str


class ContrastFile(Config):
    """What contrast prompts are made by."""

    look_alikes: tuple[LookAlike, ...]
    sensitive_topics: tuple[SensitiveTopic, ...]


@cache
def contrast_file() -> ContrastFile:
    """The packaged families and topics."""
    text = files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    return load_config(ContrastFile, parse_yaml(text, where=_FILE))


def look_alike_step(
    engine: Engine,
    *,
    per_prompt: int = 1,
    seed: int = 0,
    generation: GenerationSettings = DEFAULT_GENERATION,
    retries: int = DEFAULT_RETRIES,
) -> EngineStep:
    """From each prompt row, ``per_prompt`` benign look-alikes, each of another family.

    Raises:
        ConfigError: ``per_prompt`` outside 1 to 10.
    """
    families = contrast_file().look_alikes
    if not 1 <= per_prompt <= len(families):
        raise ConfigError(f"`{per_prompt}` is outside 1 to {len(families)}", where="per_prompt")

    def expand(row: Row) -> Iterable[Task]:
        chance = random.Random(f"look_alike/{seed}/{row['id']}")  # noqa: S311  not for secrets
        for family in chance.sample(families, per_prompt):
            prompt = fill(_LOOK_ALIKE, why=family.why, example=family.example, prompt=row_text(row, "prompt"))
            yield Task(f"{row['id']}/{family.id}", row, family.id, Conversation.user(prompt))

    version = {
        "template": _LOOK_ALIKE,
        "families": [family.model_dump() for family in families],
        "per_prompt": per_prompt,
        "seed": seed,
    }
    return EngineStep("look_alikes", engine, expand, _read_look_alike, generation, retries, version)


def topic_rows(per_topic: int) -> list[dict[str, Any]]:
    """The input of ``sensitive_step``: each packaged topic so many times."""
    return [
        {"id": f"{topic.id}/{number}", "topic": topic.topic, "topic_id": topic.id}
        for topic in contrast_file().sensitive_topics
        for number in range(per_topic)
    ]


def sensitive_step(
    engine: Engine, *, generation: GenerationSettings = DEFAULT_GENERATION, retries: int = DEFAULT_RETRIES
) -> EngineStep:
    """From each row of ``topic_rows``, a safe prompt about the topic."""

    def expand(row: Row) -> Iterable[Task]:
        prompt = fill(_SENSITIVE, topic=row_text(row, "topic"))
        yield Task(f"sensitive/{row['id']}", {"id": row["id"]}, row_text(row, "topic_id"), Conversation.user(prompt))

    read = partial(_read_sensitive, engine.name)
    return EngineStep("sensitive", engine, expand, read, generation, retries, {"template": _SENSITIVE})


def _read_look_alike(task: Task, generation: Generation) -> Mapping[str, Any]:
    text = _question(generation, _LOOK_ALIKE)
    example = next(family.example for family in contrast_file().look_alikes if family.id == task.template)
    # A prompt that holds the request would carry its harm under a benign label.
    for copied, what in ((example, "the example"), (str(task.row["prompt"]), "the request")):
        if f" {normalise_prompt(copied)} " in f" {normalise_prompt(text)} ":
            raise Unusable("echo", f"repeats {what}")
    return {"prompt": text, "harmful": False, "adversarial": False, "kind": "look_alike"}


def _read_sensitive(source: str, task: Task, generation: Generation) -> Mapping[str, Any]:
    text = _question(generation, _SENSITIVE)
    row = prompt_row(task.id, text, harmful=False, source=source)
    return {**row, "kind": "sensitive", "group": prompt_key(text)}


def _question(generation: Generation, template: str) -> str:
    """One question on one line: other forms are remarks about the question, as weak models write them."""
    text = one_text(generation, instruction=template, label="Question", most_words=MOST_WORDS)
    if "\n" in text or not text.endswith("?"):
        raise Unusable("unparseable", "not one question on one line")
    return text
