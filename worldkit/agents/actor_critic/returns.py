"""Lambda returns: what is still to come, as a mixture of what was seen and what is believed."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(reward: Tensor, following: Tensor, discount: Tensor, lam: float | Tensor, last: Tensor) -> Tensor:
    r"""``R_t = reward_t + discount_t ((1 - lam) following_t + lam R_{t+1})``, from the end to the beginning.

    Everything has an axis of time, the second one. All generations of Dreamer are this; they differ in which state's
    reward and value are put in.

    Args:
        reward: ``[N, H]``, of transition t.
        following: ``[N, H]``, value of what transition t leads to.
        discount: ``[N, H]``, what the time after transition t counts.
        lam: One number, or ``[N, H]``.
        last: ``[N]``, the return after the last transition.
    Returns:
        ``[N, H]``.
    Example:
        >>> ones = torch.ones(1, 3)
        >>> lambda_returns(ones, 0 * ones, 0.5 * ones, 1.0, torch.zeros(1))
        tensor([[1.7500, 1.5000, 1.0000]])
    """
    step, keep = reward + discount * (1 - lam) * following, discount * lam
    # R_t = step_t + keep_t R_{t+1}, put together in pairs, in pairs of pairs, ...: few operations, on all steps at once
    step = torch.cat([step, last[:, None]], 1)
    keep, ahead = torch.cat([keep, torch.zeros_like(keep[:, :1])], 1), 1
    while ahead < step.shape[1]:
        step = torch.cat([step[:, :-ahead] + keep[:, :-ahead] * step[:, ahead:], step[:, -ahead:]], 1)
        keep = torch.cat([keep[:, :-ahead] * keep[:, ahead:], keep[:, -ahead:]], 1)
        ahead *= 2
    return step[:, :-1]
