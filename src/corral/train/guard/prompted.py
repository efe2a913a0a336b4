"""Training a language model to judge in words, for guards whose question is in the prompt (Llama Guard, WildGuard).

The loss is the cross-entropy of the scored tokens of the answer (response-only), summed and divided once by their count
over the optimiser step. Only at those tokens is the head applied: a guard's answer has a handful of tokens, and logits
over the vocabulary elsewhere would cost more than some layers do. Rows that share a policy share its tokens
(``packing``).

Trains LoRA weights on Linears of the upper layers, merged into the model that is returned, or the layers
themselves. Sources: Llama Guard (arXiv 2312.06674, section 3), WildGuard (arXiv 2406.18495, section 3), LoRA
(arXiv 2106.09685). Both papers train all weights; LoRA is for machines that cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torch.utils.data import DataLoader, Dataset
from transformers import set_seed

from corral.core.errors import ConfigError, DataError
from corral.core.files import atomic_directory
from corral.core.runs import Run
from corral.guards.prompted.framing import template_for
from corral.models.chat import ChatTokenizer
from corral.models.loading import load_tokenizer
from corral.models.tiny import TINY, write_tiny_llama
from corral.train.guard.arguments import training_arguments
from corral.train.guard.packed_attention import PACKED_ATTENTION
from corral.train.guard.packing import EncodedRow, Group, pack, plan_sequences
from corral.train.guard.prompted_rows import PromptedRow
from corral.train.guard.prompted_settings import PromptedGuardConfig
from corral.train.lora import with_lora
from corral.train.plain_base import load_plain_base
from corral.train.trained_layers import mark_trained_layers
from corral.train.trainer import ResumableTrainer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_TINY_CONTEXT: Final = 8192


def resolve_base(config: PromptedGuardConfig, folder: Path) -> PromptedGuardConfig:
    """Settings with ``tiny:random`` replaced by a tiny random model in ``folder``, written unless it is there."""
    if config.base != TINY:
        return config
    return config.model_copy(update={"base": str(write_tiny_llama(folder, seed=config.seed, context=_TINY_CONTEXT))})


def load_chat(config: PromptedGuardConfig) -> ChatTokenizer:
    """The base model's tokenizer, with the chat template that frames prompts.

    Raises:
        NotFoundError: nothing at ``base``.
        ConfigError: the frame does not fit the vocabulary, or nothing ends a turn.
    """
    tokenizer = load_tokenizer(config.base)
    tokenizer.chat_template = template_for(config.frame, tokenizer.get_vocab(), tokenizer.chat_template)
    if tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has no end-of-sequence token", where="base")
    return ChatTokenizer(tokenizer)


def encode_prompted(rows: Sequence[PromptedRow], chat: ChatTokenizer) -> list[EncodedRow]:
    """Token ids of each row and which of them are scored; tokens after the last scored one are left out.

    A token is scored if it shares a character with a scored span.

    Raises:
        DataError: a row without scored tokens, or one that cannot be rendered; names its index.
    """
    encoded = []
    for index, row in enumerate(rows):
        prompt = chat.encode_prompt(row.prompt)
        answer = chat.backend.encode(row.answer, add_special_tokens=False)
        spans = [*answer.offsets, (len(row.answer), len(row.answer) + 1)]
        taken = [(start, stop + (stop == len(row.answer))) for start, stop in row.scored]
        scored = tuple(
            len(prompt) + i
            for i, (start, stop) in enumerate(spans)
            if any(start < last and first < stop for first, last in taken)
        )
        if not scored:
            raise DataError("nothing of the answer is scored", where=f"rows[{index}]")
        ids = (*prompt, *answer.ids, int(chat.tokenizer.eos_token_id))
        encoded.append(EncodedRow(ids[: scored[-1] + 1], scored, row.policy))
    return encoded


class PromptedNetwork(nn.Module):
    """A causal language model that computes logits where they are read.

    Args:
        model: with or without LoRA weights in it; its attention is replaced by ``packed_attention``.
    """

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = model
        model.set_attn_implementation(PACKED_ATTENTION)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits (N, vocabulary) at the ``predictors`` of a packed sequence (see ``packing.pack``)."""
        hidden = self.model.model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], layout=batch["layout"], use_cache=False
        ).last_hidden_state
        logits: Tensor = self.model.lm_head(hidden[0, batch["predictors"]])
        return logits


def build_model(config: PromptedGuardConfig) -> Any:
    """The base model in float32 with the weights to train marked: peft's model, or the model itself if ``full``.

    Raises:
        ConfigError: ``first_trained_layer`` leaves nothing to train, or the base is quantized.
    """
    set_seed(config.seed)
    model = load_plain_base(config.base, layers=config.layers)
    first = config.first_trained_layer
    if not config.full:
        return with_lora(model, first_layer=first, rank=config.rank, alpha=config.alpha, targets=config.targets)
    mark_trained_layers(model, first)
    return model


def train_prompted_guard(
    rows: Sequence[PromptedRow], config: PromptedGuardConfig, output: Path, *, run: Run | None = None
) -> LlamaForCausalLM:
    """Train, resuming from the newest whole checkpoint under ``output``; the same rows and settings give the same bits.

    Args:
        rows: prompts with answers.
        config: settings.
        output: checkpoint folder.
        run: takes the loss curve.

    Returns:
        The model in float32, LoRA merged, in evaluation mode.

    Raises:
        ConfigError: no rows, one longer than ``batch_tokens``, or settings that do not fit the base.
        DataError: a row that cannot be encoded.
    """
    config = resolve_base(config, output / "base")
    encoded = encode_prompted(rows, load_chat(config))
    plan = plan_sequences(encoded, max_tokens=config.batch_tokens, epochs=config.epochs, seed=config.seed)
    model = build_model(config)
    trainer = _PromptedTrainer(
        run=run,
        model=PromptedNetwork(model if config.full else model.base_model.model),
        args=training_arguments(config, output, batches=len(plan), schedule=config.schedule),
        train_dataset=_Sequences(encoded, plan),
    )
    trainer.train_resuming()
    trained: LlamaForCausalLM = model if config.full else model.merge_and_unload()
    trained.set_attn_implementation("sdpa")
    return trained.eval()


def save_prompted_guard(model: LlamaForCausalLM, chat: ChatTokenizer, folder: Path) -> None:
    """Write an ordinary model directory, tokenizer and chat template included; an existing folder is replaced."""
    with atomic_directory(folder, replace=True) as staged:
        model.save_pretrained(staged)
        chat.tokenizer.save_pretrained(staged)


class _Sequences(Dataset[dict[str, Any]]):
    """Packed sequences in the order they are trained on."""

    def __init__(self, rows: Sequence[EncodedRow], plan: Sequence[tuple[Group, ...]]) -> None:
        self._rows = rows
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return pack(self._rows, self._plan[index])


class _PromptedTrainer(ResumableTrainer):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # makes the trainer count `labels` over the whole optimiser step

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=_only)
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        logits = model(inputs)
        total = F.cross_entropy(logits.float(), inputs["labels"], reduction="sum")
        count = num_items_in_batch if num_items_in_batch is not None else inputs["labels"].numel()
        # The count is global and data-parallel training averages gradients, so undo that average.
        loss = total / count * self.accelerator.num_processes
        return (loss, logits) if return_outputs else loss


def _only(sequences: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (sequence,) = sequences
    return sequence
