"""Retokenisation: the user's words cut into other tokens than usual, by BPE-dropout.

Source: Provilkov et al., arXiv 1910.13267 (at every step each possible merge is skipped with a probability), as a
defence Jain et al., arXiv 2309.00614, section 4.3: the text stays the same, an adversarial string of tokens does not.
The tokenizers library has BPE-dropout too, but not under a seed.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, Final

from corral.core.errors import ConfigError, UserError
from corral.data.messages import Message
from corral.models.chat import ChatTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

RATE: Final = 0.2
"""Of the merges that are skipped, as published for the defence."""


class BpeDropout:
    """Encodes text with merges left out at random; the same text and seed give the same tokens.

    Args:
        tokenizer: with a byte-pair encoding.
        rate: probability that a merge is skipped, each time it is possible; 0 encodes as usual.
        seed: of the draw.

    Raises:
        UserError: another kind of tokenizer.
        ConfigError: ``rate`` is no probability.
    """

    def __init__(self, tokenizer: Tokenizer, *, rate: float = RATE, seed: int = 0) -> None:
        if not 0.0 <= rate <= 1.0:
            raise ConfigError(f"`{rate}` is outside [0, 1]", where="rate")
        model = json.loads(tokenizer.to_str())["model"]
        if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise UserError(
                "retokenisation needs a plain byte-pair encoding", hint="This tokenizer is of another kind."
            )
        self._tokenizer = tokenizer
        self._rate = rate
        self._seed = seed
        self._ids: dict[str, int] = model["vocab"]
        self._ranks = {_pair(merge): rank for rank, merge in enumerate(model["merges"])}
        self._unknown: str | None = model.get("unk_token")
        self._whole_words: bool = bool(model.get("ignore_merges"))

    def encode(self, text: str) -> list[int]:
        """Token ids of the text; no control token is read from it."""
        chance = random.Random(f"{self._seed}/{text}")  # noqa: S311 - variety, not secrets
        normaliser, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        written = text if normaliser is None else normaliser.normalize_str(text)
        words = [written] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(written)]
        return [token for word in words for token in self._word(word, chance)]

    def _word(self, word: str, chance: random.Random) -> list[int]:
        if self._rate == 0 and self._whole_words and word in self._ids:
            return [self._ids[word]]
        symbols = [symbol for character in word for symbol in self._symbols(character)]
        while True:
            possible = [
                (rank, place)
                for place in range(len(symbols) - 1)
                if (rank := self._ranks.get((symbols[place], symbols[place + 1]))) is not None
                and (self._rate == 0 or chance.random() >= self._rate)
            ]
            if not possible:
                return [self._ids[symbol] for symbol in symbols]
            _, place = min(possible)
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]

    def _symbols(self, character: str) -> list[str]:
        """The vocabulary's own smallest pieces of a character."""
        if character in self._ids:
            return [character]
        as_bytes = [f"<0x{byte:02X}>" for byte in character.encode(errors="surrogatepass")]
        if all(piece in self._ids for piece in as_bytes):
            return as_bytes
        return [self._unknown] if self._unknown in self._ids and self._unknown is not None else []


class RetokenisingChat(ChatTokenizer):
    """A tokenizer that cuts what users wrote by BPE-dropout; templates, replies and system texts stay as they are.

    Args:
        tokenizer: as for ``ChatTokenizer``.
        rate: as for ``BpeDropout``.
        seed: as for ``BpeDropout``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, rate: float = RATE, seed: int = 0) -> None:
        super().__init__(tokenizer)
        self._dropout = BpeDropout(self.backend, rate=rate, seed=seed)

    def _encode_whole(self, *_: Any) -> None:
        """Never: messages are encoded apart from the template."""

    def _message_ids(self, message: Message, text: str) -> list[int]:
        return self._dropout.encode(text) if message.role == "user" else super()._message_ids(message, text)


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Both parts of a merge, which older files write as one string."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
