"""Official checkpoints of IRIS and DIAMOND hold an actor-critic beside the world: its names, its sizes, the agent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...convert.state import Target, fill
from ...errors import CheckpointError
from ...model import WorldModel
from ..actions import ActionSpec
from ..folder import create_agent
from .agent import PixelActorCriticAgent

PREFIX = "actor_critic."
_PLACES = (
    (r"^encoder\.encoder\.(\d+)\.f\.0\.norm\.", r"encoder.\1.norm."),
    (r"^encoder\.encoder\.(\d+)\.f\.2\.", r"encoder.\1.conv."),
    (r"^encoder\.encoder\.(\d+)\.skip_projection\.", r"encoder.\1.skip."),
    (r"^encoder\.encoder\.0\.", "encoder.0."), (r"^actor_linear\.", "actor."), (r"^critic_linear\.", "critic."),
)


def our_name(key: str) -> str:
    """What `worldkit.agents.pixel_actor_critic.networks.PixelNetwork` calls a weight, with or without the prefix.

    Example:
        >>> our_name("actor_critic.conv3.weight"), our_name("encoder.encoder.5.f.2.bias")
        ('encoder.6.weight', 'encoder.5.conv.bias')
    """
    key = key.removeprefix(PREFIX)
    if found := re.match(r"^conv(\d+)\.", key):  # IRIS numbers them from 1; each has a pool and a ReLU behind it
        return f"encoder.{3 * (int(found[1]) - 1)}.{key[found.end():]}"
    for pattern, place in _PLACES:
        if re.match(pattern, key):
            return re.sub(pattern, place, key)
    return key


def network_of(state: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Any]:
    """Options of the network (`NetworkConfig`) that weights ask for.

    Args:
        state: The actor-critic's weights, with or without the prefix.
        size: (height, width) of the pictures.
    Raises:
        CheckpointError: a weight that tells a size is missing.
    """
    named = {key.removeprefix(PREFIX): x for key, x in state.items()}
    try:
        memory, convs = named["lstm.weight_hh"].shape[1], [key for key in named if re.match(r"^conv\d+\.weight$", key)]
        if convs:
            widths = [named[f"conv{i + 1}.weight"].shape[0] for i in range(len(convs))]
            return {"kind": "pooled", "channels": widths, "memory": memory}
        blocks = sorted(int(found[1]) for key in named
                        if (found := re.match(r"^encoder\.encoder\.(\d+)\.f\.2\.weight$", key)))
        widths = [named[f"encoder.encoder.{i}.f.2.weight"].shape[0] for i in blocks]
    except KeyError as error:
        raise CheckpointError(f"these are no weights of IRIS's or DIAMOND's actor-critic: {error} is missing") from None
    if not blocks:
        raise CheckpointError("these are no weights of IRIS's or DIAMOND's actor-critic: there are no convolutions")
    down = [b - a == 2 for a, b in zip(blocks, blocks[1:], strict=False)]  # a pool stands between them
    left = widths[-1] * size[0] * size[1] // 4 ** sum(down)
    return {"kind": "residual", "channels": widths, "memory": memory,
            "down": [*down, named["lstm.weight_ih"].shape[1] < left]}


def agent_of(state: Mapping[str, Tensor], model: WorldModel, *, environment: str | None = None,
             **options: Any) -> PixelActorCriticAgent:
    """The agent in an official checkpoint.

    Args:
        state: The whole flat state dict, or the actor-critic's part of it.
        model: The world in it, as `worldkit.convert` makes it.
        environment: Game that it was trained in, which the checkpoint does not say.
        **options: Of the agent; sizes are read off the weights.
    Raises:
        CheckpointError: weights without a place, or of another action set than the model's.
    """
    own = {key: x for key, x in state.items() if key.startswith(PREFIX)} or dict(state)
    network = network_of(own, (model.config.obs.height, model.config.obs.width))
    known = {key.removeprefix(PREFIX): x for key, x in own.items()}
    told = getattr(model.config.conditioners.get("action"), "num_actions", None)
    choices = len(known["actor_linear.bias"])
    if told != choices:
        raise CheckpointError(f"the actor of this checkpoint has {choices} actions, and the model is told one of "
                              f"{told}: they were trained in games with other actions (Breakout has 4, Pong 6, Alien "
                              "18); take both from one checkpoint")
    if network["kind"] == "residual":
        options = {"dreams": "lasting", "context": 4, "horizon": 15, "discount": 0.985, "eval_temperature": 1.0,
                   **options}
    agent = create_agent("pixel-actor-critic", action=ActionSpec(num_actions=choices), model=model, network=network,
                         environment=environment, **options)
    names = {name for name, _ in agent.network.named_parameters()}

    def target_of(key: str) -> Target | None:
        name = our_name(key)
        return Target(name) if name in names else None

    fill(agent.network, own, canonical=lambda key: key, target_of=target_of,
         between="the checkpoint and the sizes read off it", advice="Is this a whole agent of IRIS or DIAMOND?")
    return agent.eval()
