"""Finding objects and following them: the posterior of G-SWM, and what it costs beside the prior.

Frame after frame, objects that are known are looked for near where they were (`follow`), new ones are looked for in
every cell of a grid (`find`), and those of highest presence are kept. No loop goes over objects.

What is upstream's and numbers depend on: nothing is removed because it is weak, only pushed out by what is stronger;
a cell that is refused because its object is known already, or that is pushed out, still pays its KL, and every cell
pays for its motion whether something is there or not; known objects' boxes may leave the picture, or turn inside out.

Source: G-SWM (arXiv:2006.02940) section 3; github.com/zhixuan-lin/G-SWM @ 1423553, written from its description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from ..distributions import Sampler, full_precision
from ..encoders.base import Encoder, Encoding
from ..errors import WorldkitError
from ..latents import Latent, LatentDist, LatentSpec
from .boxes import look, overlap
from .config import GSWMConfig, PerceptionConfig
from .interaction import Memory
from .latent import latent_of
from .motion import Changes, Motion
from .networks import CellHead, ImageEncoder, PictureEncoder, celu_mlp, std_of
from .objects import CENTRE, PLAIN, Attributes, Objects, gaussian, normal_kl, presence_kl, present, take

TERMS = ("presence", "depth", "box", "features", "motion")
"""What objects pay for."""
THERE = 0.5
"""Presence above which a known object refuses new ones at its place."""


@dataclass(frozen=True)
class Priors:
    """What the training step says of objects nobody has seen yet.

    Attributes:
        temperature: Of presences.
        presence: Probability that a cell has an object.
        size_mean, size_std: Of a new box's sides, before the sigmoid.
        presence_kl: Whether known objects pay for being there.
    """

    temperature: float
    presence: float
    size_mean: float
    size_std: float
    presence_kl: bool


@dataclass(frozen=True)
class Scenery:
    """Backgrounds of a clip.

    Attributes:
        context, context_posterior, context_prior: ``[B, T, D]``: what they are drawn from, and the states of both LSTMs
            behind it; None where it is black.
        drawn: ``[B, T, C, S, S]``, likewise.
        kl: ``"context"`` -> nats ``[B, T]``; empty if nobody asked, or it is black.
    """

    context: Tensor | None = None
    context_posterior: Tensor | None = None
    context_prior: Tensor | None = None
    drawn: Tensor | None = None
    kl: Mapping[str, Tensor] = field(default_factory=dict)

    def folded(self) -> dict[str, Tensor]:
        """What a latent holds of it, frames folded into the batch; empty where it is black."""
        values = {name: getattr(self, name) for name in ("context", "context_posterior", "context_prior")}
        return {name: x.flatten(0, 1) for name, x in values.items() if x is not None}


@dataclass(frozen=True)
class Tracks:
    """What was found in a clip; objects of a frame in order of their presence.

    Attributes:
        objects: `Objects` whose tensors have a time axis: ``[B, T, N, ...]``.
        scenery: Behind them.
        kl: Nats by `TERMS` and ``"context"``, ``[B, T]`` each; empty without priors.
    """

    objects: Objects
    scenery: Scenery
    kl: Mapping[str, Tensor] = field(default_factory=dict)

    def attributes(self, feature_dim: int) -> Attributes:
        """Of the objects of all frames, ``[B * T, N, dim]``."""
        return Attributes.of(self.objects.z.flatten(0, 1), feature_dim)


class Discovery(nn.Module):
    """A frame -> what there may be in every cell of a grid, given what is known already."""

    def __init__(self, config: GSWMConfig):
        super().__init__()
        seen, obs = config.encoder, config.obs
        wide = PLAIN + seen.feature_dim + seen.motion_dim
        self.sigma, self.feature_dim, self.motion_dim = seen.found_map_sigma, seen.feature_dim, seen.motion_dim
        self.image = ImageEncoder(2 * obs.channels, channels=seen.channels, outputs=seen.map_dim,
                                  stride=obs.height // (8 * seen.grid))
        self.found_map = FoundMap(seen, inputs=wide)
        cells = seen.map_dim + seen.found_map_dim
        self.attributes = CellHead(cells, hidden=seen.hidden_dim, outputs=Changes.width(seen.feature_dim, gated=False))
        self.motion = CellHead(cells, hidden=seen.hidden_dim, outputs=2 * seen.motion_dim) if seen.motion_dim else None
        middles = (torch.arange(seen.grid) + 0.5) * 2 / seen.grid - 1
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        self.register_buffer("cells", torch.stack([x.flatten(), y.flatten()], -1), persistent=False)
        self.pitch = 2 / seen.grid

    def forward(self, frame: Tensor, background: Tensor | None, known: Objects | None) -> tuple[Changes, Tensor | None]:
        """Distributions of attributes of all cells ``[B, G * G]``, and what motion is drawn from."""
        left = frame if background is None else frame - background
        seen = self.image(torch.cat([frame, left], 1))
        cells = torch.cat([seen, self.found_map(known, seen)], 1)
        return Changes.of(self.attributes(cells), self.feature_dim), None if self.motion is None else self.motion(cells)

    def boxes(self, raw: Tensor) -> Tensor:
        """Boxes of cells: sides by a sigmoid, centres at most one cell's pitch off its middle."""
        centres = self.cells + self.pitch * torch.tanh(raw[..., 2:])
        return torch.cat([torch.sigmoid(raw[..., :2]), centres], -1)


