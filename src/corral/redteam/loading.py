"""Targets, judges, guards and texts by the names that users give them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from corral.core.errors import ConfigError, DataError, UserError, suggest
from corral.core.files import sha256_json

if TYPE_CHECKING:
    from corral.data.readers import Row
    from corral.guards.base import Guard
    from corral.guards.composition.specs import GuardSpec
    from corral.models.chat import ChatTokenizer
    from corral.models.engines.base import Engine
    from corral.redteam.attempts import Target, UserTexts
    from corral.redteam.judges import Judge
    from corral.redteam.styles.search import Attacker

_REVISION_DIGITS: Final = 16
JUDGES: Final = ("prefix-list", "guard", "guard:NAME", "yes-no", "rubric", "linear:SET", "human:FILE")
_ASKING: Final = ("yes-no", "rubric")


@contextmanager
def open_engine(
    name: str, server: str | None = None, *, tokenizer: str | None = None, dtype: str = "auto"
) -> Iterator[tuple[Engine, str]]:
    """An engine and its revision; of a model behind a server only the address is known.

    Args:
        name: of the model.
        server: OpenAI-compatible server that runs it; without one it is loaded here.
        tokenizer: model whose tokenizer the served one has: prompts beyond its chat template then become possible.
        dtype: of a model that is loaded here: ``float32``, ``bfloat16``, or ``auto`` as it is stored.
    """
    if server is None:
        if tokenizer is not None:
            raise UserError("a tokenizer of its own is for models behind a server", where="--tokenizer")
        from corral.models.engines.loading import load_engine
        from corral.models.loading import find_dtype, weights_revision

        loaded = load_engine(name, dtype=find_dtype(dtype))
        depends_on = [weights_revision(name), str(loaded.model.dtype), loaded.chat.tokenizer.chat_template]
        yield loaded, sha256_json(depends_on)[:_REVISION_DIGITS]
        return
    from corral.models.engines.openai import OpenAIEngine

    with OpenAIEngine(server, name, chat=None if tokenizer is None else _tokenizer(tokenizer)) as engine:
        yield engine, server


def open_targets(names: Sequence[str], server: str | None, *, tokenizer: str | None, dtype: str) -> Iterator[Target]:
    """Targets one after the other, so that one at a time is in memory."""
    from corral.redteam.attempts import Target

    for name in dict.fromkeys(names):
        with open_engine(name, server, tokenizer=tokenizer, dtype=dtype) as (engine, revision):
            yield Target(engine, name, revision)


@contextmanager
def open_attacker(model: str | None, server: str | None = None) -> Iterator[Attacker | None]:
    """The model that writes prompts for searches, ``None`` where none is named.

    Args:
        model: its name.
        server: OpenAI-compatible server that runs it; without one it is loaded here.

    Raises:
        ConfigError: as ``check_attacker``.
    """
    from corral.redteam.styles.search import Attacker

    check_attacker(model, server)
    if model is None:
        yield None
        return
    with open_engine(model, server) as (engine, revision):
        yield Attacker(engine, revision)


def check_attacker(model: str | None, server: str | None) -> None:
    """Refuse a server that no model is named for.

    Raises:
        ConfigError: a server and no model.
    """
    if model is None and server is not None:
        hint = "Name the model as the server calls it, `--attacker`."
        raise ConfigError("a server is named and no attacker", where="attacker_server", hint=hint)


@contextmanager
def open_judges(
    names: Sequence[str],
    *,
    model: str | None = None,
    server: str | None = None,
    ensemble: str | None = None,
    guard_settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[list[Judge]]:
    """Judges by name; an ensemble of them comes first.

    Args:
        names: of ``JUDGES``.
        model: that ``yes-no`` and ``rubric`` ask.
        server: that runs it; without one it is loaded here.
        ensemble: how they vote, ``None`` for no ensemble.
        guard_settings: of the guards that judges ask, by the guard's name.

    Raises:
        NotFoundError, ConfigError: as ``check_judges``.
    """
    from corral.redteam.judges import EnsembleJudge

    check_judges(names, model=model, guard_settings=guard_settings)
    with ExitStack() as open_ones:
        asking = any(name in _ASKING for name in names)
        asked = open_ones.enter_context(open_engine(model, server)) if model is not None and asking else None
        judges = [_judge(name, asked, guard_settings or {}) for name in dict.fromkeys(names)]
        yield judges if ensemble is None else [EnsembleJudge(judges, _rule(ensemble)), *judges]


def check_judges(
    names: Sequence[str],
    *,
    model: str | None = None,
    guard_settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Refuse judges that ``open_judges`` cannot open, before anything is computed; nothing is loaded.

    Args:
        names: of ``JUDGES``.
        model: that ``yes-no`` and ``rubric`` ask.
        guard_settings: of the guards that judges ask, by the guard's name.

    Raises:
        NotFoundError: no guard of that name.
        ConfigError: an unknown judge, one that needs a model and has none, or a guard's setting that is missing,
            unknown or of another type.
    """
    from corral.guards.loading import GUARDS, check_settings

    for name in names:
        kind, _, detail = name.partition(":")
        if kind == "guard":
            guard = detail or "default"
            check_settings(guard, GUARDS.get(guard), (guard_settings or {}).get(guard, {}))
        elif name in _ASKING:
            if model is None:
                raise ConfigError(f"judge `{name}` asks a model", where="--judge", hint="Name it with `--judge-model`.")
        elif name != "prefix-list" and not (kind in ("human", "linear") and detail):
            raise ConfigError(f"no judge is called `{name}`", where="--judge", hint=suggest(name, JUDGES))


