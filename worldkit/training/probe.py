"""What latents know: how well a column of the data is read off a frozen model, by a linear map and by a small MLP.

Both learn on the training split and are scored on another one by :math:`R^2`, the share of the variance that they
explain (1: all of it, 0: no more than the training mean; below 0: worse), the mean over the column's numbers. Intervals
are over episodes, whose frames are not independent. Beside the model stands the picture itself, small: what is read off
16 x 16 pixels needs no model.

Nothing is learned about the model: its weights are not touched, and latents are means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..data import collate
from ..errors import DataError
from ..files import write_atomically
from ..latents import Latent
from ..model import ComposedWorldModel
from .recipes import open_clips

WIDEST = 2048
"""Latents of more numbers are averaged over their tokens, and of the tokens' largest values a second half is made."""
_TARGET, _SIDE = "probe target", 16
_RIDGE = [10.0**power for power in range(-4, 5)]


@dataclass(frozen=True)
class Score:
    """How well one probe reads the target off one kind of features.

    Attributes:
        features: ``"latent"`` or ``"pixels"``.
        probe: ``"linear"`` or ``"mlp"``.
        r2: Share of the variance that is explained.
        low, high: 95% interval over episodes.
        error: Root of the mean squared error, in units of the column.
    """

    features: str
    probe: str
    r2: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class ProbeReport:
    """What `probe` found, and how.

    Attributes:
        target: Column of the data, and how many numbers it has.
        width: Numbers of the features that were read.
        frames: Read in training, and scored.
        episodes: Scored.
    """

    target: str
    numbers: int
    width: int
    frames: tuple[int, int]
    episodes: int
    split: str
    seed: int
    scores: tuple[Score, ...]

    def write(self, file: str | Path) -> Path:
        """As JSON."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        write_atomically(file, lambda place: place.write_text(text, encoding="utf-8"))
        return Path(file)

    def rows(self) -> list[tuple[str, ...]]:
        """Of a table: features, probe, R2 with its interval, error."""
        return [(s.features, s.probe, f"{s.r2:.3f} [{s.low:.3f}, {s.high:.3f}]", f"{s.error:.4g}") for s in self.scores]


def probe(
    model: ComposedWorldModel, data: str, target: str, *, split: str = "test", max_clips: int = 400, seed: int = 0,
    device: str = "cpu", data_options: Mapping[str, Any] | None = None,
) -> ProbeReport:
    """Read a column of the data off a model's latents.

    Args:
        model: Any model that encodes.
        data: What `worldkit.data.open_dataset` takes; probes learn on its training split.
        target: Column of numbers, one row per frame: ``"state"``, ``"position"``.
        split: Scored.
        max_clips: Of each split, evenly spread.
        seed: Of the MLP's weights and batches, and of the intervals.
        device: Where the model computes.
        data_options: Options of the data.
    Raises:
        DataError: there is no such column, or it never changes.
    """
    model = model.to(device).eval()
    found = {part: _features(model, data, target, part, max_clips, device, dict(data_options or {}))
             for part in ("train", split)}
    train, test = found["train"], found[split]
    usable = train.target.std(0) > 1e-6
    if not usable.any():
        raise DataError(f"column '{target}' never changes in the training split of {data}: there is nothing to read")
    scores = []
    for name in ("latent", "pixels"):
        fits: dict[str, Callable] = {"linear": _ridge, "mlp": _mlp}
        for kind, fit in fits.items():
            said = fit(train, test, name, usable, seed)
            scores.append(_score(name, kind, said, test, train.target[:, usable].mean(0), usable, seed))
    return ProbeReport(target, int(usable.sum()), train.inputs["latent"].shape[1],
                       (len(train.target), len(test.target)), len(test.episode.unique()), split, seed, tuple(scores))


@dataclass(frozen=True)
class _Rows:
    """Frames: features by name ``[n, F]``, target ``[n, S]``, number of the episode ``[n]``."""

    inputs: dict[str, Tensor]
    target: Tensor
    episode: Tensor

    def split(self) -> tuple[Tensor, Tensor]:
        """Frames of the first four fifths of the episodes, and of the others."""
        names = self.episode.unique()
        held = torch.isin(self.episode, names[int(0.8 * len(names)) :] if len(names) > 1 else names[:0])
        return ~held, held if held.any() else ~held


@torch.no_grad()
def _features(
    model: ComposedWorldModel, data: str, target: str, split: str, most: int, device: str, options: dict[str, Any]
) -> _Rows:
    asked = {_TARGET: target or _TARGET}
    vectors = {**model.config.vectors, **asked}
    try:
        try:
            clips = open_clips(model, data, split=split, num_frames=model.clip_length, vectors=vectors, **options)
        except DataError:  # whatever else is missing, a missing target is told first
            open_clips(model, data, split=split, num_frames=1, **{**options, "conditions": {}, "vectors": asked})
            raise
    except DataError as error:
        if f"'{_TARGET}'" not in str(error):
            raise
        columns = str(error).partition("it has: ")[2].partition(".")[0] or "none"
        lacks = f"{data} has no column '{target}'" if target else "a probe needs a column"
        raise DataError(f"{lacks} of numbers, one row per frame, to read off latents: name one with --target; "
                        f"{'it' if target else data} has: {columns}") from error
    chosen = clips.spread(most)
    latents, pixels, targets, episodes = [], [], [], []
    for start in range(0, len(chosen), 16):
        items = [clips[i] for i in chosen[start : start + 16]]
        batch = collate(items).to(device)
        wanted = batch.vectors[_TARGET].cpu().float()
        latents.append(flatten(model, model.encode(batch)).cpu())
        small = batch.as_float().video
        if small.numel():
            frames = rearrange(small, "b ... t c h w -> (b t) (... c) h w") if small.ndim == 5 else rearrange(
                small, "b v t c h w -> (b t) (v c) h w")
            pixels.append(F.adaptive_avg_pool2d(frames, _SIDE).flatten(1).cpu())
        targets.append(wanted.flatten(0, 1))
        episodes += [item["episode"] for item in items for _ in range(wanted.shape[1])]
    inputs = {"latent": torch.cat(latents)}
    inputs["pixels"] = torch.cat(pixels) if pixels else inputs["latent"].new_zeros(len(inputs["latent"]), 1)
    return _Rows(inputs, torch.cat(targets), torch.tensor(episodes))


def flatten(model: ComposedWorldModel, z: Latent) -> Tensor:
    """Latents ``[B, T]`` as rows of numbers, ``[B * T, F]``: all of them, or, of very wide ones, pooled over tokens."""
    if "codes" in z.spec.properties:
        z = model.encoder.look_up(z)
    groups = [z.flat(group.name).float() for group in z.spec.groups]
    if sum(x.shape[2] * x.shape[3] for x in groups) > WIDEST:
        groups = [torch.cat([x.mean(2), x.amax(2)], -1)[:, :, None] for x in groups]
    return torch.cat([x.flatten(2) for x in groups], -1).flatten(0, 1)


def _standard(train: _Rows, test: _Rows, name: str) -> tuple[Tensor, Tensor]:
    x, y = train.inputs[name].double(), test.inputs[name].double()
    mean, std = x.mean(0), x.std(0)
    std = std.where(std > 1e-3 * std.max(), std.new_tensor(torch.inf))  # what hardly moved in training says nothing
    return (x - mean) / std, (y - mean) / std


def _ridge(train: _Rows, test: _Rows, name: str, usable: Tensor, seed: int) -> Tensor:
    """What a linear map says of the test frames; its penalty is chosen on a fifth of the training episodes."""
    x, rest = _standard(train, test, name)
    y = train.target[:, usable].double()
    fit, held = train.split()

    def solve(rows: Tensor, penalty: float, of: Tensor) -> Tensor:
        centre = y[rows].mean(0)
        middle = x[rows].mean(0)
        inputs = x[rows] - middle
        gram = inputs.T @ inputs + penalty * len(inputs) * torch.eye(x.shape[1], dtype=x.dtype)
        weights = torch.linalg.solve(gram, inputs.T @ (y[rows] - centre))
        return (of - middle) @ weights + centre

    errors = [(solve(fit, penalty, x[held]) - y[held]).square().mean().item() for penalty in _RIDGE]
    best = _RIDGE[int(np.argmin(errors))]
    return solve(torch.ones_like(fit), best, rest).float()


def _mlp(train: _Rows, test: _Rows, name: str, usable: Tensor, seed: int) -> Tensor:
    """What an MLP of one hidden layer says; it stops where a fifth of the training episodes is read best."""
    x, rest = (part.float() for part in _standard(train, test, name))
    y = train.target[:, usable]
    mean, std = y.mean(0), y.std(0)
    wanted = (y - mean) / std
    fit, held = (rows.nonzero()[:, 0] for rows in train.split())
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(x.shape[1], 256), nn.GELU(), nn.Linear(256, y.shape[1]))
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-3)
        best, kept, idle = float("inf"), rest.new_zeros(len(rest), y.shape[1]), 0
        for _ in range(100):
            for rows in fit[torch.randperm(len(fit))].split(256):
                loss = (net(x[rows]) - wanted[rows]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                error = (net(x[held]) - wanted[held]).square().mean().item()
                if error < best:
                    best, kept, idle = error, net(rest), 0
                else:
                    idle += 1
            if idle == 10:
                break
    return kept * std + mean


def _score(name: str, kind: str, said: Tensor, test: _Rows, mean: Tensor, usable: Tensor, seed: int) -> Score:
    y = test.target[:, usable]
    squared, spread = (said - y).square().double().numpy(), (y - mean).square().double().numpy()
    episodes = test.episode.numpy()
    names = np.unique(episodes)
    sums = [np.stack([part[episodes == episode].sum(0) for episode in names]) for part in (squared, spread)]

    def r2(rows: np.ndarray) -> np.ndarray:
        explained = 1 - sums[0][rows].sum(-2) / np.maximum(sums[1][rows].sum(-2), 1e-12)
        return explained.mean(-1)

    drawn = np.random.default_rng(seed).integers(0, len(names), (2000, len(names)))
    low, high = np.quantile(r2(drawn), [0.025, 0.975])
    return Score(name, kind, float(r2(np.arange(len(names)))), float(low), float(high), float(np.sqrt(squared.mean())))
