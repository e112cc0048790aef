"""``worldkit convert`` and ``worldkit push``: models from elsewhere, and to others."""

from __future__ import annotations

from argparse import Namespace

from rich.text import Text

from ...errors import ConfigError
from ..loading import load
from ..options import Commands, check_place, command
from ..output import console

NEEDS = {"lpwm": ("hparams",), "ddlp": ("hparams",), "diffuse-ddlp": ("stats", "ddlp"), "lewm": (), "vjepa2": (),
         "vjepa2-ac": (), "iris": (), "diamond": (), "gswm": (), "semantic-wm": ("encoder",)}
"""What comes beside a checkpoint, by kind."""
AGENTS = ("iris", "diamond")
"""Kinds whose checkpoints hold an agent besides its world."""
MAY = {"gswm": ("preset", "hparams"), "semantic-wm": ("adapter",), **dict.fromkeys(AGENTS, ("env", "game"))}
"""What else may come, by kind."""


def add(commands: Commands) -> None:
    """Their arguments."""
    p = command(commands, "convert", "Turn an official checkpoint into a worldkit model folder.",
                "A checkpoint of LPWM or DDLP needs --hparams; one of DiffuseDDLP --stats, and --ddlp: the DDLP that\n"
                "goes on from its frames, converted before. LeWM, PLDM and V-JEPA 2 need nothing else. One of IRIS\n"
                "or DIAMOND becomes an agent's folder, whose world model is the folder model in it; of their official\n"
                "repositories a folder, or hub:eloialonso/diamond, will do, with --game. One of G-SWM (gswm) takes\n"
                "--preset, whose configuration it was trained with. One of semantic-wm takes --encoder, on whose\n"
                "features it was trained, and --adapter; the adapter's file alone becomes the first stage.")
    p.add_argument("kind", choices=tuple(NEEDS), help="which project the checkpoint comes from (lewm: PLDM, too)")
    p.add_argument("checkpoint", help="the .pth, .pt or .safetensors file")
    p.add_argument("--hparams", help="lpwm, ddlp: hparams.json of the same run; gswm: JSON of its table ARCH")
    p.add_argument("--preset", help="gswm: the preset of its configuration (g-swm-balls)")
    p.add_argument("--stats", help="diffuse-ddlp: latent_stats.pth beside the checkpoint")
    p.add_argument("--ddlp", help="diffuse-ddlp: model folder of the converted DDLP")
    p.add_argument("--encoder", help="semantic-wm: NAME or NAME=MODEL of the frozen encoder (rae=/models/dinov2), or a "
                                     "folder of a model that has it")
    p.add_argument("--adapter", help="semantic-wm: file of the adapter that goes with the transformer's")
    p.add_argument("--game", help="iris, diamond: which one of a repository, for example Breakout")
    p.add_argument("--env", help="iris, diamond: environment that the agent acts in, for example ALE/Breakout-v5")
    p.add_argument("--out", required=True, help="folder to write")
    p.set_defaults(function=run_convert)

    p = command(commands, "push",
                "Share a model: upload it to the Hugging Face hub, or write a folder ready to be shared.",
                "A run folder brings its best model, its newest pictures and those results of worldkit eval that\n"
                "scored that model into the model card. A folder that holds anything else is never replaced.")
    p.add_argument("model", help="run folder, model folder or hub:org/name[@revision]")
    p.add_argument("target", help="hub:org/name[@branch], or dir:/path")
    p.add_argument("--licence", help="of the weights, as the hub spells it, for example mit")
    p.add_argument("--private", action="store_true", help="if the repository has to be made")
    p.set_defaults(function=run_push)


def run_convert(options: Namespace) -> None:
    """``worldkit convert``."""
    from ...convert import from_ddlp, from_diffuse_ddlp, from_lewm, from_lpwm, from_vjepa2, from_vjepa2_ac

    check_place(options.out, "--out")
    wanted = NEEDS[options.kind]
    may = (*wanted, *MAY.get(options.kind, ()))
    given = [name for name in ("hparams", "preset", "stats", "ddlp", "env", "game", "encoder", "adapter")
             if getattr(options, name) is not None]
    if missing := [name for name in wanted if name not in given]:
        raise ConfigError(f"worldkit convert {options.kind} needs --{' and --'.join(missing)}; worldkit convert --help")
    if extra := [name for name in given if name not in may]:
        raise ConfigError(f"worldkit convert {options.kind} takes no --{' and no --'.join(extra)}")
    if options.kind in AGENTS:
        return _convert_agent(options)
    if options.kind == "gswm":
        return _convert_gswm(options)
    if options.kind == "semantic-wm":
        return _convert_semantic_wm(options)
    if options.kind == "diffuse-ddlp":
        model = from_diffuse_ddlp(options.checkpoint, options.stats, load(options.ddlp).model)
    elif not wanted:
        made = {"lewm": from_lewm, "vjepa2": from_vjepa2, "vjepa2-ac": from_vjepa2_ac}
        model = made[options.kind](options.checkpoint)
    else:
        model = {"lpwm": from_lpwm, "ddlp": from_ddlp}[options.kind](options.checkpoint, options.hparams)
    folder = model.save_pretrained(options.out)
    console.print(f"{model.parameter_report()['total']:,} parameters, every key used: {folder}")


