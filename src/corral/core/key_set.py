"""A set of strings that keeps 16 bytes of each: for the keys of journals with millions of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_DIGEST_BYTES: Final = 16
_RECENT: Final = 1 << 16


class KeySet:
    """Strings that can be added and asked for, not listed or removed.

    Only a 128-bit digest of each is kept; among a billion keys two share one with probability 1e-21. Recent digests sit
    in a Python set and move to a sorted array (16 bytes each instead of about 100) once there are enough of them.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._recent: set[bytes] = set()
        self._settled: npt.NDArray[np.bytes_] | None = None
        for key in keys:
            self.add(key)

    def add(self, key: str) -> None:
        """Add a key; adding it again changes nothing."""
        digest = _digest(key)
        if digest in self._recent or self._is_settled(digest):
            return
        self._recent.add(digest)
        settled = 0 if self._settled is None else len(self._settled)
        if len(self._recent) >= max(_RECENT, settled // 8):  # a share of the whole keeps the sorting linear in all
            self._settle()

    def __contains__(self, key: str) -> bool:
        digest = _digest(key)
        return digest in self._recent or self._is_settled(digest)

    def __len__(self) -> int:
        return len(self._recent) + (0 if self._settled is None else len(self._settled))

    def _is_settled(self, digest: bytes) -> bool:
        if self._settled is None:
            return False
        index = int(self._settled.searchsorted(_array([digest]))[0])
        return index < len(self._settled) and bytes(self._settled[index : index + 1].tobytes()) == digest

    def _settle(self) -> None:
        import numpy as np

        recent = _array(list(self._recent))
        merged = recent if self._settled is None else np.concatenate([self._settled, recent])
        merged.sort(kind="stable")
        self._settled, self._recent = merged, set()


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def _array(digests: list[bytes]) -> Any:
    import numpy as np

    # fixed-width bytes compare as if padded with zeros, so digests of equal length keep their order and identity
    return np.array(digests, dtype=f"S{_DIGEST_BYTES}")
