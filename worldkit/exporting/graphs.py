"""What a model computes, as functions of plain tensors: `Encode`, `Decode`, `Step`, `Rollout`.

A function knows the names and meanings of what goes in and comes out (`ports`), and makes examples of its inputs.
Frames go in as uint8, at the model's size; latents as one tensor per field. What is drawn at random is its mean, unless
noise is an input (`noise`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..errors import ExportError
from ..latents import Latent
from ..perception import perceive
from ..rolling import predicted
from ..samplers import MEANS, Sampler
from ..testing.examples import example_batch, example_latent
from .noise import KINDS, Recorded, Replayed
from .ports import BATCH, TIME, Port, fields, latent_of

Tensors = tuple[Tensor, ...]


class Graph(nn.Module):
    """A model's function of named tensors.

    Args:
        model: A model in evaluation mode on the CPU.
        context: Frames that predictions start from.
        horizon: Frames that are predicted.
        latent_actions: They are inputs; otherwise the model's policy chooses them.
        noise: What is drawn is drawn with noise that is an input; otherwise means are taken.
    """

    what: ClassVar[str]

    def __init__(self, model: Any, *, context: int, horizon: int, latent_actions: bool, noise: bool):
        super().__init__()
        self.model, self.context, self.horizon = model, context, horizon
        self.given = latent_actions
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.draws: list[str] = []
        self.prepare()
        if noise:
            self._note_draws()

    def prepare(self) -> None:
        """Fill ``inputs`` and ``outputs``."""
        raise NotImplementedError

    def example(self, batch: int, time: int, seed: int = 0) -> Tensors:
        """Inputs without noise, of the sizes asked for where they are free."""
        raise NotImplementedError

    def compute(self, given: Tensors, sampler: Sampler) -> Tensors:
        """Outputs of inputs without noise."""
        raise NotImplementedError

    def time(self) -> int:
        """Frames of the example that the function is traced with."""
        return self.context

    def forward(self, *tensors: Tensor) -> Tensors:
        """Outputs of all inputs."""
        count = len(self.inputs) - len(self.draws)
        return self.compute(tensors[:count], Replayed(tensors[count:]) if self.draws else MEANS)

    def examples(self, batch: int, time: int, seed: int = 0) -> Tensors:
        """All inputs, noise included; contiguous as arrays are, for strides become a part of what is traced."""
        given = self.example(batch, time, seed)
        drawn = (tensor for *_, tensor in self._drawn(given, seed)) if self.draws else ()
        return tuple(x.contiguous() for x in (*given, *drawn))

    def _drawn(self, given: Tensors, seed: int) -> list[tuple[str, str, Tensor]]:
        sampler = Recorded(torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.compute(given, sampler)
        return sampler.drawn

    def _note_draws(self) -> None:
        drawn = self._drawn(self.example(2, self.time()), 0)
        if not drawn:
            raise ExportError(f"{self.what} of this model draws nothing at random: export it without noise")
        for number, (kind, name, tensor) in enumerate(drawn):
            self.draws.append(kind)
            axes = (BATCH,) if tensor.shape[:1] == (2,) else ("rows",)
            self.inputs.append(Port(f"noise.{number}", f"{KINDS[kind]}, for '{name or 'a draw'}'", axes))

    # -- what several of them need

    @property
    def _views(self) -> int:
        return int(self.model.config.obs.views > 1)

    def _seen_ports(self) -> list[Port]:
        """Frames and vectors that a model looks at."""
        obs, ports = self.model.config.obs, []
        if obs.height:
            axes = (BATCH, "views", TIME) if self._views else (BATCH, TIME)
            ports.append(Port("video", "frames, RGB 0 to 255, at the model's size (see operator)", axes))
        for name in obs.widths:
            kind = f"one of {obs.discrete[name]} classes" if name in obs.discrete else "numbers"
            ports.append(Port(f"vectors.{name}", f"observed beside the frames: {kind}"))
        return ports

    def _seen(self, tensors: Tensors) -> Batch:
        """The batch that `_seen_ports` describe."""
        obs, rest = self.model.config.obs, list(tensors)
        video = rest.pop(0) if obs.height else None
        vectors = dict(zip(obs.widths, rest, strict=True))
        if video is None:
            return Batch.of_vectors(vectors, channels=obs.channels)
        return Batch(video, vectors=vectors)

    def _look(self, batch: int, time: int, seed: int) -> tuple[Batch, Tensors]:
        """Made-up clips, and of them what `_seen_ports` describe."""
        clips = example_batch(self.model.config, time, batch=batch)
        generator = torch.Generator().manual_seed(seed)
        obs = self.model.config.obs
        video = torch.randint(256, clips.video.shape, generator=generator, dtype=torch.uint8)
        clips = replace(clips, video=video, masks={})
        seen = ([video] if obs.height else []) + [clips.vectors[name] for name in obs.widths]
        return clips, tuple(seen)

    def _conditions(self, *, frames: str, axis: str, moving: bool | None = None, prefix: str = "") -> list[Port]:
        """Ports of the model's conditions; ``moving``: only those with a time axis, or only those without."""
        ports = []
        for name, conditioner in self.model.conditioners.items():
            if moving is not None and conditioner.per_frame != moving:
                continue
            what = getattr(conditioner.config, "num_actions", None)
            kind = f"numbers from 0 to {what - 1}" if what else "as in the training data"
            axes = (BATCH, axis) if conditioner.per_frame else (BATCH,)
            told = f", {frames}" if conditioner.per_frame else ", for all frames"
            ports.append(Port(f"{prefix}{name}", f"condition '{name}': {kind}{told}", axes))
        return ports

    def _told(self, clips: Batch, entries: int | None = None, moving: bool | None = None) -> Tensors:
        """Values of the model's conditions in made-up clips."""
        found = []
        for name, conditioner in self.model.conditioners.items():
            if moving is not None and conditioner.per_frame != moving:
                continue
            value = clips.conditions[name]
            found.append(value.narrow(conditioner.axis(value), 0, entries)
                         if conditioner.per_frame and entries is not None else value)
        return tuple(found)

    def _latent(self, batch: int, time: int, seed: int) -> Latent:
        """What the model sees in made-up clips."""
        clips, _ = self._look(batch, time, seed)
        with torch.no_grad():
            z = self.model.encode(clips)
        return Latent.build(self.model.spec, z.values)


