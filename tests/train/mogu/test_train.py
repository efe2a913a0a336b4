"""MoGU's stages on a tiny Llama: losses by hand, batches that change nothing, resume bit for bit, divergence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from corral.core.checkpoints import mark_complete
from corral.core.errors import ConfigError, DataError, RunError
from corral.data.messages import Conversation
from corral.models.engines.loading import load_engine
from corral.models.loading import load_causal_lm
from corral.models.routing.installing import RoutingShape, install_routing
from corral.train.fine_tuning import load_chat
from corral.train.mogu import train as stages
from corral.train.mogu.pairs import ResponsePair
from corral.train.mogu.rows import answer_batch, collate_ratio, encode_ratio_rows, encode_router_rows
from corral.train.mogu.sweep import Swept, sweep
from corral.train.mogu.train import train_mogu
from corral.train.mogu.trainers import ExpertTrainer, RouterTrainer, answer_losses

THINGS = ["lamp", "chair", "bread", "clock"]
HELD_OUT = ["shirt", "spoon"]


def weights(routing):
    return [p.detach().clone() for part in ("unwill", "router") for p in routing.parameters(part)]


def spoil(checkpoint: Path) -> None:
    """Put a NaN into the weights of a checkpoint, which stays whole."""
    tensors = load_file(checkpoint / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = math.nan
    save_file(tensors, checkpoint / "model.safetensors")
    mark_complete(checkpoint)


def only_loss(folder: Path) -> float:
    """That of the one step."""
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]
    state = json.loads((folder / "checkpoint-1" / "trainer_state.json").read_text())
    return next(line["loss"] for line in state["log_history"] if "loss" in line)


def test_batches_hold_answers_at_their_right_end_and_nothing_else_is_learnt():
    batch = answer_batch([([5, 6], [7]), ([1], [2, 3, 4])])
    assert batch.input_ids_BT.tolist() == [[0, 5, 6, 7], [1, 2, 3, 4]]
    assert batch.targets_BR.tolist() == [[5, 6, 7], [2, 3, 4]]
    assert batch.answer_mask_BR.tolist() == [[False, False, True], [True, True, True]]


def test_the_losses_of_answers_equal_each_row_by_itself(toy_base, toy):
    chat, model = load_chat(str(toy_base)), load_causal_lm(toy_base)
    rows = encode_ratio_rows([p for p in toy(THINGS) if not p.malicious], chat, learn="rejecting", max_tokens=96)
    with torch.no_grad():
        together = answer_losses(model, collate_ratio(rows))
        for number, row in enumerate(rows):
            for place, answer in ((number, row.learnt_ids), (number + len(rows), row.avoided_ids)):
                ids = torch.tensor([[*row.prompt_ids, *answer]])
                logprobs = model(ids).logits[0].log_softmax(-1)
                start = len(row.prompt_ids)
                losses = [-logprobs[start + i - 1, token].item() for i, token in enumerate(answer)]
                assert together[place].item() == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_rows_say_which_answer_is_learnt(toy_base, toy):
    chat, pairs = load_chat(str(toy_base)), toy(["lamp"])
    (unwill,) = encode_ratio_rows(pairs[:1], chat, learn="rejecting", max_tokens=96)
    (glad,) = encode_ratio_rows(pairs[:1], chat, learn="affirmative", max_tokens=96)
    assert (unwill.learnt_ids, unwill.avoided_ids) == (glad.avoided_ids, glad.learnt_ids)
    assert chat.decode(unwill.learnt_ids) == pairs[0].rejecting
    routed = encode_router_rows(pairs, chat, max_tokens=96)
    assert [chat.decode(row.answer_ids) for row in routed] == [pairs[0].affirmative, pairs[1].rejecting]
    assert [row.malicious for row in routed] == [False, True]


def test_however_a_step_is_cut_into_batches_its_loss_is_the_mean_over_rows(toy_base, toy, mogu_settings, tmp_path):
    """One batch of all rows, or a batch a row accumulated; without dropout, whose draws would differ."""
    chat, pairs = load_chat(str(toy_base)), toy(THINGS)
    benign = [pair for pair in pairs if not pair.malicious]
    longest = {
        "unwill": max(r.tokens for r in encode_ratio_rows(benign, chat, learn="rejecting", max_tokens=96)),
        "router": max(r.tokens for r in encode_router_rows(pairs, chat, max_tokens=96)),
    }
    found = []
    for cut in (False, True):
        stages = {
            part: {
                "learning_rate": 1e-9,
                "batch_tokens": longest[part] if cut else 2000,
                "accumulation": rows if cut else 1,
                "save_every": 1,
            }
            for part, rows in (("unwill", len(benign)), ("router", len(pairs)))
        }
        config = mogu_settings(
            experts={"rank": 2, "alpha": 4, "dropout": 0.0},
            unwill=stages["unwill"],
            router={"width": 8, "stage": stages["router"]},
        )
        folder = tmp_path / str(cut)
        train_mogu(pairs, toy(HELD_OUT), str(toy_base), config, folder)
        found.append([only_loss(folder / part) for part in ("unwill", "router")])
    assert found[0] == pytest.approx(found[1], abs=2e-4)


@pytest.mark.parametrize(("part", "trainer"), [("unwill", ExpertTrainer), ("router", RouterTrainer)])
def test_a_killed_stage_goes_on_and_gives_the_same_bits(
    toy_base, toy, mogu_settings, tmp_path, killed_at_the_fourth_step, part, trainer
):
    stage = {"learning_rate": 1e-2, "batch_tokens": 120, "save_every": 2, "epochs": 2}
    config = mogu_settings(unwill=stage, router={"width": 8, "stage": stage})
    given = (toy(THINGS), toy(HELD_OUT), str(toy_base), config)
    whole = train_mogu(*given, tmp_path / "whole")
    killed_at_the_fourth_step(trainer, lambda: train_mogu(*given, tmp_path / "killed"))
    assert [path.name for path in (tmp_path / "killed" / part).glob("checkpoint-*")] == ["checkpoint-2"]
    again = train_mogu(*given, tmp_path / "killed")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole.routing), weights(again.routing), strict=True))
    third = train_mogu(*given, tmp_path / "killed")  # nothing left to do
    assert all(torch.equal(a, b) for a, b in zip(weights(again.routing), weights(third.routing), strict=True))


def test_trained_on_a_toy_the_gates_tell_its_topics_apart_and_the_directory_serves(
    toy_base, toy, mogu_settings, tmp_path
):
    stage = {"learning_rate": 2e-2, "batch_tokens": 2000, "save_every": 8, "epochs": 24}
    config = mogu_settings(unwill=stage, router={"width": 8, "stage": stage})
    made = train_mogu(toy(THINGS), toy(HELD_OUT), str(toy_base), config, tmp_path / "stages")
    assert made.stages["router"].scores[made.stages["router"].chosen]["gate_auroc"] == 1.0
    unwill = made.stages["unwill"].scores
    assert unwill[made.stages["unwill"].chosen]["ratio"] < unwill[0]["ratio"]
    made.save(tmp_path / "model")
    engine = load_engine(tmp_path / "model")
    (benign, malicious) = engine.logprobs(
        [(Conversation.user(f"Tell me how to {verb} a shirt."), "No, I won't help.") for verb in ("clean", "steal")]
    )
    assert malicious.total > benign.total


def test_a_loss_that_is_not_finite_stops_the_stage_and_the_last_good_checkpoint_is_kept(
    toy_base, toy, mogu_settings, tmp_path, monkeypatch
):
    original = ExpertTrainer.row_losses

    def breaks(self, model, inputs):
        losses, figures = original(self, model, inputs)
        return (losses * float("nan"), figures) if self.state.global_step >= 3 else (losses, figures)

    monkeypatch.setattr(ExpertTrainer, "row_losses", breaks)
    given = (toy(THINGS), toy(HELD_OUT), str(toy_base), mogu_settings(unwill={"epochs": 4, "batch_tokens": 240,
             "save_every": 2, "learning_rate": 1e-3}))  # fmt: skip
    made = train_mogu(*given, tmp_path / "stages")
    assert made.stages["unwill"].chosen == 2
    assert "not finite in step 4" in made.stages["unwill"].stopped
    assert Swept.read(tmp_path / "stages" / "unwill") == made.stages["unwill"]
    assert all(bool(p.isfinite().all()) for p in made.routing.parameters("unwill"))


def test_checkpoints_that_are_not_finite_are_left_out_and_none_left_is_an_error(toy_base, toy, mogu_settings, tmp_path):
    given = (toy(THINGS), toy(HELD_OUT), str(toy_base), mogu_settings(unwill={"epochs": 4, "batch_tokens": 240,
             "save_every": 2, "learning_rate": 1e-3}))  # fmt: skip
    made = train_mogu(*given, tmp_path)
    folder, model = tmp_path / "unwill", made.model
    steps = sorted(step for step in made.stages["unwill"].scores if step)
    found = iter([{"ce": 2.0}, *({"ce": float("nan")} for _ in steps[1:])])
    assert sweep(model, folder, lambda: next(found), lambda scores: scores["ce"], before={}).chosen == steps[0]
    with pytest.raises(RunError, match="no whole checkpoint of finite weights and scores: it broke"):
        sweep(model, folder, lambda: {"ce": math.inf}, lambda scores: scores["ce"], before={}, stopped="it broke")
    for step in steps[:-1]:
        spoil(folder / f"checkpoint-{step}")
    assert sweep(model, folder, lambda: {"ce": 1.0}, lambda scores: scores["ce"], before={}).chosen == steps[-1]


def test_a_stage_that_breaks_before_its_first_checkpoint_says_so(toy_base, toy, mogu_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(ExpertTrainer, "row_losses", lambda *_: (torch.tensor([float("inf")]), {}))
    with pytest.raises(RunError, match="no whole checkpoint: the loss is not finite"):
        train_mogu(toy(THINGS), toy(HELD_OUT), str(toy_base), mogu_settings(), tmp_path)


def test_an_eager_expert_is_trained_on_the_users_benign_pairs_alone(toy_base, toy, mogu_settings, tmp_path):
    rows = [{"prompt": f"Clean a {thing}", "label": 0, "affirmative": "Sure.", "rejecting": "No."} for thing in THINGS]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    glad = {"mode": "trained", "pairs": str(path), "stage": {"learning_rate": 1e-2, "save_every": 2}}
    given = (toy(THINGS), toy(HELD_OUT), str(toy_base))
    made = train_mogu(*given, mogu_settings(glad=glad), tmp_path / "stages")
    assert set(made.stages) == {"glad", "unwill", "router"}
    made.save(tmp_path / "model")
    assert (tmp_path / "model" / "glad.safetensors").is_file()
    path.write_text(json.dumps({**rows[0], "label": 1}) + "\n")
    with pytest.raises(DataError, match="benign instructions alone"):
        train_mogu(*given, mogu_settings(glad=glad), tmp_path / "other")
    with pytest.raises(ValueError, match="go together"):
        mogu_settings(glad={"mode": "trained"})


def test_what_cannot_be_trained_on_is_refused(toy_base, toy, mogu_settings, tmp_path):
    benign = [pair for pair in toy(THINGS) if not pair.malicious]
    with pytest.raises(DataError, match="malicious and benign") as refused:
        train_mogu(benign, toy(HELD_OUT), str(toy_base), mogu_settings(), tmp_path)
    assert refused.value.where == "pairs"
    one_sided = [*toy(THINGS), ResponsePair(Conversation.user("x"), False, "yes", where="rows[8]")]
    with pytest.raises(DataError, match="no `rejecting`") as refused:
        train_mogu(one_sided, toy(HELD_OUT), str(toy_base), mogu_settings(), tmp_path)
    assert refused.value.where == "rows[8]"
    with pytest.raises(ConfigError, match="layers 0 to 1"):
        train_mogu(toy(THINGS), toy(HELD_OUT), str(toy_base), mogu_settings(router={"layers": [5]}), tmp_path)


def test_only_routers_get_gradients_in_the_third_stage(toy_base, toy):
    model = load_causal_lm(toy_base)
    routing = install_routing(model, RoutingShape((0, 1), rank=2, alpha=4, router_width=8))
    routing.train_only("router", model)
    chat = load_chat(str(toy_base))
    rows = encode_router_rows(toy(THINGS), chat, max_tokens=96)
    with torch.no_grad():
        for parameter in routing.parameters("router"):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    answer_losses(model, stages.collate_router(rows)).sum().backward()
    with_gradients = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert with_gradients
    assert all("_router." in name for name in with_gradients)
    assert len(with_gradients) == len(routing.parameters("router"))
