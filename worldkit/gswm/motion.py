"""How objects move: every attribute's change is drawn from ONE network that reads an object's motion.

So what moves together is decided together: two futures of a ball are two values of ``motion``, and inference and
prediction share the network behind it (in inference a posterior of the motion, in prediction a prior, of an LSTM that
has seen the same objects). What an object sees of others and of the background enters through that LSTM.

Prediction invents no objects and loses none: presence stays as it was in the last frame that was seen.

Source: G-SWM (arXiv:2006.02940) sections 3.2 to 3.4; github.com/zhixuan-lin/G-SWM @ 1423553, from its description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..conditions import Condition
from ..distributions import MEANS, Sampler, full_precision
from ..dynamics.base import Dynamics, Window
from ..latents import Latent, LatentDist, LatentSpec
from .config import GSWMConfig, MotionConfig
from .interaction import Environment, Memory
from .latent import latent_of, objects_of
from .networks import celu_mlp, std_of
from .objects import PLAIN, Attributes, Objects, gaussian
from .rendering import Renderer


@dataclass(frozen=True)
class Changes:
    """Distributions of what changes about objects, ``[B, N, dim]`` each: what a network's output means.

    Attributes:
        presence: Logit that an object is still there.
        means, raws: Of depth, box and features; the deviation is `std_of` its raw value.
        gates: How much of each happens, in (0, 1); None of the deterministic variant, which has none.
    """

    presence: Tensor
    means: tuple[Tensor, Tensor, Tensor]
    raws: tuple[Tensor, Tensor, Tensor]
    gates: tuple[Tensor, Tensor, Tensor] | None

    @staticmethod
    def width(feature_dim: int, *, gated: bool) -> int:
        """Numbers a network must give."""
        return 1 + (3 if gated else 2) * (5 + feature_dim)

    @classmethod
    def of(cls, raw: Tensor, feature_dim: int) -> Changes:
        """What ``[B, N, width]`` says."""
        pairs = [size for size in (1, 4, feature_dim) for _ in range(2)]
        gated = raw.shape[-1] > 1 + sum(pairs)
        presence, *rest = raw.split([1, *pairs, *((1, 4, feature_dim) if gated else ())], -1)
        gates = tuple(torch.sigmoid(x) for x in rest[6:]) if gated else None
        return cls(presence, tuple(rest[:6:2]), tuple(rest[1:6:2]), gates)  # type: ignore[arg-type]

    @property
    def stds(self) -> tuple[Tensor, ...]:
        return tuple(std_of(raw) for raw in self.raws)

    def sample(self, sampler: Sampler, name: str) -> list[Tensor]:
        """Draws of depth's, box's and features' change, not yet gated."""
        return [gaussian(mean, raw, sampler, f"{name}.{what}")[0]
                for what, mean, raw in zip(("depth", "box", "features"), self.means, self.raws, strict=True)]


