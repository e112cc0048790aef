"""What policy and value learn from a dream: REINFORCE with the value as its baseline, squared errors, entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Dreamed:
    """What was done in a dream, with the graph of the network.

    Attributes:
        logits: Of the actions at steps t, ``[N, H, A]``.
        action: What was drawn, int64 ``[N, H]``.
        value: ``[N, H]``.
        returns: ``[N, H]``, without a graph.
    """

    logits: Tensor
    action: Tensor
    value: Tensor
    returns: Tensor


def actor_critic_losses(dreamed: Dreamed, *, entropy: float, value: float = 1.0) -> dict[str, Tensor]:
    """Weighted losses by name: ``"policy"``, ``"value"``, ``"entropy"``; their sum is what is minimised.

    Args:
        dreamed: Steps.
        entropy, value: Weights.
    Example:
        >>> import torch
        >>> one, choice = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64)
        >>> step = Dreamed(torch.zeros(1, 1, 2), choice, one, 3 * one)
        >>> {name: round(x.item(), 4) for name, x in actor_critic_losses(step, entropy=0.1).items()}
        {'policy': 1.3863, 'value': 4.0, 'entropy': -0.0693}
    """
    log_prob = dreamed.logits.log_softmax(-1)
    chosen = log_prob.gather(-1, dreamed.action[..., None])[..., 0]
    advantage = dreamed.returns - dreamed.value.detach()
    return {
        "policy": -(chosen * advantage).mean(),
        "value": value * (dreamed.value - dreamed.returns).square().mean(),
        "entropy": -entropy * entropy_of(log_prob).mean(),
    }


def entropy_of(log_prob: Tensor) -> Tensor:
    """``[..., A]`` -> nats ``[...]``."""
    return -(log_prob.exp() * log_prob).sum(-1)


def told(losses: Mapping[str, Tensor], dreamed: Dreamed) -> dict[str, Tensor]:
    """Numbers for the log, without a graph."""
    entropy = entropy_of(dreamed.logits.detach().log_softmax(-1)).mean()
    return {**{f"loss_{name}": x.detach() for name, x in losses.items()}, "entropy": entropy,
            "value": dreamed.value.detach().mean(), "return": dreamed.returns.mean()}
