"""Filling the slots of a prompt template."""

from __future__ import annotations

import re
from typing import Final

from corral.core.errors import ConfigError, suggest

_SLOT: Final = re.compile(r"\{([a-z_]+)\}")


def fill(template: str, /, **values: str) -> str:
    """The template with each ``{name}`` replaced, in one pass: a slot's name inside a value stays as it is.

    Raises:
        ConfigError: a slot without a value.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ConfigError(f"the template has an unknown slot `{match[0]}`", hint=suggest(match[1], values))
        return values[match[1]]

    return _SLOT.sub(value, template)