class FoundMap(nn.Module):
    """Known objects, spread around their centres by a Gaussian density (its peak is 15.9 at sigma 0.1, as upstream's),
    as a map of cells ``[B, D, G, G]``; zeros if there are none."""

    def __init__(self, config: PerceptionConfig, *, inputs: int):
        super().__init__()
        self.sigma, self.dim = config.found_map_sigma, config.found_map_dim
        self.net = celu_mlp(inputs, *config.found_map_layers, config.found_map_dim)

    def forward(self, known: Objects | None, like: Tensor) -> Tensor:
        batch, side = like.shape[0], like.shape[-1]
        if known is None:
            return like.new_zeros(batch, self.dim, side, side)
        middles = (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) * 2 / side - 1
        far = (middles - known.z[..., CENTRE, None]).square()  # [B, N, 2, G]
        near = torch.exp(-0.5 * far / self.sigma**2) / (self.sigma * (2 * torch.pi) ** 0.5)
        told = self.net(known.z) * known.z[..., :1]
        return torch.einsum("bnd,bny,bnx->bdyx", told, near[:, :, 1], near[:, :, 0])


class Perception(Encoder):
    """Video -> objects and background. Its config: `worldkit.gswm.config.PerceptionConfig`.

    Attributes:
        discovery: See there; may be changed at any time.
    """

    Config = PerceptionConfig
    borders = False

    def __init__(self, config: GSWMConfig, *, spec: LatentSpec, motion: Motion):
        super().__init__(config.encoder, obs=config.obs)
        seen, states = config.encoder, config.dynamics.state_dim
        self.spec, self.discovery = spec, seen.discovery
        self._motion = [motion]  # the model's dynamics, in a list, so that it is no part of this one
        self.cells = Discovery(config)
        self.memory = Memory(config.dynamics, inputs=PLAIN + seen.feature_dim + seen.motion_dim)
        self.growth = celu_mlp(states, seen.hidden_dim, seen.hidden_dim, 2)
        self.glimpses = PictureEncoder(config.obs.channels, side=seen.glimpse_size, channels=seen.glimpse_channels,
                                       outputs=seen.proposal_dim)
        outputs = 2 * seen.motion_dim or Changes.width(seen.feature_dim, gated=False)
        self.observed = celu_mlp(seen.proposal_dim + states, seen.hidden_dim, seen.hidden_dim, outputs)
        self.context = ContextPosterior(config) if config.decoder.context_dim else None

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        self.fold_frames(video)  # checks it
        if self.discovery not in ("first", "every"):
            raise WorldkitError(f"encoder.discovery must be 'first' or 'every', got {self.discovery!r}")
        every = self.discovery == "every"
        tracks = self.track(video, sampler=sampler, discover=lambda t: every, temperature=self.config.temperature)
        latent = self.latent(tracks)
        return Encoding(LatentDist(self.spec, dict(latent.values)), latent, aux=tracks)

    def look_behind(self, video: Tensor, sampler: Sampler, *, priced: bool) -> Scenery:
        """Backgrounds of all frames ``[B, T, C, S, S]``, before objects are looked for; ``priced``: with their KL."""
        motion = self._motion[0]
        if self.context is None or motion.context is None:
            return Scenery()
        batch, frames = video.shape[:2]
        seen = self.context.look(video.flatten(0, 1)).unflatten(0, (batch, frames))
        state, other = (part.fresh(batch) for part in (self.context, motion.context))
        drawn, states, others, costs = [], [], [], []
        for t in range(frames):
            mean, raw = self.context.found(state, seen[:, t])
            context, std = gaussian(mean, raw, sampler, "background.context")
            if priced:
                prior_mean, prior_raw = motion.context.expected(other)
                costs.append(normal_kl(mean, std, prior_mean, std_of(prior_raw)).sum(-1))
            state, other = self.context.remember(context, state), motion.context.remember(context, other)
            drawn.append(context), states.append(state), others.append(other)
        context = torch.stack(drawn, 1)
        backgrounds = motion.renderer.background(context.flatten(0, 1)).unflatten(0, (batch, frames))
        kl = {"context": torch.stack(costs, 1)} if priced else {}
        return Scenery(context, torch.stack(states, 1), torch.stack(others, 1), backgrounds, kl)

    def track(
        self, video: Tensor, *, sampler: Sampler, discover: Callable[[int], bool], temperature: float,
        priors: Priors | None = None, scenery: Scenery | None = None,
    ) -> Tracks:
        """Objects of all frames.

        Args:
            video: ``[B, T, C, S, S]``, float in [0, 1].
            sampler: Source of randomness.
            discover: Whether new objects are looked for in a frame (in the first one, always).
            temperature: Of presences.
            priors: Ask for what it costs.
            scenery: `look_behind`'s answer, if it is known.
        """
        scenery = scenery or self.look_behind(video, sampler, priced=priors is not None)
        most, found, costs = self.config.max_objects, [], []
        objects: Objects | None = None
        for t in range(video.shape[1]):
            frame, background = video[:, t], None if scenery.drawn is None else scenery.drawn[:, t]
            paid = {}
            first = 0 if objects is None else objects.ids.amax(1, keepdim=True) + 1
            if objects is not None:
                objects, paid = self.follow(objects, frame, background, sampler, temperature, priors)
            if objects is None or discover(t):
                new, more = self.find(objects, frame, background, sampler, temperature, priors, first)
                objects = new if objects is None else new.cat(objects)
                paid = {name: more.get(name, 0) + paid.get(name, 0) for name in TERMS}
            objects = objects.strongest(most)
            found.append(objects), costs.append(paid)
        kl = dict(scenery.kl)
        if priors is not None:
            kl |= {name: torch.stack([torch.as_tensor(paid.get(name, 0), dtype=video.dtype, device=video.device)
                                      .expand(video.shape[0]) for paid in costs], 1) for name in TERMS}
        together = Objects(*(torch.stack([getattr(o, f.name) for o in found], 1) for f in fields(Objects)))
        return Tracks(together, scenery, kl)

    def find(
        self, known: Objects | None, frame: Tensor, background: Tensor | None, sampler: Sampler, temperature: float,
        priors: Priors | None, first: Tensor | int,
    ) -> tuple[Objects, dict[str, Tensor]]:
        """New objects of a frame, one a cell, and what they cost, ``[B]``.

        Args:
            known: Objects of the frame that are known already.
            frame, background: ``[B, C, S, S]``.
            sampler, temperature, priors: As in `track`.
            first: Number of the first one, ``[B, 1]``.
        """
        cells, motion = self.cells, self._motion[0]
        change, raw = cells(frame, background, known)
        moves, motion_std = change.presence[..., :0], None
        if raw is not None:
            moves, motion_std = gaussian(*raw.chunk(2, -1), sampler, "disc.motion")
        there = present(change.presence, temperature, sampler, "disc.presence")
        depth, box, features = change.sample(sampler, "disc")
        box = cells.boxes(box)
        kept = there if known is None else there.masked_fill(self._refused(box, known)[..., None], 0.0)
        joined = Attributes(kept, depth, box, features, moves).join()
        environment = motion.environment(background, box)
        states = [memory(joined, memory.fresh(*box.shape[:2]), environment) for memory in (self.memory, motion.memory)]
        ids = torch.arange(box.shape[1], device=box.device) + first
        objects = Objects(joined, *states, ids.expand(box.shape[:2]), box)
        if priors is None:
            return objects, {}
        means, stds = change.means, change.stds
        size_mean, size_std = (box.new_tensor([x, x, *rest]) for x, rest in (
            (priors.size_mean, (0.0, 0.0)), (priors.size_std, (1.0, 1.0))))
        cost = {
            "presence": presence_kl(change.presence, priors.presence),
            "depth": there * normal_kl(means[0], stds[0], 0.0, 1.0),
            "box": there * normal_kl(means[1], stds[1], size_mean, size_std),
            "features": there * normal_kl(means[2], stds[2], 0.0, 1.0),
        }
        if raw is not None:
            cost["motion"] = normal_kl(raw.chunk(2, -1)[0], motion_std, 0.0, 1.0)
        return objects, {name: x.sum((1, 2)) for name, x in cost.items()}

    def _refused(self, box: Tensor, known: Objects) -> Tensor:
        """Which cells found what is known already, bool ``[B, G * G]``."""
        if self.config.rejection is None:
            return torch.zeros_like(box[..., 0], dtype=torch.bool)
        with torch.no_grad():
            same = overlap(box, known.z[..., 2:PLAIN]) > self.config.rejection
            return (same & (known.z[:, None, :, 0] > THERE)).any(-1)

    def follow(
        self, objects: Objects, frame: Tensor, background: Tensor | None, sampler: Sampler, temperature: float,
        priors: Priors | None,
    ) -> tuple[Objects, dict[str, Tensor]]:
        """Known objects in the next frame, and what they cost, ``[B]``; arguments as in `find`."""
        motion, size = self._motion[0], self.config.feature_dim
        before, remembered = Attributes.of(objects.z, size), objects.posterior.chunk(2, -1)[0]
        low, high = self.config.growth
        sides = before.box[..., :2] + low + (high - low) * torch.sigmoid(self.growth(remembered))
        proposal = torch.cat([sides, before.box[..., 2:]], -1)
        glimpses = self.glimpses(look(frame, proposal, self.config.glimpse_size).flatten(0, 1))
        observed = full_precision(
            self.observed(torch.cat([glimpses.unflatten(0, objects.z.shape[:2]), remembered], -1)))
        expected = motion.expects(objects)
        if motion.deterministic:
            moves, change = before.motion, Changes.of(observed, size)
        else:
            moves, std = gaussian(*observed.chunk(2, -1), sampler, "prop.motion")
            change = motion.told(moves)
        there = before.presence * present(change.presence, temperature, sampler, "prop.presence")
        after = motion.changed(before, change, change.sample(sampler, "prop"), there, moves,
                               added_step=motion.deterministic and self.config.depth_defect)
        joined, environment = after.join(), motion.environment(background, after.box)
        states = [memory(joined, state, environment) for memory, state in (
            (self.memory, objects.posterior), (motion.memory, objects.prior))]
        followed = Objects(joined, *states, objects.ids, proposal)
        if priors is None:
            return followed, {}
        cost = {}
        if motion.deterministic:
            prior = Changes.of(expected, size)
            cost = {name: there * normal_kl(mean, std, other, other_std) for name, mean, std, other, other_std in zip(
                ("depth", "box", "features"), change.means, change.stds, prior.means, prior.stds, strict=True)}
            cost["presence"] = presence_kl(prior.presence, priors.presence)
        else:
            prior_mean, prior_raw = expected.chunk(2, -1)
            cost["motion"] = normal_kl(observed.chunk(2, -1)[0], std, prior_mean, std_of(prior_raw))
            if priors.presence_kl:
                cost["presence"] = presence_kl(change.presence, priors.presence)
        return followed, {name: x.sum((1, 2)) for name, x in cost.items()}

    def latent(self, tracks: Tracks) -> Latent:
        """Tracks as a latent ``[B, T]`` in which an object keeps its token for as long as it is known.

        In the first frame tokens are in order of presence; a new object takes the token of one that is gone.
        """
        batch, frames = tracks.objects.ids.shape[:2]
        index = slots_of(tracks.objects.ids)
        parts = (take(getattr(tracks.objects, f.name).flatten(0, 1), index.flatten(0, 1)) for f in fields(Objects))
        found = latent_of(self.spec, Objects(*parts), feature_dim=self.config.feature_dim, **tracks.scenery.folded())
        return found.map(lambda x: rearrange(x, "(b t) one ... -> b (t one) ...", b=batch, t=frames))


