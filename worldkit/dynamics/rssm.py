"""The recurrent state-space model of PlaNet and Dreamer v1, v2 and v3, over any number of tokens.

A state has a part that is remembered ("deterministic", what a cell makes of the state before, its draw and the action)
and a part that is drawn ("stochastic", Gaussian or of categories). The prior draws it from what is remembered alone;
the posterior sees the frame, too, and never enters what is remembered otherwise. Generations differ in options: the
cell (`worldkit.cells`), the kind of the drawn part, layers, norms and activations.

Over slots or patches every token has a state of its own; weights are shared, and with ``interaction`` the tokens of a
frame attend to one another before each transition. Over latents of several fields (particles) the encoder's fields stay
beside the state as they were seen: they are read by posterior and transition, and the prior predicts how they change.

What does not depend on the state is computed for all frames at once, before the scan (the frames' share of the
posterior's first layer, the actions' share of the cell) or after it (all priors); the scan itself is matrix products on
plain tensors, one row per token of every clip.

Left out: an ensemble of priors, and a posterior that sees the frame alone (``absolute``), which no preset uses.

Source: google-research/planet @ c04226b, danijar/dreamer @ 56d4d44, danijar/dreamerv2 @ 07d906e, danijar/dreamerv3 @
e3f0224, written from their description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from .. import registry as registries
from ..conditions import Condition
from ..config import Choice, ComponentConfig
from ..distributions import Categorical, Delta, Normal, Sampler, full_precision
from ..latents import Field as LatentField
from ..latents import Latent, LatentDist, LatentSpec, TokenGroup
from ..nn.attention import Block
from ..nn.deferred import deferred, plus_product
from ..nn.dense import ACTIVATIONS, Activation, DenseStack, Init, Norm, RMSNorm, linear, normed
from ..nn.spec import LatentEmbed, LatentHead
from .base import Window
from .filtering import Filtered, FilteringDynamics, State

if TYPE_CHECKING:
    from ..cells.base import Hoist, Step
    from ..encoders.base import Encoding


class RSSMConfig(ComponentConfig):
    """Options of the recurrent state-space model. The defaults are those of Dreamer v3.

    Attributes:
        cell: What makes the next deterministic part, with its own options.
        deterministic_dim: Width of what is remembered.
        stochastic: What is drawn: ``"categorical"`` (v2, v3) or ``"normal"`` (PlaNet, v1).
        num_variables: How many categorical variables, or how many Gaussian numbers.
        num_classes: Of each categorical variable.
        unimix: Share of the uniform distribution in all class probabilities (v2: 0).
        link, min_std: What makes Gaussian deviations, and what is added to them (`worldkit.distributions.Normal`).
        hidden_dim: Width of the layers of prior and posterior.
        prior_layers, posterior_layers: How many there are before the last, linear one.
        norm, norm_eps, activation, init: Of these layers.
        outscale: Factor on the initial weights of the two last layers.
        interaction: Let the tokens of a frame attend to one another before each transition.
        num_heads: Heads of that attention.
    """

    name: str = "rssm"
    cell: Choice(registries.cells) = Field(default={"name": "block-gru"}, validate_default=True)  # type: ignore[valid-type]
    deterministic_dim: int = Field(default=2048, gt=0)
    stochastic: Literal["categorical", "normal"] = "categorical"
    num_variables: int = Field(default=32, gt=0)
    num_classes: int = Field(default=16, gt=1)
    unimix: float = Field(default=0.01, ge=0, lt=1)
    link: Literal["exp", "softplus", "sigmoid"] = "softplus"
    min_std: float = Field(default=0.1, ge=0)
    hidden_dim: int = Field(default=256, gt=0)
    prior_layers: int = Field(default=2, ge=0)
    posterior_layers: int = Field(default=1, gt=0)
    norm: Norm = "rms"
    norm_eps: float = Field(default=1e-4, gt=0)
    activation: Activation = "silu"
    init: Init = "truncated-normal"
    outscale: float = Field(default=1.0, ge=0)
    interaction: bool = False
    num_heads: int = Field(default=4, gt=0)

    @property
    def drawn(self) -> Categorical | Normal:
        """Distribution of the drawn part."""
        if self.stochastic == "categorical":
            return Categorical(self.num_classes, self.unimix)
        return Normal(self.link, self.min_std)

    @property
    def drawn_dim(self) -> int:
        """Width of the drawn part."""
        return self.num_variables * (self.num_classes if self.stochastic == "categorical" else 1)


class _Last(nn.Module):
    """Layers, then a linear one: ``[..., inputs]`` -> ``[..., outputs]``; the first layer in two parts if asked."""

    def __init__(self, config: RSSMConfig, inputs: int, outputs: int, layers: int):
        super().__init__()
        self.layers = DenseStack(
            inputs, units=config.hidden_dim, layers=layers, norm=config.norm, activation=config.activation,
            eps=config.norm_eps, init=config.init,
        )
        self.activation = ACTIVATIONS[config.activation]
        self.out = linear(self.layers.width, outputs, init=config.init, scale=config.outscale)

    def forward(self, x: Tensor) -> Tensor:
        return full_precision(self.out(self.layers(x)))

    def hoist(self, known: Tensor) -> Tensor:
        """What the last inputs, known for all frames, add to the first layer."""
        first = self.layers[0].linear
        return F.linear(known, first.weight[:, -known.shape[-1] :], first.bias)

    def begin(self, inputs: int) -> Callable[[Tensor, Tensor], Tensor]:
        """(the first ``inputs`` inputs ``[N, D]``, `hoist`'s part ``[N, ...]``) -> outputs ``[N, ...]``."""
        first, *rest = self.layers
        weight = first.linear.weight[:, :inputs].contiguous()

        def step(x: Tensor, known: Tensor) -> Tensor:
            x = normed(first.norm, self.activation, plus_product(known, x, weight))
            for layer in rest:
                x = layer(x)
            return full_precision(self.out(x))

        return step


@dataclass
class _Rollout(State):
    """The newest state, and the cell begun."""

    begun: tuple[Hoist, Step]


class RSSM(FilteringDynamics):
    """Filters video to states, and predicts states; see the module's docstring.

    The state's fields, per token: "deterministic", then "stochastic", then what else the encoder's latent holds.

    Example:
        >>> from worldkit.conditions import EMPTY
        >>> from worldkit.distributions import MEANS
        >>> from worldkit.encoders.conv import embedding, embedding_spec
        >>> spec = embedding_spec(12)
        >>> config = RSSMConfig(deterministic_dim=16, hidden_dim=8, num_variables=4, num_classes=3)
        >>> dynamics = RSSM(config, spec=spec, anchors={}, window=8)
        >>> first = torch.tensor([[True, False, False]] * 2)
        >>> dynamics.filter(embedding(spec, torch.randn(2, 3, 12)), EMPTY, MEANS, first=first).latent
        Latent(state.deterministic[2, 3, 1, 16], state.stochastic[2, 3, 1, 12])
    """

    Config = RSSMConfig
    config: RSSMConfig
    requires = frozenset({"tracked", "continuous"})
    takes = frozenset({"frame", "token"})

    def __init__(
        self, config: RSSMConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
        memory_length: int = 0,
    ):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        dim, hidden, drawn = config.deterministic_dim, config.hidden_dim, config.drawn_dim
        keeps = any(len(group.fields) > 1 for group in spec.groups)
        plain = len(spec.groups) == 1 and not keeps
        self.sizes = [group.size for group in spec.groups]
        self.look = None if plain else LatentEmbed(spec, hidden, anchors=anchors)
        seen = spec.groups[0].fields[0].dim if plain else hidden
        self.seen_spec = spec if keeps else None
        self.change = LatentHead(spec, dim) if keeps else None
        if self.change is not None:
            self.change.start_at_rest()
        self.interaction = self.meet = None
        if config.interaction:
            self.meet = linear(dim + drawn, hidden, init=config.init)
            # episodes begin with zeros, where a norm must not be too steep
            self.interaction = Block(hidden, config.num_heads, lambda width: RMSNorm(width, config.norm_eps))
        beside = (seen if keeps else 0) + (hidden if config.interaction else 0)
        cell = registries.cells.get(config.cell.name)
        self.cell = cell(config.cell, dim=dim, drawn=drawn + beside)
        self.cond_dim = self.cell.cond_dim
        raw = config.drawn.raw_dim(drawn)
        self.before = _Last(config, dim, raw, config.prior_layers)
        self.after = _Last(config, dim + seen, raw, config.posterior_layers)
        self.spec = replace(spec, groups=tuple(self._state_group(group, keeps) for group in spec.groups))

    def _state_group(self, group: TokenGroup, keeps: bool) -> TokenGroup:
        memory = self.cell.memory_dim
        own = [LatentField("deterministic", self.config.deterministic_dim, Delta(), "what is remembered"),
               LatentField("stochastic", self.config.drawn_dim, self.config.drawn, "what was drawn")]
        if memory:
            own.insert(1, LatentField("memory", memory, Delta(), "for the cell alone", hidden=True))
        return replace(group, fields=(*own, *(group.fields if keeps else ())))

    # -- between tokens [B, T, N, D] and fields of groups

    def _gather(self, z: Latent, field: str) -> Tensor:
        parts = [z.values[group.name, field] for group in self.spec.groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _memory(self, z: Latent) -> Tensor:
        if self.cell.memory_dim:
            return self._gather(z, "memory")
        return z.values[self.spec.groups[0].name, "deterministic"].new_zeros(*z.shape, self.spec.num_tokens, 0)

    def _fields(self, **tokens: Tensor) -> dict[tuple[str, str], Tensor]:
        """Field -> tokens ``[B, T, N, D]``, as fields of the groups."""
        found, (only, *others) = {}, self.spec.groups
        if not others:
            return {(only.name, name): x for name, x in tokens.items() if only.field(name) is not None}
        for name, x in tokens.items():
            for group, part in zip(self.spec.groups, x.split(self.sizes, 2), strict=True):
                if group.field(name) is not None:
                    found[group.name, name] = part
        return found

    def _seen(self, z: Latent) -> Latent | None:
        """The encoder's fields of a state, where it keeps them."""
        if self.seen_spec is None:
            return None
        return Latent.build(self.seen_spec, {key: z.values[key] for key in self.seen_spec.keys()})

    def _described(self, deter: Tensor, memory: Tensor, raw: Tensor, kept: LatentDist | None) -> LatentDist:
        params = self.config.drawn.from_raw(raw)
        found = self._fields(deterministic=deter, memory=memory, stochastic=params)
        return LatentDist(self.spec, found if kept is None else {**found, **kept.params})

    def _tokens(self, z: Latent) -> Tensor:
        """What an encoder's latent looks like, ``[B, T, N, E]``."""
        if self.look is not None:
            return self.look(z)
        group = z.spec.groups[0]
        return z.values[group.name, group.fields[0].name]

    # -- transitions

    def _told(self, cond: Condition, like: Tensor, hoist: Hoist) -> Tensor:
        """The actions' share of the transitions to (or from) the tokens of ``like`` ``[B, T, N, .]``, one per token."""
        steer = cond.adaln()
        if steer is None:
            steer = like.new_zeros(*like.shape[:2], 1, self.cond_dim)
        return hoist(steer).expand(-1, -1, like.shape[2], -1)

    def _beside(self, deter: Tensor, drawn: Tensor, seen: Tensor | None, tokens: int) -> Tensor:
        """What the cell sees of rows ``[M, .]``, which are ``tokens`` each of one frame: the draw, and what else."""
        parts = [drawn] if seen is None else [drawn, seen]
        if self.interaction is not None:
            met = self.meet(torch.cat([deter, drawn], -1)).unflatten(0, (-1, tokens))
            parts.append(self.interaction(met).flatten(0, 1))
        return drawn if len(parts) == 1 else torch.cat(parts, -1)

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        """Index t is p(s_{t+1} | s_t, cond_t), of every state by itself."""
        return self._transition(z, cond, *self.cell.begin())

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> _Rollout:
        return _Rollout(z[:, -1:], self.cell.begin())

    def step(self, carry: _Rollout, cond: Condition) -> LatentDist:
        return self._transition(carry.latent, cond, *carry.begun)

    def _transition(self, z: Latent, cond: Condition, hoist: Hoist, step: Step) -> LatentDist:
        deter, kept = self._gather(z, "deterministic"), self._seen(z)
        seen = None if kept is None else self._tokens(kept)
        rows = [None if x is None else x.flatten(0, 2)
                for x in (deter, self._memory(z), self._gather(z, "stochastic"), seen,
                          self._told(cond, deter, hoist))]
        inside = self._beside(rows[0], rows[2], rows[3], self.spec.num_tokens)
        found = step(rows[0], rows[1], inside, rows[4])
        deter, memory = (x.unflatten(0, deter.shape[:3]) for x in found)
        return self._predicted(deter, memory, kept)

    def _predicted(self, deter: Tensor, memory: Tensor, kept: Latent | None) -> LatentDist:
        """The prior of states whose deterministic part is known; ``kept``: what was seen in the states before."""
        change = None if kept is None or self.change is None else self.change(deter).shift(kept)
        return self._described(deter, memory, self.before(deter), change)

    # -- filtering

    def filter(
        self, seen: Encoding, cond: Condition, sampler: Sampler, *, first: Tensor, last: Latent | None = None
    ) -> Filtered:
        tokens = self._tokens(seen.latent)
        before = self._seen_before(seen.latent, first, last)
        shown = None if before is None else self._tokens(before)
        deters, memories, raws, drawns = self._scan(
            tokens, cond, shown, first, last, self._noise(tokens, sampler))
        posterior = self._described(deters, memories, raws, None if before is None else seen.posterior)
        values = self._fields(deterministic=deters, memory=memories, stochastic=drawns)
        latent = Latent.build(self.spec, values if before is None else {**values, **seen.latent.values},
                              score=seen.latent.score)
        return Filtered(latent, posterior, self._predicted(deters, memories, before))

    def _noise(self, tokens: Tensor, sampler: Sampler) -> Tensor:
        like = tokens.new_zeros(*tokens.shape[:3], self.config.drawn_dim)
        return self.config.drawn.noise(like, sampler, "stochastic")

    def _scan(
        self, tokens: Tensor, cond: Condition, shown: Tensor | None, first: Tensor, last: Latent | None,
        noise: Tensor,
    ) -> list[Tensor]:
        """Frame after frame: what is remembered, memory, raw parameters of the posterior, draw; ``[B, T, N, .]``."""
        batch, frames, count, _ = tokens.shape
        (hoist, step), observe = self.cell.begin(), self.after.begin(self.config.deterministic_dim)
        dist, noise, resets = self.config.drawn, _steps(noise).unbind(0), self._resets(first, last)
        keep = _steps((~first)[:, :, None, None].expand(-1, -1, count, 1)).to(tokens.dtype) if any(resets) else None

        def run(looked: Tensor, told: Tensor, *state: Tensor) -> list[Tensor]:
            looked, told = looked.unbind(0), told.unbind(0)
            beside = state[3].unbind(0) if len(state) > 3 else [None] * frames
            deter, memory, drawn = state[:3]
            found = []
            for t in range(frames):
                if resets[t]:
                    deter, memory, drawn = (x * keep[t] for x in (deter, memory, drawn))
                deter, memory = step(deter, memory, self._beside(deter, drawn, beside[t], count), told[t])
                raw = observe(deter, looked[t])
                drawn = dist.draw(dist.from_raw(raw), noise[t])
                found.append((deter, memory, raw, drawn))
            return [torch.stack(x, 1) for x in zip(*found, strict=True)]

        inputs = [_steps(self.after.hoist(tokens)), _steps(self._told(cond, tokens, hoist)), *self._start(tokens, last)]
        inputs += [] if shown is None else [_steps(shown)]
        parts = [part for part in (self.cell, self.after, self.meet, self.interaction) if part is not None]
        return [x.unflatten(0, (batch, count)).transpose(1, 2) for x in deferred(run, inputs, parts)]

    def _start(self, tokens: Tensor, last: Latent | None) -> list[Tensor]:
        """The state before the first frame, in rows ``[B N, .]``: of the frame before, or zeros."""
        if last is None:
            rows = tokens.shape[0] * tokens.shape[2]
            widths = self.config.deterministic_dim, self.cell.memory_dim, self.config.drawn_dim
            return [tokens.new_zeros(rows, width) for width in widths]
        parts = self._gather(last, "deterministic"), self._memory(last), self._gather(last, "stochastic")
        return [x.flatten(0, 2).to(tokens.dtype) for x in parts]

    @staticmethod
    def _resets(first: Tensor, last: Latent | None) -> list[bool]:
        """Frames at which some state is reset that is not zero yet."""
        if type(first) is not Tensor:  # a dry run has no values: it may be at any frame
            return [True] * first.shape[1]
        resets = first.any(0).tolist()
        return resets if last is not None else [False, *resets[1:]]

    def _seen_before(self, z: Latent, first: Tensor, last: Latent | None) -> Latent | None:
        """What was seen in the frames before, where the state keeps it; zeros where an episode begins."""
        if self.seen_spec is None:
            return None
        moved = {}
        for key, x in z.values.items():
            start = torch.zeros_like(x[:, :1]) if last is None else last.values[key]
            moved[key] = torch.cat([start, x[:, :-1]], 1) * _goes_on(first, x)
        return Latent.build(self.seen_spec, moved)


def _steps(x: Tensor) -> Tensor:
    """Frames of ``[B, T, N, D]`` one after the other: ``[T, B N, D]``."""
    return rearrange(x, "b t n d -> t (b n) d").contiguous()


def _goes_on(first: Tensor, like: Tensor) -> Tensor:
    """1 where an episode goes on, 0 where one begins: ``[B, T, 1, 1]``."""
    return (~first)[:, :, None, None].to(like.dtype)
