"""What predicted latents and pictures are good for: semantic-wm's evaluation, as metrics of `worldkit eval`.

- ``action_error``: which actions explain the true future best, by the model's own predictions of latents? They are
  searched for (CEM) on fixed noise, all steps at once, and held against the true ones. Beside it stands what a random
  action would score, and ``latent_error``, the error of latents under the true actions.
- ``inverse_error``: how wrong is a network that reads actions off latents, trained on true ones of the training split?
  1 is no better than the training mean; of encoded frames it says what latents know, of predicted ones what is left.
- ``probe_error``: likewise the state of things, by a linear map, frame by frame.
- ``point_pck``: points on a grid are followed through both videos; the share that is near (5, 10, 20, 40 pixels of a
  picture of 256).

Source: semantic-wm (arXiv:2605.06388), written from a description of the facts. Ours: errors in deviations of the
training split and not Pearson's r (which the report states besides); CEM begins in the middle of the actions' range
and not at the truth, which flatters; smaller networks and searches (`CANDIDATES`, `INVERSE`); points are followed by
matching, since CoTracker's weights do not come with worldkit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..data import ClipDataset, collate
from ..errors import ConfigError, DataError
from ..latents import Latent
from ..metrics.action_search import cem_search
from ..metrics.points import MARGIN, PIXELS, MatchTracker, PointTracker, coverage, point_pck, query_grid
from ..model import ComposedWorldModel, Rollout
from ..nn.probes import InverseDynamics
from .probe import flatten

LATENT_METRICS = ("action_error", "inverse_error", "probe_error", "point_pck")
CANDIDATES, ELITES, ROUNDS = 64, 8, 4
"""Of the search; upstream: 256, 25, 5."""
INVERSE = {"dim": 128, "num_layers": 2, "num_heads": 4}
"""Sizes of the network that reads actions; upstream: 512, 6, 8."""
STEPS, CLIPS, BATCH, RATE, STATES = 600, 400, 32, 5e-4, ("state", "position")
"""Of what is trained here: steps, training clips (evenly spread), clips a step, learning rate; columns looked for."""
Scores = dict[str, Tensor]
Open = Callable[..., ClipDataset]
"""``open(split=..., num_frames=..., **more)``: clips of the data that are evaluated."""


class LatentScorer:
    """One of these metrics of one model."""

    def scores(self, batch: Batch, rollout: Rollout, context_frames: int, *, encoded: bool) -> Scores:
        """``[B, H]`` by name.

        Args:
            batch: Clips ``[B, T0 + H]``.
            rollout: What was predicted of their last H frames, or, ``encoded``, what was seen in them.
            context_frames: T0.
            encoded: See there.
        """
        raise NotImplementedError

    def baselines(self, batch: Batch, context_frames: int) -> dict[str, Scores]:
        """Row of a report -> scores of something simple."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What the report says besides."""
        return {}


def action_of(model: ComposedWorldModel) -> str:
    """The one condition of a model that is an action of numbers.

    Raises:
        ConfigError: there is none, or there are several.
    """
    found = [name for name, c in model.conditioners.items()
             if c.per_frame and getattr(c.config, "dim", None) is not None]
    if len(found) != 1:
        raise ConfigError(f"action_error and inverse_error are about one action of numbers, and this model is told "
                          f"{', '.join(found) or 'none'}: give it conditioners.action, or leave them out of --metrics")
    return found[0]


def _some(clips: ClipDataset, most: int) -> list[Mapping[str, Any]]:
    return [clips[i] for i in clips.spread(most)]