def slots_of(ids: Tensor) -> Tensor:
    """Which object of a frame is in which slot, so that objects stay in theirs: ``[B, T, N]``, both int64.

    Example:
        >>> slots_of(torch.tensor([[[4, 7, 9], [7, 11, 4]]])).tolist()  # 9 went, 11 came
        [[[0, 1, 2], [2, 0, 1]]]
    """
    batch, frames, count = ids.shape
    rows = [repeat(torch.arange(count, device=ids.device), "n -> b n", b=batch)]
    for t in range(1, frames):
        before = ids[:, t - 1].gather(1, rows[-1])  # by slot
        same = before[:, :, None] == ids[:, t, None]  # [B, slot, object]
        known, new = same.any(2), (~same.any(1)).long().argsort(dim=1, descending=True, stable=True)  # new ones first
        fresh = new.gather(1, ((~known).cumsum(1) - 1).clamp(min=0))
        rows.append(torch.where(known, same.long().argmax(2), fresh))
    return torch.stack(rows, 1)


class ContextPosterior(nn.Module):
    """What a frame says of its background: an encoder, an LSTM over the contexts so far, and a Gaussian."""

    def __init__(self, config: GSWMConfig):
        super().__init__()
        seen, states, dim = config.encoder, config.dynamics.context_state_dim, config.decoder.context_dim
        self.look = PictureEncoder(config.obs.channels, side=config.obs.height, channels=seen.background_channels,
                                       outputs=seen.map_dim, kernel=7)
        self.cell = nn.LSTMCell(dim, states)
        self.initial_h, self.initial_c = (nn.Parameter(torch.randn(states)) for _ in range(2))
        self.net = celu_mlp(states + seen.map_dim, seen.hidden_dim, seen.hidden_dim, 2 * dim)

    def found(self, state: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and raw deviation of a context."""
        mean, raw = full_precision(self.net(torch.cat([state.chunk(2, -1)[0], seen], -1))).chunk(2, -1)
        return mean, raw

    def fresh(self, batch: int) -> Tensor:
        """The state before anything was seen, ``[B, 2 S]``."""
        return torch.cat([self.initial_h, self.initial_c]).expand(batch, -1)

    def remember(self, context: Tensor, state: Tensor) -> Tensor:
        """The state after a context."""
        return torch.cat(self.cell(context, state.chunk(2, -1)), -1)
