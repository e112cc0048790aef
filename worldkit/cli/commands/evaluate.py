"""``worldkit eval``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...errors import ConfigError
from ..loading import Loaded, data_of, load
from ..loading import protocol as protocol_of
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
from ..output import console

_EVAL_HELP = """Given frames, horizon, split, metrics and more come from a protocol, which is stored in the result.
Options change single entries of it, and the result says so. worldkit list shows the protocols of papers.

examples:
  worldkit eval runs/lpwm-mini --data my_video.mp4
  worldkit eval lpwm-balls-mini --protocol balls-med10 -o data.num_episodes=50        on the data it was trained on
  worldkit eval runs/a runs/b --data PATH --driven-by prior --driven-by inferred      paired intervals of b - a
  worldkit eval runs/a --data PATH --driven-by sampled --samples 20                   and the best of 20
  worldkit eval runs/a --data PATH --protocol lpwm-sketchy-fvd --i3d i3d_torchscript.pt"""


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "eval", "Score predictions, of one model or of several side by side, and draw them.",
                _EVAL_HELP)
    p.add_argument("model", nargs="+",
                   help="preset with weights, model folder, run folder or hub:org/name; several are compared")
    data_argument(p)
    p.add_argument("--protocol", metavar="NAME", help="a paper's or a preset's (default: the first model's preset)")
    p.add_argument("--context", type=positive(int), help="frames given (default: the protocol's)")
    p.add_argument("--horizon", type=positive(int), help="frames to predict (default: the protocol's)")
    p.add_argument("--split", choices=SPLITS,
                   help="default: the protocol's, which is test; all: everything, what was trained on, too")
    p.add_argument("--driven-by", action="append", choices=("prior", "sampled", "inferred", "encoded"),
                   help="what drives the rollout; repeatable (default: prior, or encoded without a dynamics); "
                        "'inferred' and 'encoded' saw the true future")
    p.add_argument("--samples", type=positive(int),
                   help="rollouts per clip with --driven-by sampled; the best have a table")
    p.add_argument("--metrics", metavar="NAME,...",
                   help="psnr, ssim, lpips, fvd, fid, med10, med10_painted, pck, ari, fg_ari, fg_ari_video, miou, "
                        "delta_psnr (of latent actions), action_error, inverse_error, probe_error, point_pck")
    p.add_argument("--max-clips", type=positive(int), help="clips scored at most (default: the protocol's, or 100)")
    data_option(p)
    p.add_argument("--seed", type=natural, default=0)
    device_argument(p)
    p.add_argument("--lpips-backbone", metavar="FILE", help="VGG16 weights, for LPIPS")
    p.add_argument("--lpips-heads", metavar="FILE", help="LPIPS linear heads")
    p.add_argument("--i3d", metavar="FILE", help="i3d_torchscript.pt, for FVD")
    p.add_argument("--inception", metavar="FILE", help="inception-2015-12-05.pt, for FID")
    p.add_argument("--pictures", type=natural, default=2, help="clips drawn in the HTML file (default: 2)")
    p.add_argument("--out", help="folder for JSON, Markdown and HTML (default: next to the model; several: evaluation)")
    p.set_defaults(function=run_eval)


def run_eval(options: Namespace) -> None:
    """``worldkit eval``."""
    from ...training import compare

    check_device(options.device)
    one = options.model[0].removeprefix("dir:")
    several = len(options.model) > 1
    out = check_place(options.out or ("evaluation" if several else one if Path(one).is_dir() else "."), "--out")
    loaded = {_short(name, options.model): load(name) for name in options.model}
    if len({found.place for found in loaded.values()}) < len(options.model):
        raise ConfigError("a model is given twice: name each once")
    data = data_of(options, next(iter(loaded.values())))
    protocol, changed = _protocol(options, next(iter(loaded.values())))
    notes = _other_protocols(options, loaded)
    perceptual, networks = _networks(options, protocol)
    result = compare(
        {name: found.model for name, found in loaded.items()}, data, protocol, changed=changed,
        facts={name: found.facts for name, found in loaded.items()}, data_options=data_options(options),
        perceptual=perceptual, networks=networks, seed=options.seed, device=options.device, pictures=options.pictures,
    )
    result = replace(result, notes=[*result.notes, *notes])
    result.print()
    paths = result.write(out)
    console.print(f"written: {', '.join(map(str, paths))}", soft_wrap=True)


def _short(source: str, sources: list[str]) -> str:
    """The last part of a path, where that tells the models apart."""
    names = [Path(s).name or s for s in sources]
    return Path(source).name if len(sources) > 1 and len(set(names)) == len(names) else source


def _frame_skip(loaded: Loaded) -> int:
    """Of the recordings every how many frames the model saw one in training."""
    operator = loaded.model.operator
    return 1 if operator is None else operator.frame_skip


def _protocol(options: Namespace, loaded: Loaded):
    """What to do, and where it departs from the protocol that was named."""
    from ...metrics import Protocol
    from ...training import find_protocol
    from ...training.protocols import BY_HAND, MAX_CLIPS

    if options.protocol is not None:
        base = find_protocol(options.protocol)
    else:  # the preset's own, by hand where there is none
        preset = loaded.preset
        context, horizon = protocol_of(Namespace(context=None, horizon=None), loaded)
        drawn = preset is None or loaded.model.decoder is not None
        own = {} if drawn else {"metrics": find_protocol(preset).metrics}  # what there is to score, if no pictures
        base = Protocol(preset or BY_HAND, "frames of the preset" if preset else "half a window given, one predicted",
                        "worldkit", context, horizon, max_clips=MAX_CLIPS, frame_skip=_frame_skip(loaded),
                        driven_by=("prior",) if loaded.model.dynamics is not None else ("encoded",), **own)
    metrics = tuple(options.metrics.split(",")) if options.metrics else None
    if options.protocol is None and metrics is None:  # metrics whose networks are given
        given = {"lpips": options.lpips_backbone or options.lpips_heads, "fvd": options.i3d, "fid": options.inception}
        metrics = (*base.metrics, *(name for name, files in given.items() if files))
    protocol, changed = base.changed(
        context_frames=options.context, horizon=options.horizon, split=options.split, max_clips=options.max_clips,
        driven_by=tuple(options.driven_by) if options.driven_by else None, samples=options.samples, metrics=metrics,
    )
    if options.samples is not None and "sampled" not in protocol.driven_by:
        raise ConfigError(f"--samples {options.samples} is for sampled rollouts, these are driven by "
                          f"{', '.join(protocol.driven_by)}: add --driven-by sampled")
    return protocol, {} if base.name == BY_HAND else changed


def _other_protocols(options: Namespace, loaded: Mapping[str, Loaded]) -> list[str]:
    """Notes on the models whose own protocol is not the one that is used: the first model's."""
    if options.protocol is not None:
        return []
    (_, *first), *others = [(name, found.preset or "no preset", protocol_of(options, found))
                            for name, found in loaded.items()]
    return [f"Protocol of {first[0]}, the first model's. {name} ({preset}) would give {context} and predict {horizon} "
            "frames by itself: --protocol NAME, or --context and --horizon, choose."
            for name, preset, (context, horizon) in others if (context, horizon) != first[1]]


def _networks(options: Namespace, protocol) -> tuple:
    """(LPIPS network, networks of FVD and FID) of a protocol."""
    from ...errors import CheckpointError
    from ...metrics import ImageFeatures, VideoFeatures, load_i3d, load_inception, load_lpips

    perceptual, networks, device = None, {}, options.device
    try:
        if "lpips" in protocol.metrics:
            perceptual = load_lpips(options.lpips_backbone, options.lpips_heads).to(device)
        if "fvd" in protocol.metrics:
            networks["fvd"] = VideoFeatures(load_i3d(options.i3d, device=device), variant=protocol.fvd)
        if "fid" in protocol.metrics:
            networks["fid"] = ImageFeatures(load_inception(options.inception, device=device))
    except CheckpointError as error:
        raise CheckpointError(f"{error}. Or leave it out: --metrics psnr,ssim") from error
    return perceptual, networks
