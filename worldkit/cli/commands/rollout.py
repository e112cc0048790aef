"""``worldkit rollout``."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from ..loading import data_of, load, protocol
from ..options import (
    Commands,
    check_device,
    check_place,
    command,
    data_argument,
    data_option,
    data_options,
    device_argument,
    natural,
    positive,
    protocol_arguments,
)
from ..output import console


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "rollout", "Predict clips: writes GIF or MP4 films, a still strip of each, and the latents.")
    p.add_argument("model", help="preset with weights, model folder, run folder or hub:org/name")
    data_argument(p)
    data_option(p)
    protocol_arguments(p)
    p.add_argument("--window", default="exact", choices=("exact", "streaming"),
                   help="beyond the training window; streaming is faster and approximate")
    p.add_argument("--out", default="rollouts", help="folder to write (default: rollouts)")
    p.add_argument("--clips", type=positive(int), default=2, help="how many clips (default: 2)")
    p.add_argument("--format", choices=("gif", "mp4"), default="gif")
    p.add_argument("--seed", type=natural, default=0)
    device_argument(p)
    p.set_defaults(function=run_rollout)


def run_rollout(options: Namespace) -> None:
    """``worldkit rollout``."""
    import torch
    from safetensors.torch import save_file

    from ...data import collate
    from ...files import write_atomically
    from ...training import predict
    from ...training.figures import INFERRED_NOTE, film
    from ...training.recipes import open_clips, resize_note
    from ...viz import save_animation, save_png

    check_device(options.device)
    out = check_place(options.out, "--out")
    loaded = load(options.model)
    model = loaded.model.to(options.device)
    context, horizon = protocol(options, loaded)
    clips = open_clips(model, data_of(options, loaded), split=options.split, num_frames=context + horizon,
                       **data_options(options))
    if note := resize_note(options.model, loaded.facts, clips):
        console.print(f"note: {note}", soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    for number, index in enumerate(clips.spread(options.clips)):
        batch = collate([clips[index]]).to(options.device)
        generator = torch.Generator(options.device).manual_seed(options.seed)
        picture, seen = out / f"clip-{number:03d}.{options.format}", bool(model.config.obs.height)
        if seen:
            frames, still = film(model, batch, context_frames=context, generator=generator)
            save_animation(frames, picture)
            save_png(still, picture.with_suffix(".png"))
        with torch.no_grad():
            generator.manual_seed(options.seed)
            rollout = predict(model, batch, context_frames=context, driven_by="sampled", generator=generator,
                              window=options.window)
        latents = rollout.latents.values.items()
        tensors = {f"{group}.{name}": value.contiguous().cpu() for (group, name), value in latents}
        tensors |= {f"vectors.{name}": value.contiguous().cpu() for name, value in rollout.vectors.items()}
        if rollout.latent_actions is not None:
            tensors["latent_actions"] = rollout.latent_actions.contiguous().cpu()
        write_atomically(picture.with_suffix(".safetensors"), partial(save_file, tensors))
        what = "a still strip (.png) and the sample's latents beside it" if seen else "latents and predicted vectors"
        told = picture if seen else picture.with_suffix(".safetensors")
        console.print(f"{told}: {context} frames given, {horizon} predicted; {what}")
    if loaded.model.latent_action is not None:
        console.print(INFERRED_NOTE)
