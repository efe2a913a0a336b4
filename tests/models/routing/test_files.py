"""A directory of routing parts: bit-exact, bound to its base, readable by every loader, and safe without `glad`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from corral.core.errors import DataError, NotFoundError, UserError
from corral.core.files import sha256_file
from corral.guards.perplexity_filter import PerplexityFilter
from corral.guards.self_examination import SelfExamination
from corral.models.engines.first_tokens import FirstTokensSwitch
from corral.models.engines.loading import load_engine
from corral.models.engines.torch import TorchEngine
from corral.models.loading import (
    load_backbone,
    load_causal_lm,
    load_fast_tokenizer,
    load_tokenizer,
    weights_revision,
)
from corral.models.routing.files import save_routing
from corral.models.routing.installing import collapse_routers, routing_of
from corral.models.routing.record import RECORD, RoutingRecord
from corral.models.tiny import write_tiny_llama

IDS = torch.tensor([[5, 6, 7, 8, 9, 3]])


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture
def saved(tiny_base: Path, tmp_path: Path, gate_model):
    """A gated model and its directory, base beside it."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    model, routing = gate_model(load_causal_lm(base), layers=(0, 2))
    folder = tmp_path / "mogu"
    save_routing(model, routing, folder, base=str(base), base_revision=weights_revision(base), first_tokens=3)
    return model, routing, folder


def test_what_is_loaded_is_what_was_saved_bit_for_bit(saved):
    model, routing, folder = saved
    collapse_routers(routing)
    loaded = load_causal_lm(folder)
    assert torch.equal(logits(loaded), logits(model))
    again = folder.parent / "again"
    save_routing(loaded, routing_of(loaded), again, base=str(folder.parent / "base"), base_revision="x", first_tokens=3)
    for name in ("unwill", "glad", "router"):
        first, second = (load_file(each / f"{name}.safetensors") for each in (folder, again))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_faithful_routers_are_stored_collapsed(saved):
    model, _, folder = saved
    stored = load_file(folder / "router.safetensors")
    assert stored["layers.0.unwill.weight"].shape == (32,)
    torch.testing.assert_close(logits(load_causal_lm(folder)), logits(model), atol=1e-4, rtol=1e-4)


def test_every_loader_takes_the_directory(saved):
    _, _, folder = saved
    engine = load_engine(folder)
    assert isinstance(engine, FirstTokensSwitch)
    assert engine.first_tokens == 3
    base = folder.parent / "base"
    assert type(load_engine(base)) is TorchEngine
    assert load_tokenizer(folder).chat_template == load_tokenizer(base).chat_template
    assert load_fast_tokenizer(folder).to_str() == load_fast_tokenizer(base).to_str()
    assert load_causal_lm(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(UserError, match="whole"):
        load_backbone(folder)
    with pytest.raises(UserError, match="whole"):
        load_causal_lm(folder, layers=1)


def test_the_revision_changes_with_a_part_and_with_the_settings(saved):
    _, _, folder = saved
    first = weights_revision(folder)
    assert weights_revision(folder) == first
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | {"first_tokens": 4}))
    assert weights_revision(folder) != first


def test_the_directory_may_move_with_its_base(saved, tmp_path):
    _, _, folder = saved
    before = logits(load_causal_lm(folder))
    shutil.move(tmp_path, moved := tmp_path.parent / f"{tmp_path.name}-moved")
    assert torch.equal(logits(load_causal_lm(moved / "mogu")), before)


def test_without_the_eager_expert_the_base_takes_its_place_and_that_is_said(saved, capsys):
    model, routing, folder = saved
    (folder / "glad.safetensors").unlink()
    loaded = load_causal_lm(folder)
    assert "without its eager expert" in capsys.readouterr().err
    assert not routing_of(loaded).has_glad
    collapse_routers(routing)
    for each in routing.gated.values():
        each.glad = None
    assert torch.equal(logits(loaded), logits(model))


def test_a_model_in_base_mode_has_no_eager_file(tiny_base, tmp_path, gate_model):
    model, routing = gate_model(load_causal_lm(tiny_base), glad=False)
    record = save_routing(
        model, routing, tmp_path / "mogu", base=str(tiny_base), base_revision=weights_revision(tiny_base)
    )
    assert record.glad == "base"
    assert {path.name for path in (tmp_path / "mogu").iterdir()} == {
        RECORD,
        "unwill.safetensors",
        "router.safetensors",
    }
    assert RoutingRecord.read(tmp_path / "mogu") == record


def test_parts_on_another_base_are_refused(saved, tmp_path):
    _, _, folder = saved
    shutil.rmtree(tmp_path / "base")
    write_tiny_llama(tmp_path / "base", seed=7)
    with pytest.raises(DataError, match="was trained on revision"):
        load_causal_lm(folder)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(NotFoundError):
        load_causal_lm(folder)


@pytest.mark.parametrize("part", ["unwill", "router", "glad"])
def test_a_part_that_was_changed_is_refused(saved, part):
    _, _, folder = saved
    path = folder / f"{part}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"`{part}` differs") as refused:
        load_causal_lm(folder)
    assert refused.value.where == str(path)


def test_a_tensor_of_the_right_size_and_another_shape_is_refused(saved):
    _, _, folder = saved
    path = folder / "unwill.safetensors"
    save_file({name: tensor.T.contiguous() for name, tensor in load_file(path).items()}, path)
    record = json.loads((folder / RECORD).read_text())
    record["parts"]["unwill"] = sha256_file(path)
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(DataError, match="has shape"):
        load_causal_lm(folder)


@pytest.mark.parametrize("part", ["unwill", "router"])
def test_a_part_that_is_missing_is_named(saved, part):
    _, _, folder = saved
    (folder / f"{part}.safetensors").unlink()
    with pytest.raises(DataError, match=f"`{part}` is missing"):
        load_causal_lm(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_layers": 9}, "9 layers"),
        ({"rank": 3}, "shape"),
        ({"outputs": 9}, "and 9 outputs"),
        ({"format": "other/1"}, "not a record"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(saved, changes, message):
    _, _, folder = saved
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | changes))
    with pytest.raises(DataError, match=message):
        load_causal_lm(folder)


def test_guards_that_ask_a_model_decode_and_score_such_a_directory_as_it_serves(saved):
    _, _, folder = saved
    for guard in (
        SelfExamination.load(model=str(folder)),
        PerplexityFilter.load(model=str(folder), threshold=9.0, window=16, overlap=2),
    ):
        assert isinstance(guard._engine, FirstTokensSwitch)