def check_guards_are_asked(
    guard_settings: Mapping[str, Mapping[str, Any]], judges: Sequence[str], *, others: Collection[str] = ()
) -> None:
    """Refuse settings of a guard that is not asked, most likely a misspelt name.

    Args:
        guard_settings: by the guard's name.
        judges: of ``JUDGES``.
        others: guards that are asked beside the judges'.

    Raises:
        ConfigError: a guard has settings and is not asked.
    """
    kinds = [name.partition(":") for name in judges]
    asked = sorted({detail or "default" for kind, _, detail in kinds if kind == "guard"} | set(others))
    for name in guard_settings:
        if name not in asked:
            where = f"guard_settings.{name}"
            raise ConfigError(f"guard `{name}` is set and not asked", where=where, hint=suggest(name, asked))


def load_guards(specs: Sequence[GuardSpec], *, decode: bool) -> list[Guard]:
    """Guards by name or composition, each followed by itself behind a decoder if asked for."""
    from corral.guards.deobfuscate import DeobfuscatingGuard
    from corral.guards.loading import load_guard

    guards: list[Guard] = []
    for spec in specs:
        guard = load_guard(spec)
        guards += [guard, DeobfuscatingGuard(guard)] if decode else [guard]
    return guards


def read_texts(
    demonstrations: Path | None, translations: Path | None, *, templates: bool, wrappers: Path | None = None
) -> UserTexts:
    """What styles may draw on: the user's files, and templates of public corpora where a style wants them.

    Raises:
        NotFoundError: no such file.
        DataError: a row without the columns; names the line.
        ConfigError: a wrapper without one place for the goal.
    """
    from corral.data.readers import read_rows
    from corral.redteam.attempts import UserTexts
    from corral.redteam.styles.cached import load_templates
    from corral.redteam.styles.search.autodan import Wrapper

    shown: list[tuple[str, str]] = []
    if demonstrations is not None:
        shown = [(_text(row, "request"), _text(row, "reply")) for row in read_rows(demonstrations, strict=True)]
    translated = {}
    if translations is not None:
        for row in read_rows(translations, strict=True):
            translated[_text(row, "goal"), _text(row, "language")] = _text(row, "translation")
    around = () if wrappers is None else tuple(_text(row, "template") for row in read_rows(wrappers, strict=True))
    for template in around:
        Wrapper.of(template)  # one that cannot be used is told before a model is asked
    return UserTexts(tuple(shown), translated, load_templates() if templates else (), around)


def _judge(name: str, asked: tuple[Engine, str] | None, guard_settings: Mapping[str, Mapping[str, Any]]) -> Judge:
    from corral.guards.loading import load_guard
    from corral.redteam.judges import GuardJudge, HumanFileJudge, PrefixListJudge, RubricJudge, YesNoJudge

    kind, _, detail = name.partition(":")
    if kind == "guard":
        guard = detail or "default"
        return GuardJudge(load_guard(guard, **guard_settings.get(guard, {})))
    if kind == "human" and detail:
        return HumanFileJudge(detail)
    if kind == "linear" and detail:
        from corral.redteam.judges.linear import LinearJudge
        from corral.redteam.labelled import labelled_set

        return LinearJudge(labelled_set(detail))
    if name == "prefix-list":
        return PrefixListJudge()
    if asked is None:
        raise ValueError(f"judge `{name}` was not checked")
    engine, revision = asked
    return YesNoJudge(engine, revision=revision) if name == "yes-no" else RubricJudge(engine, revision=revision)


def guards_of(judges: Sequence[str]) -> list[str]:
    """Names of the guards that judges ask."""
    return [name.partition(":")[2] or "default" for name in judges if name.partition(":")[0] == "guard"]


def _rule(name: str) -> Any:
    from corral.redteam.judges.ensemble import RULES

    if name not in RULES:
        raise ConfigError(f"no rule is called `{name}`", where="--ensemble", hint=f"Use {', '.join(RULES)}.")
    return name


def _tokenizer(name: str) -> ChatTokenizer:
    from corral.models.chat import ChatTokenizer
    from corral.models.loading import load_tokenizer

    return ChatTokenizer(load_tokenizer(name))


def _text(row: Row, column: str) -> str:
    value = row.value.get(column)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"the row has no text under `{column}`", where=row.where)
    return value
