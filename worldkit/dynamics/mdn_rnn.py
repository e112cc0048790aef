"""The memory of "World Models": an LSTM reads latents and actions, and its output says how the next latent may be.

What it says is a mixture of Gaussians for every number by itself. The LSTM's output and memory are part of the state,
so that a controller reads both, and a rollout starts from the newest state alone. They are zeros where an episode
begins, and the latent of a frame is the encoder's, whatever was expected: only what is REMEMBERED depends on the past.

In dreams what comes next is drawn; ``temperature`` makes that more or less certain, which keeps a controller from
living on the model's mistakes. `MDNRNN.temperature` may be set at any time; losses do not know it.

Over several tokens each has an LSTM of its own, with shared weights.

Source: Ha and Schmidhuber, "World Models" (arXiv:1803.10122), section 2.2 and appendix A.2: with 256 units, 32 numbers
and 3 of an action 422,368 parameters; for VizDoom, with 512, 64, 1, the flag of a beginning and the end of an episode
1,678,785. Difference: predicted rewards and ends are heads (worldkit.heads), which read the LSTM's output alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import Delta, Mixture, Sampler, full_precision
from ..errors import IncompatibleComponentsError
from ..latents import Field as LatentField
from ..latents import Latent, LatentDist, LatentSpec
from .filtering import Filtered, FilteringDynamics

if TYPE_CHECKING:
    from ..encoders.base import Encoding

OUTPUT, MEMORY = "output", "memory"
"""Fields of the state beside the encoder's: what the LSTM gives, and what it keeps."""


