"""What keeps a server's memory flat while it meets texts of all lengths, for days."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Final

KEPT_PRODUCTS: Final = 256
"""Compiled products that oneDNN and torch's layer over it each keep; theirs is 1024, of 0.6 MB each."""

_KEPT_PRODUCTS_VARIABLES: Final = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def bound_kept_products() -> None:
    """Have fewer compiled products kept, unless the environment says how many.

    One is compiled for every shape. Both libraries read the environment at their first product: to be called before it.
    """
    for variable in _KEPT_PRODUCTS_VARIABLES:
        os.environ.setdefault(variable, str(KEPT_PRODUCTS))


def give_back_free_memory() -> None:
    """Return to the system what is allocated and not used; nothing happens where the C library is not glibc.

    Compiled products come and go between allocations that stay, and what they leave behind would grow to hundreds of
    megabytes. Takes some 20 ms; to be called outside the event loop.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
