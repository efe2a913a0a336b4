"""The systems of the table: a model with a defence around it, or with a guard over its answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, get_args

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
from corral.studies.defences.settings import STAND_IN, DefencesStudyConfig, RequestsConfig, SystemConfig
from corral.studies.redteam_styles.stand_ins import stand_in_goals

PromptDefenceName = Literal["self-reminder", "in-context-refusal", "paraphrase"]
PROMPT_DEFENCES: Final[tuple[PromptDefenceName, ...]] = get_args(PromptDefenceName)
_REVISION_DIGITS: Final = 16
_OF_REPLIES: Final = ("self-examination",)


def laid_systems(config: DefencesStudyConfig) -> Iterator[Laid]:
    """Every model with every defence once, the guards of the systems that name it over its answers."""
    for one, guards in config.targets():
        engine, revision = _engine(one, config)
        yield Laid(
            Target(engine, one.name, revision),
            [(_guard(name, one, engine, revision, config), name in _OF_REPLIES) for name in guards],
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


def _engine(one: SystemConfig, config: DefencesStudyConfig) -> tuple[TorchEngine | DefendedEngine, str]:
    """The engine of a system without its guard, and its revision."""
    dtype = find_dtype(config.dtype)
    model = config.model_of(one)
    weights = weights_revision(model)

    def revision(*depends_on: str) -> str:
        return sha256_json([weights, config.dtype, one.defence, *depends_on])[:_REVISION_DIGITS]

    engine = load_engine(model, dtype=dtype)
    if one.defence is None:
        return engine, revision()
    if one.defence == "retokenised":
        return retokenised(engine, config.seed), revision("rate 0.2", str(config.seed))
    if one.defence == "safe-decoding":
        expert = load_causal_lm(str(one.expert), dtype=dtype)
        chat: ChatTokenizer = engine.chat
        decoding = SafeDecodingEngine(engine.model, expert, chat, name=one.name)
        return decoding, revision(weights_revision(str(one.expert)))
    defence = prompt_defence(one.defence, engine, weights)
    return DefendedEngine(engine, defence), revision(defence.revision)


def _guard(
    name: str, one: SystemConfig, engine: TorchEngine | DefendedEngine, revision: str, config: DefencesStudyConfig
) -> Guard:
    """A guard by name; two of them ask the model itself, as it is."""
    if name not in ("perplexity-filter", "self-examination"):
        return load_guard(name)
    plain = engine if isinstance(engine, TorchEngine) else load_engine(config.model_of(one))
    if name == "self-examination":
        return SelfExamination(plain, revision=revision)
    texts = [goal.text for goal in requests_of(config.calibration, "benign", config.seed)]
    return PerplexityFilter(plain, revision=revision, threshold=calibrated_threshold(plain, texts))
