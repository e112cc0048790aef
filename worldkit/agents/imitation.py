"""Goal-conditioned imitation through a frozen world model with latent actions, as in the LPWM paper.

The model has learned from video alone, told a goal picture, which latent actions people take on the way there. What it
lacks is what a latent action is in the units of a robot. A small mapping network learns that: a transformer over the
set of latent actions of a transition, one learned token of which pools the rest by attention, with an L1 loss. To act,
the model imagines a few frames towards the goal, and the mapping network reads the actions off that dream.

The mapping network is trained on latent actions that the inverse dynamics (posterior) INFERRED from real frames. So by
default those of a dream are inferred anew from its frames (``infer``); taken from the latent policy directly, which
decided on them, they are less like those in training (the paper's own caveat, App. A.5).

Source: LPWM (arXiv:2603.04553), section 5.2 and appendix A.5, from descriptions; no code of it is public. Not told
there and ours: widths, that the mapping network can see the latent, too (``state``), and how many steps are acted out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from pydantic import Field
from torch import Tensor, nn

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import Sampler
from ..errors import ConfigError
from ..latents import Latent
from ..nn.attention import Block
from ..nn.spec import LatentEmbed
from .base import Agent
from .history import History


class ImitationConfig(ComponentConfig):
    """Options of imitation.

    Attributes:
        dim, num_layers, num_heads: The mapping network.
        state: It sees the latent that an action starts from, too, and, of tracked tokens, which one it is; not latent
            actions alone. Needed where actions are not changes, such as places on a board, and where tokens do not say
            where they are, such as patches.
        infer: Infer the latent actions of a dream from its frames; False: take those of the latent policy.
        steps: Steps that are imagined at once and acted out before it looks again.
    """

    name: str = "imitation"
    dim: int = Field(default=64, gt=0)
    num_layers: int = Field(default=2, gt=0)
    num_heads: int = Field(default=4, gt=0)
    state: bool = False
    infer: bool = True
    steps: int = Field(default=1, gt=0)


class ActionMapper(nn.Module):
    """Latent actions of a transition -> an action.

    Args:
        latent_dim: Width of a latent action.
        width: Numbers of an action.
        spec: Of the latent, if it is seen, too.
    """

    def __init__(self, latent_dim: int, width: int, *, dim: int, num_layers: int, num_heads: int, spec: Any = None):
        super().__init__()
        self.embed = nn.Linear(latent_dim, dim)
        told = spec is not None and spec.identity == "tracked"  # of a grid, where a token lies is all that tells it
        self.embed_state = None if spec is None else LatentEmbed(spec, dim, token_embedding=told)
        self.query = nn.Parameter(0.02 * torch.randn(dim))
        self.blocks = nn.Sequential(*(Block(dim, num_heads) for _ in range(num_layers)))
        self.read = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))

    def forward(self, latent_actions: Tensor, state: Latent | None = None) -> Tensor:
        """Latent actions ``[B, T, N or 1, A]`` (and the latents they start from, ``[B, T]``) -> ``[B, T, width]``."""
        tokens = self.embed(latent_actions)
        if self.embed_state is not None:
            tokens = self.embed_state(state) + tokens
        b, t = tokens.shape[:2]
        tokens = rearrange(tokens, "b t n d -> (b t) n d")
        pooled = self.blocks(torch.cat([repeat(self.query, "d -> r 1 d", r=b * t), tokens], 1))[:, 0]
        return rearrange(self.read(pooled), "(b t) a -> b t a", b=b)


@dataclass(frozen=True)
class _Carry:
    seen: History
    goal: Tensor | None
    planned: Tensor | None = None  # [B, steps, ...], the actions that are left
    left: int = 0


class Imitation(Agent):
    """Acts by imagining and mapping; see the module's docstring.

    The model may take the condition ``goal_image`` and no other: then goals are its, otherwise it imitates without.
    """

    Config = ImitationConfig
    config: ImitationConfig
    needs_model = True

    def __init__(self, config: ImitationConfig, **wiring: Any):
        super().__init__(config, **wiring)
        model = self.model
        latent_action = getattr(model, "latent_action", None)
        if latent_action is None:
            raise ConfigError("imitation maps latent actions to actions, and this model has none: train it with "
                              "-o latent_action=gaussian, or take an lpwm preset")
        if latent_action.choices is not None:
            raise ConfigError(f"imitation maps vectors to actions, and the latent actions of this model are numbers of "
                              f"codes ('{latent_action.config.name}'): train one with -o latent_action=gaussian")
        told = sorted(set(model.conditioners) - {"goal_image"})
        if told:
            raise ConfigError(f"imitation acts with a model that is told a goal at most; this one needs "
                              f"{', '.join(told)} as well: train one with -o conditioners.goal_image=goal-image alone")
        obs = model.config.obs
        if self.wants_vectors:
            raise ConfigError("imitation acts on pictures, and this model reads vectors "
                              f"({', '.join(self.wants_vectors)}) as well: train one that sees pictures alone")
        if self.frame_shape != (obs.channels, obs.height, obs.width):
            raise ConfigError(f"the model sees frames {[obs.channels, obs.height, obs.width]}, the agent is made for "
                              f"{list(self.frame_shape)}")
        self.wants_goal = "goal_image" in model.conditioners
        self.mapper = ActionMapper(
            latent_action.config.action_dim, self.action.width, dim=config.dim, num_layers=config.num_layers,
            num_heads=config.num_heads, spec=model.spec if config.state else None)

    def clip_length(self) -> int:
        return self.model.config.timestep_horizon + 1

    def _told(self, goal: Tensor | None) -> dict[str, Tensor]:
        return {} if goal is None else {"goal_image": goal}

    def inputs(self, batch: Batch) -> tuple[Tensor, Latent]:
        """What the mapping network is trained on: inferred latent actions ``[B, T - 1, N or 1, A]`` of a real clip,
        and the latents they start from."""
        goal = batch.conditions["goal_image"] if self.wants_goal else None
        with torch.no_grad():
            z = self.model.encode(batch)
            return self.model.infer_latent_actions(z, conditions=self._told(goal)), z[:, :-1]

    def loss(self, batch: Batch) -> Tensor:
        found = self.mapper(*self.inputs(batch))
        action = batch.conditions["action"][:, : found.shape[1]]
        if self.action.discrete:
            return F.cross_entropy(rearrange(found, "b t a -> (b t) a"), rearrange(action, "b t -> (b t)"))
        return F.l1_loss(found, self.action.scaled(action))

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> _Carry:
        if self.wants_goal:
            if goal is None:
                raise ConfigError("agent 'imitation' acts towards a goal: start(batch_size, goal=PICTURES)")
            self.check_frame(goal, "goal")
        return _Carry(History.empty(batch_size), goal if self.wants_goal else None)

    @torch.no_grad()
    def act(self, frame: Tensor, carry: Any, *, first: Tensor, sampler: Sampler) -> tuple[Tensor, Any]:
        self.check_frame(frame)
        seen = carry.seen.add(frame, first, keep=self.model.config.timestep_horizon)
        planned, left = carry.planned, carry.left
        if left == 0 or bool(first.any()):
            planned, left = self._imagine(seen, carry.goal, sampler), self.config.steps
        action = planned[:, self.config.steps - left]
        return action, replace(carry, seen=seen, planned=planned, left=left - 1)

    def _imagine(self, seen: History, goal: Tensor | None, sampler: Sampler) -> Tensor:
        """Actions for the next steps, ``[B, steps, ...]``."""
        device = next(self.parameters()).device
        found: Tensor | None = None
        for rows, clip in seen.groups():
            actions = self._act_out(clip.to(device), None if goal is None else goal[rows].to(device), sampler)
            found = actions.new_zeros(len(seen.lengths), *actions.shape[1:]) if found is None else found
            found[rows] = actions
        assert found is not None
        return found

    def _act_out(self, clip: Tensor, goal: Tensor | None, sampler: Sampler) -> Tensor:
        """Dream towards the goal, and read the actions off the dream."""
        steps, past = self.config.steps, clip.shape[1]
        dream = self.model.rollout(clip, steps, conditions=self._told(goal), decode=False,
                                   deterministic=sampler.deterministic, generator=sampler.generator)
        z = type(dream.latents).cat([dream.context_latents, dream.latents])
        chosen = dream.latent_actions
        if self.config.infer:
            chosen = self.model.infer_latent_actions(z, conditions=self._told(goal))
        now = slice(past - 1, past - 1 + steps)
        out = self.mapper(chosen[:, now], z[:, now]).cpu()
        return sampler.categorical("action", out) if self.action.discrete else self.action.unscaled(out)
