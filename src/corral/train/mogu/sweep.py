"""Scoring the checkpoints of a stage on validation rows, and taking the best: part of the method, not a convenience.

A ratio falls when its denominator blows up, so the last checkpoint of an expert may well speak worse than an earlier
one. Taken is the expert whose learnt answer is likeliest, and the routers whose gates separate best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file

from corral.core.checkpoints import all_complete
from corral.core.errors import RunError
from corral.core.files import atomic_write_json, read_json
from corral.core.metrics import auroc
from corral.core.progress import milestone
from corral.models.routing.gated import Gates
from corral.models.routing.installing import Routing
from corral.train.mogu.rows import RatioRow, RouterRow, collate_ratio, collate_router
from corral.train.mogu.trainers import answer_losses

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

CHOSEN: Final = "chosen.json"
_WEIGHTS: Final = "model.safetensors"
_ROWS: Final = 8  # of a validation batch

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Swept:
    """What the checkpoints of a stage score.

    Attributes:
        chosen: the step that was taken.
        scores: step to its scores on the validation rows; step 0 is before the stage.
        stopped: why the stage ended before its last step, "" when it did not.
    """

    chosen: int
    scores: Mapping[int, Scores]
    stopped: str = ""

    def write(self, folder: Path) -> None:
        """Keep it beside the checkpoints."""
        scores = {str(step): dict(values) for step, values in self.scores.items()}
        atomic_write_json(folder / CHOSEN, {"chosen": self.chosen, "scores": scores, "stopped": self.stopped})

    @classmethod
    def read(cls, folder: Path) -> Swept | None:
        """What was kept, ``None`` when the stage is not done."""
        if not (folder / CHOSEN).is_file():
            return None
        value = read_json(folder / CHOSEN)
        return cls(value["chosen"], {int(k): v for k, v in value["scores"].items()}, value["stopped"])


def sweep(
    model: PreTrainedModel,
    folder: Path,
    score: Callable[[], Scores],
    better: Callable[[Scores], Any],
    *,
    before: Scores,
    stopped: str = "",
) -> Swept:
    """Score every whole checkpoint and leave the model with the weights of the best.

    A checkpoint with a weight or a score that is not finite is left out: training that diverges may write one.

    Args:
        model: whose trained weights are replaced.
        folder: of the checkpoints.
        score: of the model as it is.
        better: what is smallest for the best scores; of equals the earlier step wins.
        before: scores before the stage.
        stopped: why it ended early.

    Raises:
        RunError: there is no whole checkpoint with finite weights and scores.
    """
    checkpoints = dict(all_complete(folder))
    scores = {step: found for step, path in checkpoints.items() if (found := _finite_scores(model, path, score))}
    if not scores:
        what = " of finite weights and scores" if checkpoints else ""
        raise RunError(
            f"the stage left no whole checkpoint{what}" + (f": {stopped}" if stopped else ""),
            where=str(folder),
            hint="Lower the learning rate, set `ratio.denominator_cap`, or save more often (`save_every`).",
        )
    if len(scores) < len(checkpoints):
        milestone(f"{len(checkpoints) - len(scores)} of {len(checkpoints)} checkpoints are left out: not finite")
    chosen = min(scores, key=lambda step: (better(scores[step]), step))
    load_trained(model, checkpoints[chosen])
    swept = Swept(chosen, {0: before, **scores}, stopped)
    swept.write(folder)
    return swept


def _finite_scores(model: PreTrainedModel, path: Path, score: Callable[[], Scores]) -> Scores | None:
    """Scores of a checkpoint, put into the model; ``None`` where a weight or a score is not finite."""
    load_trained(model, path)
    if not all(bool(tensor.isfinite().all()) for tensor in load_file(path / _WEIGHTS).values()):
        return None
    scores = score()
    return scores if all(map(math.isfinite, scores.values())) else None


def load_trained(model: PreTrainedModel, checkpoint: Path) -> None:
    """Put the weights of a checkpoint, which holds the trained ones alone, into the model."""
    result = model.load_state_dict(load_file(checkpoint / _WEIGHTS), strict=False)
    if result.unexpected_keys:
        raise RunError(
            f"the checkpoint does not fit the model: `{result.unexpected_keys[0]}`",
            where=str(checkpoint),
            hint="It was made with other settings. Use a new run directory.",
        )


def score_expert(model: PreTrainedModel, rows: Sequence[RatioRow]) -> Scores:
    """Mean cross-entropies, a token, of the learnt and the avoided answers, and the mean of their ratios."""
    learnt: list[float] = []
    avoided: list[float] = []
    for batch in _batches(rows):
        with torch.no_grad():
            losses_B = answer_losses(model, collate_ratio(batch))
        learnt += losses_B[: len(batch)].tolist()
        avoided += losses_B[len(batch) :].tolist()
    ratios = [a / b for a, b in zip(learnt, avoided, strict=True)]
    return {"ce_learnt": _mean(learnt), "ce_avoided": _mean(avoided), "ratio": _mean(ratios)}


def score_routers(model: PreTrainedModel, routing: Routing, rows: Sequence[RouterRow]) -> Scores:
    """Mean cross-entropy of the desired answers, and the AUROC of the gates over the prompts' tokens."""
    losses: list[float] = []
    gaps: list[float] = []
    for batch in _batches(rows):
        inputs = collate_router(batch)
        prompts_BT = inputs["attention_mask_BT"].bool()
        longest = inputs["answer_mask_BR"].shape[1]
        prompts_BT[:, -longest:] &= ~inputs["answer_mask_BR"]
        with torch.no_grad(), routing.control.recorded() as gates:
            losses += answer_losses(model, inputs).tolist()
            gaps += mean_gap(gates, prompts_BT).tolist()
    found = auroc([int(row.malicious) for row in rows], gaps)
    return {"ce_desired": _mean(losses), **({} if found is None else {"gate_auroc": found})}


def mean_gap(gates: Mapping[int, Gates], mask_BT: Tensor) -> Tensor:
    """Mean over layers and chosen tokens of a - b, (B,): how far the reluctant gate is open beyond the eager one."""
    gap_LBT = torch.stack([each.unwill_BT - each.glad_BT for each in gates.values()])
    return gap_LBT.mean(dim=0).masked_fill(~mask_BT, 0.0).sum(dim=-1) / mask_BT.sum(dim=-1)


def _batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
