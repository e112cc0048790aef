"""Names of the official code's weights, and its checkpoints of one task, every key used.

Older checkpoints number the tensors of the ensembles (``_Qs.params.0`` to ``_Qs.params.9``); newer ones hold the values
twice (``_detach_Qs_params``), which must be equal. Checkpoints of several tasks have embeddings of tasks, for which
there is no place here: they are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ...convert.state import Target, fill
from ...errors import CheckpointError
from .agent import TDMPC2Agent

_PLACES = (
    (r"^_encoder\.state\.", "model.encoder.net."), (r"^_dynamics\.", "model.dynamics.net."),
    (r"^_reward\.", "model.heads.reward.net."), (r"^_termination\.", "model.heads.terminated.net."),
    (r"^_pi\.", "agent.policy.net."), (r"^_Qs\.params\.", "agent.values.nets.params."),
    (r"^_target_Qs\.params\.", "agent.values.slow.params."),
)
_NO_WEIGHTS = re.compile(r"^log_std_(min|dif|max)$|params\.__(batch_size|device)$|^_action_masks$")
_MEMBERS = ("weight", "bias", "ln.weight", "ln.bias")


def fill_agent(agent: TDMPC2Agent, state: Mapping[str, Tensor]) -> None:
    """Fill an agent and its model with official weights.

    Args:
        agent: Of the sizes of the checkpoint.
        state: The official model's state dict.
    Raises:
        CheckpointError: listing every key that has no place or another size, and every parameter that stays empty.
    """
    if "_task_emb.weight" in state:
        raise CheckpointError("this is a checkpoint of several tasks (_task_emb.weight), and an agent has one: take "
                              "the checkpoint of a single task")
    weights = {key: value for key, value in state.items() if not _NO_WEIGHTS.search(key)}
    both = _both(agent)
    names = {name for name, _ in both.named_parameters()}

    def target_of(key: str) -> Target | None:
        name = our_name(key)
        return Target(name) if name in names else None

    fill(both, weights, canonical=canonical, target_of=target_of, between="the checkpoint and the agent's options",
         advice="Are the sizes those of the checkpoint (worldkit info tdmpc2-5m)?")


def official_weights(agent: TDMPC2Agent) -> dict[str, Tensor]:
    """The parameters of an agent and its model by their official names, but of pictures' encoders."""
    found = {}
    for name, parameter in _both(agent).named_parameters():
        for pattern, place in _PLACES:
            if name.startswith(place):
                prefix = pattern.removeprefix("^").replace("\\", "")
                found[prefix + name.removeprefix(place)] = parameter
    return found


def canonical(key: str) -> str:
    """A key of any version of the official code, as the newest one spells it without its copies."""
    key = re.sub(r"^_detach_Qs_params\.", "_Qs.params.", key)
    key = re.sub(r"^_target_Qs_params\.", "_target_Qs.params.", key)
    found = re.fullmatch(r"(_Qs|_target_Qs)\.params\.(\d+)", key)
    if found is None:
        return key
    layer, member = divmod(int(found[2]), len(_MEMBERS))
    return f"{found[1]}.params.{layer}.{_MEMBERS[member]}"


def our_name(key: str) -> str | None:
    """Where a canonical key goes, behind ``model.`` or ``agent.``; None: nowhere that we know."""
    if found := re.fullmatch(r"_encoder\.rgb\.(\d+)\.(weight|bias)", key):
        return f"model.encoder.net.{int(found[1]) - 2}.{found[2]}"  # shift and scaling are layers there
    for pattern, place in _PLACES:
        if re.match(pattern, key):
            return re.sub(pattern, place, key)
    return None


def _both(agent: TDMPC2Agent) -> nn.Module:
    both = nn.Module()
    both.model, both.agent = agent.model, agent
    return both