class Encode(Graph):
    """Frames -> latents. Of a model whose dynamics filters one frame at a time: state before, action, frame -> state.

    Where ``begins`` the state before and the action do not matter: an episode begins.
    """

    what = "encode"

    def prepare(self) -> None:
        model = self.model
        self.filters = model.dynamics is not None and model.dynamics.filtering
        self.inputs = self._seen_ports()
        if not self.filters:
            self.outputs = fields(model.spec, "latent", "seen in the frame")
            clips, _ = self._look(2, self.time(), 0)
            with torch.no_grad():
                if model.encode(clips).score is not None:
                    self.outputs.append(Port("score", "uncertainty per token; low: surely there"))
            return
        self.carries = model.encoder.carries
        if self.carries and not model.encoder.borders:
            raise ExportError(f"the encoder '{model.config.encoder.name}' carries what it saw from frame to frame and "
                              "cannot begin anew within a clip, so it cannot be shown one frame at a time")
        one = (BATCH, "one")
        self.inputs = [replace(port, axes=tuple("one" if a == TIME else a for a in port.axes)) for port in self.inputs]
        self.inputs.append(Port("begins", "true where an episode begins in this frame", one))
        self.inputs += fields(model.spec, "last", "state of the frame before (zeros will do in a first one)", one)
        if self.carries:
            self.inputs.append(Port("last.carry", "what the encoder remembered then (zeros will do, too)", one))
        self.inputs += self._conditions(frames="of the transition that led to this frame", axis="one", moving=True,
                                        prefix="last.")
        self.inputs += self._conditions(frames="", axis="one", moving=False)
        self.outputs = fields(model.spec, "latent", "state in this frame", one)
        if self.carries:
            self.outputs.append(Port("latent.carry", "what the encoder remembers, for the next frame", one))

    def time(self) -> int:
        if self.filters:
            return 1
        if self.model.encoder.carries:
            return self.model.clip_length
        return max(2, min(self.model.clip_length, 4))

    def example(self, batch: int, time: int, seed: int = 0) -> Tensors:
        clips, seen = self._look(batch, 1 if self.filters else time, seed)
        if not self.filters:
            return seen
        begins = (torch.arange(batch) % 2 == 1)[:, None]
        with torch.no_grad():
            last = self.model.encode(self._look(batch, 1, seed + 1)[0])
        carried = [last.carry] if self.carries else []
        return (*seen, begins, *last.values.values(), *carried, *self._told(clips, 1, moving=True),
                *self._told(clips, moving=False))

    def compute(self, given: Tensors, sampler: Sampler) -> Tensors:
        count = len(self._seen_ports())
        seen, rest = self._seen(given[:count]), list(given[count:])
        if not self.filters:
            z = perceive(self.model, seen, sampler).latent
            return (*z.values.values(), *([] if z.score is None else [z.score]))
        begins = rest.pop(0)
        states = [rest.pop(0) for _ in self.model.spec.keys()]
        last = latent_of(self.model.spec, tuple(states)).carrying(rest.pop(0) if self.carries else None)
        moving = [name for name, c in self.model.conditioners.items() if c.per_frame]
        others = [name for name, c in self.model.conditioners.items() if not c.per_frame]
        z = perceive(self.model, seen, sampler, conditions=dict(zip(others, rest[len(moving):], strict=True)),
                     first=begins, last=last, last_action=dict(zip(moving, rest[: len(moving)], strict=True))).latent
        return (*z.values.values(), *([z.carry] if self.carries else []))