class Motion(Dynamics):
    """Objects of a frame, with what they remember -> those of the next. Config: `worldkit.gswm.config.MotionConfig`.

    All memory is in the latent, so that it reads the last frame only, and `prior` of a clip is one call.
    """

    Config = MotionConfig
    takes = frozenset()

    def __init__(self, config: GSWMConfig, *, spec: LatentSpec, renderer: Renderer):
        super().__init__(config.dynamics, spec=spec, anchors={}, window=config.timestep_horizon)
        own, seen, states = config.dynamics, config.encoder, config.dynamics.state_dim
        hidden, self.cond_dim, self.look_dim = seen.hidden_dim, 1, seen.feature_dim
        self.deterministic = config.deterministic
        self._renderer = [renderer]  # the model's decoder, in a list, so that it is no part of this one
        wide = PLAIN + seen.feature_dim + seen.motion_dim
        self.memory = Memory(own, inputs=wide)
        self.environment = Environment(own, seen, channels=config.obs.channels, side=config.obs.height)
        if self.deterministic:
            self.expected = celu_mlp(states, hidden, hidden, Changes.width(seen.feature_dim, gated=False))
        else:
            self.expected = celu_mlp(states, hidden, hidden, 2 * seen.motion_dim)
            self.attributes = celu_mlp(seen.motion_dim, hidden, hidden, Changes.width(seen.feature_dim, gated=True))
        self.context = Context(own.context_state_dim, config.decoder.context_dim, hidden) \
            if config.decoder.context_dim else None

    @property
    def renderer(self) -> Renderer:
        """The model's decoder, which draws what objects see of the background."""
        return self._renderer[0]

    def expects(self, objects: Objects) -> Tensor:
        """What objects are expected to do next, of the LSTM of prediction: ``[B, N, ...]``, as a network gives it."""
        return full_precision(self.expected(objects.prior.chunk(2, -1)[0]))

    def told(self, motion: Tensor) -> Changes:
        """What a motion ``[B, N, D]`` makes of an object's attributes."""
        return Changes.of(full_precision(self.attributes(motion)), self.look_dim)

    def changed(
        self, before: Attributes, change: Changes, drawn: list[Tensor], presence: Tensor, motion: Tensor, *,
        added_step: bool = False,
    ) -> Attributes:
        """Attributes after a change.

        Args:
            before: Attributes.
            change: Where the gates are.
            drawn: `Changes.sample`'s answer.
            presence, motion: New ones.
            added_step: See ``PerceptionConfig.depth_defect``.
        """
        own = self.config
        depth, box, features = drawn
        steps = box.new_tensor([own.scale_step, own.scale_step, own.position_step, own.position_step])
        gate = change.gates or (1.0, 1.0, 1.0)
        deeper = own.depth_step + depth if added_step else own.depth_step * gate[0] * depth
        return Attributes(
            presence, before.depth + deeper, before.box + steps * gate[1] * torch.tanh(box),
            before.features + own.feature_step * gate[2] * torch.tanh(features), motion)

    def advance(self, z: Latent, sampler: Sampler) -> Latent:
        """The frame after each, ``[M, 1]`` -> ``[M, 1]``; means, if the sampler is deterministic."""
        objects, size = objects_of(z), self.look_dim
        before, expected = Attributes.of(objects.z, size), self.expects(objects)
        if self.deterministic:
            motion, change = before.motion, Changes.of(expected, size)
        else:
            motion, _ = gaussian(*expected.chunk(2, -1), sampler, "gen.motion")
            change = self.told(motion)
        after = self.changed(before, change, change.sample(sampler, "gen"), before.presence, motion)
        scenery: dict[str, Tensor] = {}
        if self.context is not None:
            state = z.values["background", "prior_state"].flatten(0, 2)
            drawn = self.context.next(state, sampler if self.config.sample_background else MEANS)
            state = self.context.remember(drawn, state)
            scenery = {"context": drawn, "context_posterior": state, "context_prior": state}
        background = self.renderer.background(scenery.get("context"))
        joined = after.join()
        state = self.memory(joined, objects.prior, self.environment(background, after.box))
        return latent_of(self.spec, Objects(joined, state, state, objects.ids, after.box), feature_dim=size, **scenery)

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        batch, frames = z.shape
        found = self.advance(z.singles(), MEANS)
        return LatentDist(self.spec, {key: x.flatten(0, 1).unflatten(0, (batch, frames))
                                      for key, x in found.values.items()})

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> dict[str, Latent]:
        return {"last": z[:, -1:]}

    def step(self, carry: dict[str, Latent], cond: Condition) -> LatentDist:
        return self.prior(carry["last"], cond)

    def predict(self, carry: dict[str, Latent], cond: Condition, sampler: Sampler, *, mean: bool) -> Latent:
        return self.advance(carry["last"], MEANS if mean else sampler)

    def observe(self, carry: dict[str, Latent], z: Latent) -> None:
        carry["last"] = z

    def put(self, carry: dict[str, Latent], rows: Tensor, other: Mapping[str, Any]) -> None:
        carry["last"] = carry["last"].put(rows, other["last"])


class Context(nn.Module):
    """How the context of a background goes on: an LSTM, and a Gaussian of the next one."""

    def __init__(self, states: int, dim: int, hidden: int):
        super().__init__()
        self.cell = nn.LSTMCell(dim, states)
        self.initial_h, self.initial_c = (nn.Parameter(torch.randn(states)) for _ in range(2))
        self.net = celu_mlp(states, hidden, hidden, 2 * dim)

    def expected(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and raw deviation of the next context, of states ``[M, 2 S]``."""
        mean, raw = full_precision(self.net(state.chunk(2, -1)[0])).chunk(2, -1)
        return mean, raw

    def next(self, state: Tensor, sampler: Sampler) -> Tensor:
        """The next context, ``[M, D]``."""
        return gaussian(*self.expected(state), sampler, "gen.context")[0]

    def fresh(self, batch: int) -> Tensor:
        """The state before anything was seen, ``[B, 2 S]``."""
        return torch.cat([self.initial_h, self.initial_c]).expand(batch, -1)

    def remember(self, context: Tensor, state: Tensor) -> Tensor:
        """The state after a context."""
        return torch.cat(self.cell(context, state.chunk(2, -1)), -1)