def _convert_gswm(options: Namespace) -> None:
    """A checkpoint of G-SWM; what its weights do not tell comes from a preset, or upstream's table of options."""
    from ...convert import gswm
    from ...convert.state import read_hparams, read_state

    if options.preset and options.hparams:
        raise ConfigError("--preset and --hparams say the same: give one of them")
    if options.hparams:
        table = read_hparams(options.hparams)
        config = gswm.config_of(table.get("ARCH", table))
    else:
        config = gswm.config_of_preset(options.preset or gswm.PRESET)
    state = read_state(options.checkpoint)
    model = gswm.model_of(state, config)
    folder = model.save_pretrained(options.out)
    left = gswm.left_out(state, model)
    for what, keys in left.items():
        console.print(f"{len(keys)} key(s) that nothing depends on, {what}: {keys[0]}{', ...' if keys[1:] else ''}",
                      soft_wrap=True, highlight=False)
    console.print(f"{model.parameter_report()['total']:,} parameters, every other key used: {folder}", soft_wrap=True)


def _convert_semantic_wm(options: Namespace) -> None:
    """Checkpoints of semantic-wm's transformer and adapter, on a frozen encoder."""
    from ...convert import semantic_wm
    from ..loading import is_place

    parts = semantic_wm.official(options.checkpoint, adapter=options.adapter)
    named = "=" in options.encoder or not is_place(options.encoder)
    encoder = semantic_wm.encoder_named(options.encoder) if named else load(options.encoder).model
    model = semantic_wm.model_of(parts, encoder=encoder)
    folder = model.save_pretrained(options.out)
    for name, what in parts.unused.items():
        console.print(f"not used: {name}: {what}", soft_wrap=True, highlight=False, markup=False)
    which = f", the transformer's those of '{parts.weights}'" if parts.dit is not None else ""
    console.print(f"{model.parameter_report()['total']:,} parameters, every key used{which}: {folder}", soft_wrap=True)


def _convert_agent(options: Namespace) -> None:
    """A checkpoint of an agent and its world."""
    from ...agents.folder import save_agent
    from ...agents.pixel_actor_critic.official import agent_of
    from ...convert import diamond, iris
    from ...convert.published import published
    from ...convert.state import read_state

    file, settings = published(options.kind, options.checkpoint, options.game)
    state = read_state(file)
    model = iris.model_of(state) if options.kind == "iris" else diamond.model_of(state, settings=settings)
    if not any(key.startswith("actor_critic.") for key in state):
        folder = model.save_pretrained(options.out)
        return console.print(f"{model.parameter_report()['total']:,} parameters, every key used: {folder}")
    agent = agent_of(state, model, environment=options.env)
    folder = save_agent(agent, options.out)
    world = sum(p.numel() for p in agent.model.parameters())
    own = sum(p.numel() for p in agent.network.parameters())
    console.print(f"{world + own:,} parameters, every key used: the agent ({own:,}) in {folder}, its world ({world:,}) "
                  f"in {folder / 'model'}", soft_wrap=True)


def run_push(options: Namespace) -> None:
    """``worldkit push``."""
    from ...storage.sharing import export_model, left_out, push_to_hub

    kind, _, place = options.target.partition(":")
    for line in left_out(options.model):
        console.print(Text.assemble(("left out", "yellow"), f" {line}"), soft_wrap=True)
    if kind == "dir" and place:
        check_place(place, "the folder of dir:")
        folder = export_model(options.model, place, licence=options.licence)
        return console.print(f"written: {folder}; load it with worldkit.create_model('dir:{folder}')", soft_wrap=True)
    if kind != "hub" or not place:
        raise ConfigError(f"the target reads hub:org/name or dir:/path, got '{options.target}'")
    repo, _, branch = place.partition("@")
    address = push_to_hub(options.model, repo, licence=options.licence, private=options.private,
                          revision=branch or None)
    console.print(f"uploaded: {address}; load it with worldkit.create_model('{options.target}')", soft_wrap=True)
