"""Names of the official codes' weights of the actor-critic, IRIS's and DIAMOND's."""

from __future__ import annotations

import re

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
