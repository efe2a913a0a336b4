"""What supervised and preference training of a chat model share: the model, rows as token ids, TRL's trainers.

Rows are tokenised by ``models/chat`` and reach TRL as ids, so that training, serving and attacks read the same prompt.
The model is handed over as a plain one with its LoRA weights inside: checkpoints then hold the trained weights alone,
and a resumed run repeats the uninterrupted one bit for bit on CPU (``train/trainer``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import set_seed

from corral.core.errors import DataError
from corral.core.files import atomic_directory
from corral.models.adapters import ADAPTER_CONFIG
from corral.models.chat import ChatTokenizer
from corral.models.engines.base import Prompt
from corral.models.loading import load_tokenizer, quiet_transformers
from corral.train.arguments import trainer_arguments
from corral.train.fine_tuning_settings import FineTuningConfig
from corral.train.labelled_head import score_labelled_tokens
from corral.train.lora import load_lora, with_lora, write_adapter
from corral.train.plain_base import load_plain_base
from corral.train.sampler import TokenBudgetSampler
from corral.train.token_budget_trainer import TokenBudgetBatches
from corral.train.trained_layers import mark_trained_layers

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class FineTuned:
    """A model that is being trained, or was.

    Attributes:
        model: the language model; LoRA weights, if any, are modules inside it.
        adapted: peft's model around it, ``None`` when its own weights are trained.
        base: what it was made from.
    """

    model: LlamaForCausalLM
    adapted: Any
    base: str

    def merged(self) -> LlamaForCausalLM:
        """The model in evaluation mode with its LoRA weights added to its own, in place: there is no way back."""
        merged: LlamaForCausalLM = self.model if self.adapted is None else self.adapted.merge_and_unload()
        return merged.eval()

    def save_adapter(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the LoRA weights in peft's format; an existing folder is replaced.

        Raises:
            DataError: the model's own weights were trained, or adapters that are not plain LoRA.
        """
        if self.adapted is None:
            raise DataError("the model's own weights were trained; there is no adapter", where=str(folder))
        if not hasattr(self.adapted, "peft_config"):
            raise DataError("no plain LoRA", where=str(folder), hint="Write the model, with `save_model`.")
        with atomic_directory(folder, replace=True) as staged:
            write_adapter(self.adapted, staged, base=self.base, dtype=dtype)


def prepare_model(base: str, config: FineTuningConfig, *, adapter: Path | None = None) -> FineTuned:
    """The model in float32 with the weights to train marked.

    Args:
        base: model reference.
        config: settings.
        adapter: folder of an adapter of ``base`` whose training goes on, of the layers, rank and alpha of the settings.

    Raises:
        NotFoundError: nothing at ``base`` or ``adapter``.
        ConfigError: ``first_trained_layer`` leaves nothing to train, the adapter is of another shape, or the base is no
            plain model (see ``load_plain_base``).
        DataError: an adapter is given and the model's own weights are to be trained.
    """
    set_seed(config.seed)
    model = load_plain_base(base)
    if config.full:
        if adapter is not None:
            raise DataError("an adapter is given but `full` trains the model's own weights", where=str(adapter))
        mark_trained_layers(model, config.first_trained_layer)
        return FineTuned(model, None, base)
    adapted = with_lora(model, first_layer=config.first_trained_layer, rank=config.rank, alpha=config.alpha)
    if adapter is not None:
        load_lora(adapted, adapter)
    return FineTuned(adapted.base_model.model, adapted, base)


def save_model(tuned: FineTuned, chat: ChatTokenizer, folder: Path) -> None:
    """Write an ordinary model directory, LoRA weights merged, with its tokenizer; an existing folder is replaced.

    The LoRA weights are added to the model in place: it cannot be trained on.
    """
    with atomic_directory(folder, replace=True) as staged, quiet_transformers():
        tuned.merged().save_pretrained(staged)
        chat.tokenizer.save_pretrained(staged)


def kept_stage(folder: Path, config: FineTuningConfig, chat: ChatTokenizer, train: Callable[[], FineTuned]) -> Path:
    """What an earlier stage of a training made, kept under ``folder`` so that a resumed run does not train it again.

    Args:
        folder: of the stage.
        config: of the stage; says whether it makes a model or an adapter.
        chat: whose tokenizer goes with a model.
        train: makes it.

    Returns:
        A model directory where ``config.full``, else the folder of an adapter.
    """
    kept = folder / ("model" if config.full else "adapter")
    if not (kept / ("config.json" if config.full else ADAPTER_CONFIG)).is_file():
        tuned = train()
        if config.full:
            save_model(tuned, chat, kept)
        else:
            tuned.save_adapter(kept)
    return kept


def load_chat(base: str) -> ChatTokenizer:
    """The base model's tokenizer.

    Raises:
        NotFoundError: nothing at ``base``.
        DataError: nothing ends a turn.
    """
    tokenizer = load_tokenizer(base)
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no end-of-sequence token", where=base)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked by position, never by id
    return ChatTokenizer(tokenizer)


def encode_pair(
    prompt: Prompt, completion: str, chat: ChatTokenizer, *, complete: bool, max_tokens: int, where: str
) -> tuple[list[int], list[int]]:
    """Ids of a prompt with the assistant's turn opened, and of the completion after it.

    Args:
        prompt: as an engine reads it.
        completion: the assistant's text.
        chat: renders and tokenises.
        complete: the completion ends its turn, so that the end-of-sequence token is part of it.
        max_tokens: of both together; what is beyond is cut off the completion, its end-of-sequence token included.
        where: names the row in errors.

    Raises:
        DataError: an empty completion, or a prompt that leaves no room for one.
    """
    prompt_ids = chat.encode_prompt(prompt)
    ids = chat.encode_text(completion)
    if not ids:
        raise DataError("the completion is empty", where=where)
    if len(prompt_ids) >= max_tokens:
        raise DataError(
            f"the prompt has {len(prompt_ids)} tokens and leaves no room within {max_tokens}",
            where=where,
            hint="Raise `max_tokens`, or leave long prompts out.",
        )
    end = [int(chat.tokenizer.eos_token_id)] if complete else []
    return prompt_ids, [*ids, *end][: max_tokens - len(prompt_ids)]


def batches_of(lengths: Sequence[int], config: FineTuningConfig) -> TokenBudgetSampler:
    """The batches of all epochs.

    Raises:
        ConfigError: no rows, or one longer than ``batch_tokens``.
    """
    return TokenBudgetSampler(lengths, max_tokens=config.batch_tokens, epochs=config.epochs, seed=config.seed)


def trl_arguments(config: FineTuningConfig, output: Path, *, batches: int) -> dict[str, Any]:
    """Arguments of ``SFTConfig`` and ``DPOConfig``; rows come tokenised and within their length."""
    return {
        **trainer_arguments(config, output, batches=batches, schedule=config.schedule),
        "activation_checkpointing": False,
        "max_length": None,
    }


class TokenisedTrainer(TokenBudgetBatches):
    """One of TRL's trainers over rows of token ids, in batches of similar length; to stand before it in the bases."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if self.args.use_cpu:
            score_labelled_tokens(self.model)

    def train_resuming(self) -> None:
        """See ``ResumableTrainer``; afterwards the model is an ordinary one, without autocast and TRL's head."""
        super().train_resuming()
        self.model.__dict__.pop("forward", None)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with quiet_transformers():
            super()._save(output_dir, state_dict)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        """Nothing leaves this machine."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Checkpoints need none."""
