"""What can be the base of a training: no model with gates, none with packed layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.core.errors import ConfigError
from corral.models.loading import load_causal_lm, weights_revision
from corral.models.routing.files import save_routing
from corral.models.routing.installing import RoutingShape, install_routing
from corral.quant.methods.nf4 import Nf4
from corral.quant.quantize import quantize
from corral.train.fine_tuning import prepare_model
from corral.train.fine_tuning_settings import SftConfig


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_a_model_with_gates_is_refused(tiny_base: Path, tmp_path: Path, full: bool) -> None:
    model = load_causal_lm(tiny_base)
    routing = install_routing(model, RoutingShape((0,), rank=2, alpha=4, router="collapsed"))
    save_routing(model, routing, tmp_path / "mogu", base=str(tiny_base), base_revision=weights_revision(tiny_base))
    with pytest.raises(ConfigError, match="MoGU's gates") as refused:
        prepare_model(str(tmp_path / "mogu"), SftConfig(full=full))
    assert refused.value.where == str(tmp_path / "mogu")


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_a_quantized_model_is_refused(tiny_base: Path, tmp_path: Path, full: bool) -> None:
    quantize(tiny_base, "nf4", Nf4(), tmp_path / "packed")
    with pytest.raises(ConfigError, match="is packed"):
        prepare_model(str(tmp_path / "packed"), SftConfig(full=full))
