"""Every method is found by name, has defaults that are valid, and says what it does."""

from __future__ import annotations

import pytest

from corral.core.errors import NotFoundError
from corral.quant.methods import METHODS, Method


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_has_valid_defaults_and_a_docstring(name):
    method = METHODS.get(name)
    assert issubclass(method, Method)
    assert method().model_dump()
    assert "Settings of" in (method.__doc__ or "")


def test_a_misspelt_method_is_met_with_near_ones():
    with pytest.raises(NotFoundError, match="gptqq") as error:
        METHODS.get("gptqq")
    assert "gptq" in str(error.value.hint)
