"""`imagine`: a policy acts in a model, for many starts at once.

It is `worldkit.dreaming.Loop` with a policy in front of every step; a scripted policy gives what `rollout` gives. What
is the same for all steps (checks, other conditions, heads that can read all transitions at once) is done once, so that
a step of a small model costs little beside its matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .batch import as_table, require_tensor
from .conditioning import gather, told
from .conditions import EMPTY, Condition
from .distributions import Sampler
from .dreaming import Loop
from .dynamics.base import Dynamics
from .errors import ConditionError, ShapeError, WorldkitError
from .latents import Latent

if TYPE_CHECKING:
    from .model import ComposedWorldModel

Policy = Callable[[Latent, Sampler], tuple[Tensor, Mapping[str, Tensor]]]
"""``policy(latent [N, 1], sampler)`` -> the action ``[N, 1, A]`` (discrete: one-hot floats ``[N, 1, num_actions]``, or
numbers ``[N, 1]``), and what it wants to remember, ``[N, 1, ...]`` by name."""


@dataclass(frozen=True)
class Imagined:
    """What a policy did in a model.

    Attributes:
        latents: ``[N, H + 1]``: the start, then what each action led to.
        actions: ``[N, H, ...]``: index t leads from latent t to latent t + 1.
        logs: What the policy remembered, ``[N, H, ...]`` by name.
        predictions: What the model's heads say of the transitions, by target, ``[N, H]`` (of vectors ``[N, H, S]``).
        video: ``[N, H + 1, C, H, W]``, if asked for.
    """

    latents: Latent
    actions: Tensor
    logs: Mapping[str, Tensor]
    predictions: Mapping[str, Tensor] = field(default_factory=dict)
    video: Tensor | None = None


def imagine(
    model: ComposedWorldModel, start: Latent, policy: Policy, horizon: int, *,
    conditions: Mapping[str, Any] | None = None, sampler: Sampler | None = None, action: str = "action",
    grad: bool = False, decode: bool = False, predictions: bool = True, drawn: bool = False,
) -> Imagined:
    """What follows when a policy acts in a model.

    Latents are drawn as in `WorldModel.rollout`: states of dynamics that filter from their prior.

    Args:
        model: A model that is told actions.
        start: Latents ``[N, 1]``, such as ``model.perceive(batch).latent.singles()``.
        policy: What is done, see `Policy`; it is asked at latents 0 .. H - 1.
        horizon: Actions.
        conditions: The model's other conditions, ``[N, ...]``; those with a time axis cover the horizon.
        sampler: Source of randomness, of the policy, too.
        action: Name of the condition that the policy gives.
        grad: Keep the graph, so that gradients flow through dynamics and heads to policy and start. Without it nothing
            has one. (The model's weights get gradients as well: hand an optimiser the policy's alone.)
        decode: Draw all latents.
        predictions: Ask the model's heads.
        drawn: They answer with a draw (`Head.sample`: what is rewarded, what ends), not with what they expect.
    Raises:
        ConditionError: the model is told no such actions, or another condition is missing.
        ShapeError: the start, or what the policy gives, has another shape.
    Example:
        >>> from worldkit.assembly import build
        >>> from worldkit.testing.examples import small_config
        >>> model = build(small_config(latent_action=None, conditioners={"action": {"name": "action", "dim": 2}}))
        >>> start = model.encode(torch.rand(4, 1, 3, 32, 32))
        >>> still = lambda latent, sampler: (torch.zeros(*latent.shape, 2), {})
        >>> model.imagine(start, still, 3).latents.shape
        torch.Size([4, 4])
    """
    dynamics, sampler = model.require_dynamics(), sampler or Sampler()
    if not hasattr(horizon, "__index__") or horizon < 1:
        raise ShapeError(f"horizon must be at least 1, got {horizon!r}")
    if not isinstance(start, Latent) or start.shape[1] != 1 or start.spec != model.spec:
        raise ShapeError("imagination starts from latents [N, 1] of the model, as "
                         f"model.perceive(batch).latent.singles() gives them; got {start}")
    if action not in model.conditioners or not model.conditioners[action].per_frame:
        raise ConditionError(f"this model is told no condition '{action}' of actions, so a policy cannot act in it; it "
                             f"is told: {', '.join(model.conditioners) or 'nothing'}. imagine(..., action=NAME)")
    if action in as_table(conditions, "conditions"):
        raise ConditionError(f"condition '{action}' is what the policy gives; leave it out of conditions=")
    others = {name for name in model.conditioners if name != action}
    at_once = type(dynamics).step_features is Dynamics.step_features
    with model._evaluating(grad=grad):
        given = gather(model, as_table(conditions, "conditions"), {}, horizon, sampler, strict=True, only=others)
        heads = dict(model.heads.items()) if predictions else {}
        loop = Loop(model, start, None, sampler=sampler, heads=predictions and not at_once,
                    drawn=drawn)
        latents, actions, logs, conds, told_so = [start], [], [], [], []
        for t in range(horizon):
            chosen, log = _asked(policy, loop.latent, sampler, check=t == 0)
            now = _now(model, action, chosen, sampler, check=t == 0)
            if others:
                now = {receiver: given[receiver].at(slice(t, t + 1)) + cond for receiver, cond in now.items()}
            latents.append(loop.step(now))
            actions.append(chosen)
            logs.append(log)
            conds.append(loop.cond)
            told_so.append(loop.predictions)
        z = type(start).cat(latents)
        if heads and at_once:
            features = dynamics.features(z, _joined(conds))
            said = {name: head.sample(features, sampler, name) if drawn else head(features)
                    for name, head in heads.items()}
        else:
            said = {name: torch.cat([step[name] for step in told_so], 1) for name in heads}
        return Imagined(z, torch.cat(actions, 1), {name: torch.cat([log[name] for log in logs], 1) for name in logs[0]},
                        said, model.decode(z).video if decode else None)


def _asked(policy: Policy, z: Latent, sampler: Sampler, *, check: bool) -> tuple[Tensor, Mapping[str, Tensor]]:
    answer = policy(z, sampler)
    if not check:
        return answer
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], Mapping):
        raise WorldkitError("a policy gives (action, log), a tensor [N, 1, ...] and a table of such; got "
                            f"{str(answer)[:80]}")
    given = {"action": answer[0], **{f"log '{name}'": value for name, value in answer[1].items()}}
    for name, x in given.items():
        name = f"the policy's {name}"
        require_tensor(x, name, "n 1 ...")
        if tuple(x.shape[:2]) != tuple(z.shape):
            raise ShapeError(f"{name} must be [{z.shape[0]}, 1, ...], got {list(x.shape)}")
    return answer


def _now(
    model: ComposedWorldModel, name: str, raw: Tensor, sampler: Sampler, *, check: bool
) -> dict[str, Condition]:
    """What an action tells who receives it."""
    if check:
        model.conditioners[name].check(raw, name=name)
    target, now = model.receivers[name], {"latent_action": EMPTY, "dynamics": EMPTY}
    for receiver in now if target == "both" else [target]:
        now[receiver] = told(model, name, raw, None, 1, sampler, receiver=receiver, check=check)
    return now


def _joined(conds: list[Condition]) -> Condition:
    """Conditions of transitions that follow one another, each with one entry."""
    def join(form: str) -> Tensor | None:
        parts = [getattr(cond, form) for cond in conds]
        return None if parts[0] is None else torch.cat(parts, 1)

    return Condition(join("frame"), join("token"), conds[0].memory)