class Decode(Graph):
    """Latents -> frames, as predicted frames are drawn; a decoder that looks back is given the frames before, too."""

    what = "decode"

    def prepare(self) -> None:
        model = self.model
        self.inputs = fields(model.spec, "latent", "what is to be drawn")
        with torch.no_grad():
            drawn = model.decode(example_latent(model.spec, 2, self.time()))
        self.seen = bool(model.config.obs.height)
        axes = (BATCH, "views", TIME) if self._views else (BATCH, TIME)
        self.outputs = [Port("video", "frames, around 0 to 1, not clamped", axes)] if self.seen else []
        self.outputs += [Port(f"vectors.{name}", "observed beside the frames") for name in drawn.vectors]

    def time(self) -> int:
        return max(2, min(self.model.clip_length, 3 + self.model.decoder.history))

    def example(self, batch: int, time: int, seed: int = 0) -> Tensors:
        """Made-up latents: of an untrained encoder's, tokens are so alike that rounding decides which are drawn."""
        return tuple(example_latent(self.model.spec, batch, time, seed=seed).values.values())

    def compute(self, given: Tensors, sampler: Sampler) -> Tensors:
        drawn = self.model.decode(latent_of(self.model.spec, given))
        return (*([drawn.video] if self.seen else []), *drawn.vectors.values())


