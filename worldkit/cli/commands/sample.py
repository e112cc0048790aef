"""``worldkit sample``: videos drawn out of nothing."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..loading import Loaded, load, protocol
from ..options import (
    SPLITS,
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
)
from ..output import console, table_of

EPILOG = """First frames come from the model's prior (worldkit train PRESET -o prior=diffusion -o objective=first-frames
-o train.init_from=RUN trains one), else one frame from the encoder's own; the dynamics goes on from there.

With --data, drawn frames are held against true ones: how many things a frame shows (spots of one colour; their mean
number, and the total variation of the histograms), and the Frechet distance of the encoder's features (FID; --judge
lets another model's encoder look). Other true frames are held against them, too: so near is near; and, where no frames
are predicted, pictures of a Gaussian with the mean and covariance of the training split's pixels: so far is far.
"""


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "sample", "Draw videos out of nothing: writes films, a picture, latents and a page.", EPILOG)
    p.add_argument("model", help="preset with weights, model folder, run folder or hub:org/name")
    p.add_argument("--out", default="samples", help="folder to write (default: samples)")
    p.add_argument("--n", type=positive(int), default=8, help="how many videos (default: 8)")
    p.add_argument("--horizon", type=positive(int), help="frames after the first ones (default: the preset's; "
                   "0 of models without a dynamics)")
    p.add_argument("--follow", choices=("means", "draws"),
                   help="what follows the first frames: the dynamics' means or draws (default: draws, of models with "
                        "latent actions or diffusion dynamics; else means)")
    p.add_argument("--sampler", choices=("ddpm", "ddim"), help="of a diffusion prior (default: the model's)")
    p.add_argument("--steps", type=positive(int), help="denoising steps of a diffusion prior (default: the model's)")
    p.add_argument("--batch", type=positive(int), default=8, help="videos at a time (default: 8)")
    p.add_argument("--show", type=positive(int), default=16, help="videos in the pictures at most (default: 16)")
    p.add_argument("--format", choices=("gif", "mp4"), default="gif")
    p.add_argument("--seed", type=natural, default=0)
    data_argument(p)
    data_option(p)
    p.add_argument("--judge", metavar="MODEL", help="whose encoder looks at frames for the FID (default: the model's)")
    p.add_argument("--split", default="test", choices=SPLITS, help="of --data (default: test)")
    device_argument(p)
    p.set_defaults(function=run_sample, context=None)


def run_sample(options: Namespace) -> None:
    """``worldkit sample``."""
    from functools import partial

    from safetensors.torch import save_file

    from ...files import write_atomically
    from ...viz import animate_samples, samples_strip, save_animation, save_png

    check_device(options.device)
    out = check_place(options.out, "--out")
    if data_options(options) and not options.data:
        raise ConfigError("-o data.OPTION=VALUE says how the data of --data are read: give --data as well")
    loaded = load(options.model)
    model = loaded.model.to(options.device)
    _set_sampling(model, options)
    if model.conditioners:
        raise ConfigError(
            f"{options.model} is steered by {', '.join(model.conditioners)}, and nobody says by what where a video is "
            "drawn out of nothing. In Python: model.sample(batch_size, horizon, conditions={...})"
        )
    if options.judge and not options.data:
        raise ConfigError("--judge looks at drawn frames and true ones: give --data as well")
    horizon = _horizon(options, loaded)
    true = _true_videos(options, loaded, horizon) if options.data else None  # before the work begins: data may be wrong
    judge = load(options.judge).model.to(options.device) if options.judge else model
    _check_judge(judge, model)
    videos, latents, first = _draw(model, options, horizon)
    out.mkdir(parents=True, exist_ok=True)
    shown = _first_view(videos, model)
    for number, video in enumerate(shown[:options.show]):
        save_animation(video, out / f"sample-{number:03d}.{options.format}")
    film = animate_samples(shown[:options.show], first_frames=first)
    still = film[0] if len(film) == 1 else samples_strip(shown[:options.show], first_frames=first)
    save_animation(film, out / f"samples.{options.format}")
    save_png(still, out / "samples.png")
    tensors = {f"{group}.{name}": value.contiguous() for (group, name), value in latents.values.items()}
    write_atomically(out / "samples.safetensors", partial(save_file, tensors))
    rows = [] if true is None else _scores(judge, true, videos, first, options)
    if true is not None and true.ndim == 5 and first == 1 == videos.shape[-4]:
        rows.append(_gaussian(judge, true, options, loaded))
    _page(out, options, loaded, film, still, rows, (len(videos), first, videos.shape[-4] - first), true)
    console.print(f"{out / f'samples.{options.format}'}: {len(videos)} videos, {first} frames drawn by the prior, "
                  f"{videos.shape[-4] - first} predicted; samples.png, report.html, latents and single films beside it",
                  soft_wrap=True)
    if rows:
        table = table_of("drawn frames against true ones", *_HEADER)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _set_sampling(model: Any, options: Namespace) -> None:
    """Sampler and steps of the prior, as the options say."""
    from dataclasses import replace

    given = {name: value for name, value in (("sampler", options.sampler), ("steps", options.steps)) if value}
    if not given:
        return
    if not hasattr(model.prior, "sampling"):
        has = "has none" if model.prior is None else f"has prior '{model.prior.config.name}'"
        raise ConfigError(f"--{' and --'.join(given)} choose how a diffusion prior draws, but {options.model} {has}")
    if given.get("steps", 0) > model.prior.config.steps:
        raise ConfigError(f"--steps {given['steps']}: this prior was trained with {model.prior.config.steps} steps")
    model.prior.sampling = replace(model.prior.sampling, **given)


def _horizon(options: Namespace, loaded: Loaded) -> int:
    """Frames to predict after the first ones."""
    if loaded.model.dynamics is None and options.horizon is None:
        return 0
    return protocol(options, loaded)[1]


def _check_judge(judge: Any, model: Any) -> None:
    """Refuse eyes that see frames of another size."""
    sizes = [(x.config.obs.channels, x.config.obs.height, x.config.obs.width, x.config.obs.views)
             for x in (judge, model)]
    if sizes[0] != sizes[1]:
        raise ConfigError("--judge sees frames of {} x {} x {} ({} view), the model draws {} x {} x {} ({} view): take "
                          "a judge of the same data".format(*sizes[0], *sizes[1]))


def _draw(model: Any, options: Namespace, horizon: int) -> tuple[Any, Any, int]:
    """Videos in [0, 1] ``[n, T, 3, H, W]``, their latents, and how many first frames the prior drew; on the CPU."""
    import torch

    from ...progress import track

    generator = torch.Generator(options.device).manual_seed(options.seed)
    random = model.latent_action is not None or model.dynamics is not None and not model.dynamics.explicit_prior
    means = options.follow == "means" if options.follow else not random
    videos, latents, first = [], [], 0
    for start in track(range(0, options.n, options.batch), "drawing videos"):
        rollout = model.sample(min(options.batch, options.n - start), horizon, generator=generator, deterministic=means)
        first = rollout.context_latents.shape[1]
        videos.append(torch.cat([rollout.context_video, rollout.video], -4).clamp(0, 1).cpu())
        latents.append(type(rollout.latents).cat([rollout.context_latents, rollout.latents]).to("cpu"))
    return torch.cat(videos), type(latents[0]).cat(latents, 0), first


def _first_view(videos: Any, model: Any) -> Any:
    return videos[:, 0] if model.config.obs.views > 1 else videos


def _true_videos(options: Namespace, loaded: Loaded, horizon: int, split: str | None = None) -> Any:
    """Twice as many true videos as are drawn, if there are so many: ``[m, T, 3, H, W]``; they begin with episodes."""
    from ...data import collate
    from ...training.recipes import open_clips, resize_note

    model = loaded.model
    frames = horizon + (model.prior.config.frames if model.prior is not None else 1)
    clips = open_clips(model, options.data, split=split or options.split, num_frames=frames, mode="first",
                       **data_options(options))
    if split is None and (note := resize_note(options.model, loaded.facts, clips)):
        console.print(f"note: {note}", soft_wrap=True)
    if len(clips) < 4:
        raise ConfigError(f"--data {options.data} has {len(clips)} clip(s) of {frames} frames in split "
                          f"'{options.split}'; to hold drawn frames against them there must be 4: --split all")
    return collate([clips[i] for i in clips.spread(2 * options.n)]).video


GAUSSIAN = 1000
"""Half of the training pictures that the Gaussian is fitted to, at most."""
_HEADER = ("frames", "of", "things", "true", "histogram", "FID")


def _scores(model: Any, true: Any, videos: Any, first: int, options: Namespace) -> list[tuple[str, ...]]:
    """Rows for drawn frames and for one half of the true ones, against the other half."""
    from ...training.generation import compare, look_at

    seen, drawn = (look_at(model, x, batch_size=options.batch) for x in (true, videos))
    drawn, seen = drawn.in_units_of(seen), seen.in_units_of(seen)
    half, rows = slice(0, None, 2), []
    for name, count in (("first ones", first), ("all", videos.shape[-4])):
        for whose, frames in (("the model", drawn), ("other true videos", seen[slice(1, None, 2)])):
            found = compare(seen[half].first(count), frames.first(count))
            rows.append((name, whose, f"{found['things']:.2f}", f"{found['things, true']:.2f}",
                         f"{found['histogram']:.3f}", f"{found['fid']:.3g}"))
    return rows


def _gaussian(judge: Any, true: Any, options: Namespace, loaded: Loaded) -> tuple[str, ...]:
    """The row of pictures that know the mean and covariance of the training split's pixels, and nothing else."""
    import torch

    from ...training.generation import compare, gaussian_frames, look_at

    generator = torch.Generator().manual_seed(options.seed)
    learned = _true_videos(Namespace(**{**vars(options), "n": GAUSSIAN}), loaded, 0, split="train")
    seen, drawn = (look_at(judge, x, batch_size=options.batch)
                   for x in (true, gaussian_frames(learned, options.n, generator=generator)))
    found = compare(seen.in_units_of(seen)[::2], drawn.in_units_of(seen))
    return ("all", "a Gaussian of pixels", f"{found['things']:.2f}", f"{found['things, true']:.2f}",
            f"{found['histogram']:.3f}", f"{found['fid']:.3g}")


