"""Tiny Llamas with a tokenizer of bytes that knows the prompt's fixed parts as single tokens."""

import itertools

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from corral.guards.prompted.exchanges import Exchange
from corral.guards.prompted.framing import FRAMES, framed
from corral.guards.wildguard.answers import LINES, Answers, format_answers
from corral.guards.wildguard.prompts import INSTRUCTION, render
from corral.models.chat import ChatTokenizer
from corral.models.engines.torch import TorchEngine

END = "<|end|>"
PARTS = (INSTRUCTION, "Human user:", "AI assistant:", "---", "Answers:", *(f"{line}:" for line in LINES))
# n/a is two tokens or more, as in the vocabularies of Llama and Mistral.
WORDS = (*PARTS, " yes", " no", " n")


def tokenizer_of(words):
    """A token a byte; ``words`` are single tokens, as frequent words are in a trained vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = (*FRAMES["wildguard"].control, END)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token=END,
        pad_token=END,
        chat_template=FRAMES["wildguard"].chat_template,
    )


def llama_of(tokenizer, *, hidden=16, spread=0.3, context=2048):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        initializer_range=spread,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).eval()


def truth_of(exchange):
    """The right answers in the little world that the trained model knows."""
    harmful = exchange.prompt.startswith("bad")
    if exchange.response is None:
        return Answers(harmful)
    refusal = exchange.response.startswith("no")
    return Answers(harmful, refusal, harmful and not refusal)


def world(endings):
    prompts = [f"{kind} {ending}" for kind in ("bad", "fine") for ending in endings]
    return [Exchange(p, r) for p, r in itertools.product(prompts, (None, "no way", "sure"))]


def train(model, tokenizer, exchanges, *, steps=100):
    """Overfit the answers to all three questions; loss on the answer and the end of the turn."""
    chat = ChatTokenizer(tokenizer)
    rows = []
    for exchange in exchanges:
        prompt, answer = chat.encode_completion(framed(render(exchange), "chat"), format_answers(truth_of(exchange)))
        rows.append(([*prompt], [*answer, tokenizer.eos_token_id]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    ids = torch.full((len(rows), max(len(p) + len(a) for p, a in rows)), tokenizer.eos_token_id)
    labels = torch.full_like(ids, -100)
    for row, (p, a) in enumerate(rows):
        ids[row, : len(p) + len(a)] = torch.tensor(p + a)
        labels[row, len(p) : len(p) + len(a)] = torch.tensor(a)
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="session")
def byte_engine():
    """Labels of several tokens."""
    tokenizer = tokenizer_of(())
    return TorchEngine(llama_of(tokenizer), ChatTokenizer(tokenizer), name="bytes", padding_side="left")


@pytest.fixture(scope="session")
def word_engine():
    """Yes and no of one token each."""
    tokenizer = tokenizer_of(WORDS)
    return TorchEngine(llama_of(tokenizer, context=512), ChatTokenizer(tokenizer), name="words", padding_side="left")


@pytest.fixture(scope="session")
def exchanges():
    """What the trained model was trained on."""
    return world(["tea", "rye"])


@pytest.fixture(scope="session")
def truth():
    """The right answers to an exchange."""
    return truth_of


@pytest.fixture(scope="session")
def trained_engine(exchanges):
    """A model that answers in the published form, as ``truth_of`` says."""
    tokenizer = tokenizer_of(WORDS)
    model = train(llama_of(tokenizer, hidden=32, spread=0.05), tokenizer, exchanges)
    return TorchEngine(model, ChatTokenizer(tokenizer), name="trained")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "wildguard-tiny"
    tokenizer = tokenizer_of(PARTS)
    llama_of(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
