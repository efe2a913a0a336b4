"""Loading models and tokenizers by reference: a hub id, a folder, a GGUF file, or an embedded model.

A folder that holds MoGU's parts (``models/routing``) stands for its base model with gates; the tokenizer is the base's.

Weights are read from safetensors or GGUF only, and code from a repository is never run. transformers is imported inside
the functions: naming a model costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from corral.core.errors import ConfigError, DataError, NotFoundError, UserError
from corral.core.files import read_json, sha256_file, sha256_json
from corral.models import embedded
from corral.models.reference import ModelRef
from corral.models.routing.record import RECORD, RoutingRecord, has_routing

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from corral.models.encoder import BertEncoder
    from corral.models.llama import LlamaDecoder
    from corral.models.text_tokens import TextTokens

__all__ = [
    "ModelRef",
    "find_dtype",
    "load_backbone",
    "load_causal_lm",
    "load_encoder",
    "load_fast_tokenizer",
    "load_inference_decoder",
    "load_sequence_classifier",
    "load_skeleton",
    "load_text_tokens",
    "load_tokenizer",
    "quiet_transformers",
    "weights_revision",
]

_REVISION_FILES: Final = (
    "*.safetensors",
    "config.json",
    "tokenizer.json",
    "head_tokens.json",
    "quantization.json",
    RECORD,
)
_REVISION_DIGITS: Final = 16

_T = TypeVar("_T")


def load_causal_lm(
    ref: str | Path | ModelRef,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    layers: int | None = None,
) -> PreTrainedModel:
    """A causal language model in evaluation mode.

    Args:
        ref: where it comes from.
        dtype: of the weights; ``None`` keeps the stored dtype (float32 for GGUF and embedded models).
        device: where to put it.
        layers: keep only the lowest layers (with the final norm and the head); ``None`` keeps all.

    Raises:
        NotFoundError: nothing at ``ref``, or nothing this library can read.
        MissingDependencyError: an embedded model's package is not installed.
        DataError: ``layers`` is out of range, or the files do not hold the weights of such a model; names the first.
    """
    ref = ModelRef.parse(ref)
    return _to(_load("AutoModelForCausalLM", "LlamaForCausalLM", ref, dtype=dtype, layers=layers), device)


def load_skeleton(ref: str | Path | ModelRef) -> PreTrainedModel:
    """A causal language model's modules without their weights, on the meta device, from its config alone.

    Raises:
        NotFoundError: nothing at ``ref``, or nothing this library can read.
        MissingDependencyError: an embedded model's package is not installed.
    """
    import torch
    import transformers

    ref = ModelRef.parse(ref)
    if ref.kind == "embedded":
        _expect_decoder(ref)
        model_file = embedded.embedded_model(ref.name)
        fields = model_file.open(embedded.find_packed(ref.name)).config(dtype="float32")
        config: Any = transformers.LlamaConfig(**fields)
    else:
        location, options = _location(_without_routing(ref))
        config = _found(
            ref, lambda: transformers.AutoConfig.from_pretrained(location, trust_remote_code=False, **options)
        )
    with torch.device("meta"), quiet_transformers():
        model: PreTrainedModel = _found(ref, lambda: transformers.AutoModelForCausalLM.from_config(config))
    return model


def load_backbone(
    ref: str | Path | ModelRef,
    *,
    layers: int | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    final_norm: bool = False,
) -> PreTrainedModel:
    """The decoder stack without a language-model head (``LlamaModel`` for Llama), in evaluation mode; or an encoder.

    Args:
        ref: where it comes from.
        layers: how many of the lowest layers; ``None`` for all.
        dtype: of the weights; ``None`` keeps the stored dtype (float32 for GGUF and embedded models).
        device: where to put it.
        final_norm: keep the final norm. It was trained on the last layer's output, so by default it is replaced with
            the identity, and ``last_hidden_state`` is the residual stream after layer ``layers``.

    Raises:
        NotFoundError: nothing at ``ref``, or nothing this library can read.
        MissingDependencyError: an embedded model's package is not installed.
        DataError: ``layers`` is out of range, or the files do not hold the weights of such a model; names the first.
    """
    import torch

    ref = ModelRef.parse(ref)
    if is_encoder(ref):
        return _to(_trainable_encoder(ref, dtype=dtype, layers=layers), device)
    model = _load("AutoModel", "LlamaModel", ref, dtype=dtype, layers=layers)
    if not final_norm:
        if not hasattr(model, "norm"):
            raise DataError(f"`{type(model).__name__}` has no final norm that can be removed", where=str(ref))
        model.norm = torch.nn.Identity()
    return _to(model, device)


def load_inference_decoder(
    ref: str | Path | ModelRef,
    *,
    layers: int | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    final_norm: bool = False,
) -> LlamaDecoder:
    """The same stack as ``load_backbone`` for inference only, without importing transformers.

    Args:
        ref: an embedded model, or a folder with a plain Llama in one safetensors file; packed weights are unpacked.
        layers, dtype, device, final_norm: as for ``load_backbone``.

    Raises:
        UserError: ``ref`` is neither of the two.
        NotFoundError: nothing at ``ref``.
        MissingDependencyError: an embedded model's package is not installed.
        DataError: not a plain Llama, or one quantized in a way that cannot be read, or ``layers`` is out of range.
    """
    import torch

    from corral.models.llama import LlamaDecoder

    ref = ModelRef.parse(ref)
    if ref.kind == "embedded":
        _expect_decoder(ref)
        folder = embedded.model_directory(ref.name, dtype=dtype or torch.float32, layers=layers)
        return LlamaDecoder.from_directory(folder, final_norm=final_norm).to(device)
    if ref.kind != "folder":
        raise UserError(f"`{ref}` is neither an embedded model nor a folder", hint="Use `load_backbone`.")
    return LlamaDecoder.from_directory(Path(ref.name), layers=layers, dtype=dtype, final_norm=final_norm).to(device)


def is_encoder(ref: str | Path | ModelRef) -> bool:
    """Whether a reference names an embedded encoder, or a folder with a BERT.

    Raises:
        NotFoundError: no embedded model has that name.
    """
    ref = ModelRef.parse(ref)
    if ref.kind == "embedded":
        return embedded.embedded_model(ref.name).is_encoder
    config = Path(ref.name) / "config.json"
    return ref.kind == "folder" and config.is_file() and read_json(config).get("model_type") == "bert"


def load_encoder(
    ref: str | Path | ModelRef, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> BertEncoder:
    """A BERT encoder in evaluation mode, without importing transformers.

    Args:
        ref: an embedded encoder, or a folder with a plain BERT in one safetensors file.
        dtype: of the weights; ``None`` keeps the stored one (float32 for embedded models).
        device: where to put it.

    Raises:
        UserError: ``ref`` is neither of the two.
        MissingDependencyError: an embedded model's package is not installed.
        DataError: not a plain BERT.
    """
    import torch

    from corral.models.encoder import BertEncoder

    ref = ModelRef.parse(ref)
    if ref.kind == "embedded" and is_encoder(ref):
        folder = embedded.model_directory(ref.name, dtype=dtype or torch.float32)
        return BertEncoder.from_directory(folder).to(device)
    if ref.kind != "folder":
        raise UserError(f"`{ref}` is neither an embedded encoder nor a folder", hint="Give the folder of a BERT.")
    return BertEncoder.from_directory(Path(ref.name)).to(device=device, dtype=dtype)


def find_dtype(name: str) -> torch.dtype | None:
    """The dtype of a setting: ``float32``, ``bfloat16``, or ``None`` for ``auto``, which leaves the choice.

    Raises:
        ConfigError: another name.
    """
    import torch

    dtypes = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in dtypes:
        raise ConfigError(f"no dtype `{name}`", where="dtype", hint="Use auto, float32 or bfloat16.")
    return dtypes[name]


def load_sequence_classifier(
    ref: str | Path | ModelRef, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """A model with a sequence-classification head (``model.score``), in evaluation mode.

    transformers' own forward pass finds the last token by comparing ids with the pad id; where padding and
    end-of-sequence share an id, pool by the attention mask instead.

    Raises:
        NotFoundError: nothing at ``ref``, or nothing this library can read.
        UserError: ``ref`` is a GGUF file or embedded model, which carry no classification head.
        ConfigError: weights are missing (transformers would fill the gaps with random numbers) or of other shapes than
            the config says.
    """
    ref = ModelRef.parse(ref)
    if ref.kind in ("gguf", "embedded"):
        raise UserError(f"`{ref}` has no classification head", hint="Give a folder or a hub id.")
    from transformers import AutoModelForSequenceClassification

    location, options = _location(ref)
    options |= {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    try:
        with quiet_transformers():
            model, info = _found(
                ref,
                lambda: AutoModelForSequenceClassification.from_pretrained(location, dtype=dtype or "auto", **options),
            )
    except RuntimeError as error:  # how transformers reports tensors whose shape the config contradicts
        raise ConfigError("the weights do not have the shapes that config.json says", where=str(ref)) from error
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"the checkpoint has no `{missing[0]}` ({len(missing)} weights are missing)",
            where=str(ref),
            hint="This is not a trained sequence classifier; give the classifier's checkpoint, not its base model.",
        )
    return _to(model.eval(), device)


def load_tokenizer(ref: str | Path | ModelRef) -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template.

    transformers ignores ``tokenizer.ggml.pre`` of a GGUF file, so a tokenizer from there may split digits or
    whitespace otherwise than llama.cpp does; give the original folder or hub id where that matters. Embedded models
    are not affected.

    Raises:
        NotFoundError: nothing at ``ref``, or no tokenizer there.
        MissingDependencyError: an embedded model's package is not installed.
    """
    ref = _without_routing(ModelRef.parse(ref))
    if ref.kind == "embedded":
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(embedded.tokenizer_directory(ref.name))
    from transformers import AutoTokenizer

    location, options = _location(ref)
    return _found(ref, lambda: AutoTokenizer.from_pretrained(location, trust_remote_code=False, **options))


