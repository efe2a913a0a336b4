"""A trained guard: prompt harm, response harm, refusal, attack and categories from one small network.

One forward pass over a conversation; see ``network`` for the model, ``encoding`` for what it reads, and ``card.md``
beside each weights for what they were trained on, their scores and their known failures. A folder with other weights
of the same format is loaded with ``load_guard("english", weights=FOLDER)``. The guard that is used when the user names
none is made of two of these (``pair``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from corral.core.config import Config, load_config
from corral.core.errors import ConfigError, NotFoundError
from corral.core.files import read_json, sha256_file, sha256_json
from corral.data.messages import Conversation, Target
from corral.guards.calibration import Calibration, CalibrationRow
from corral.guards.classifier import TOKENS_PER_BATCH, ClassifierGuard, FloatArray, Scores, Span
from corral.guards.composition.presets import PRESETS_FILE
from corral.guards.default.encoding import ConversationEncoder, JudgedTokens, clip_context
from corral.guards.default.network import (
    BINARY_HEADS,
    CATEGORY_TAXONOMY,
    GuardHeads,
    GuardNetwork,
    category_codes,
)
from corral.guards.limits import MAX_CHARS
from corral.guards.windows import JudgedWindows, Window, window_spans
from corral.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, merge_lora
from corral.models.batching import pad
from corral.models.loading import (
    find_dtype,
    is_encoder,
    load_encoder,
    load_inference_decoder,
    weights_revision,
)

if TYPE_CHECKING:
    import torch

    from corral.models.encoder import BertEncoder
    from corral.models.llama import LlamaDecoder

GUARD_FILE: Final = "guard.json"
HEAD_WEIGHTS: Final = "heads.safetensors"
WEIGHT_FILES: Final = (GUARD_FILE, ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD_WEIGHTS)
_MISSING_WEIGHTS: Final = (
    "Packaged weights: install Corral anew. Your own: corral train guard --config default_guard/small writes them."
)
_CHARS_PER_TOKEN: Final = 16  # more than text has on average, so clipped context still fills a window
_TURN_TOKENS: Final = 16  # more than any header and end of turn take
ENGLISH_WEIGHTS: Final = Path(__file__).parent / "english_weights"
MULTILINGUAL_WEIGHTS: Final = Path(__file__).parent / "multilingual_weights"


class GuardSettings(Config):
    """What ``guard.json`` holds beside the weights."""

    schema_version: Literal[1] = 1
    base: str
    base_revision: str
    layers: int = Field(ge=1)
    categories: tuple[str, ...]
    window: int = Field(384, ge=32, description="tokens read at once")
    overlap: int = Field(96, ge=0, description="tokens that consecutive windows of a long message share")
    min_context: int = Field(96, ge=0, description="room kept for the turns before a long message")
    unreported: tuple[str, ...] = Field(
        (), description="categories with an output that no verdict names, since too few rows taught it"
    )
    calibration: Mapping[str, Calibration] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _windows_advance(self) -> GuardSettings:
        """A long message is cut into pieces of what context and the turn's own tokens leave; they must move on."""
        if self.window - self.min_context - _TURN_TOKENS <= self.overlap:
            raise ValueError(f"a window of {self.window} has no room for overlap {self.overlap} and {self.min_context}")
        return self


