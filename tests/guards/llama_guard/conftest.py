"""Tiny random Llamas with a byte-level tokenizer that knows Llama 3's control tokens."""

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from corral.guards.prompted.framing import FRAMES
from corral.models import batching
from corral.models.chat import ChatTokenizer
from corral.models.engines.torch import TorchEngine


def byte_tokenizer(*, words=()):
    """A token a byte; ``words`` are single tokens, as frequent words are in a trained vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = FRAMES["llama_3"].control
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=control[0],
        eos_token=control[-1],
        pad_token=control[-1],
        chat_template=FRAMES["llama_3"].chat_template,
    )


def random_llama(tokenizer, *, context=2048, **changes):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        **changes,
    )
    return LlamaForCausalLM(config).eval()


def engine(*, words=(), changes=None, **options):
    tokenizer = byte_tokenizer(words=words)
    return TorchEngine(random_llama(tokenizer, **(changes or {})), ChatTokenizer(tokenizer), name="tiny", **options)


@pytest.fixture(scope="session")
def byte_engine():
    """Labels of several tokens."""
    return engine(padding_side="left")


@pytest.fixture(scope="session", params=["left", "right"])
def padded_engine(request):
    """A Llama that the packed scorer does not take, since its attention has biases: its batches are padded."""
    return engine(changes={"attention_bias": True}, padding_side=request.param)


@pytest.fixture
def padded_rows(monkeypatch):
    """For each batch that is padded from here on, the sides on which a row of it has padding."""
    batches = []

    def pad(sequences, **options):
        batch = batching.pad(sequences, **options)
        mask = batch.attention_mask_BT
        columns = {"left": mask[:, 0], "right": mask[:, -1]}
        batches.append({side for side, column in columns.items() if not column.all()})
        return batch

    monkeypatch.setattr("corral.models.engines.torch.pad", pad)
    return batches


@pytest.fixture(scope="session")
def word_engine():
    """Labels of one token each."""
    return engine(words=("safe", "unsafe"), padding_side="left")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "Llama-Guard-3-1B"
    tokenizer = byte_tokenizer()
    random_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
