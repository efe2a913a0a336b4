"""Every error Corral raises on purpose.

::

    CorralError                      exit 1   something went wrong that the user did not cause
    ├── EngineError                           a model could not answer
    ├── GuardError                            a guard broke its contract
    ├── RunError                              a run directory or checkpoint is damaged or taken
    └── UserError                    exit 2   the user can mend it
        ├── ConfigError                       a setting is unknown, of the wrong type or out of range
        ├── DataError                         a row, file or label is malformed
        │   └── MediaError                    an image or clip that cannot or may not be decoded
        ├── MetricError                       scores or labels that no metric is defined on
        ├── MissingDependencyError            an optional package or model file is not installed
        ├── NotFoundError                     a name that no registry, folder or data set knows
        └── PolicyError                       a moderation policy that cannot be applied

A message says what happened, quoting values in backticks; ``where`` says in which file, line or field;
``hint`` says what to do next. The command line prints the three and no traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CorralError(Exception):
    """Base of every error Corral raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        located = f"{self.where}: {self.message}" if self.where else self.message
        return f"{located}\n{self.hint}" if self.hint else located


class EngineError(CorralError):
    """A model could not answer: out of memory, a server that is down, logits that are not finite.

    ``status`` is that of the server's HTTP answer, where there was one.
    """

    def __init__(
        self, message: str, *, where: str | None = None, hint: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.status = status


class GuardError(CorralError):
    """A guard broke its contract, for example by returning the wrong number of verdicts."""


class RunError(CorralError):
    """A run directory or checkpoint is damaged, incomplete or in use by another process."""


class UserError(CorralError):
    """The user can mend it; the command line exits with 2."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(UserError):
    """A row, file or label is malformed."""


class MediaError(DataError):
    """An image or clip that cannot or may not be decoded: broken, too large, of an unknown kind, or out of reach."""


class MetricError(UserError):
    """Scores or labels that the metric is not defined on (NaN, lengths that differ, labels outside {0, 1})."""


class MissingDependencyError(UserError):
    """An optional package or packaged model file is not installed."""


class NotFoundError(UserError):
    """A name that no registry, folder or data set knows."""


class PolicyError(UserError):
    """A moderation policy that cannot be applied."""


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: the nearest known names, or all of them when none is near."""
    names = sorted(known)
    if not names:
        return "There are none."
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(f'`{name}`' for name in near)}?"
    listed = ", ".join(f"`{name}`" for name in names[:20])
    return f"Known: {listed}{', ...' if len(names) > 20 else ''}."
