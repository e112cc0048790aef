"""What each command of the command line does: a few calls into the library, and printing."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .config import parse_assignments
from .errors import ConfigError, UnknownComponentError

console = Console(markup=False)  # names and paths may hold brackets


def run_train(options: Namespace) -> None:
    """``worldkit train``."""
    from .training.plan import plan
    from .training.recipes import make_trainer

    overrides = parse_assignments(options.override)
    training, data = overrides.pop("train", {}), overrides.pop("data", {})
    for name in ("steps", "seconds", "seed", "keep"):
        if getattr(options, name) is not None:
            training[name] = getattr(options, name)
    run = Path(options.run or Path("runs") / options.preset)
    trainer = make_trainer(options.preset, options.data, run=run, overrides=overrides, train_overrides=training,
                           data_options=data, show_progress=not options.quiet)
    if options.dry_run and not trainer.is_main:
        return None
    if options.dry_run:
        title = f"plan: worldkit train {options.preset} (nothing was trained; at most the data cache was filled)"
        table = _table(title, "", "")
        for name, text in plan(trainer).items():
            table.add_row(name, text)
        return console.print(table)
    result = trainer.fit()
    if not trainer.is_main:
        return None
    state = "finished" if result.finished else "stopped; the same command goes on"
    console.print(f"{state} at step {result.step} after {result.seconds:.0f} s of training: {result.run}")
    best = result.run / "best" if (result.run / "best").exists() else "none yet"
    console.print(f"pictures: {result.run / 'figures'}   best model: {best}")


def run_list(options: Namespace) -> None:
    """``worldkit list``."""
    import worldkit as wk

    table = _table("models", "name", "weights", "what it is")
    for name in wk.list_models(options.pattern):
        spec = wk.get_model_spec(name)
        table.add_row(name, "yes" if spec.weights else "-", spec.summary)
    console.print(table)
    kinds = {"encoders": wk.list_encoders, "decoders": wk.list_decoders, "dynamics": wk.list_dynamics,
             "conditioners": wk.list_conditioners, "latent actions": wk.list_latent_actions,
             "objectives": wk.list_objectives}
    for kind, names in kinds.items():
        if found := names(options.pattern):
            console.print(Text.assemble((kind, "bold"), f": {', '.join(found)}"))
    if found := wk.training.list_protocols(options.pattern):
        console.print(Text.assemble(("evaluation protocols", "bold"), f": {', '.join(found)}"))
    for broken in wk.plugin_errors():
        console.print(Text.assemble((f"plugin {broken.plugin} failed to load", "red"), f": {broken.error}"))


def run_info(options: Namespace) -> None:
    """``worldkit info``."""
    from .factory import build, create_config, get_model_spec, list_models
    from .hub import locate, read_config
    from .model import ComposedWorldModel
    from .presets import resolve_preset

    if _is_place(options.model):
        folder = locate(options.model)
        config, about = read_config(folder), {"folder": str(folder)}
    else:
        name = resolve_preset(options.model)
        spec, config = get_model_spec(name), create_config(name)
        about = {"preset": name, "summary": spec.summary, "source": spec.source, "paper": spec.paper,
                 "weights": "yes" if name in list_models(pretrained=True) else "none published"}
        about |= {f"train.{k}": str(v) for k, v in spec.train.items()} | {f"eval.{k}": str(v) for k, v in
                                                                          spec.eval.items()}
    import torch

    with torch.device("meta"):
        model = build(config)
    table = _table("", "", "")
    for key, value in about.items():
        if value:
            table.add_row(key, value)
    for part, count in model.parameter_report().items():
        table.add_row(f"parameters: {part}", f"{count:,}")
    for note in model.objective.notes(model) if isinstance(model, ComposedWorldModel) else ():
        table.add_row("note", note)
    console.print(table)
    console.print_json(config.to_json())


@dataclass(frozen=True)
class _Loaded:
    """A model, where it lies (its preset's name, if in the package), its preset, what results say of its weights."""

    model: Any
    place: str
    preset: str | None
    facts: Mapping[str, Any]


def _load(source: str) -> _Loaded:
    """A model by preset name (with weights), folder, run folder or hub id; tells which folder that is."""
    from .factory import create_model, get_model_spec
    from .folders import digest, provenance, read_facts
    from .hub import load_folder, locate, packaged_file
    from .presets import resolve_preset

    if _is_place(source):
        folder = locate(source)
        console.print(f"model: {folder}", soft_wrap=True)
        preset = _known_preset(read_facts(folder).get("preset"))
        return _Loaded(load_folder(folder), str(folder.resolve()), preset, provenance(folder))
    model, spec = create_model(source, pretrained=True), get_model_spec(resolve_preset(source))
    published = str(spec.weights).startswith("hub:")
    return _Loaded(model, spec.name, spec.name, provenance(locate(str(spec.weights))) if published else
                   {"weights": digest(packaged_file(spec))})


def _is_place(source: str) -> bool:
    """Whether a model is named by where it lies, not by its preset."""
    return source.startswith(("hub:", "dir:")) or "/" in source or Path(source).exists()


def _known_preset(name: Any) -> str | None:
    """The preset that ``train.json`` names, if it is one here; a note if it is not."""
    from .presets import resolve_preset

    if name is None:
        return None
    try:
        return resolve_preset(str(name))
    except UnknownComponentError:
        console.print(f"note: trained as preset '{name}', which is not known here: its protocol is not used")
        return None


def _protocol(options: Namespace, loaded: _Loaded) -> tuple[int, int]:
    """(frames given, frames predicted): as the options say, else as the preset does, else by hand."""
    from .training.recipes import protocol

    given = {"context_frames": options.context, "horizon": options.horizon}
    if loaded.preset is not None:
        return protocol(loaded.preset, loaded.model, given)
    window = loaded.model.config.timestep_horizon
    return given["context_frames"] or max(1, window // 2), given["horizon"] or window


def run_rollout(options: Namespace) -> None:
    """``worldkit rollout``."""
    import torch
    from safetensors.torch import save_file

    from .data import collate
    from .training import animation, predict
    from .training.figures import INFERRED_NOTE
    from .training.recipes import open_clips
    from .viz import save_animation

    loaded = _load(options.model)
    model = loaded.model
    context, horizon = _protocol(options, loaded)
    clips = open_clips(model, options.data, split=options.split, num_frames=context + horizon,
                       **_data_options(options))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    count = min(options.clips, len(clips))
    for number, index in enumerate(torch.linspace(0, len(clips) - 1, count).long().tolist()):
        batch = collate([clips[index]])
        generator = torch.Generator().manual_seed(options.seed)
        frames = animation(model, batch, context_frames=context, generator=generator)
        picture = out / f"clip-{number:03d}.{options.format}"
        save_animation(frames, picture)
        with torch.no_grad():
            generator.manual_seed(options.seed)
            rollout = predict(model, batch, context_frames=context, driven_by="sampled", generator=generator,
                              window=options.window)
        tensors = {f"{group}.{name}": value.contiguous() for (group, name), value in rollout.latents.values.items()}
        if rollout.latent_actions is not None:
            tensors["latent_actions"] = rollout.latent_actions.contiguous()
        save_file(tensors, out / f"clip-{number:03d}.safetensors")
        console.print(f"{picture}: {context} frames given, {horizon} predicted; latents of the sample beside it")
    if loaded.model.latent_action is not None:
        console.print(INFERRED_NOTE)


def _data_options(options: Namespace) -> dict[str, Any]:
    """Options of the data format; a finished model takes no others."""
    overrides = parse_assignments(options.override)
    if unknown := [name for name in overrides if name != "data"]:
        raise ConfigError(f"-o of {options.command} takes data.OPTION=VALUE only, got {', '.join(unknown)}")
    return overrides.get("data", {})


def run_eval(options: Namespace) -> None:
    """``worldkit eval``."""
    from .training import compare

    _check_device(options.device)
    loaded = {_short(name, options.model): _load(name) for name in options.model}
    if len({found.place for found in loaded.values()}) < len(options.model):
        raise ConfigError("a model is given twice: name each once")
    protocol, changed = _eval_protocol(options, next(iter(loaded.values())))
    notes = _other_protocols(options, loaded)
    perceptual, networks = _eval_networks(options, protocol)
    result = compare(
        {name: found.model for name, found in loaded.items()}, options.data, protocol, changed=changed,
        facts={name: found.facts for name, found in loaded.items()}, data_options=_data_options(options),
        perceptual=perceptual, networks=networks, seed=options.seed, device=options.device, pictures=options.pictures,
    )
    result = replace(result, notes=[*result.notes, *notes])
    result.print()
    one = options.model[0].removeprefix("dir:")
    out = Path(options.out or ("evaluation" if len(loaded) > 1 else one if Path(one).is_dir() else "."))
    paths = result.write(out)
    console.print(f"written: {', '.join(map(str, paths))}", soft_wrap=True)


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch's answers to a name it does not know, and to no GPU
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name} cannot be used here ({reason}); --device cpu always works") from error


def _short(source: str, sources: list[str]) -> str:
    """The last part of a path, where that tells the models apart."""
    names = [Path(s).name or s for s in sources]
    return Path(source).name if len(sources) > 1 and len(set(names)) == len(names) else source


def _eval_protocol(options: Namespace, loaded: _Loaded):
    """What to do, and where it departs from the protocol that was named."""
    from .metrics import Protocol
    from .training import find_protocol
    from .training.protocols import BY_HAND, MAX_CLIPS

    if options.protocol is not None:
        base = find_protocol(options.protocol)
    else:  # the preset's own, by hand where there is none
        preset = loaded.preset
        context, horizon = _protocol(Namespace(context=None, horizon=None), loaded)
        base = Protocol(preset or BY_HAND, "frames of the preset" if preset else "half a window given, one predicted",
                        "worldkit", context, horizon, max_clips=MAX_CLIPS)
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


def _other_protocols(options: Namespace, loaded: Mapping[str, _Loaded]) -> list[str]:
    """Notes on the models whose own protocol is not the one that is used: the first model's."""
    if options.protocol is not None:
        return []
    (_, *first), *others = [(name, found.preset or "no preset", _protocol(options, found))
                            for name, found in loaded.items()]
    return [f"Protocol of {first[0]}, the first model's. {name} ({preset}) would give {context} and predict {horizon} "
            "frames by itself: --protocol NAME, or --context and --horizon, choose."
            for name, preset, (context, horizon) in others if (context, horizon) != first[1]]


def _eval_networks(options: Namespace, protocol) -> tuple:
    """(LPIPS network, networks of FVD and FID) of a protocol."""
    from .errors import CheckpointError
    from .metrics import ImageFeatures, VideoFeatures, load_i3d, load_inception, load_lpips

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


def run_ablate(options: Namespace) -> None:
    """``worldkit ablate``."""
    from .ablation import run
    from .ablation.grid import parse_axes

    result = run(
        options.preset, options.data, swaps=parse_axes(options.swap, "--swap"), budget=options.budget,
        settings=parse_axes(options.settings, "--set"), seeds=options.seeds, out=options.out, retry=options.retry,
        overrides=parse_assignments(options.override), context_frames=options.context, horizon=options.horizon,
        split=options.split, clips=options.clips, show_progress=not options.quiet,
    )
    result.print()
    console.print(f"written: {result.folder}/table.md, table.json, report.html", soft_wrap=True)


def run_convert(options: Namespace) -> None:
    """``worldkit convert``."""
    from .convert import from_lpwm

    model = from_lpwm(options.checkpoint, options.hparams)
    folder = model.save_pretrained(options.out)
    console.print(f"{model.parameter_report()['total']:,} parameters, every key used: {folder}")


def run_push(options: Namespace) -> None:
    """``worldkit push``."""
    from .sharing import export_model, left_out, push_to_hub

    kind, _, place = options.target.partition(":")
    for line in left_out(options.model):
        console.print(Text.assemble(("left out", "yellow"), f" {line}"), soft_wrap=True)
    if kind == "dir" and place:
        folder = export_model(options.model, place, licence=options.licence)
        return console.print(f"written: {folder}; load it with worldkit.create_model('dir:{folder}')", soft_wrap=True)
    if kind != "hub" or not place:
        raise ConfigError(f"the target reads hub:org/name or dir:/path, got '{options.target}'")
    repo, _, branch = place.partition("@")
    address = push_to_hub(options.model, repo, licence=options.licence, private=options.private,
                          revision=branch or None)
    console.print(f"uploaded: {address}; load it with worldkit.create_model('{options.target}')", soft_wrap=True)


def run_demo(options: Namespace) -> None:
    """``worldkit demo``."""
    from .demo import demo

    report = demo(out=options.out, seconds=options.seconds, seed=options.seed)
    console.print(Text.assemble(("\nopen this in a browser:", "bold"), f" {report.resolve()}"))


def run_data(options: Namespace) -> int:
    """``worldkit data ...``."""
    from . import commands_data

    return getattr(commands_data, f"run_{options.action}")(options)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