def _device(model: ComposedWorldModel) -> torch.device:
    return next((x.device for x in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _between(batch: Batch, name: str, context_frames: int, steps: int) -> Tensor:
    """Actions of the transitions that lead to the predicted frames, ``[B, H, A]``."""
    return batch.conditions[name][:, context_frames - 1 : context_frames - 1 + steps].float()


class ActionRecovery(LatentScorer):
    """``action_error`` and ``latent_error``; see the module's docstring.

    Args:
        model: Told one action of numbers.
        low, high: Range of the actions, ``[A]``.
        seed: Of noise and search.
    """

    def __init__(self, model: ComposedWorldModel, low: Tensor, high: Tensor, *, seed: int = 0):
        self.model, self.low, self.high, self.seed, self.name = model, low, high, seed, action_of(model)
        model.require_dynamics()

    @classmethod
    def of(cls, model: ComposedWorldModel, open_clips: Open, frames: int, *, seed: int) -> ActionRecovery:
        """With the range of the actions of the training split."""
        name = action_of(model)
        actions = torch.cat([item[name][: frames - 1] for item in _some(open_clips(num_frames=frames), CLIPS)])
        low, high = actions.amin(0).float(), actions.amax(0).float()
        return cls(model, low, torch.where(high > low, high, low + 1e-3), seed=seed)

    @torch.no_grad()
    def scores(self, batch: Batch, rollout: Rollout, context_frames: int, *, encoded: bool) -> Scores:
        if encoded:
            return {}
        steps = batch.video.shape[-4] - context_frames
        z = self.model.encode(batch)
        truth, actions = z[:, context_frames:], _between(batch, self.name, context_frames, steps)
        low, high = (x.to(actions.device) for x in (self.low, self.high))

        def errors(tried: Tensor) -> Tensor:
            """Of latents under actions ``[B, H, A]``: ``[B, H]``."""
            given = {name: batch.conditions[name] for name in self.model.conditioners if name in batch.conditions}
            told = given[self.name].clone().float()
            told[:, context_frames - 1 : context_frames - 1 + steps] = tried
            made = self.model.rollout(
                z[:, :context_frames], steps, conditions={**given, self.name: told}, decode=False,
                deterministic=self.model.dynamics.explicit_prior,
                generator=torch.Generator(actions.device).manual_seed(self.seed),  # the same noise for all candidates
            ).latents
            return (made.pack() - truth.pack()).square().mean((2, 3))

        def cost(tried: Tensor) -> Tensor:
            return torch.stack([errors(x.unflatten(1, (steps, -1))).mean(1) for x in tried.unbind(1)], 1)

        start = ((low + high) / 2).repeat(len(actions), steps)
        found = cem_search(cost, start, low.repeat(steps), high.repeat(steps), candidates=CANDIDATES, elites=ELITES,
                           rounds=ROUNDS, generator=torch.Generator().manual_seed(self.seed))
        off = found.action.unflatten(1, (steps, -1)) - actions
        return {"action_error": off.square().sum(-1).sqrt(), "latent_error": errors(actions)}

    def baselines(self, batch: Batch, context_frames: int) -> dict[str, Scores]:
        steps = batch.video.shape[-4] - context_frames
        actions = _between(batch, self.name, context_frames, steps)
        low, high = (x.to(actions.device) for x in (self.low, self.high))
        generator = torch.Generator().manual_seed(self.seed)
        drawn = low + (high - low) * torch.rand(actions.shape, generator=generator).to(actions.device)
        return {"random action": {"action_error": (drawn - actions).square().sum(-1).sqrt()}}

    def facts(self) -> dict[str, Any]:
        return {"action search": f"CEM, {CANDIDATES} candidates, {ROUNDS} rounds, from the middle of the range"}


def tokens_of(model: ComposedWorldModel, z: Latent) -> Tensor:
    """Latents ``[B, T]`` as maps of one row, ``[B, T, 1, N, D]``; codes as their vectors."""
    if "codes" in z.spec.properties:
        z = model.encoder.look_up(z)
    return z.pack().float()[:, :, None]


class InverseError(LatentScorer):
    """``inverse_error``; see the module's docstring.

    Args:
        model: Told one action of numbers.
        clips: Of the training split, of H + 1 frames.
        seed: Of the network and its training.
        steps: Of its training; None: `STEPS`.
    """

    def __init__(self, model: ComposedWorldModel, clips: ClipDataset, *, seed: int = 0, steps: int | None = None):
        self.model, self.name = model, action_of(model)
        items = _some(clips, CLIPS)
        maps, actions = [], []
        with torch.no_grad():
            for start in range(0, len(items), 16):
                batch = collate(items[start : start + 16]).to(_device(model))
                maps.append(tokens_of(model, model.encode(batch)).cpu())
                actions.append(batch.conditions[self.name][:, :-1].float().cpu())
        x, y = torch.cat(maps), torch.cat(actions)
        self.centre, self.spread = x.mean((0, 1, 2, 3)), x.std((0, 1, 2, 3)).clamp(min=1e-6)
        x = self._scaled(x)
        self.mean, self.std = y.mean((0, 1)), y.std((0, 1)).clamp(min=1e-6)
        wanted = (y - self.mean) / self.std
        self._pairs: list[tuple[Tensor, Tensor]] = []
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            self.net = InverseDynamics(x.shape[-1], x.shape[3], y.shape[-1], steps=y.shape[1], **INVERSE)
            optimizer = torch.optim.AdamW(self.net.parameters(), lr=RATE, weight_decay=1e-3)
            for _ in range(STEPS if steps is None else steps):
                rows = torch.randint(len(x), (min(BATCH, len(x)),))
                loss = (self.net(x[rows]) - wanted[rows]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.net.eval()

    def _scaled(self, maps: Tensor) -> Tensor:
        """Channels on one scale, and one of ones, by which the network's norm of a patch keeps its size."""
        maps = (maps - self.centre) / self.spread
        return torch.cat([maps, torch.ones_like(maps[..., :1])], -1)

    @torch.no_grad()
    def scores(self, batch: Batch, rollout: Rollout, context_frames: int, *, encoded: bool) -> Scores:
        last = self.model.encode(batch.context(context_frames))[:, -1:]
        seen = type(last).cat([last, rollout.latents])
        steps = rollout.latents.shape[1]
        truth = (_between(batch, self.name, context_frames, steps).cpu() - self.mean) / self.std
        said = self.net(self._scaled(tokens_of(self.model, seen).cpu()))
        self._pairs.append((said.flatten(0, 1), truth.flatten(0, 1)))
        return {"inverse_error": (said - truth).square().mean(-1)}

    def facts(self) -> dict[str, Any]:
        if not self._pairs:
            return {}
        said, truth = (torch.cat(parts) for parts in zip(*self._pairs, strict=True))
        self._pairs = []
        return {"actions read off, Pearson's r": f"{pearson(said, truth):.3f}, mean over their numbers"}


def pearson(said: Tensor, truth: Tensor) -> float:
    """Correlation of columns ``[n, A]``, mean over columns that vary.

    Example:
        >>> round(pearson(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0], [4.0], [6.0]])), 3)
        1.0
    """
    a, b = said - said.mean(0), truth - truth.mean(0)
    size = a.norm(dim=0) * b.norm(dim=0)
    r = (a * b).sum(0) / size.clamp(min=1e-12)
    return r[b.norm(dim=0) > 1e-6].mean().item()


class ProbeError(LatentScorer):
    """``probe_error``; see the module's docstring.

    Args:
        model: Any.
        clips: Of the training split; the state of things is their vector ``column``.
        column: Its name.
    """

    COLUMN = "probe target"

    def __init__(self, model: ComposedWorldModel, clips: ClipDataset, column: str):
        self.model, self.column = model, column
        x, y = [], []
        with torch.no_grad():
            items = _some(clips, CLIPS)
            for start in range(0, len(items), 16):
                batch = collate(items[start : start + 16]).to(_device(model))
                x.append(flatten(model, model.encode(batch)).cpu())
                y.append(batch.vectors[self.COLUMN].float().flatten(0, 1).cpu())
        inputs, wanted = torch.cat(x).double(), torch.cat(y).double()
        self.usable = wanted.std(0) > 1e-6
        if not self.usable.any():
            raise DataError(f"column '{column}' never changes in the training split: there is nothing to read")
        self.centre, spread = inputs.mean(0), inputs.std(0)
        self.spread = torch.where(spread > 1e-3 * spread.max(), spread, torch.inf)
        self.mean, self.std = wanted[:, self.usable].mean(0), wanted[:, self.usable].std(0)
        rows, target = (inputs - self.centre) / self.spread, (wanted[:, self.usable] - self.mean) / self.std
        penalty = 1e-2 * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64)
        self.weights = torch.linalg.solve(rows.T @ rows + penalty, rows.T @ target)

    @torch.no_grad()
    def scores(self, batch: Batch, rollout: Rollout, context_frames: int, *, encoded: bool) -> Scores:
        return self._errors(rollout.latents, batch, context_frames)

    @torch.no_grad()
    def baselines(self, batch: Batch, context_frames: int) -> dict[str, Scores]:
        """What the last given frame says of those after it."""
        last = self.model.encode(batch.context(context_frames))[:, -1:]
        return {"copy last frame": self._errors(last, batch, context_frames)}

    def _errors(self, z: Latent, batch: Batch, context_frames: int) -> Scores:
        """Of latents of the frames behind the given ones, or of one frame that stands for them all."""
        rows = (flatten(self.model, z).cpu().double() - self.centre) / self.spread
        truth = batch.vectors[self.COLUMN][:, context_frames:].float().cpu().double()[..., self.usable]
        off = (rows @ self.weights).unflatten(0, z.shape) - (truth - self.mean) / self.std
        return {"probe_error": off.square().mean(-1)}

    def facts(self) -> dict[str, Any]:
        return {"probe": f"linear, of column '{self.column}'"}


class PointScores(LatentScorer):
    """``pck5`` to ``pck40`` and ``points_seen``; see the module's docstring.

    Args:
        model: One that draws, of one camera.
        tracker: What follows points.
        rows: Points to a side.
    """

    def __init__(self, model: ComposedWorldModel, tracker: PointTracker | None = None, *, rows: int = 16):
        if model.decoder is None or model.config.obs.views > 1:
            raise ConfigError("point_pck follows points in pictures of one camera; leave it out of --metrics")
        self.tracker, self.rows = tracker or MatchTracker(), rows

    @torch.no_grad()
    def scores(self, batch: Batch, rollout: Rollout, context_frames: int, *, encoded: bool) -> Scores:
        truth = batch.as_float().video[:, context_frames - 1 :]
        made = torch.cat([truth[:, :1], rollout.video.clamp(0, 1)], 1)
        return self._pairs(truth, made)

    def baselines(self, batch: Batch, context_frames: int) -> dict[str, Scores]:
        truth = batch.as_float().video[:, context_frames - 1 :]
        return {"copy last frame": self._pairs(truth, truth[:, :1].expand_as(truth))}

    def _pairs(self, truth: Tensor, made: Tensor) -> Scores:
        height, width = truth.shape[-2:]
        queries = query_grid(height, width, self.rows).to(truth).clamp(max=max(height, width) - 1)
        queries = queries.expand(len(truth), -1, -1)
        (at, seen), (found, still) = self.tracker(truth, queries), self.tracker(made, queries)
        scale, both = 256 / max(height, width), (seen & still)[:, 1:]
        scores = {f"pck{k}": point_pck(scale * at[:, 1:], scale * found[:, 1:], both, k) for k in PIXELS}
        return scores | {"points_seen": coverage(both).nan_to_num(0.0)}

    def facts(self) -> dict[str, Any]:
        name = type(self.tracker).__name__
        return {"points": f"{self.rows} x {self.rows}, {MARGIN:.0%} off the border, followed by {name}"}


def latent_scorers(
    model: ComposedWorldModel, metrics: Sequence[str], open_clips: Open, *, horizon: int, seed: int = 0,
    tracker: PointTracker | None = None,
) -> list[LatentScorer]:
    """The scorers of those of `LATENT_METRICS` that are asked for; what is trained for them is.

    Args:
        model: The model, on its device.
        metrics: Names.
        open_clips: ``open_clips(num_frames=..., **more)``: clips of the training split, with the model's conditions.
        horizon: Predicted frames.
        seed: Of all that is random.
        tracker: What follows points; None: `MatchTracker`.
    Raises:
        ConfigError, DataError: the model or the data lack what a metric needs.
    """
    found: list[LatentScorer] = []
    if "action_error" in metrics:
        found.append(ActionRecovery.of(model, open_clips, horizon + 1, seed=seed))
    if "inverse_error" in metrics:
        found.append(InverseError(model, open_clips(num_frames=horizon + 1), seed=seed))
    if "probe_error" in metrics:
        found.append(_probe(model, open_clips))
    if "point_pck" in metrics:
        found.append(PointScores(model, tracker))
    return found


def probe_column(open_clips: Open, vectors: Mapping[str, str]) -> str:
    """The first of `STATES` that the data have.

    Raises:
        DataError: there is none.
    """
    for column in STATES:
        try:
            open_clips(num_frames=1, vectors={**vectors, ProbeError.COLUMN: column})
        except DataError:
            continue
        return column
    raise DataError(f"probe_error reads the state of things off latents, and this data has no column "
                    f"{' or '.join(STATES)} of numbers: leave it out of --metrics, or see worldkit probe")


def _probe(model: ComposedWorldModel, open_clips: Open) -> ProbeError:
    vectors = dict(model.config.vectors)
    column = probe_column(open_clips, vectors)
    clips = open_clips(num_frames=model.clip_length, vectors={**vectors, ProbeError.COLUMN: column})
    return ProbeError(model, clips, column)
