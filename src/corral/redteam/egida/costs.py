"""What mining cost: time of the machine, and what the judge read, at the user's prices; and where to stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.core.errors import ConfigError
from corral.core.files import atomic_write_json, read_json

_SECONDS_AN_HOUR: Final = 3600.0
_BYTES_A_TOKEN: Final = 4.0  # of English text; a judge that is a guard does not say what it read


@dataclass(frozen=True, slots=True)
class Prices:
    """The user's prices, in US dollars.

    Attributes:
        hour: of the machine that target and pool run on.
        million_judged: of a million tokens that the judge reads.
        stop_after: no instance is begun once so much is spent; ``None`` for no limit.

    Raises:
        ConfigError: a negative price or limit.
    """

    hour: float = 0.0
    million_judged: float = 0.0
    stop_after: float | None = None

    def __post_init__(self) -> None:
        for name in ("hour", "million_judged", "stop_after"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"`{value}` is no price", where=f"prices.{name}")


class CostMeter:
    """Adds up time, that of earlier sessions included, and judged tokens.

    A session that goes on after a kill walks over all instances again, from journals where it can, and so counts what
    was judged from the start; only time has to be kept.

    Args:
        path: JSON file that keeps the sums.
        prices: of the units.
    """

    def __init__(self, path: Path, prices: Prices) -> None:
        self._path = path
        self._prices = prices
        self.seconds = float(read_json(path)["seconds"]) if path.is_file() else 0.0
        self.judged_tokens = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside, and keep the sums at its end, whether or not it ends well."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started
            self.keep()

    def judged(self, *texts: str) -> None:
        """Count what a judge read, estimated at four bytes a token."""
        self.judged_tokens += sum(len(text.encode()) for text in texts) / _BYTES_A_TOKEN

    @property
    def usd(self) -> float:
        """Spent so far."""
        hours = self.seconds / _SECONDS_AN_HOUR
        return hours * self._prices.hour + self.judged_tokens / 1e6 * self._prices.million_judged

    @property
    def exhausted(self) -> bool:
        """Whether the limit is reached."""
        return self._prices.stop_after is not None and self.usd >= self._prices.stop_after

    def keep(self) -> None:
        """Write the sums."""
        atomic_write_json(self._path, {"seconds": self.seconds, "judged_tokens": self.judged_tokens})

    def to_json(self) -> dict[str, float]:
        """As plain JSON values."""
        return {"hours": self.seconds / _SECONDS_AN_HOUR, "judged_tokens": self.judged_tokens, "usd": self.usd}
