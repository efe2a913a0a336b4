"""IEC is LoRA where its bridges are closed, and merges where they are open."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from corral.core.errors import ConfigError, DataError
from corral.data.examples import PromptCompletionExample
from corral.data.messages import Conversation
from corral.models.loading import load_causal_lm
from corral.models.tiny import write_tiny_llama
from corral.train.elastic_lora import ElasticLora, prepare_elastic
from corral.train.fine_tuning_settings import SftConfig
from corral.train.sft import train_sft

INPUTS = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))


def trained(bridge_in, bridge_out):
    adapter = ElasticLora(24, 12, rank=4, alpha=8, seed=1)
    with torch.no_grad():
        adapter.up.copy_(torch.randn(12, 4, generator=torch.Generator().manual_seed(2)))
        adapter.bridge_in.fill_(bridge_in)
        adapter.bridge_out.fill_(bridge_out)
    return adapter


def test_a_new_adapter_adds_nothing():
    assert (ElasticLora(24, 12, rank=4, alpha=8)(INPUTS) == 0).all()


def test_with_closed_bridges_it_is_lora():
    adapter = trained(0.0, 0.0)
    torch.testing.assert_close(adapter(INPUTS), 2 * INPUTS @ adapter.down.t() @ adapter.up.t())


def test_bridges_are_means_of_groups_and_repeats():
    adapter = trained(0.5, 2.0)
    between = INPUTS @ adapter.down.t() + 0.5 * torch.stack([INPUTS[:, 6 * i : 6 * i + 6].mean(1) for i in range(4)], 1)
    repeated = torch.stack([between[:, i // 3] for i in range(12)], 1)
    torch.testing.assert_close(adapter(INPUTS), 2 * (between @ adapter.up.t() + 2.0 * repeated))


def test_a_merged_weight_gives_the_same():
    adapter, weight = trained(0.7, -0.3), torch.randn(12, 24, generator=torch.Generator().manual_seed(3))
    apart = F.linear(INPUTS, weight) + adapter(INPUTS)
    torch.testing.assert_close(F.linear(INPUTS, weight + adapter.delta()), apart, atol=1e-4, rtol=1e-4)


def test_bridges_learn():
    adapter = trained(0.0, 0.0)
    adapter(INPUTS).sum().backward()
    assert adapter.bridge_in.grad.abs() > 0
    assert adapter.bridge_out.grad.abs() > 0


def test_a_rank_that_does_not_divide_both_sides_is_refused():
    with pytest.raises(ConfigError, match="rank `8` does not divide 24 inputs and 12 outputs"):
        ElasticLora(24, 12, rank=8, alpha=8)


def test_training_moves_the_bridges_alone_and_merges_into_plain_linears(tmp_path):
    base = write_tiny_llama(tmp_path / "base", layers=2, context=256)
    config = SftConfig(
        first_trained_layer=1, rank=4, alpha=8, max_tokens=96, batch_tokens=96, epochs=3, precision="fp32"
    )
    rows = [PromptCompletionExample(Conversation.user("hello"), f"day {i}", "test", "none") for i in range(4)]
    tuned = train_sft(rows, str(base), config, tmp_path / "checkpoints", prepare=prepare_elastic)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        apart = tuned.model(ids).logits
        adapters = [module for module in tuned.model.modules() if isinstance(module, ElasticLora)]
        assert len(adapters) == 7
        assert any(adapter.bridge_in != 0 for adapter in adapters)
        assert any(adapter.bridge_out != 0 for adapter in adapters)
        merged = tuned.merged()
        torch.testing.assert_close(merged(ids).logits, apart, atol=1e-4, rtol=1e-4)
    before, after = load_causal_lm(base).state_dict(), merged.state_dict()
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".layers.1." in name and "_proj" in name for name in changed)


def test_an_elastic_adapter_is_not_written_as_plain_lora(tmp_path):
    base = write_tiny_llama(tmp_path / "base", layers=1)
    tuned = prepare_elastic(str(base), SftConfig(first_trained_layer=0, rank=4))
    with pytest.raises(DataError, match="no plain LoRA"):
        tuned.save_adapter(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="rank `3` does not divide"):
        prepare_elastic(str(base), SftConfig(first_trained_layer=0, rank=3))
