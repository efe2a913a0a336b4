"""Training rows in attack styles: what the guard already has to judge, asked the way an attacker asks.

A styled row keeps the labels of the row that it is made of, so harmless requests in the same wrappers teach that the
wrapper alone harms nobody; it is an ``attack`` either way. Styles are those of ``redteam/styles``, in our own wording.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import Field

from corral.core.config import Config
from corral.data.examples import ModerationExample
from corral.redteam.styled_rows import styled_row
from corral.redteam.styles import load_style


class AttackRowsConfig(Config):
    """Which rows are asked again in attack styles, and in which."""

    styles: tuple[str, ...] = Field(min_length=1, description="names as `corral redteam styles` lists them")
    share: float = Field(0.1, gt=0, le=1, description="of the rows that can be, which are asked once more each")
    max_chars: int = Field(300, ge=1, description="longest request; a wrapper makes it several times as long")
    max_styled_chars: int = Field(
        700, ge=1, description="longest message: training cuts long rows, and the request may stand at the end"
    )


def attack_rows(
    rows: Sequence[ModerationExample], config: AttackRowsConfig, *, seed: int
) -> Iterator[ModerationExample]:
    """New rows in attack styles, made of a share of the prompts that have no turn before them.

    A row that its style does not fit (see ``NotApplicable``), or that grows too long in it, is left out.

    Raises:
        NotFoundError: no style has such a name.
    """
    styles = [load_style(name) for name in config.styles]
    plain = [row for row in rows if _is_plain_request(row, config.max_chars)]
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(plain))[: round(config.share * len(plain))]
    for index in chosen:
        styled = styled_row(plain[index], styles[rng.integers(len(styles))], seed=seed)
        if styled is not None and len(styled.text) <= config.max_styled_chars:
            yield styled


def _is_plain_request(row: ModerationExample, max_chars: int) -> bool:
    return (
        row.target == "prompt"
        and row.harmful is not None
        and not row.attack
        and len(row.conversation.messages) == 1
        and len(row.text) <= max_chars
    )
