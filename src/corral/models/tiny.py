"""A tiny random Llama with a byte-level ChatML tokenizer: what ``tiny`` recipes and tests run on.

It knows nothing; it has the shapes, the file layout and the control tokens of a real model, and every byte string has a
token sequence: a token a byte, or a token a word for the words of given texts. The same seed writes the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.core.files import atomic_directory

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TINY: Final = "tiny:random"
"""What a recipe names as its base to be given one of these."""
_MOST_TOKENS: Final = 4096
_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_tiny_llama(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 3,
    hidden_size: int = 32,
    context: int = 512,
    weight_std: float = 0.02,
    words_of: Sequence[str] = (),
) -> Path:
    """Write the model directory, unless it is there already; returns ``folder``.

    Args:
        folder: a new directory.
        seed: of the weights.
        layers: decoder layers.
        hidden_size: a multiple of 8; 4 heads, 2 key-value heads.
        context: tokens that it says it can read.
        weight_std: standard deviation of the random weights. At the usual 0.02 so narrow a model hardly mixes its
            inputs and learns little more than how often each token comes; at 0.1 it trains.
        words_of: texts whose words become one token each; without any, a token is a byte.
    """
    if folder.exists():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = _tokenizer(words_of)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=weight_std,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id("<|im_start|>"),
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        pad_token_id=tokenizer.token_to_id("<|im_end|>"),
    )
    with atomic_directory(folder) as staged, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(staged)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<|im_start|>",  # noqa: S106 - a control token, not a secret
            eos_token="<|im_end|>",  # noqa: S106
            pad_token="<|im_end|>",  # noqa: S106
            chat_template=_TEMPLATE,
        ).save_pretrained(staged)
    return folder


def _tokenizer(words_of: Sequence[str]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if words_of:
        merging = trainers.BpeTrainer(vocab_size=_MOST_TOKENS, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(words_of, merging)
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    return tokenizer