def _page(out: Path, options: Namespace, loaded: Loaded, film: Any, still: Any, rows: list[tuple[str, ...]],
          sizes: tuple[int, int, int], true: Any) -> None:
    """``report.html``."""
    from ...viz import HtmlReport, animate_samples

    count, first, predicted = sizes
    page = HtmlReport(f"Videos drawn by {options.model}")
    page.text(f"{count} videos out of nothing, seed {options.seed}. The first {first} frame(s), with a blue border, "
              f"were drawn by the model's prior; the dynamics predicted the {predicted} after them, with a green one.")
    page.gif(film, still=still, caption=f"Drawn videos; of {count} at most {options.show} are shown.")
    if true is not None:
        shown = _first_view(true, loaded.model)[:options.show]
        page.heading("Beside true videos").gif(animate_samples(shown, first_frames=first),
                                               caption=f"True videos of {options.data}, split {options.split}.")
        page.table(_HEADER, rows, caption="Both rows of a kind are held against the same half of the true videos.")
        page.text("Things are connected spots of one colour: their mean number in a frame. Histogram is the total "
                  "variation of the numbers: 0 if every number is as frequent in both, 1 if none is in both. FID is "
                  "the Frechet distance of what the model's encoder sees in a frame (means and deviations over its "
                  "tokens, in units of their deviation over the true frames); it falls with the number of frames, so "
                  "compare only rows of the same numbers.")
    page.write(out / "report.html")
