"""Reading a chat model's residual stream at chosen tokens, and how likely it is to open its answer with a refusal.

All prompts of one template begin alike (with the template's system text); within a batch that beginning is computed
once and its keys and values shared.

Legend: B sequences, T tokens, P positions, S sites, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from corral.core.errors import CorralError, DataError, EngineError
from corral.core.files import sha256_json
from corral.data.messages import Conversation
from corral.models.activations import capture
from corral.models.batching import pad, token_budget_batches
from corral.models.positions import LocatedPrompt, locate, template_hash
from corral.models.sites import residual_sites

if TYPE_CHECKING:
    from torch import Tensor

    from corral.models.engines.torch import TorchEngine

Floats = NDArray[np.float32]

BATCH_TOKENS: Final = 2048
_LEAST_SHARED: Final = 8  # below this a second pass costs more than it saves
REFUSAL_OPENINGS: Final = ("I'm sorry", "I cannot", "I can't", "I apologize", "Sorry", "Unfortunately", "As an AI")


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one prompt.

    Attributes:
        inst_SD: states at the last token of the instruction, float32.
        post_SD: states at the last token of the prompt.
        refusal: log-odds that the answer opens as a refusal does (see ``refusal_score``).
    """

    inst_SD: Floats
    post_SD: Floats
    refusal: float