class Rollout(Graph):
    """Latents of the context, and what is done -> latents and frames of the horizon, and what heads say."""

    what = "rollout"

    def prepare(self) -> None:
        model = self.model
        axis = TIME if self.horizon == 1 else "transitions"
        self.inputs = fields(model.spec, "latent", "context, oldest frame first")
        until = "the last one leads to the frame that is predicted" if self.horizon == 1 else (
            f"{self.context} of them lead to the first predicted frame")
        self.inputs += self._conditions(frames=f"index t leads from frame t to t + 1; {until}", axis=axis)
        if self.given:
            module = model.require_latent_action("exporting latent actions")
            self.inputs.append(Port("latent_actions", f"latent actions ({model.config.latent_action.name}), index t "
                                    "leads from frame t to t + 1", (BATCH, axis)))
            self._width = self._latent_action_shape(module)
        self._ports(model)

    def _ports(self, model: Any) -> None:
        self.outputs = fields(model.spec, "next", "predicted", (BATCH, "horizon"))
        self.outputs += [Port(f"predictions.{name}", f"what the head '{name}' says of the transition",
                              (BATCH, "horizon")) for name in model.heads]
        if model.latent_action is not None and not self.given:
            self.outputs.append(Port("latent_actions", "latent actions that the model's policy chose", (BATCH,)))
        self.draws_video = self.what == "rollout" and model.decoder is not None and bool(model.config.obs.height)
        if self.draws_video:
            axes = (BATCH, "views", "horizon") if self._views else (BATCH, "horizon")
            self.outputs.append(Port("video", "predicted frames, around 0 to 1, not clamped", axes))

    def _latent_action_shape(self, module: Any) -> tuple[int, ...]:
        """Shape of a single latent action, tokens and numbers."""
        clips, _ = self._look(2, 2, 0)
        told = {name: value for name, value in clips.conditions.items()}
        with torch.no_grad():
            found = self.model.infer_latent_actions(
                clips.video if module.reads == "video" else self.model.encode(clips), conditions=told)
        return tuple(found.shape[2:])

    def example(self, batch: int, time: int, seed: int = 0) -> Tensors:
        z, entries = self._latent(batch, time, seed), time + self.horizon - 1
        clips = example_batch(self.model.config, entries, batch=batch)
        told = self._told(clips, entries)
        if not self.given:
            return (*z.values.values(), *told)
        generator = torch.Generator().manual_seed(seed)
        actions = torch.randn(batch, entries, *self._width, generator=generator)
        return (*z.values.values(), *told, actions)

    def compute(self, given: Tensors, sampler: Sampler) -> Tensors:
        model, count = self.model, len(self.model.spec.keys())
        z = latent_of(model.spec, given[:count])
        names = list(model.conditioners)
        told = dict(zip(names, given[count : count + len(names)], strict=True))
        actions = given[count + len(names)] if self.given else None
        entries = z.shape[1] + self.horizon - 1
        cond = model._gather_conditions(told, {}, entries, MEANS, strict=True)
        latents, acted, said = predicted(model, z, self.horizon, cond, actions, sampler, "exact")
        found = [*latents.values.values(), *said.values()]
        if model.latent_action is not None and not self.given:
            found.append(acted[:, -self.horizon :])
        if self.draws_video:
            found.append(model.decode(latents, before=z).video)
        return tuple(found)


class Step(Rollout):
    """Latents of the newest frames, and what is done -> the latent of the next frame, and what heads say."""

    what = "step"


GRAPHS: dict[str, type[Graph]] = {graph.what: graph for graph in (Encode, Decode, Step, Rollout)}


def make_graph(model: Any, what: str, *, context: int | None, horizon: int | None, latent_actions: bool,
               noise: bool) -> Graph:
    """The function that is to be exported.

    Raises:
        ExportError: the model does not have it, saying why.
    """
    dynamics = model.dynamics
    filters = dynamics is not None and dynamics.filtering
    longest = 1 if dynamics is None or filters else dynamics.window
    unseen = model.latent_action is not None and model.latent_action.reads == "video" and not latent_actions
    context = min(longest, 1 if unseen else 4) if context is None else context
    if filters and context != 1:
        raise ExportError(f"the states of this model hold all that was seen, so predictions start from one, and "
                          f"context={context} frames are of no use")
    if not 1 <= context <= longest:
        raise ExportError(f"this model looks at 1 to {longest} frames, got context={context}")
    if model.latent_action is None and latent_actions:
        raise ExportError("this model has no latent actions that could be inputs")
    return GRAPHS[what](model, context=context, horizon=1 if what == "step" else horizon or 8,
                        latent_actions=latent_actions, noise=noise)