class TrainedGuard(ClassifierGuard):
    """Judges prompts and responses with one small decoder, or encoder.

    Args:
        network: decoder and heads, in evaluation mode.
        encoder: turns conversations into token ids.
        settings: windows and calibration.
        revision: content hash of all of it.
        max_chars: a judged message of more characters is refused, never cut.
        tokens_per_batch: padded tokens in one forward pass.
        presets_file: thresholds that were fitted for these weights.

    Attributes:
        packaged: folder of the weights that come with Corral; ``None`` where the caller names a folder.
    """

    packaged: ClassVar[Path | None] = None
    _registered_as: ClassVar[str] = "trained"

    def __init__(
        self,
        network: GuardNetwork,
        encoder: ConversationEncoder,
        settings: GuardSettings,
        *,
        revision: str,
        max_chars: int = MAX_CHARS,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        presets_file: Path | None = None,
    ) -> None:
        super().__init__(max_chars=max_chars, tokens_per_batch=tokens_per_batch)
        if settings.categories != category_codes():
            raise ConfigError(
                f"the weights score {len(settings.categories)} categories that are not those of `{CATEGORY_TAXONOMY}`",
                hint="They were made with another version of the taxonomy; train the guard again.",
            )
        self._network = network
        self._encoder = encoder
        self._settings = settings
        self._calibrations = CalibrationRow(
            [settings.calibration.get(head, Calibration()) for head in (*BINARY_HEADS, *settings.categories)]
        )
        self._revision = revision
        self.presets_file = presets_file

    @classmethod
    def load(
        cls,
        *,
        weights: str | Path | None = None,
        decoder: str | Path | None = None,
        dtype: Literal["auto", "bfloat16", "float32", "int8"] = "auto",
        device: str = "cpu",
        threads: int | None = None,
        max_chars: int = MAX_CHARS,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> Self:
        """Load the packaged weights, or those in a folder.

        Args:
            weights: folder that ``corral train guard`` wrote; ``None`` for the packaged weights.
            decoder: model folder that stands in for base and adapter, such as what ``export.write_decoder`` wrote,
                dequantized from few bits; as many layers, in one safetensors file.
            dtype: of the decoder; ``auto`` is bfloat16 where the processor computes in it, else float32. ``int8``
                rounds what its linear layers multiply to 8 bits and leaves the rest in what ``auto`` is; it changes
                scores more than bfloat16 does (see docs/concepts/throughput.md); CPU only.
            device: torch device.
            threads: torch threads; ``None`` leaves torch's choice.
            max_chars: a judged message of more characters is refused, never cut.
            tokens_per_batch: padded tokens in one forward pass.

        Raises:
            NotFoundError: a weight file is missing.
            MissingDependencyError: the base model is not installed; the hint is the line that installs it.
            ConfigError: the weights fit another base model or taxonomy, the window is longer than an encoder reads, or
                ``int8`` cannot be computed here.
            DataError: ``decoder`` has fewer layers.
        """
        import torch

        folder = Path(weights) if weights is not None else cls.packaged
        if folder is None:
            raise ConfigError("no folder of weights", where="weights", hint="Name one, or load the guard `english`.")
        settings = read_settings(folder)
        if threads is not None:
            torch.set_num_threads(threads)
        if (installed := weights_revision(settings.base)) != settings.base_revision:
            raise ConfigError(
                f"the guard was trained on revision `{settings.base_revision}` of `{settings.base}`, "
                f"`{installed}` is installed",
                where=str(folder),
                hint="Install the revision it was trained on.",
            )
        encoder = ConversationEncoder.for_base(settings.base)
        chosen = _dtype(dtype, device)
        weights_known = guard_weights_revision(folder)
        if decoder is not None:  # other weights: before the dash, so that no fit is taken for theirs
            weights_known = sha256_json([weights_known, weights_revision(decoder)])[:16]
        return cls(
            _load_network(folder, settings, chosen, device, openings=encoder.openings, decoder=decoder),
            encoder,
            settings,
            revision=f"{weights_known}-{chosen}",
            max_chars=max_chars,
            tokens_per_batch=tokens_per_batch,
            presets_file=presets if (presets := folder / PRESETS_FILE).is_file() else None,
        )

    @property
    def name(self) -> str:
        """As in the registry: ``english``, ``multilingual``; ``trained`` for a folder that was loaded by neither."""
        return self._registered_as

    @property
    def revision(self) -> str:
        """Content hash of the weights, the dtype, and the limit on characters where it is not the usual one."""
        return self._revision if self.max_chars == MAX_CHARS else f"{self._revision}-max{self.max_chars}"

    @property
    def taxonomy(self) -> str:
        """Taxonomy of the category scores."""
        return CATEGORY_TAXONOMY

    def encode(self, conversation: Conversation, target: Target) -> JudgedWindows:
        """One window with the whole conversation where it fits, else windows over the judged message.

        Whole conversations give the prompt and the response the same token ids, so that both are judged from one pass:
        the decoder is causal, what follows a span does not change its scores. Of an encoder's only the response's are
        whole.
        """
        clipped, dropped = clip_context(conversation, target, max_chars=_CHARS_PER_TOKEN * self._settings.window)
        whole = self._encoder.encode_whole(clipped, target)
        if whole is not None and len(whole.ids) <= self._settings.window and not dropped:
            return JudgedWindows((Window(tuple(whole.ids), whole.start, whole.stop),))
        tokens = self._encoder.encode(clipped, target)
        return JudgedWindows(()) if tokens is None else self._long(tokens, unread_chars=dropped)

    def forward(self, sequences: Sequence[tuple[int, ...]], spans: Sequence[Span]) -> FloatArray:
        """Raw scores (S, 4 + categories): the binary heads in order, then the categories."""
        import torch

        device = self._device
        hidden_BTD = self.hidden_states(sequences)
        span_ST = torch.zeros(len(spans), hidden_BTD.shape[1], dtype=torch.bool)
        for row, span in enumerate(spans):
            span_ST[row, span.start : span.stop] = True
        rows = torch.tensor([span.row for span in spans])
        with torch.inference_mode():
            logits = self._network.heads(hidden_BTD[rows.to(device)], span_ST.to(device))
            scores_SK = torch.cat([logits.binary, logits.categories], dim=1)
        return np.asarray(scores_SK.float().cpu().numpy(), dtype=np.float64)

    def hidden_states(self, sequences: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """What the heads read: states (B, T, D) of token sequences after the last layer, padded on the right."""
        import torch

        batch, device = pad(sequences), self._device
        with torch.inference_mode():
            return self._network.hidden(batch.input_ids_BT.to(device), batch.attention_mask_BT.to(device))

    def conclude(self, scores_K: FloatArray, target: Target) -> Scores:
        """Calibrated probabilities; flagged when harm reaches 0.5 (an attack alone is the policy's business)."""
        probabilities = self._calibrations.apply(scores_K).tolist()
        binary = dict(zip(BINARY_HEADS, probabilities, strict=False))
        categories = zip(self._settings.categories, probabilities[len(BINARY_HEADS) :], strict=True)
        p_harm = binary[f"{target}_harm"]
        return Scores(
            flagged=p_harm >= 0.5,
            p_harm=p_harm,
            p_refusal=binary["response_refusal"] if target == "response" else None,
            p_attack=binary["prompt_attack"] if target == "prompt" else None,
            categories={code: probability for code, probability in categories if code not in self._settings.unreported},
        )

    def _long(self, tokens: JudgedTokens, *, unread_chars: int) -> JudgedWindows:
        """Windows over the pieces of the judged message, each opened and closed like a turn of its own.

        Characters of context that were not even tokenised count as a quarter of a token each, rounded up.
        """
        frame = len(self._encoder.beginning) + len(tokens.header) + len(tokens.end)
        kept = min(
            len(tokens.context), max(self._settings.min_context, self._settings.window - frame - len(tokens.text))
        )
        tail = tokens.context[len(tokens.context) - kept :]
        room = self._settings.window - frame - kept
        opening = [*self._encoder.beginning, *tail, *tokens.header]
        fits = len(tokens.text) <= room
        spans = [(0, len(tokens.text))] if fits else window_spans(len(tokens.text), room, self._settings.overlap)
        windows = [
            Window((*opening, *tokens.text[start:stop], *tokens.end), len(opening), len(opening) + stop - start + 1)
            for start, stop in spans
        ]
        return JudgedWindows(tuple(windows), len(tokens.context) - kept + -(-unread_chars // 4))

    @cached_property
    def _device(self) -> torch.device:
        return next(self._network.parameters()).device


class EnglishGuard(TrainedGuard):
    """On the lower layers of SmolLM2, which was pre-trained on English; see ``card.md`` beside its weights."""

    packaged: ClassVar[Path | None] = ENGLISH_WEIGHTS
    _registered_as: ClassVar[str] = "english"


class MultilingualGuard(TrainedGuard):
    """On an encoder of many languages, multilingual-e5-small; see ``card.md`` beside its weights.

    It reads a prompt without the reply, so that the two take a pass each.
    """

    packaged: ClassVar[Path | None] = MULTILINGUAL_WEIGHTS
    _registered_as: ClassVar[str] = "multilingual"


def read_settings(folder: Path) -> GuardSettings:
    """What ``guard.json`` says.

    Raises:
        NotFoundError: a file of the guard is missing.
        ConfigError: the file says something else than it should.
    """
    for name in WEIGHT_FILES:
        if not (folder / name).is_file():
            raise NotFoundError(f"no `{name}`", where=str(folder), hint=_MISSING_WEIGHTS)
    return load_config(GuardSettings, read_json(folder / GUARD_FILE))


def guard_weights_revision(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 over the guard's files."""
    digest = hashlib.sha256()
    for name in WEIGHT_FILES:
        digest.update(sha256_file(folder / name).encode())
    return digest.hexdigest()[:16]


def _load_network(
    folder: Path,
    settings: GuardSettings,
    dtype: str,
    device: str,
    *,
    openings: Sequence[Sequence[int]],
    decoder: str | Path | None,
) -> GuardNetwork:
    """The network in ``dtype``; ``openings`` are what conversations begin with."""
    from safetensors.torch import load_file

    stored = find_dtype(_dtype("auto", device) if dtype == "int8" else dtype)
    backbone: BertEncoder | LlamaDecoder
    if is_encoder(settings.base):
        if dtype == "int8" or decoder is not None:
            raise ConfigError("an encoder is computed neither in int8 nor from another decoder", where=str(folder))
        backbone = load_encoder(settings.base, dtype=stored)
        if settings.window > (most := backbone.shape.max_position_embeddings):
            raise ConfigError(f"`{settings.base}` reads at most {most} tokens", where=f"{folder / GUARD_FILE}: window")
        merge_lora(backbone, folder)
    else:
        backbone = load_inference_decoder(decoder or settings.base, layers=settings.layers, dtype=stored)
        if decoder is None:
            merge_lora(backbone, folder)
        backbone.to(device).expect(openings)
        if dtype == "int8":
            backbone.use_int8()
    heads = GuardHeads(backbone.shape.hidden_size, len(settings.categories))
    heads.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / HEAD_WEIGHTS).items()})
    return GuardNetwork(backbone, heads).to(device).eval().requires_grad_(False)


def _dtype(name: str, device: str) -> str:
    """What ``auto`` stands for; any other name is its own."""
    import torch

    if name != "auto":
        return name
    fast = device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"