class LatentReader:
    """Reads one model.

    Args:
        engine: the model with its tokenizer. Its weights and hooks may change between calls, not during one.
        revision: of the weights, as ``models.loading.weights_revision`` gives it.
        step_back: see ``models.positions.locate``.
        batch_tokens: padded tokens of one forward pass.
        share_beginning: compute what the prompts of a batch begin with once. Not under steering, which takes the
            second part for decoding.

    Raises:
        ConfigError: a model without a list of layers.
        UserError: a tokenizer without a chat template.
    """

    def __init__(
        self,
        engine: TorchEngine,
        *,
        revision: str,
        step_back: bool = False,
        batch_tokens: int = BATCH_TOKENS,
        share_beginning: bool = True,
    ) -> None:
        self.engine = engine
        self.model_revision = revision
        self.template = template_hash(engine.chat)
        self.sites = residual_sites(engine.model.base_model)
        self.step_back = step_back
        self.batch_tokens = batch_tokens
        self.share_beginning = share_beginning
        self.refusal_ids = refusal_token_ids(engine)

    @property
    def dtype(self) -> str:
        """Of the weights, for example ``float32``."""
        return str(self.engine.model.dtype).removeprefix("torch.")

    @property
    def revision(self) -> str:
        """Hash of everything that a reading depends on."""
        return sha256_json([self.model_revision, self.template, self.dtype, self.step_back, sorted(self.refusal_ids)])[
            :16
        ]

    def locate(self, conversation: Conversation) -> LocatedPrompt:
        """Tokens and positions of a prompt.

        Raises:
            DataError: see ``models.positions.locate``.
        """
        return locate(self.engine.chat, conversation, step_back=self.step_back, limit=self.engine.context_length)

    def read(self, conversations: Sequence[Conversation]) -> list[Reading | CorralError]:
        """Read each prompt; one that cannot be read gives its error and takes no other with it."""
        found: list[Reading | CorralError] = []
        prompts: list[LocatedPrompt] = []
        readable: list[int] = []
        for index, conversation in enumerate(conversations):
            try:
                prompts.append(self.locate(conversation))
                readable.append(index)
                found.append(DataError("was not read"))
            except CorralError as error:
                found.append(error)
        for batch in token_budget_batches([len(prompt.ids) for prompt in prompts], self.batch_tokens):
            readings = self._read_batch([prompts[i] for i in batch])
            for i, reading in zip(batch, readings, strict=True):
                found[readable[i]] = reading
        return found

    def states(
        self, sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
    ) -> tuple[list[Floats], Tensor]:
        """States of one batch of token sequences, in one forward pass (two where a beginning is shared).

        Args:
            sequences: token ids.
            positions: of each sequence, the tokens to read, at least one.

        Returns:
            For each sequence (P, S, D) float32; and the last hidden states (B, D) after the final norm.
        """
        import torch

        decoder: Any = self.engine.model.base_model
        shared = self._shared(sequences, positions)
        batch = pad([ids[shared:] for ids in sequences])
        most = max(map(len, positions))
        columns_BP = torch.tensor([[*row, *[row[-1]] * (most - len(row))] for row in positions]) - shared
        device = self.engine.model.device
        with torch.inference_mode():
            cache = self._beginning(sequences[0][:shared], len(sequences)) if shared else None
            mask_BT = torch.cat([torch.ones(len(sequences), shared, dtype=torch.long), batch.attention_mask_BT], dim=1)
            with capture(decoder, self.sites, positions_BP=columns_BP) as found:
                hidden_BTD = decoder(
                    input_ids=batch.input_ids_BT.to(device),
                    attention_mask=mask_BT.to(device),
                    position_ids=(batch.position_ids_BT + shared).to(device),
                    past_key_values=cache,
                    use_cache=cache is not None,
                ).last_hidden_state
            states_BPSD = torch.stack([found[site] for site in self.sites], dim=2).float().cpu()
            last_B = torch.tensor([len(ids) - shared - 1 for ids in sequences], device=device)
            last_BD = hidden_BTD[torch.arange(len(sequences), device=device), last_B]
        return [states[: len(row)].numpy() for states, row in zip(states_BPSD, positions, strict=True)], last_BD

    def _read_batch(self, prompts: Sequence[LocatedPrompt]) -> list[Reading | CorralError]:
        import torch

        states, last_BD = self.states([p.ids for p in prompts], [(p.t_inst, p.t_post) for p in prompts])
        with torch.inference_mode():
            scores = refusal_score(self.engine.model.get_output_embeddings()(last_BD), self.refusal_ids)
        return [_checked(pair_2SD, float(score)) for pair_2SD, score in zip(states, scores, strict=True)]

    def _shared(self, sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> int:
        """Tokens that all sequences begin with, none of which is to be read."""
        if not self.share_beginning or len(sequences) < 2:
            return 0
        most = min(min(row) for row in positions)
        first = sequences[0]
        same = next((i for i in range(most) if any(ids[i] != first[i] for ids in sequences)), most)
        return same if same >= _LEAST_SHARED else 0

    def _beginning(self, ids: Sequence[int], copies: int) -> Any:
        """Keys and values of a common beginning, once a sequence."""
        import torch
        from transformers import DynamicCache

        model = self.engine.model
        cache = DynamicCache(config=model.config)
        ids_1T = torch.tensor([list(ids)], device=model.device)
        model.base_model(input_ids=ids_1T, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(copies)
        return cache


def refusal_token_ids(engine: TorchEngine, openings: Sequence[str] = REFUSAL_OPENINGS) -> tuple[int, ...]:
    """First tokens of what refusals open with."""
    return tuple(dict.fromkeys(engine.chat.encode_text(opening)[0] for opening in openings))


def refusal_score(logits_BV: Tensor, refusal_ids: Sequence[int]) -> Tensor:
    """log p - log(1 - p), p the probability that the next token is one of these (arXiv 2406.11717, section 2.3).

    Args:
        logits_BV: at the last token of each prompt.
        refusal_ids: first tokens of refusals.

    Returns:
        (B,) float64; infinite where p is 0 or 1.
    """
    import torch

    logits_BV = logits_BV.double()
    inside = torch.zeros(logits_BV.shape[-1], dtype=torch.bool, device=logits_BV.device)
    inside[list(refusal_ids)] = True
    # Never through 1 - p, which would cost all digits where p is near 1.
    return logits_BV[:, inside].logsumexp(dim=-1) - logits_BV[:, ~inside].logsumexp(dim=-1)


def _checked(pair_2SD: Floats, refusal: float) -> Reading | CorralError:
    if not (np.isfinite(pair_2SD).all() and np.isfinite(refusal)):
        return EngineError("the model gave activations that are not finite")
    return Reading(pair_2SD[0], pair_2SD[1], refusal)
