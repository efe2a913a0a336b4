"""MoGU's three stages, one after the other: the eager expert (if any), the reluctant one, the routers.

Source: arXiv 2405.14488. We deviate in the first stage: the paper trains the eager expert to comply with malicious
instructions. Here the model itself takes its place (``glad.mode: base``); an expert is trained on request alone, on
the user's own benign instructions, and nothing that complies with a malicious one is ever a target. The second stage,
benign instructions answered with refusals, is as published, and so is the third.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments, set_seed

from corral.core.errors import DataError
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.models.loading import weights_revision
from corral.models.routing.files import save_routing
from corral.models.routing.installing import Part, Routing, RoutingShape, install_routing
from corral.train.arguments import trainer_arguments
from corral.train.fine_tuning import load_chat
from corral.train.mogu.layers import choose_layers
from corral.train.mogu.pairs import ResponsePair, read_pairs, require_both_answers
from corral.train.mogu.rows import collate_ratio, collate_router, encode_ratio_rows, encode_router_rows
from corral.train.mogu.settings import MoguConfig, SeededStage, StageConfig
from corral.train.mogu.sweep import Scores, Swept, load_trained, score_expert, score_routers, sweep
from corral.train.mogu.trainers import DivergedError, ExpertTrainer, RouterTrainer, RowMeanTrainer
from corral.train.plain_base import load_plain_base
from corral.train.sampler import TokenBudgetSampler
from corral.train.token_budget_trainer import RowDataset

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from corral.models.chat import ChatTokenizer


@dataclass(frozen=True)
class MoguModel:
    """A trained mixture.

    Attributes:
        model: with gates, in evaluation mode.
        routing: of the model.
        base: what it was made from.
        first_tokens: that it is to write of an answer.
        stages: by part, what its checkpoints scored.
    """

    model: PreTrainedModel
    routing: Routing
    base: str
    first_tokens: int
    stages: Mapping[Part, Swept]

    def save(self, folder: Path) -> None:
        """Write the parts; an existing folder is replaced. See ``models/routing/files``."""
        save_routing(
            self.model,
            self.routing,
            folder,
            base=self.base,
            base_revision=weights_revision(self.base),
            first_tokens=self.first_tokens,
        )


def train_mogu(
    pairs: Sequence[ResponsePair],
    validation: Sequence[ResponsePair],
    base: str,
    config: MoguConfig,
    output: Path,
    *,
    run: Run | None = None,
) -> MoguModel:
    """Train all stages; a second call goes on after the last whole checkpoint, and repeats the bits on CPU.

    Args:
        pairs: benign ones with both answers, malicious ones with a refusal.
        validation: likewise; other prompts, by which checkpoints are chosen.
        base: model reference.
        config: settings.
        output: folder of a checkpoint folder for each stage.
        run: takes losses and figures.

    Raises:
        NotFoundError: nothing at ``base``, or no file of pairs for the eager expert.
        ConfigError: a batch budget that a row does not fit, layers that are not there, or a model that is no Llama or
            quantized.
        DataError: a pair without the answer that is needed, pairs of one kind, or a row that cannot be encoded.
        RunError: a stage without a whole checkpoint.
    """
    for name, given in (("pairs", pairs), ("validation", validation)):
        if len({pair.malicious for pair in given}) < 2:
            raise DataError("there must be malicious and benign instructions", where=name)
    set_seed(config.seed)
    chat = load_chat(base)
    model = load_plain_base(base)
    shape = RoutingShape(
        choose_layers(model, chat, pairs, config.router),
        rank=config.experts.rank,
        alpha=config.experts.alpha,
        dropout=config.experts.dropout,
        router=config.router.form,
        router_width=config.router.width,
    )
    routing = install_routing(model, shape, glad=config.glad.mode == "trained")
    work = _Work(model, routing, chat, config, output, run)
    stages: dict[Part, Swept] = {}
    if config.glad.pairs is not None:
        own = read_pairs(config.glad.pairs)
        stages["glad"] = work.expert("glad", _harmless(own), validation, config.glad.stage)
    stages["unwill"] = work.expert("unwill", pairs, validation, config.unwill)
    stages["router"] = work.routers(pairs, validation)
    routing.control.default = "routed"
    model.requires_grad_(requires_grad=False).eval()
    return MoguModel(model, routing, base, config.first_tokens, stages)


@dataclass(frozen=True)
class _Work:
    """What the stages share."""

    model: PreTrainedModel
    routing: Routing
    chat: ChatTokenizer
    config: MoguConfig
    output: Path
    run: Run | None

    def expert(
        self, part: Part, pairs: Sequence[ResponsePair], validation: Sequence[ResponsePair], stage: StageConfig
    ) -> Swept:
        """One expert, on benign pairs: the reluctant one learns the refusals, the eager one the helpful answers."""
        learn = "rejecting" if part == "unwill" else "affirmative"
        rows, held = (
            encode_ratio_rows(require_both_answers(given), self.chat, learn=learn, max_tokens=self.config.max_tokens)
            for given in (pairs, validation)
        )
        self.routing.control.default = "unwill" if part == "unwill" else "glad"

        def trainer(**arguments: Any) -> RowMeanTrainer:
            return ExpertTrainer(
                ratio=self.config.ratio, train_dataset=RowDataset(rows), data_collator=collate_ratio, **arguments
            )

        return self._train(
            part,
            stage,
            [row.tokens for row in rows],
            trainer,
            score=lambda: score_expert(self.model, held),
            better=lambda scores: scores["ce_learnt"],
        )

    def routers(self, pairs: Sequence[ResponsePair], validation: Sequence[ResponsePair]) -> Swept:
        """The routers, on the desired answers."""
        rows, held = (
            encode_router_rows(given, self.chat, max_tokens=self.config.max_tokens) for given in (pairs, validation)
        )
        self.routing.control.default = "routed"

        def trainer(**arguments: Any) -> RowMeanTrainer:
            return RouterTrainer(
                routing=self.routing,
                router=self.config.router,
                train_dataset=RowDataset(rows),
                data_collator=collate_router,
                **arguments,
            )

        return self._train(
            "router",
            self.config.router.stage,
            [row.tokens for row in rows],
            trainer,
            score=lambda: score_routers(self.model, self.routing, held),
            better=lambda scores: (-scores["gate_auroc"], scores["ce_desired"]),
        )

    def _train(
        self,
        part: Part,
        stage: StageConfig,
        lengths: Sequence[int],
        trainer: Callable[..., RowMeanTrainer],
        *,
        score: Callable[[], Scores],
        better: Callable[[Scores], Any],
    ) -> Swept:
        """One stage: trained, unless that is done, and left with the weights of its best checkpoint."""
        folder = self.output / part
        done = Swept.read(folder)
        if done is not None:
            load_trained(self.model, folder / f"checkpoint-{done.chosen}")
            return done
        set_seed(self.config.seed)
        self.model.eval()
        before = score()
        self.routing.train_only(part, self.model)
        seeded = SeededStage(**stage.model_dump(), seed=self.config.seed)
        batches = TokenBudgetSampler(
            lengths,
            max_tokens=stage.batch_tokens,
            max_rows=stage.batch_rows,
            epochs=stage.epochs,
            seed=self.config.seed,
        )
        arguments = trainer_arguments(seeded, folder, batches=len(batches), schedule=stage.schedule)
        # Without the run, whose log a trainer rewinds to its own steps: other stages have lines there.
        made = trainer(
            sampler=batches,
            model=self.model,
            # The sweep wants all checkpoints.
            args=TrainingArguments(
                **arguments | {"save_total_limit": None, "logging_steps": min(10, stage.save_every)}
            ),
        )
        stopped = ""
        try:
            made.train_resuming()
        except DivergedError as error:
            stopped = error.message
        self.model.__dict__.pop("forward", None)  # autocast, where there was any
        self.model.eval()
        found = sweep(self.model, folder, score, better, before=before, stopped=stopped)
        self._log(part, made.state.log_history)
        milestone(f"{part}: step {found.chosen} of {max(found.scores)}" + (f"; stopped: {stopped}" if stopped else ""))
        return found

    def _log(self, part: Part, history: Sequence[Mapping[str, Any]]) -> None:
        """Losses and figures of a finished stage."""
        for line in history if self.run is not None else ():
            if "loss" in line and self.run is not None:
                self.run.log(stage=part, seed=self.config.seed, stage_step=line["step"], **_figures(line))


def _figures(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("step", "epoch")}


def _harmless(pairs: Sequence[ResponsePair]) -> Sequence[ResponsePair]:
    for pair in pairs:
        if pair.malicious:
            raise DataError(
                "the eager expert is trained on benign instructions alone",
                where=pair.where,
                hint="Leave malicious instructions out: an answer that complies with one is never learnt.",
            )
    return pairs
