"""DOOR and W-DOOR: refuse, also after a harmful beginning, and unlearn the harmful answer, as two terms of their own.

Source: Zhao et al., arXiv 2503.03710. With x the request and the first k tokens of a harmful answer, y the safe answer
and h the rest of the harmful one,

    L = alpha * ( - sum_t w_t log pi(y_t | x, y_<t)  +  NPO(x, h) )  +  (1 - alpha) * ( - log pi(help) )
    NPO = - (2 / beta) log sigmoid( - beta log( pi(h|x) / pi_ref(h|x) ) )

(NPO: Zhang et al., arXiv 2404.05868, equation 3). DOOR has w_t = 1; W-DOOR weighs the tokens that a preference-trained
model pi* has learnt to prefer, w_t = exp( log( pi*(y_t|.) / pi_ref(y_t|.) ) / tau ).

Legend: B rows, T tokens. All in nats, each sequence a sum over its tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unlearning_loss(log_ratio_B: Tensor, beta: float) -> Tensor:
    """NPO of each row (B,); it falls towards 0 as the answer becomes unlikely, and so does its gradient.

    Args:
        log_ratio_B: log-likelihood of the harmful answer, less that under the reference.
        beta: above 0; the smaller, the closer to gradient ascent.
    """
    found: Tensor = -2 / beta * torch.nn.functional.logsigmoid(-beta * log_ratio_B)
    return found


def refusal_loss(log_probs_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """Weighted negative log-likelihood of each row's safe answer (B,).

    Args:
        log_probs_BT: of its tokens, 0 elsewhere.
        weights_BT: of the tokens; all 1 is DOOR.
    """
    return -(log_probs_BT * weights_BT).sum(dim=-1)


def token_weights(preferred_T: Tensor, reference_T: Tensor, tau: float) -> Tensor:
    """W-DOOR's weights (T,): above 1 where preference training made a token likelier.

    Args:
        preferred_T: log-probabilities of the safe answer's tokens under the preference-trained model.
        reference_T: the same under the reference.
        tau: above 0; the larger, the more even the weights.
    """
    return ((preferred_T - reference_T) / tau).exp()
