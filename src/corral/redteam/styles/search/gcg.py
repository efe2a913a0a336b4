"""GCG: greedy coordinate gradient on a suffix of the request.

Source: Zou et al., arXiv 2307.15043, algorithm 1. The loss is the cross-entropy of an affirmative opening. Its
gradient through one-hot tokens ranks, at every place of the suffix, the tokens that would lower it most; of so many
random exchanges among those the best by the true loss is taken, also where it is worse than before. Defaults are the
published ones: 250 steps, 512 exchanges a step out of the 256 best tokens a place, one exchange at a time, a suffix of
20. Deviations: exchanges that the tokenizer would not read back as the same tokens are left out, so the prompt that is
sent is the one that was scored; the best suffix of all steps is given, not the last; the search ends when greedy
decoding would write the opening. Places are drawn evenly, as in the released code.

Legend: S tokens of the suffix, T of everything, V vocabulary, D hidden size, C exchanges.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from corral.core.errors import ConfigError
from corral.models.engines.torch import TorchEngine
from corral.redteam.styles.base import Style
from corral.redteam.styles.prompt import Draft, Needs, NotApplicable, prompt_of
from corral.redteam.styles.search.tools import Found, SearchTools, affirmative_opening, searching
from corral.redteam.styles.templates import read_packaged

if TYPE_CHECKING:
    from torch import Tensor

MARK: Final = " !"
_DEFAULTS: Final = {"steps": 250, "width": 512, "topk": 256, "length": 20}
_DRAWS: Final = 2  # exchanges drawn for each that is wanted, since some do not read back


def gcg(steps: int = 250, width: int = 512, topk: int = 256, length: int = 20) -> Style:
    """A suffix found by gradients, after which an affirmative opening is likeliest.

    Args:
        steps: of the search.
        width: exchanges that are scored in each.
        topk: tokens a place that exchanges are drawn from.
        length: exclamation marks that the suffix starts as; a token each in most tokenizers.

    Raises:
        ConfigError: a count below 1.
    """
    chosen = {"steps": steps, "width": width, "topk": topk, "length": length}
    for name, value in chosen.items():
        if value < 1:
            raise ConfigError(f"`{value}` is below 1", where=f"gcg.{name}")

    def search(draft: Draft, tools: SearchTools, rng: random.Random) -> Found | NotApplicable:
        engine = tools.engine
        if not isinstance(engine, TorchEngine):
            return NotApplicable("needs the gradients of a model that is loaded here without a defence around it")
        suffix = locate(engine, draft, MARK * length)
        if suffix is None:
            return NotApplicable("the suffix has no tokens of its own in this prompt")
        return _search(Descent(engine, suffix, topk), draft, rng, steps, width)

    return searching(
        "gcg",
        "looks for a suffix by gradients until an affirmative opening is likely",
        search,
        version=1,
        defaults=_DEFAULTS,
        chosen=chosen,
        content=[read_packaged("search")["opening"], MARK],
        needs=Needs(likelihoods=True, gradients=True),
    )


def _search(descent: Descent, draft: Draft, rng: random.Random, steps: int, width: int) -> Found:
    ids = descent.start.ids
    loss, greedy = descent.losses([ids])[0]
    best, queries, step = (loss, ids), 1, 0
    while step < steps and not greedy:
        step += 1
        exchanges = descent.exchanges(ids, width, rng)
        if not exchanges:
            break
        scored = descent.losses(exchanges)
        queries += len(scored)
        (loss, greedy), ids = min(zip(scored, exchanges, strict=True), key=lambda each: each[0][0])
        best = min(best, (loss, ids))
    text = draft.text + descent.engine.chat.decode(best[1])
    return Found(text, greedy, -best[0], step, queries)


@dataclass(frozen=True, slots=True)
class Suffix:
    """A suffix among the tokens of a prompt, and what it is to make likely.

    Attributes:
        draft: without the suffix.
        before: tokens up to the suffix.
        ids: of the suffix.
        after: tokens from there to the answer.
        target: tokens of the opening.
    """

    draft: Draft
    before: tuple[int, ...]
    ids: tuple[int, ...]
    after: tuple[int, ...]
    target: tuple[int, ...]


def locate(engine: TorchEngine, draft: Draft, text: str) -> Suffix | None:
    """Where the tokens of a suffix stand in the prompt; ``None`` when they share one with what is around them."""
    whole = engine.chat.encode_prompt(prompt_of(draft.with_text(draft.text + text)))
    ids = engine.chat.encode_text(text)
    target = tuple(engine.chat.encode_text(affirmative_opening(draft.text)))
    for start in range(len(whole) - len(ids), -1, -1):
        if ids and whole[start : start + len(ids)] == ids:
            stop = start + len(ids)
            return Suffix(draft, tuple(whole[:start]), tuple(ids), tuple(whole[stop:]), target)
    return None


class Descent:
    """Steps on one suffix.

    Args:
        engine: the target; what it decodes with is scored, its model's gradients are followed.
        start: the suffix and its place.
        topk: tokens a place that exchanges are drawn from.
    """

    def __init__(self, engine: TorchEngine, start: Suffix, topk: int) -> None:
        self.engine = engine
        self.start = start
        self._topk = topk
        self._allowed = _writable(engine)

    def gradient(self, ids: Sequence[int]) -> Tensor:
        """Of the loss by the one-hot tokens of the suffix, (S, V) in float32."""
        import torch

        model, embedding = self.engine.model, self.engine.model.get_input_embeddings()
        weight_VD: Tensor = embedding.weight
        device = weight_VD.device
        known = [torch.tensor(part, device=device) for part in (self.start.before, self.start.after, self.start.target)]
        one_hot_SV = torch.zeros(len(ids), weight_VD.shape[0], dtype=weight_VD.dtype, device=device)
        one_hot_SV[torch.arange(len(ids)), torch.tensor(ids, device=device)] = 1
        one_hot_SV.requires_grad_()
        with torch.enable_grad():
            before_TD, after_TD, target_TD = (embedding(part).detach() for part in known)
            states_TD = torch.cat([before_TD, one_hot_SV @ weight_VD.detach(), after_TD, target_TD])
            logits_TV = model(inputs_embeds=states_TD[None], use_cache=False).logits[0]
            # The token at a place is predicted by the one before it.
            predicting_TV = logits_TV[-len(self.start.target) - 1 : -1].float()
            loss = torch.nn.functional.cross_entropy(predicting_TV, known[2])
            (gradient_SV,) = torch.autograd.grad(loss, [one_hot_SV])
        return gradient_SV.float()

    def exchanges(self, ids: tuple[int, ...], width: int, rng: random.Random) -> list[tuple[int, ...]]:
        """Suffixes that differ in one token, drawn among the tokens that the gradient ranks best at their place."""
        gradient_SV = self.gradient(ids).masked_fill(~self._allowed.to(self.engine.model.device), float("inf"))
        topk = min(self._topk, int(self._allowed.sum()))
        best_SK = gradient_SV.topk(topk, largest=False).indices.tolist()
        possible = len(ids) * topk
        # Evenly over the places: draw i exchanges place i mod S. All of them where the width asks for no fewer.
        drawn = range(possible) if width >= possible else rng.sample(range(possible), min(_DRAWS * width, possible))
        found: dict[tuple[int, ...], None] = {}
        for number, draw in enumerate(drawn):
            place = (draw if width >= possible else number) % len(ids)
            token = best_SK[place][draw // len(ids)]
            changed = (*ids[:place], token, *ids[place + 1 :])
            if token != ids[place] and changed not in found and self._reads_back(changed):
                found[changed] = None
            if len(found) == width:
                break
        return list(found)

    def losses(self, suffixes: Sequence[tuple[int, ...]]) -> list[tuple[float, bool]]:
        """Mean cross-entropy of the opening behind each suffix, in nats, and whether greedy decoding writes it."""
        before, after, target = self.start.before, self.start.after, self.start.target
        scores = self.engine.token_logprobs([((*before, *ids, *after), target) for ids in suffixes])
        return [(-score.total / len(target), score.greedy) for score in scores]

    def _reads_back(self, ids: tuple[int, ...]) -> bool:
        """Whether the prompt with this suffix, as text, has these tokens."""
        draft = self.start.draft
        text = draft.text + self.engine.chat.decode(ids)
        return self.engine.chat.encode_prompt(prompt_of(draft.with_text(text))) == [
            *self.start.before,
            *ids,
            *self.start.after,
        ]


def _writable(engine: TorchEngine) -> Tensor:
    """Tokens that a suffix may have, (V,): printable ASCII, no control tokens."""
    import torch

    vocabulary = engine.model.get_input_embeddings().weight.shape[0]
    tokenizer: Any = engine.chat.tokenizer
    special = set(tokenizer.all_special_ids)
    known = min(vocabulary, len(tokenizer))
    texts = tokenizer.batch_decode([[index] for index in range(known)])
    allowed = [text.isascii() and text.isprintable() and index not in special for index, text in enumerate(texts)]
    return torch.tensor([*allowed, *([False] * (vocabulary - known))])
