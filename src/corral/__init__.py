"""Corral: guard an assistant built on an open-weight model, change the model safely, and see what each costs.

The names below are the public Python interface; everything else may change between releases. A name is imported when
it is first used, so ``import corral`` itself brings in nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from corral.core.errors import ConfigError as ConfigError
    from corral.core.errors import CorralError as CorralError
    from corral.core.errors import DataError as DataError
    from corral.core.errors import EngineError as EngineError
    from corral.core.errors import GuardError as GuardError
    from corral.core.errors import MetricError as MetricError
    from corral.core.errors import MissingDependencyError as MissingDependencyError
    from corral.core.errors import NotFoundError as NotFoundError
    from corral.core.errors import PolicyError as PolicyError
    from corral.core.errors import RunError as RunError
    from corral.core.errors import UserError as UserError
    from corral.core.evidence import Claim as Claim
    from corral.core.evidence import Evidence as Evidence
    from corral.core.recipes import list_recipes as list_recipes
    from corral.core.recipes import run_recipe as run_recipe
    from corral.core.runs import Run as Run
    from corral.core.stats import Estimate as Estimate
    from corral.data.conversations import conversations_from_rows as conversations_from_rows
    from corral.data.examples import ModerationExample as ModerationExample
    from corral.data.messages import Conversation as Conversation
    from corral.data.messages import Message as Message
    from corral.data.readers import read_rows as read_rows
    from corral.data.sources import load_source as load_source
    from corral.data.taxonomy import Category as Category
    from corral.data.taxonomy import Taxonomy as Taxonomy
    from corral.data.taxonomy import crosswalk as crosswalk
    from corral.data.taxonomy import load_taxonomy as load_taxonomy
    from corral.evals.scorecard import scorecard as scorecard
    from corral.guards.base import Guard as Guard
    from corral.guards.base import Status as Status
    from corral.guards.base import Verdict as Verdict
    from corral.guards.loading import load_guard as load_guard
    from corral.guards.moderator import Moderator as Moderator
    from corral.guards.policy import Action as Action
    from corral.guards.policy import Decision as Decision
    from corral.guards.policy import Policy as Policy
    from corral.guards.policy import Rule as Rule
    from corral.models.engines.base import Engine as Engine
    from corral.models.loading import load_causal_lm as load_causal_lm
    from corral.models.loading import load_tokenizer as load_tokenizer

    __version__: str

_MODULES: Final = {
    "corral.core.errors": (
        "ConfigError",
        "CorralError",
        "DataError",
        "EngineError",
        "GuardError",
        "MetricError",
        "MissingDependencyError",
        "NotFoundError",
        "PolicyError",
        "RunError",
        "UserError",
    ),
    "corral.core.evidence": ("Claim", "Evidence"),
    "corral.core.recipes": ("list_recipes", "run_recipe"),
    "corral.core.runs": ("Run",),
    "corral.core.stats": ("Estimate",),
    "corral.data.conversations": ("conversations_from_rows",),
    "corral.data.examples": ("ModerationExample",),
    "corral.data.messages": ("Conversation", "Message"),
    "corral.data.readers": ("read_rows",),
    "corral.data.sources": ("load_source",),
    "corral.data.taxonomy": ("Category", "Taxonomy", "crosswalk", "load_taxonomy"),
    "corral.evals.scorecard": ("scorecard",),
    "corral.guards.base": ("Guard", "Status", "Verdict"),
    "corral.guards.loading": ("load_guard",),
    "corral.guards.moderator": ("Moderator",),
    "corral.guards.policy": ("Action", "Decision", "Policy", "Rule"),
    "corral.models.engines.base": ("Engine",),
    "corral.models.loading": ("load_causal_lm", "load_tokenizer"),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605  one list of names, not two that drift apart


def __getattr__(name: str) -> Any:
    """Import a public name, or the version, when it is first asked for (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("corral")
    elif name in _MODULE_OF:
        from importlib import import_module

        value = getattr(import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module `corral` has no attribute `{name}`", name=name, obj=None)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
