"""Options of training: everything that is neither the model nor the data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..config import Config
from ..nn.decay import Decay
from .optimizers import OptimizerName


class TrainConfig(Config):
    """Training options; defaults are upstream's (LPWM @ 4cf53c4), presets change some.

    Attributes:
        num_epochs: Passes over the training clips.
        steps: Stop after this many optimiser steps instead.
        seconds: Stop after this much training time instead (whatever comes first).
        cpu_seconds: Stop when the process has computed for so long, all its threads together; what else the machine
            does in the meantime does not count. For CPUs: a GPU's work is not in it.
        batch_size: Clips per step and process.
        gradient_accumulation: Batches per step and process; the effective batch is batch_size x this x processes.
        optimizer: ``"adam"``, ``"adamw"``, ``"adam-tf"`` (eps as in TensorFlow), ``"laprop"`` or ``"muon"``; see
            `worldkit.training.optimizers`.
        lr: Learning rate.
        schedule: ``"constant"``; ``"cosine"``, down to ``final_lr`` at the last step (of ``steps`` or ``num_epochs``,
            not of ``seconds``); ``"step"``: times ``decay_factor`` every ``decay_every`` steps (0 = once per epoch).
            ``"warmup-cosine"``: as I-JEPA has it, a rise from ``warmup_from``, a cosine from its last step on;
            ``"warmup-hold-fall"``: a rise, a plateau, a linear fall to ``final_lr`` in the last ``fall_steps`` steps.
        warmup_from, fall_steps: Of these two.
        stretch: These two, and ``final_weight_decay``, are made for a run so many times as long (V-JEPA: 1.25).
        warmup_steps: Steps over which the learning rate rises linearly, before the schedule.
        warmup_from_zero: The first of them has learning rate 0, as in DreamerV3; otherwise ``lr / warmup_steps``.
        early_steps, early_factor: The first ``early_steps`` steps take ``early_factor`` times that learning rate.
        final_lr, decay_every, decay_factor: Of the schedules.
        betas, eps, weight_decay: Of the optimiser.
        final_weight_decay: The weight decay moves there along a cosine; None: it stays.
        decay: Of adam and adamw, what weight decay is for: ``"all"``; ``"arrays"``, of more than one axis (no biases
            and norms); or ``"weights"`` of layers (no tables either).
        agc: No tensor's gradient is longer than this fraction of the tensor itself (adaptive clipping); None: no limit.
        max_grad_norm: Scale gradients down to this norm; None (upstream) does not.
        clips: ``"all"``: every window of an episode is a training clip; ``"tile"``: windows that do not overlap;
            ``"first"``: its first one alone.
        ema: Decay of a moving average of the weights; evaluations and ``best/`` then use the average.
        ema_every: Steps from one update of the average to the next.
        ema_after: Up to this step (the first is 1), and once more behind it, the average is a copy of the weights.
        ema_warmup: How the decay begins: ``"ratio"``, (1 + n) / (10 + n) at step n; ``"power"``,
            1 - (1 + n - ema_after)^(-2/3).
        seed: Of initial weights, data order and noise.
        num_workers: Processes that read clips.
        log_every: Steps between lines of the log.
        eval_every: Steps between evaluations (pictures, validation loss, predictions); 0 = once per epoch.
        eval_clips: Validation clips that are scored at an evaluation.
        select_by: What makes a model the ``best/`` one: ``"prior"``, PSNR of predictions driven by the mean of the
            policy; ``"inferred"``, PSNR of rollouts driven by latent actions read off the true future (upstream's rule,
            by LPIPS there): a reconstruction score; ``"loss"``, the validation loss. Models that predict nothing are
            selected by the loss.
        save_every: Steps between checkpoints; 0 = at every evaluation.
        keep: Newest checkpoints that are kept.
        checkpointing: What to recompute in the backward pass to save memory; ``"cnn"`` costs no time on a CPU.
        precision: ``"no"`` (float32), ``"bf16"`` or ``"fp16"`` autocast.
        compile: Use torch.compile.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; None: the GPU if there is one (of several processes: its own).
        strategy: With several processes: ``"ddp"`` replicates the weights, ``"fsdp"`` shards them.
        loggers: ``"tensorboard"``, ``"wandb"``, besides log.jsonl (extra ``logging``).
        init_from: Trained model (run or model folder, preset with weights, ``"hub:org/name"``) that gives its weights
            to all parts it has in common with this one, before a run starts; see `worldkit.storage.hub.load_parts`.
        init_parts: Of these the parts to take, for example ``("encoder", "decoder")``; None: all.
        vgg_backbone, lpips_heads: Weight files of the perceptual loss; without them torch's cache or the hub is asked.
    """

    num_epochs: int = Field(default=150, gt=0)
    steps: int | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0)
    cpu_seconds: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=5, gt=0)
    gradient_accumulation: int = Field(default=1, gt=0)
    optimizer: OptimizerName = "adam"
    lr: float = Field(default=8e-5, gt=0)
    schedule: Literal["constant", "cosine", "step", "warmup-cosine", "warmup-hold-fall"] = "constant"
    warmup_from: float = Field(default=0.0, ge=0)
    fall_steps: int = Field(default=0, ge=0)
    stretch: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    warmup_from_zero: bool = False
    early_steps: int = Field(default=0, ge=0)
    early_factor: float = Field(default=1.0, gt=0)
    final_lr: float = Field(default=0.0, ge=0)
    decay_every: int = Field(default=10_000, ge=0)
    decay_factor: float = Field(default=0.5, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    final_weight_decay: float | None = Field(default=None, ge=0)
    decay: Decay = "all"
    agc: float | None = Field(default=None, gt=0)
    max_grad_norm: float | None = Field(default=None, gt=0)
    clips: Literal["all", "tile", "first"] = "all"
    ema: float | None = Field(default=None, gt=0, lt=1)
    ema_every: int = Field(default=1, gt=0)
    ema_after: int = Field(default=0, ge=0)
    ema_warmup: Literal["ratio", "power"] = "ratio"
    seed: int = Field(default=0, ge=0)
    num_workers: int = Field(default=0, ge=0)
    log_every: int = Field(default=10, gt=0)
    eval_every: int = Field(default=0, ge=0)
    eval_clips: int = Field(default=16, gt=0)
    select_by: Literal["prior", "inferred", "loss"] = "prior"
    save_every: int = Field(default=0, ge=0)
    keep: int = Field(default=2, gt=0)
    checkpointing: Literal["off", "cnn", "all"] = "cnn"
    precision: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = False
    device: str | None = None
    strategy: Literal["ddp", "fsdp"] = "ddp"
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    init_from: str | None = None
    init_parts: tuple[str, ...] | None = None
    vgg_backbone: str | None = None
    lpips_heads: str | None = None