def load_fast_tokenizer(ref: str | Path | ModelRef) -> Tokenizer:
    """The bare ``tokenizers.Tokenizer``, without importing transformers where the source has ``tokenizer.json``.

    Truncation and padding are switched off, whatever the file says.

    Raises:
        NotFoundError: nothing at ``ref``, or no tokenizer there.
        MissingDependencyError: an embedded model's package is not installed.
    """
    from tokenizers import Tokenizer

    ref = _without_routing(ModelRef.parse(ref))
    if ref.kind == "gguf":
        tokenizer: Tokenizer = load_tokenizer(ref).backend_tokenizer
    else:
        path = str(_tokenizer_file(ref))
        tokenizer = _found(ref, lambda: Tokenizer.from_file(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_text_tokens(ref: str | Path | ModelRef) -> TextTokens:
    """What turns texts into token ids, in as little memory and time as its vocabulary allows.

    Raises:
        NotFoundError: nothing at ``ref``, or no tokenizer there.
        MissingDependencyError: an embedded model's package is not installed.
    """
    from corral.models.text_tokens import FastTokens, PieceTokens

    ref = ModelRef.parse(ref)
    if ref.kind == "embedded" and is_encoder(ref):
        from corral.models.packed_bert import text_normalizer

        return PieceTokens(embedded.tokenizer_directory(ref.name) / embedded.PIECES_FILE, text_normalizer())
    return FastTokens(load_fast_tokenizer(ref))


def weights_revision(ref: str | Path | ModelRef) -> str:
    """A short name of the exact weights: the same revision gives the same outputs.

    The commit for a hub id (from the local cache or the network), else the first 16 hex digits of a SHA-256 over the
    files that matter.

    Raises:
        NotFoundError: nothing at ``ref``.
        MissingDependencyError: an embedded model's package is not installed.
    """
    ref = ModelRef.parse(ref)
    if ref.kind == "embedded":
        embedded.find_packed(ref.name)
        return embedded.embedded_model(ref.name).revision[:_REVISION_DIGITS]
    if ref.kind == "gguf":
        return sha256_file(Path(ref.name))[:_REVISION_DIGITS]
    if ref.kind == "folder":
        found = sorted(path for pattern in _REVISION_FILES for path in Path(ref.name).glob(pattern))
        if not any(path.suffix == ".safetensors" for path in found):
            raise NotFoundError("no safetensors file in the folder", where=ref.name)
        return sha256_json({path.name: sha256_file(path) for path in found})[:_REVISION_DIGITS]
    return _hub_file(ref, "config.json").parent.name


def _load(
    auto_class: str, llama_class: str, ref: ModelRef, *, dtype: torch.dtype | None, layers: int | None
) -> PreTrainedModel:
    if ref.kind == "folder" and has_routing(Path(ref.name)):
        return _load_routed(auto_class, ref, dtype=dtype, layers=layers)
    import torch

    from corral.models.head_trimming import HEAD_TOKENS
    from corral.models.llama_folders import keep_layers, read_llama, read_packed_llama
    from corral.models.quantized.folder import is_quantized_folder

    if ref.kind == "embedded":
        _expect_decoder(ref)
        folder = embedded.model_directory(ref.name, dtype=dtype or torch.float32, layers=layers)
        return read_llama(folder, llama_class)
    if ref.kind == "folder" and is_quantized_folder(Path(ref.name)):
        model = _found(ref, lambda: read_packed_llama(Path(ref.name), llama_class, layers=layers))
        return model if dtype is None else model.to(dtype)
    if ref.kind == "folder" and layers is None and (Path(ref.name) / HEAD_TOKENS).is_file():
        model = _found(ref, lambda: read_llama(Path(ref.name), llama_class))
        return model if dtype is None else model.to(dtype)
    import transformers

    location, options = _location(ref)
    options |= {"trust_remote_code": False, "use_safetensors": True}
    config = _found(ref, lambda: transformers.AutoConfig.from_pretrained(location, **_config_options(options)))
    if layers is not None:
        keep_layers(config, layers, where=str(ref))
    stored: Any = torch.float32 if ref.kind == "gguf" else "auto"
    auto = getattr(transformers, auto_class)
    options["output_loading_info"] = True
    try:
        with quiet_transformers():
            model, info = _found(
                ref, lambda: auto.from_pretrained(location, config=config, dtype=dtype or stored, **options)
            )
    except RuntimeError as error:  # how transformers reports tensors whose shape the config contradicts
        raise DataError("the weights do not have the shapes that config.json says", where=str(ref)) from error
    if missing := sorted(info["missing_keys"]):  # a head that is tied to the embeddings is none of them
        raise DataError(
            f"the checkpoint has no `{missing[0]}` ({len(missing)} weights are missing)",
            where=str(ref),
            hint="transformers would fill the gaps with random numbers. Get the whole checkpoint.",
        )
    return model.eval()


def _trainable_encoder(ref: ModelRef, *, dtype: torch.dtype | None, layers: int | None) -> PreTrainedModel:
    """transformers' own, without the pooler."""
    import torch
    from transformers import BertModel

    is_ours = ref.kind == "embedded"
    folder = embedded.model_directory(ref.name, dtype=dtype or torch.float32) if is_ours else Path(ref.name)
    with quiet_transformers():
        model = _found(ref, lambda: BertModel.from_pretrained(folder, dtype=dtype or "auto", add_pooling_layer=False))
    if layers is not None and layers != model.config.num_hidden_layers:
        raise DataError(
            f"layers is `{layers}`, an encoder is used whole: {model.config.num_hidden_layers}", where=str(ref)
        )
    return model.eval()


def _expect_decoder(ref: ModelRef) -> None:
    if is_encoder(ref):
        raise UserError(f"`{ref}` is an encoder and writes no text", hint="Give a causal language model.")


def _load_routed(auto_class: str, ref: ModelRef, *, dtype: torch.dtype | None, layers: int | None) -> PreTrainedModel:
    if auto_class != "AutoModelForCausalLM" or layers is not None:
        raise UserError(
            "a routed model is loaded whole",
            where=str(ref),
            hint=f"Its base, `{RoutingRecord.read(Path(ref.name)).base}`, has layers and states of its own.",
        )
    from corral.models.routing.files import load_routed

    return load_routed(Path(ref.name), dtype=dtype)


def _without_routing(ref: ModelRef) -> ModelRef:
    """The base of a folder of routing parts, any other reference itself."""
    if ref.kind != "folder" or not has_routing(Path(ref.name)):
        return ref
    return ModelRef.parse(RoutingRecord.read(Path(ref.name)).base_reference(Path(ref.name)))


def _location(ref: ModelRef) -> tuple[str, dict[str, Any]]:
    """First argument and options of ``from_pretrained``."""
    if ref.kind == "gguf":
        path = Path(ref.name)
        return str(path.parent), {"gguf_file": path.name}
    return ref.name, {"revision": ref.revision} if ref.revision else {}


def _config_options(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "use_safetensors"}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold back transformers' bars, the list of weights that ``layers`` leaves out, and reports that become errors."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bar = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _found(ref: ModelRef, load: Callable[[], _T]) -> _T:
    """Run a library's loader; what it raises for missing, foreign or damaged files becomes a NotFoundError."""
    from safetensors import SafetensorError

    try:
        return load()
    except Exception as error:
        # The tokenizers library raises bare exceptions; any other type is a mistake in our own call.
        if not isinstance(error, OSError | ValueError | KeyError | SafetensorError) and type(error) is not Exception:
            raise
        first_line = str(error).strip().partition("\n")[0]
        hint = (
            "Check the id, the network, and access (gated models need `hf auth login`), or give a local folder."
            if ref.kind == "hub"
            else "A model folder holds config.json, tokenizer.json and safetensors; pickled weights are refused."
        )
        raise NotFoundError(f"`{ref}` could not be loaded: {first_line}", hint=hint) from error


def _tokenizer_file(ref: ModelRef) -> Path:
    if ref.kind == "hub":
        return _hub_file(ref, "tokenizer.json")
    folder = embedded.tokenizer_directory(ref.name) if ref.kind == "embedded" else Path(ref.name)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise NotFoundError("no tokenizer.json in the folder", where=str(folder))
    return path


def _hub_file(ref: ModelRef, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(_found(ref, lambda: hf_hub_download(ref.name, name, revision=ref.revision)))


def _to(model: PreTrainedModel, device: str | torch.device) -> PreTrainedModel:
    # Modules are moved in place; transformers' annotation of `to` says otherwise.
    model.to(device)
    return model
