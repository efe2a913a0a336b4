"""What the name of a released checkpoint tells about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from corral.core.errors import ConfigError

_RELEASED: Final = re.compile(r"llama-?guard(?:-(?P<number>[234]))?(?P<small>-1b)?", re.IGNORECASE)


def generation_of(model: str) -> str:
    """The generation of prompts that the name of a released checkpoint tells, for example ``3-1b``.

    Raises:
        ConfigError: the name tells none.
    """
    match = _RELEASED.search(Path(model).name)
    if match is None:
        raise ConfigError(
            f"the name `{model}` does not tell which generation of prompts the model was trained on",
            where="generation",
            hint="Give `generation`: 1, 2, 3, 3-1b or 4.",
        )
    number = match["number"] or "1"
    return "3-1b" if number == "3" and match["small"] else number
