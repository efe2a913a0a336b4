"""The systems of the table: a model with a defence around it, or with a guard over its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

from corral.core.files import sha256_json
from corral.guards.base import Guard
from corral.guards.loading import load_guard
from corral.guards.perplexity_filter import PerplexityFilter, calibrated_threshold
from corral.guards.self_examination import SelfExamination
from corral.models.chat import ChatTokenizer
from corral.models.defences.bpe_dropout import RetokenisingChat
from corral.models.defences.engine import DefendedEngine
from corral.models.defences.prompts import InContextRefusal, Paraphrase, PromptDefence, SelfReminder
from corral.models.engines.first_tokens import SafeDecodingEngine
from corral.models.engines.loading import load_engine
from corral.models.engines.torch import TorchEngine
from corral.models.loading import find_dtype, load_causal_lm, weights_revision
from corral.redteam.attempts import Target
from corral.redteam.goals import Goal, load_goals
from corral.studies.defences.asking import Laid
from corral.studies.defences.settings import (
    MODEL_GUARDS,
    STAND_IN,
    DefencesStudyConfig,
    RequestsConfig,
    SystemConfig,
)
from corral.studies.defences.trained import find_trained
from corral.studies.redteam_styles.stand_ins import stand_in_goals
from corral.studies.trained_models import open_trained, revision_of

PromptDefenceName = Literal["self-reminder", "in-context-refusal", "paraphrase"]
PROMPT_DEFENCES: Final[tuple[PromptDefenceName, ...]] = get_args(PromptDefenceName)
_REVISION_DIGITS: Final = 16
_OF_REPLIES: Final = ("self-examination",)


class _Opened(NamedTuple):
    """A system without its guard.

    Attributes:
        engine: with the defence.
        revision: of all of it.
        model: without the defence.
    """

    engine: TorchEngine | DefendedEngine
    revision: str
    model: TorchEngine


def laid_systems(config: DefencesStudyConfig, runs: Path) -> Iterator[Laid]:
    """Every model with every defence once, the guards of the systems that name it over its answers.

    Args:
        config: names them.
        runs: folder of all runs, those that trained models among them.

    Raises:
        NotFoundError: a model is not there.
    """
    for one, guards in config.targets():
        opened = _opened(one, config, runs)
        yield Laid(
            Target(opened.engine, one.name, opened.revision),
            [(_guard(name, opened, config), name in _OF_REPLIES) for name in guards],
        )


def prompt_defence(name: PromptDefenceName, engine: TorchEngine, revision: str) -> PromptDefence:
    """A defence that rewrites prompts; ``paraphrase`` asks the engine to."""
    if name == "self-reminder":
        return SelfReminder()
    if name == "in-context-refusal":
        return InContextRefusal()
    return Paraphrase(engine, revision=revision)


def retokenised(engine: TorchEngine, seed: int) -> TorchEngine:
    """The same model reading prompts under BPE dropout."""
    return TorchEngine(engine.model, RetokenisingChat(engine.chat.tokenizer, seed=seed), name="retokenised")


def requests_of(asked: RequestsConfig, kind: Literal["harmful", "benign"], seed: int) -> list[Goal]:
    """Requests of one kind, none of a sexual category, and no harmful one about sex or minors.

    Raises:
        NotFoundError: a source is not there.
    """
    if asked.sources == (STAND_IN,):
        return [goal for goal in stand_in_goals() if goal.kind == kind][: asked.limit]
    harmful = kind == "harmful"
    return list(load_goals(asked.sources, kind=kind, limit=asked.limit, seed=seed, no_sex_or_minors=harmful).goals)


def _opened(one: SystemConfig, config: DefencesStudyConfig, runs: Path) -> _Opened:
    model, weights = _model(one, config, runs)

    def revision(*depends_on: str) -> str:
        return sha256_json([weights, config.dtype, one.defence, *depends_on])[:_REVISION_DIGITS]

    if one.defence is None:
        return _Opened(model, revision(), model)
    if one.defence == "retokenised":
        return _Opened(retokenised(model, config.seed), revision("rate 0.2", str(config.seed)), model)
    if one.defence == "safe-decoding":
        expert = load_causal_lm(str(one.expert), dtype=find_dtype(config.dtype))
        chat: ChatTokenizer = model.chat
        decoding = SafeDecodingEngine(model.model, expert, chat, name=one.name)
        return _Opened(decoding, revision(weights_revision(str(one.expert))), model)
    defence = prompt_defence(one.defence, model, weights)
    return _Opened(DefendedEngine(model, defence), revision(defence.revision), model)


def _model(one: SystemConfig, config: DefencesStudyConfig, runs: Path) -> tuple[TorchEngine, str]:
    """The model of a system as it is, and the revision of its weights."""
    if one.trained is not None:
        base, folder = find_trained(one.trained, runs)
        return open_trained(base, folder, name=one.name, dtype=config.dtype), revision_of(base, folder, config.dtype)
    model = config.model_of(one)
    return load_engine(model, dtype=find_dtype(config.dtype)), weights_revision(model)


def _guard(name: str, opened: _Opened, config: DefencesStudyConfig) -> Guard:
    """A guard by name; two of them ask the model itself, as it is."""
    if name not in MODEL_GUARDS:
        return load_guard(name, **config.guard_settings.get(name, {}))
    if name == "self-examination":
        return SelfExamination(opened.model, revision=opened.revision)
    texts = [goal.text for goal in requests_of(config.calibration, "benign", config.seed)]
    threshold = calibrated_threshold(opened.model, texts)
    return PerplexityFilter(opened.model, revision=opened.revision, threshold=threshold)
