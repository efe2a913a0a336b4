"""Training a guard on a tiny base: labels reach the right heads, the loss is normalised once, resume is exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from corral.core.errors import ConfigError
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.guards.default.guard import TrainedGuard
from corral.guards.default.network import BINARY_HEADS
from corral.studies.default_guard.recipe import write_guard
from corral.studies.default_guard.settings import DefaultGuardConfig
from corral.train.guard import classifier as guard_module
from corral.train.guard.classifier import build_network, collate, encode_rows, load_encoder, train_guard
from corral.train.guard.classifier_settings import GuardTrainingConfig


def settings(base: Path, **changes: object) -> GuardTrainingConfig:
    values = {
        "base": str(base),
        "layers": 2,
        "first_trained_layer": 1,
        "rank": 2,
        "alpha": 4,
        "max_row_tokens": 48,
        "max_context_tokens": 16,
        "batch_tokens": 128,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "save_every": 2,
    }
    return GuardTrainingConfig.model_validate(values | changes)


def rows(n: int = 24) -> list[ModerationExample]:
    made = []
    for i in range(n):
        harmful = i % 2 == 0
        text = f"{'please hurt' if harmful else 'please bake'} number {i}"
        if i % 3:
            made.append(ModerationExample(Conversation.user(text), "prompt", harmful=harmful, attack=False, id=str(i)))
        else:
            made.append(
                ModerationExample(
                    Conversation.exchange("do it", text),
                    "response",
                    harmful=harmful,
                    refusal=not harmful,
                    id=str(i),
                    categories={"llama_guard_3/S1": harmful},
                )
            )
    return made


def trained(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}


def test_labels_reach_their_heads_and_unknown_stays_unknown(tiny_base: Path) -> None:
    config = settings(tiny_base)
    encoded = encode_rows(rows(2), load_encoder(config), config)
    assert dict(zip(BINARY_HEADS, encoded[0].binary, strict=True)) == {
        "prompt_harm": -100.0,
        "prompt_attack": -100.0,
        "response_harm": 1.0,
        "response_refusal": 0.0,
    }
    assert encoded[0].categories == [1.0] + [-100.0] * 13
    assert dict(zip(BINARY_HEADS, encoded[1].binary, strict=True)) == {
        "prompt_harm": 0.0,
        "prompt_attack": 0.0,
        "response_harm": -100.0,
        "response_refusal": -100.0,
    }


def test_long_rows_keep_the_start_of_the_judged_message_and_its_end_token(tiny_base: Path) -> None:
    config = settings(tiny_base)
    encoder = load_encoder(config)
    row = ModerationExample(Conversation.exchange("c" * 100, "r" * 100), "response", harmful=True)
    (encoded,) = encode_rows([row], encoder, config)
    assert len(encoded.ids) == config.max_row_tokens
    judged = encoder.encode(row.conversation, "response")
    assert judged is not None
    start, stop = encoded.span
    assert encoded.ids[start : stop - 1] == judged.text[: stop - 1 - start]
    assert encoded.ids[stop - 1 : stop] == judged.end


def test_known_pairs_are_counted_once(tiny_base: Path) -> None:
    config = settings(tiny_base)
    batch = collate(encode_rows(rows(2), load_encoder(config), config))
    # the response: harm, refusal and categories; the prompt: harm and attack
    assert batch["labels"].ne(-100).sum().item() == 5


def test_only_adapter_and_heads_take_gradients(tiny_base: Path) -> None:
    network = build_network(settings(tiny_base))
    names = list(trained(network))
    assert names
    assert all("lora_" in name or name.startswith("heads.") for name in names)
    assert not any(".layers.0." in name for name in names)


def test_training_learns_a_word_that_decides(tiny_base: Path, tmp_path: Path) -> None:
    config = settings(tiny_base, epochs=12)
    network = train_guard(rows(), config, tmp_path).eval()
    batch = collate(encode_rows(rows(), load_encoder(config), config))
    with torch.inference_mode():
        binary = network(batch["input_ids"], batch["attention_mask"], batch["span"]).binary
    known = batch["binary"] >= 0
    correct = ((binary > 0) == (batch["binary"] > 0.5))[known].float().mean()
    assert correct > 0.9


class Kill(TrainerCallback):
    """Stops training as a kill would, in the middle of a step that is not saved yet."""

    def on_step_begin(self, args: object, state: object, control: object, **_: object) -> None:
        if state.global_step == 5:  # type: ignore[attr-defined]
            raise KeyboardInterrupt


def test_resumed_training_equals_uninterrupted_training_bit_for_bit(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tiny_base, epochs=2)
    whole = trained(train_guard(rows(), config, tmp_path / "whole"))
    original = guard_module._GuardTrainer.__init__
    with monkeypatch.context() as patched:

        def with_kill(self: object, **arguments: object) -> None:
            original(self, **arguments)  # type: ignore[arg-type]
            self.add_callback(Kill())  # type: ignore[attr-defined]

        patched.setattr(guard_module._GuardTrainer, "__init__", with_kill)
        with pytest.raises(KeyboardInterrupt):
            train_guard(rows(), config, tmp_path / "resumed")
    saved = sorted(p.name for p in (tmp_path / "resumed").glob("checkpoint-*"))
    assert "checkpoint-4" in saved
    resumed = trained(train_guard(rows(), config, tmp_path / "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_torn_checkpoint_is_passed_over(tiny_base: Path, tmp_path: Path) -> None:
    config = settings(tiny_base, epochs=2)
    whole = trained(train_guard(rows(), config, tmp_path))
    newest = max(tmp_path.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    (newest / "model.safetensors").write_bytes(b"torn")
    again = trained(train_guard(rows(), config, tmp_path))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_nothing_to_train_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match="first_trained_layer"):
        build_network(settings(tiny_base, first_trained_layer=2))


def test_a_guard_on_an_encoder_is_trained_written_and_loaded(tiny_encoder: Path, tmp_path: Path) -> None:
    config = settings(tiny_encoder, first_trained_layer=0, epochs=2)
    network = train_guard(rows(), config, tmp_path / "checkpoints")
    adapted = [name for name, p in network.backbone.named_parameters() if p.requires_grad]
    assert len(adapted) == 2 * 2 * 6  # A and B of six Linears in each of two layers
    write_guard(tmp_path / "guard", network, DefaultGuardConfig(training=config, mixture=(), window=96, overlap=8))
    guard = TrainedGuard.load(weights=tmp_path / "guard", dtype="float32")

    batch = collate(encode_rows(rows(6), load_encoder(config), config))
    with torch.inference_mode():
        trained_scores = network.eval()(batch["input_ids"], batch["attention_mask"], batch["span"]).binary
    for row, expected in zip(rows(6), trained_scores, strict=True):
        (scores,) = guard.raw_scores([row.conversation], target=row.target)
        assert scores is not None
        assert scores[:4] == pytest.approx(expected.double().numpy(), abs=0.02)  # the adapter is kept in bfloat16


def test_an_encoder_judges_a_prompt_as_if_nothing_followed(tiny_encoder: Path, tmp_path: Path) -> None:
    config = settings(tiny_encoder, first_trained_layer=0)
    network = build_network(config)
    torch.nn.init.normal_(network.heads.binary)
    write_guard(tmp_path / "guard", network, DefaultGuardConfig(training=config, mixture=(), window=96, overlap=8))
    guard = TrainedGuard.load(weights=tmp_path / "guard", dtype="float32")
    alone, followed = guard.raw_scores(
        [Conversation.user("how to bake"), Conversation.exchange("how to bake", "hurt hurt")], target="prompt"
    )
    assert alone is not None
    assert followed == pytest.approx(alone)
    (both,) = guard.classify_both([Conversation.exchange("how to bake", "hurt hurt")])
    assert set(both) == {"prompt", "response"}
    long = guard.classify([Conversation.user("please bake " * 60)])[0]
    assert long.windows > 1
    with pytest.raises(ConfigError, match="int8"):
        TrainedGuard.load(weights=tmp_path / "guard", dtype="int8")
    write_guard(tmp_path / "guard", network, DefaultGuardConfig(training=config, mixture=(), window=300, overlap=8))
    with pytest.raises(ConfigError, match="at most 200 tokens"):
        TrainedGuard.load(weights=tmp_path / "guard", dtype="float32")
