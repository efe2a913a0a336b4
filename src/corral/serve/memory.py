"""What keeps a server's memory flat while it meets texts of all lengths, for days."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

KEPT_PRODUCTS: Final = 64
"""Compiled products that oneDNN and torch's layer over it each keep; theirs is 1024, of half a megabyte each.

Texts of 1 to 100 words need some 280. With 64 kept, one product in 150 is compiled anew, in 0.3 ms; with 256, a server
grew for its first 6,500 requests."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGE: Final = 2**20
_LARGEST_THRESHOLD: Final = 32 * 2**20

_KEPT_PRODUCTS_VARIABLES: Final = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def bound_kept_products() -> None:
    """Have fewer compiled products kept, unless the environment says how many.

    One is compiled for every shape. Both libraries read the environment at their first product: to be called before it.
    """
    for variable in _KEPT_PRODUCTS_VARIABLES:
        os.environ.setdefault(variable, str(KEPT_PRODUCTS))


@contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Weights that are loaded meanwhile lie in mappings of their own; nothing happens where the C library is not glibc.

    Loading a model takes and frees large blocks. Among small ones that stay they leave holes, which a server
    would fill page by page over thousands of requests. Afterwards the bounds are those that glibc
    comes to by itself: a batch's blocks are then used again and not mapped anew.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)


def give_back_free_memory() -> None:
    """Return to the system what is allocated and not used; nothing happens where the C library is not glibc.

    What a batch leaves free lies between allocations that stay: some 50 MB. Takes some 20 ms; to be called outside the
    event loop.
    """
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