class MDNRNNConfig(ComponentConfig):
    """Options of the MDN-RNN.

    Attributes:
        units: Of the LSTM.
        components: Gaussians of every mixture.
        temperature: Of dreams.
        restart_flag: Tell the LSTM of a frame that begins an episode, as for VizDoom.
        forget_bias: Added to what the gate reads that keeps the memory, at first.
        cond_dim: Width of the actions; None: as many numbers as they have (conditioner ``raw-action``), or, of other
            conditioners, ``units``.
    """

    name: str = "mdn-rnn"
    units: int = Field(default=256, gt=0)
    components: int = Field(default=5, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    restart_flag: bool = False
    forget_bias: float = 1.0
    cond_dim: int | None = Field(default=None, ge=0)


class MDNRNN(FilteringDynamics):
    """Remembers latents and actions, and predicts latents; see the module's docstring.

    The state's fields, per token: the encoder's, whose distributions are mixtures here; "output" and "memory", hidden.

    Attributes:
        temperature: Of dreams.
    Example:
        >>> from worldkit.conditions import EMPTY
        >>> from worldkit.distributions import MEANS
        >>> from worldkit.testing.examples import example_encoding, example_spec
        >>> spec = example_spec(kind="slots")
        >>> dynamics = MDNRNN(MDNRNNConfig(units=8, components=2, cond_dim=0), spec=spec, anchors={}, window=4)
        >>> first = torch.tensor([[True, False, False, False]] * 2)
        >>> dynamics.filter(example_encoding(spec), EMPTY, MEANS, first=first).latent
        Slots(slots.features[2, 4, 4, 3], slots.output[2, 4, 4, 8], slots.memory[2, 4, 4, 8])
    """

    Config = MDNRNNConfig
    config: MDNRNNConfig
    requires = frozenset({"normal", "tracked"})
    takes = frozenset({"frame", "token"})

    def __init__(self, config: MDNRNNConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        if len(spec.groups) > 1:
            raise IncompatibleComponentsError(
                f"dynamics 'mdn-rnn' remembers tokens of one kind, and this latent has "
                f"{', '.join(g.name for g in spec.groups)}: take dynamics=rssm, which knows several")
        (group,) = spec.groups
        self.cond_dim = config.units if config.cond_dim is None else config.cond_dim
        self.temperature = config.temperature
        self.mixture, self.seen = Mixture(config.components), group.fields
        self.seen_dim = sum(f.dim for f in group.fields)
        inside, units = self.seen_dim + self.cond_dim + config.restart_flag, config.units
        self.gates = nn.Linear(inside + units, 4 * units)  # input, forget, candidate, output
        nn.init.xavier_uniform_(self.gates.weight)
        nn.init.zeros_(self.gates.bias)
        with torch.no_grad():
            self.gates.bias[units : 2 * units] = config.forget_bias
        self.out = nn.Linear(units, self.mixture.param_dim(self.seen_dim))
        own = [LatentField(OUTPUT, units, Delta(), "what the LSTM gives", hidden=True),
               LatentField(MEMORY, units, Delta(), "what the LSTM keeps", hidden=True)]
        fields = (*(replace(f, dist=self.mixture) for f in group.fields), *own)
        self.spec = replace(spec, groups=(replace(group, fields=fields),))

    # -- the LSTM, over tokens [B, T, N, .]

    def _values(self, z: Latent) -> Tensor:
        """The encoder's fields side by side."""
        name = self.spec.groups[0].name
        parts = [z.values[name, f.name] for f in self.seen]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _part(self, z: Latent, field: str) -> Tensor:
        return z.values[self.spec.groups[0].name, field]

    def _read(self, values: Tensor, cond: Condition, begins: Tensor) -> Tensor:
        """What the gates make of latents, actions and the flag, ``[B, T, N, 4 units]``; all frames at once.

        Args:
            values: ``[B, T, N, D]``.
            cond: Of the transitions that leave them.
            begins: Where they begin an episode, bool ``[B, T, N or 1, 1]``.
        """
        steer, parts = cond.adaln(), [values]
        if self.cond_dim:
            steer = values.new_zeros(*values.shape[:2], 1, self.cond_dim) if steer is None else steer
            parts.append(steer.expand(*values.shape[:3], -1).to(values.dtype))
        if self.config.restart_flag:
            parts.append(begins.to(values.dtype).expand(*values.shape[:3], 1))
        inside = torch.cat(parts, -1)
        return nn.functional.linear(inside, self.gates.weight[:, : inside.shape[-1]], self.gates.bias)

    def _remember(self, read: Tensor, output: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """A step of the LSTM on rows ``[M, .]``."""
        gates = torch.addmm(read, output, self.gates.weight[:, -self.config.units :].t())
        take, keep, candidate, show = gates.chunk(4, -1)
        memory = torch.sigmoid(keep) * memory + torch.sigmoid(take) * torch.tanh(candidate)
        return torch.sigmoid(show) * torch.tanh(memory), memory

    def _said(self, output: Tensor, memory: Tensor) -> LatentDist:
        """What the LSTM's output ``[B, T, N, units]`` says of the frame."""
        made = self.mixture.split(full_precision(self.out(output)))
        name, params, start = self.spec.groups[0].name, {}, 0
        for f in self.seen:
            params[name, f.name] = self.mixture.pack(*(x[..., start : start + f.dim, :] for x in made))
            start += f.dim
        return LatentDist(self.spec, {**params, (name, OUTPUT): output, (name, MEMORY): memory})

    # -- transitions

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        """Index t is p(s_{t+1} | s_t, cond_t), of every state by itself."""
        output, memory = self._part(z, OUTPUT), self._part(z, MEMORY)
        begins = (memory == 0).all(-1, keepdim=True)  # a memory of exact zeros is that of a first frame
        read, rows = self._read(self._values(z), cond, begins), output.shape[:3]
        found = self._remember(*(x.flatten(0, 2) for x in (read, output, memory)))
        return self._said(*(x.unflatten(0, rows) for x in found))

    def predict(self, carry: Any, cond: Condition, sampler: Sampler, *, mean: bool) -> Latent:
        dist = self.step(carry, cond)
        if mean or sampler.deterministic:
            return dist.mode()
        return self.heated(dist).sample(sampler)

    def heated(self, dist: LatentDist, temperature: float | None = None) -> LatentDist:
        """A prediction at a temperature; default: this dynamics' own."""
        temperature = self.temperature if temperature is None else temperature
        if temperature == 1:
            return dist
        params = {key: self.mixture.heated(x, temperature) if self.spec.field(key).dist == self.mixture else x
                  for key, x in dist.params.items()}
        return LatentDist(self.spec, params, score=dist.score)

    # -- filtering

    def filter(
        self, seen: Encoding, cond: Condition, sampler: Sampler, *, first: Tensor, last: Latent | None = None
    ) -> Filtered:
        values = self._values(seen.latent)
        outputs, memories, reached = self._scan(values, cond, first, last)
        name = self.spec.groups[0].name
        own = {(name, OUTPUT): outputs, (name, MEMORY): memories}
        params = {(name, f.name): self.mixture.of_normal(seen.posterior.params[name, f.name]) for f in self.seen}
        latent = Latent.build(self.spec, {**seen.latent.values, **own}, score=seen.latent.score)
        return Filtered(latent, LatentDist(self.spec, {**params, **own}), self._said(*reached))

    def _scan(
        self, values: Tensor, cond: Condition, first: Tensor, last: Latent | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Output and memory of every frame, zeros where an episode begins, and what they would be without that."""
        batch, frames, tokens, _ = values.shape
        goes_on = (~first)[:, :, None, None].to(values.dtype)
        if last is None:
            blank = values.new_zeros(batch, 1, tokens, self.seen_dim)
            output = memory = values.new_zeros(batch * tokens, self.config.units)
            began = torch.ones(batch, 1, tokens, 1, dtype=torch.bool, device=values.device)
        else:
            blank, output, memory = self._values(last), *(self._part(last, x).flatten(0, 2) for x in (OUTPUT, MEMORY))
            began = (self._part(last, MEMORY) == 0).all(-1, keepdim=True)
        before = torch.cat([blank, values[:, :-1]], 1) * goes_on
        flags = first[:, :-1, None, None].expand(-1, -1, tokens, -1)
        began = torch.cat([began, flags], 1) | first[:, :, None, None]
        read = self._read(before, cond, began)
        read, keep = (x.expand(-1, -1, tokens, -1).transpose(1, 2).flatten(0, 1).unbind(1) for x in (read, goes_on))
        found, reached = [], []
        for t in range(frames):
            output, memory = self._remember(read[t], output * keep[t], memory * keep[t])
            reached.append((output, memory))
            output, memory = output * keep[t], memory * keep[t]
            found.append((output, memory))

        def joined(parts: Any) -> Tensor:
            return torch.stack(parts, 1).unflatten(0, (batch, tokens)).transpose(1, 2)

        outputs, memories = (joined(x) for x in zip(*found, strict=True))
        return outputs, memories, tuple(joined(x) for x in zip(*reached, strict=True))  # type: ignore[return-value]

    def remembering(self, seen: Latent) -> Latent:
        """States of an encoder's latents of which nothing is remembered, ``[B, T]``."""
        name, like = self.spec.groups[0].name, self._values(seen)
        nothing = like.new_zeros(*like.shape[:3], self.config.units)
        return Latent.build(self.spec, {**seen.values, (name, OUTPUT): nothing, (name, MEMORY): nothing},
                            score=seen.score)

    # -- what heads and controllers read

    def feature_dim(self) -> int:
        return self.config.units

    def state_features(self, z: Latent) -> Tensor:
        """The LSTM's output, which knows what led to the state: ``[B, T, N, units]``."""
        return self._part(z, OUTPUT)
