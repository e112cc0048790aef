"""What a training run would do, before it does it: ``worldkit train --dry-run``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..data.describe import time_note
from ..distributions import MEANS
from ..errors import CheckpointError, WorldkitError
from ..metrics import VGGPerceptual, load_lpips
from ..metrics.perceptual import random_state_dicts
from ..nn.chunks import undivided
from .record import in_words, where_to_begin
from .trainer import Trainer
from .weightless import emptied, mode_of

MB = 2**20


def plan(trainer: Trainer) -> dict[str, str]:
    """The plan of a run, as text by heading.

    Runs one forward pass on the first batch to count what it keeps for the backward pass, without values where
    `make_trainer(dry_run=True)` made the model without weights; trains nothing and leaves the run folder alone. A
    perceptual loss whose weights are not there gets random ones.

    Args:
        trainer: A trainer that has not started.
    """
    model, config = trainer.model, trainer.config
    counts = model.parameter_report()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines = {"run folder": _run_folder(trainer)} | {f"parameters: {part}": f"{n:,}" for part, n in counts.items()}
    lines["parameters: trained"] = f"{trainable:,}"
    batch = next(iter(trainer.loader))
    perceptual = _Perceptual()
    if not model.has_perceptual:
        model.use_perceptual(perceptual)
    kept = _kept_bytes(trainer, batch)
    if perceptual.problem is not None:
        lines["missing"] = f"weights of the perceptual loss, without which training stops: {perceptual.problem}"
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    copies = 3 + (config.ema is not None)  # gradient, two moments of Adam, moving average
    lines["memory estimate"] = (
        f"{(weights + copies * trained + kept) / MB:,.0f} MB per process: weights {weights / MB:,.0f}, gradients, Adam"
        f"{' and average' if copies > 3 else ''} {copies * trained / MB:,.0f}, kept for the backward pass "
        f"{kept / MB:,.0f} (a lower bound: temporary tensors come on top)"
    )
    lines["clips"] = f"{len(trainer.loader.dataset):,} to train on, {len(trainer.valid):,} to validate on"
    sources = [trainer.loader.dataset.source, trainer.valid.source]
    if note := time_note(sources):
        lines["splits"] = note
    fitting = sources[0].fitting
    if fitting is not None:
        lines["pixels"] = str(fitting)
        if better := fitting.nearer():
            height, width = better.target
            lines["or"] = f"-o obs.height={height} -o obs.width={width}: {better}"
    lines["steps per epoch"] = f"{trainer.steps_per_epoch:,}"
    limits = ((config.seconds, "s"), (config.cpu_seconds, "CPU seconds"))
    until = "".join(f"or {limit:g} {unit}, whatever comes first" for limit, unit in limits if limit)
    lines["steps"] = f"{trainer.limit:,} {until}".strip()
    lines["clips per step"] = (
        f"{config.batch_size} x {config.gradient_accumulation} accumulated x {trainer.world} process(es)"
    )
    lines |= {f"first batch: {name}": shape for name, shape in _shapes(batch).items()}
    lines["device"] = f"{trainer.device}, precision {config.precision if config.precision != 'no' else 'float32'}"
    for number, note in enumerate(trainer.notes, 1):
        lines[f"note {number}"] = note
    return lines


def _run_folder(trainer: Trainer) -> str:
    """Whether a training there would begin, go on, or be refused."""
    try:
        newest, record = where_to_begin(trainer.run, trainer.describe())
    except WorldkitError as error:
        return f"training there will be REFUSED: {error}"
    if newest is None:
        return f"{trainer.run}, from the beginning"
    changed = in_words(record["resumed"][-1]["changed"])
    return f"{trainer.run}, goes on from {newest.name}{f'; changed: {changed}' if changed else ''}"


def _shapes(batch: Batch) -> dict[str, str]:
    def describe(value: Any) -> str:
        return f"{value.dtype} {list(value.shape)}" if torch.is_tensor(value) else f"{len(value)} x {value[0]!r}"

    shapes = {"video": describe(batch.video)}
    shapes |= {f"condition {k}": describe(v) for k, v in batch.conditions.items()}
    shapes |= {f"mask {k}": describe(v) for k, v in batch.masks.items()}
    shapes |= {f"target {k}": describe(v) for k, v in batch.targets.items()}
    shapes |= {f"vector {k}": describe(v) for k, v in batch.vectors.items()}
    return shapes if batch.done_mask is None else shapes | {"done mask": describe(batch.done_mask)}


class _Perceptual(nn.Module):
    """The network of a perceptual loss, loaded if it is called; an estimate needs no true weights."""

    def __init__(self) -> None:
        super().__init__()
        self.problem: CheckpointError | None = None

    def forward(self, *videos: Tensor) -> Tensor:
        return self._network()(*videos)

    def squared_features(self, *videos: Tensor) -> Tensor:
        return self._network().squared_features(*videos)

    def _network(self) -> VGGPerceptual:
        try:
            return load_lpips()
        except CheckpointError as error:
            self.problem = error
            return VGGPerceptual(*random_state_dicts())  # without values, too, where the model has none


def _kept_bytes(trainer: Trainer, batch: Batch) -> int:
    """Bytes that autograd keeps between the forward and the backward pass of one batch, parameters not counted."""
    model = trainer.model
    known = {p.untyped_storage()._cdata: p for p in model.parameters()}  # storages without memory have no address
    kept = 0

    def pack(x: Tensor) -> Tensor:
        nonlocal kept
        storage = x.untyped_storage()
        if storage._cdata not in known:
            known[storage._cdata] = storage  # alive, so that no other one gets its number
            kept += storage.nbytes()
        return x

    mode = mode_of(model)
    batch = batch.to(trainer.device) if mode is None else emptied(batch, mode)
    model.train()
    with mode or nullcontext(), undivided() if mode else nullcontext(), trainer.accelerator.autocast(), \
            torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model.loss(batch, 0, sampler=MEANS)
    del loss
    return kept
