"""A network acts in a model's dreams: anew in every update (IRIS), or in dreams that go on (DIAMOND).

Rewards and ends are drawn. The model has no graph; the network's goes from frame to frame through its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...batch import Batch
from ...distributions import Sampler
from ...dreaming import Dream
from ...latents import Latent
from ..carry import tensors_of, with_tensors
from .networks import Memory, PixelNetwork


@dataclass(frozen=True)
class Lived:
    """What happened in a stretch of dreams, ``[N, H]``.

    Attributes:
        logits: Of the actions, with a graph, ``[N, H, A]``.
        action: What was done.
        value: Of the pictures, with a graph.
        reward, ended: What it led to.
        following: Value of what it led to, without a graph.
        cut: Where a dream was cut off behind a step.
    """

    logits: Tensor
    action: Tensor
    value: Tensor
    reward: Tensor
    ended: Tensor
    following: Tensor
    cut: Tensor


@torch.no_grad()
def pictures(model: Any, z: Latent) -> Tensor:
    """What a model makes of latents ``[N, T]``, float in [0, 1]."""
    return model.decode(z).video.clamp(0, 1)


@torch.no_grad()
def as_drawn(model: Any, frames: Tensor) -> tuple[Latent, Tensor]:
    """Frames ``[N, T, C, H, W]`` as the model knows and draws them: the network never sees others."""
    z = model.encode(frames)
    return z, pictures(model, z)


def _dream(model: Any, z: Latent, starts: Batch, context: int, sampler: Sampler) -> Dream:
    return Dream(model, z[:, -context:], conditions=_told(starts, context), sampler=sampler, drawn=True)


def _told(starts: Batch, context: int) -> dict[str, Any]:
    """Conditions of the transitions inside the context."""
    return {name: x[:, -context:] for name, x in starts.conditions.items()} if context > 1 else {}


def _outcome(dream: Dream) -> tuple[Tensor, Tensor]:
    """Reward and end of the last step, ``[N]``; without a head of ends there are none."""
    reward = dream.predictions["reward"][:, 0]
    ended = dream.predictions.get("terminated")
    return reward, torch.zeros_like(reward) if ended is None else (ended[:, 0] > 0.5).to(reward.dtype)


def live_afresh(model: Any, network: PixelNetwork, starts: Batch, sampler: Sampler, *, horizon: int, context: int = 1
                ) -> Lived:
    """Dreams from the last frames of segments; the network first looks at those before, without a graph.

    Args:
        model: Dreams; has a decoder and heads.
        network: Acts.
        starts: Segments, padding among their first frames; see `worldkit.agents.pixel_actor_critic.segments`.
        sampler: Source of randomness: ``"action"``, then what the model draws.
        horizon: Pictures; the last one is judged, and nothing is done there.
        context: Frames that the model begins with.
    Returns:
        ``horizon`` steps; of the last one only logits and value count.
    """
    z, seen = as_drawn(model, starts.video)
    dream = _dream(model, z, starts, context, sampler)
    with torch.no_grad():
        real = None if starts.done_mask is None else starts.done_mask[:, :-1]
        memory = network.watch(seen[:, :-1], real, network.begin(len(seen)))
    frame, told = seen[:, -1], _Log()
    for t in range(horizon):
        said = network(frame, memory)
        memory = said.memory
        if t == horizon - 1:
            action = said.logits.argmax(-1)
            reward, ended = torch.zeros_like(said.value.detach()), torch.zeros_like(said.value.detach())
        else:
            action = sampler.categorical("action", said.logits)
            dream.step({"action": action[:, None]})
            reward, ended = _outcome(dream)
            frame = pictures(model, dream.latent)[:, 0]
        told.add(logits=said.logits, action=action, value=said.value, reward=reward, ended=ended)
    value = told["value"].detach()
    following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
    return told.lived(following=following, cut=torch.zeros_like(value))


class LastingDreams:
    """Dreams that go on from update to update; where one ends or grows too long, another begins in its row.

    The value of what a dream that is over led to is asked before its row begins anew. A new row's memory is what the
    frames before its first one leave in a network that has seen nothing, with a graph; the very first dreams begin
    without a memory (as upstream).

    Args:
        model: Dreams; has a decoder and heads, and its dynamics can begin single rows anew.
        network: Acts.
        context: Frames that a dream begins with.
        length: Steps after which it is cut off.
    Attributes:
        age: Steps of each dream, int64 ``[N]``; None before the first.
    """

    def __init__(self, model: Any, network: PixelNetwork, *, context: int, length: int):
        self.model, self.network, self.context, self.length = model, network, context, length
        self.age: Tensor | None = None
        self._dream: Dream | None = None
        self._memory: Memory | None = None
        self._kept: dict[str, Any] | None = None  # loaded, and not yet gone on from

    def begin(self, starts: Batch, sampler: Sampler) -> Tensor:
        """New dreams in all rows; their first pictures ``[N, C, H, W]``."""
        z, seen = as_drawn(self.model, starts.video)
        self._dream = _dream(self.model, z, starts, self.context, sampler)
        self._dream.settled()
        self._memory = self.network.begin(len(seen))
        self.age = torch.zeros(len(seen), dtype=torch.int64, device=seen.device)
        return seen[:, -1]

    def live(self, horizon: int, starts: Callable[[int], Batch], count: int, sampler: Sampler) -> Lived:
        """So many steps.

        Args:
            horizon: Steps.
            starts: Gives so many beginnings: segments of ``context`` frames.
            count: Dreams at once.
            sampler: Source of randomness.
        """
        if self._kept is not None:
            self._go_on()
        if self._dream is None:
            self.begin(starts(count), sampler)
        assert self._dream is not None and self._memory is not None and self.age is not None
        self._dream.sampler = sampler
        memory = tuple(x.detach() for x in self._memory)
        frame, told, network = pictures(self.model, self._dream.latent)[:, 0], _Log(), self.network
        for _ in range(horizon):
            said = network(frame, memory)
            memory, action = said.memory, sampler.categorical("action", said.logits)
            frame, reward, ended, cut = self.step(action)
            over = (ended > 0) | cut
            beyond = torch.zeros_like(said.value.detach())
            if (rows := torch.nonzero(over)[:, 0]).numel():
                with torch.no_grad():
                    beyond[rows] = network(frame[rows], tuple(x[rows] for x in memory)).value
                seen = self.restart(rows, starts(len(rows)))
                anew = network.watch(seen[:, :-1], None, network.begin(len(rows)))
                memory = tuple(old.index_copy(0, rows, new) for old, new in zip(memory, anew, strict=True))
                frame = frame.index_copy(0, rows, seen[:, -1])
            told.add(logits=said.logits, action=action, value=said.value, reward=reward, ended=ended, over=over,
                     beyond=beyond, cut=cut.to(reward.dtype))
        with torch.no_grad():
            last = network(frame, memory).value
        self._memory = tuple(x.detach() for x in memory)
        following = torch.cat([told["value"].detach()[:, 1:], last[:, None]], 1)
        return told.lived(following=torch.where(told["over"], told["beyond"], following), cut=told["cut"])

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What actions ``[N]`` lead to: pictures, rewards, ends, and which dreams are cut off."""
        assert self._dream is not None and self.age is not None
        self._dream.step({"action": action[:, None]})
        reward, ended = _outcome(self._dream)
        self.age = self.age + 1
        return pictures(self.model, self._dream.latent)[:, 0], reward, ended, self.age >= self.length

    def restart(self, rows: Tensor, starts: Batch) -> Tensor:
        """Begin anew in some rows; the frames they begin with ``[R, context, C, H, W]``."""
        assert self._dream is not None and self.age is not None
        z, seen = as_drawn(self.model, starts.video[:, -self.context:])
        self._dream.put(rows, z, _told(starts, self.context))
        self.age = self.age.index_fill(0, rows, 0)
        return seen

    # -- going on exactly

    def state_dict(self) -> dict[str, Any]:
        """What they go on from: tensors."""
        if self._kept is not None:
            return self._kept
        if self._dream is None:
            return {}
        return {"held": tensors_of(self._dream.settled()), "memory": list(self._memory or ()), "age": self.age}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._kept = dict(state) or None

    def _go_on(self) -> None:
        assert self._kept is not None
        kept, self._kept = self._kept, None
        device = next(self.network.parameters()).device
        count = len(kept["age"])
        blank = torch.zeros(count, self.context, *self.network.frame_shape, device=device)
        nothing = torch.zeros(count, self.context, dtype=torch.int64, device=device)
        self.begin(Batch(blank, {"action": nothing}), Sampler(generator=torch.Generator(device).manual_seed(0)))
        assert self._dream is not None
        self._dream.step({"action": nothing[:, -1:]})  # a state of a dream that goes on has parts that a new one lacks
        held = with_tensors(self._dream.settled(), [x.to(device) for x in kept["held"]])
        self._dream.resume(*held)
        self._memory, self.age = tuple(x.to(device) for x in kept["memory"]), kept["age"].to(device)


class _Log:
    """Tensors ``[N]`` of every step, by name."""

    def __init__(self) -> None:
        self._steps: dict[str, list[Tensor]] = {}

    def add(self, **told: Tensor) -> None:
        for name, x in told.items():
            self._steps.setdefault(name, []).append(x)

    def __getitem__(self, name: str) -> Tensor:
        return torch.stack(self._steps[name], 1)

    def lived(self, **more: Tensor) -> Lived:
        return Lived(**{name: self[name] for name in ("logits", "action", "value", "reward", "ended")}, **more)
