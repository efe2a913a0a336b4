"""Bounds of what the libraries that compute keep in memory."""

from __future__ import annotations

import os
from typing import Final

KEPT_PRODUCTS: Final = 256
"""Compiled products that oneDNN and torch's layer over it each keep; theirs is 1024, of 0.6 MB each."""

_KEPT_PRODUCTS_VARIABLES: Final = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def bound_kept_products() -> None:
    """Have fewer compiled products kept, unless the environment says how many.

    One is compiled for every shape, so a server that meets texts of all lengths would grow by hundreds of megabytes
    over days. Both libraries read the environment at their first product: to be called before it.
    """
    for variable in _KEPT_PRODUCTS_VARIABLES:
        os.environ.setdefault(variable, str(KEPT_PRODUCTS))
