"""The head at labelled tokens gives what TRL's own head gives, which scores every token; so do the gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from corral.models.loading import load_causal_lm
from corral.train.labelled_head import score_labelled_tokens

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")


def test_every_field_and_gradient_equals_the_librarys(tiny_base: Path) -> None:
    theirs, ours = (load_causal_lm(tiny_base, dtype=torch.float32) for _ in range(2))
    for model in (theirs, ours):
        add_fused_lm_head(model, outputs=FIELDS)
    score_labelled_tokens(ours)
    ids = torch.arange(60).reshape(3, 20)
    labels = ids.clone()
    labels[:, :7] = -100
    labels[1, 12:] = -100
    found = [model(input_ids=ids, labels=labels, fused_lm_head=True) for model in (theirs, ours)]
    for name in (*FIELDS, "loss", "label_mask"):
        torch.testing.assert_close(getattr(found[1], name).float(), getattr(found[0], name).float(), msg=name)
    for each in found:
        each.log_probs.sum().backward()
    for (name, a), b in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=name)


@pytest.mark.parametrize("arguments", [{}, {"labels": torch.tensor([[5, 6, 7]])}], ids=["logits", "own loss"])
def test_calls_that_do_not_ask_for_it_are_not_changed(tiny_base: Path, arguments: dict[str, torch.Tensor]) -> None:
    model = load_causal_lm(tiny_base, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids, **arguments)
    add_fused_lm_head(model, outputs=FIELDS)
    score_labelled_tokens(model)
    after = model(input_ids=ids, **arguments)
    assert torch.equal(before.logits, after.logits)
    assert before.loss == after.loss


def test_a_batch_without_labelled_tokens_is_a_zero_that_can_be_differentiated(tiny_base: Path) -> None:
    model = load_causal_lm(tiny_base, dtype=torch.float32)
    add_fused_lm_head(model, outputs=FIELDS)
    score_labelled_tokens(model)
    ids = torch.tensor([[5, 6, 7]])
    found = model(input_ids=ids, labels=torch.full_like(ids, -100), fused_lm_head=True)
    found.log_probs.sum().backward()
    assert found.log_probs.sum().item() == 0.0
