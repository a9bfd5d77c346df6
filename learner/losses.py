"""The losses as pure functions of tensors: token log-probabilities, the GRPO policy loss, k3 KL, token sums.

Input: flat tensors over a batch's tokens. Output: sums, so that micro-batches and ranks add up to one global mean.
Every normaliser is explicit: whoever calls divides by the token count of the whole global batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DUAL_CLIP = 3.0  # the paper's; bounds the loss of a token with a negative advantage and a large ratio
LOG_RATIO_BOUND = 20.0  # exp(20) is far outside any clip range; beyond it exp would overflow to inf


@dataclass(frozen=True)
class PolicyLoss:
    """Sums over the tokens of a batch; divide by the global token count.

    Attributes:
        loss_sum: policy loss plus ``kl_coefficient`` times KL, scalar with gradient.
        clipped_sum: number of tokens whose ratio was clipped by the PPO bounds, scalar.
        kl_sum: k3 KL to the reference policy, scalar without gradient; 0 without one.
    """

    loss_sum: Tensor
    clipped_sum: Tensor
    kl_sum: Tensor


def token_logprobs(logits_TV: Tensor, token_ids_T: Tensor, temperature_T: Tensor, forbidden_ids: Tensor) -> Tensor:
    """Log-probability of each token under the distribution that the engine sampled from, float32 [T].

    Args:
        logits_TV: raw logits at the predicting positions.
        token_ids_T: the tokens whose log-probability is asked, int64.
        temperature_T: the sampling temperature per token, above 0.
        forbidden_ids: ids that could not be sampled, int64 [F]: left out of the normaliser (promise 10).
    """
    logits_TV = logits_TV.float() / temperature_T[:, None]
    if forbidden_ids.numel():
        logits_TV = logits_TV.index_fill(1, forbidden_ids, float("-inf"))
    chosen_T = logits_TV.gather(1, token_ids_T[:, None])[:, 0]
    return chosen_T - logits_TV.logsumexp(dim=1)


def k3_kl(logprobs_T: Tensor, ref_logprobs_T: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token: exp(d) - d - 1 with d = ref - policy.

    Never negative. http://joschu.net/blog/kl-approx.html
    """
    difference_T = (ref_logprobs_T - logprobs_T).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return difference_T.exp() - difference_T - 1.0


def policy_loss(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    loss_mask_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    kl_coefficient: float = 0.0,
    ref_logprobs_T: Tensor | None = None,
) -> PolicyLoss:
    """PPO's clipped loss with separate bounds (DAPO) and a dual clip (arXiv 1912.09729), summed over the tokens.

    Per token, with r = exp(logprob - old_logprob) and advantage A:
    ``max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))``, and for A < 0 at most ``-A * 3``.

    Args:
        logprobs_T: of the policy being trained, with gradient.
        old_logprobs_T: of the policy that sampled the tokens (rollout_logprobs): the ratio corrects staleness.
        advantages_T: the token's completion's advantage; anything where the mask is False.
        loss_mask_T: bool; False = the token takes no part.
        ref_logprobs_T: of the reference policy; needed where ``kl_coefficient`` > 0.
    """
    zero_T = torch.zeros_like(logprobs_T)
    # Masked positions are replaced before the arithmetic: 0 * inf would be NaN.
    advantages_T = torch.where(loss_mask_T, advantages_T, zero_T)
    log_ratio_T = torch.where(loss_mask_T, logprobs_T - old_logprobs_T, zero_T)
    ratio_T = log_ratio_T.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    plain_T = -advantages_T * ratio_T
    clipped_T = -advantages_T * ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss_T = torch.maximum(plain_T, clipped_T)
    loss_T = torch.where(advantages_T < 0, torch.minimum(loss_T, -advantages_T * DUAL_CLIP), loss_T)
    kl_sum = logprobs_T.new_zeros(())
    if kl_coefficient > 0.0 and ref_logprobs_T is not None:
        kl_T = k3_kl(torch.where(loss_mask_T, logprobs_T, zero_T), torch.where(loss_mask_T, ref_logprobs_T, zero_T))
        loss_T = loss_T + kl_coefficient * kl_T
        kl_sum = kl_T.detach().sum()
    return PolicyLoss(
        loss_sum=loss_T.sum(),
        clipped_sum=(loss_mask_T & (clipped_T > plain_T)).sum().to(logprobs_T.dtype),
        kl_sum=kl_sum,
    )
