"""Returns of dreams as IRIS and as DIAMOND count them; both are `worldkit.agents.actor_critic.returns.lambda_returns`.

IRIS's end inside the dream, with its own last value. DIAMOND's have a value behind every step, which counts alone where
a dream was cut off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..actor_critic.returns import lambda_returns


def inside_returns(reward: Tensor, ended: Tensor, value: Tensor, *, discount: float, lam: float) -> Tensor:
    r"""IRIS's: ``R_t = r_t + (1 - end_t) discount ((1 - lam) V_{t+1} + lam R_{t+1})``, and the last one is ``V``.

    Args:
        reward, ended: Of transition t, ``[N, H]``; the last one leads out of the dream and does not count.
        value: Of state t, ``[N, H]``.
        discount: Factor of a step.
        lam: Share of what was seen against what is believed.
    Returns:
        ``[N, H]``, without a graph.
    Example:
        >>> reward, ended, value = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), torch.tensor([[5.0, 4.0]])
        >>> inside_returns(reward, ended, value, discount=0.5, lam=0.9)
        tensor([[3., 4.]])
    """
    value = value.detach()
    going = (1 - ended[:, :-1].to(value.dtype)) * discount
    found = lambda_returns(reward[:, :-1].to(value.dtype), value[:, 1:], going, lam, value[:, -1])
    return torch.cat([found, value[:, -1:]], 1)


def lasting_returns(reward: Tensor, ended: Tensor, cut: Tensor, following: Tensor, *, discount: float, lam: float
                    ) -> Tensor:
    r"""DIAMOND's: the value that follows a step is given, of a state that may be no step of the dream any more.

    Args:
        reward, ended: Of step t, ``[N, H]``.
        cut: Whether the dream was cut off behind step t, ``[N, H]``: what follows counts as its value alone.
        following: Value of what step t led to, ``[N, H]``.
        discount: Factor of a step.
        lam: Share of what was seen against what is believed.
    Returns:
        ``[N, H]``, without a graph.
    Example:
        >>> no, yes = torch.zeros(1, 1), torch.ones(1, 1)
        >>> lasting_returns(yes, no, yes, 4 * yes, discount=0.5, lam=0.9)
        tensor([[3.]])
    """
    following = following.detach()
    ended, cut = ended.to(following.dtype), cut.to(following.dtype)
    return lambda_returns(reward.to(following.dtype), following, (1 - ended) * discount, lam * (1 - cut),
                          following[:, -1])
