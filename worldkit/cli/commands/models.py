"""``worldkit list`` and ``worldkit info``: what there is, and what it is."""

from __future__ import annotations

from argparse import Namespace

from rich.text import Text

from ...errors import UnknownComponentError, install_hint
from ...registry import canonical, suggestion
from ..loading import is_place
from ..options import Commands, command
from ..output import console, table_of


def add(commands: Commands) -> None:
    """Their arguments."""
    p = command(commands, "list", "List models and components that match a pattern.")
    p.add_argument("pattern", nargs="?", default="*", help="shell-style pattern, for example 'lpwm*'")
    p.add_argument("--pretrained", action="store_true",
                   help="only models that come with weights: their size, data and what they reach")
    p.set_defaults(function=run_list)

    p = command(commands, "info", "Show what a model is: source, parts, parameters, training defaults.")
    p.add_argument("model", help="preset, model folder, run folder or hub:org/name[@revision]")
    p.set_defaults(function=run_info)


def run_list(options: Namespace) -> None:
    """``worldkit list``."""
    import worldkit as wk
    from worldkit.cells import list_cells
    from worldkit.heads import list_heads

    if options.pretrained:
        return _list_pretrained(options.pattern)
    table = table_of("models", "name", "weights", "what it is")
    models = wk.list_models(options.pattern)
    for name in models:
        spec = wk.get_model_spec(name)
        table.add_row(name, "yes" if spec.weights else "-", spec.summary)
    if models:
        console.print(table)
    kinds = {"encoders": wk.list_encoders, "decoders": wk.list_decoders, "dynamics": wk.list_dynamics,
             "conditioners": wk.list_conditioners, "latent actions": wk.list_latent_actions, "priors": wk.list_priors,
             "heads": list_heads, "cells": list_cells, "objectives": wk.list_objectives,
             "evaluation protocols": wk.training.list_protocols}
    matching = {kind: found for kind, names in kinds.items() if (found := names(options.pattern))}
    for kind, found in matching.items():
        console.print(Text.assemble((kind, "bold"), f": {', '.join(found)}"))
    for broken in wk.plugin_errors():
        console.print(Text.assemble((f"plugin {broken.plugin} failed to load", "red"), f": {broken.error}"))
    if not models and not matching:
        known = [name for names in (wk.list_models, *kinds.values()) for name in names()]
        raise UnknownComponentError(_nothing_matches(options.pattern, sorted(set(known))))


def _list_pretrained(pattern: str) -> None:
    """Models with weights, and what they reach; from small files, without PyTorch."""
    from ...factory import get_model_spec, list_models
    from ...presets.shipped import facts_of, megabytes

    names = list_models(pattern, pretrained=True)
    if not names:
        known = list_models(pretrained=True)
        raise UnknownComponentError(f"no model with weights matches '{pattern}'. There are weights of "
                                    f"{', '.join(known)}.{suggestion(canonical(pattern), known)}")
    table = table_of("models with weights", "name", "MB", "data", "what it reaches on test clips")
    for name in names:
        spec = get_model_spec(name)
        facts, inside = facts_of(spec), not str(spec.weights).startswith("hub:")
        table.add_row(name, f"{megabytes(spec):.1f}" if inside else str(spec.weights), facts.get("data", "-"),
                      facts.get("headline", "-"))
    console.print(table)
    console.print(f'create_model("{names[0]}", pretrained=True) loads one, worldkit eval {names[0]} scores it. '
                  "How each was made: docs/zoo.md", soft_wrap=True)


def _nothing_matches(pattern: str, known: list[str]) -> str:
    """What to type instead of a pattern that matches no name."""
    inside = [name for name in known if canonical(pattern).strip("*") in name]
    if inside:
        return f"nothing is called '{pattern}', but {', '.join(inside[:5])}: worldkit list '*{pattern.strip('*')}*'"
    return f"nothing matches '{pattern}'.{suggestion(canonical(pattern), known)} worldkit list shows all there is"


def run_info(options: Namespace) -> None:
    """``worldkit info``."""
    from ...assembly import build
    from ...factory import create_config, get_model_spec
    from ...model import ComposedWorldModel
    from ...presets import resolve_preset
    from ...presets.shipped import facts_of
    from ...storage.hub import components, locate, read_config

    if is_place(options.model):
        folder = locate(options.model)
        config, about = read_config(folder), {"folder": str(folder)}
    else:
        name = resolve_preset(options.model)
        spec, config = get_model_spec(name), create_config(name)
        about = {"preset": name, "summary": spec.summary, "source": spec.source, "paper": spec.paper,
                 "weights": facts_of(spec).get("headline", "yes") if spec.weights else "none published"}
        if spec.agent:
            about["acts"] = f"{spec.agent['name']}: worldkit train-agent {name} --env ENV"
        for part in ("train", "online", "eval"):
            about |= {f"{part}.{k}": str(v) for k, v in getattr(spec, part).items()}
    import torch

    with torch.device("meta"):
        model = build(config)
    table = table_of("", "", "")
    for key, value in about.items():
        if value:
            table.add_row(key, value)
    for part, count in model.parameter_report().items():
        table.add_row(f"parameters: {part}", f"{count:,}")
        if part == "heads" and len(model.heads) > 1:
            for name, head in model.heads.items():
                table.add_row(f"parameters: heads.{name}", f"{sum(p.numel() for p in head.parameters()):,}")
    for part, count in _agent_report(options.model, model.parameter_report()["total"]).items():
        table.add_row(f"parameters: {part}", f"{count:,}")
    for part, registry, name in components(config.to_dict()):
        if extra := registry.entry(name).extra:
            table.add_row(f"{part} uses extra {extra}", install_hint(extra))
    for note in model.objective.notes(model) if isinstance(model, ComposedWorldModel) else ():
        table.add_row("note", note)
    console.print(table)
    console.print_json(config.to_json())


def _agent_report(name: str, model: int) -> dict[str, int]:
    """Parameters of the agent of a preset, part by part, and with its model; empty if it has none to train."""
    import torch

    from ...agents import create_agent
    from ...agents.base import agents
    from ...factory import get_model_spec

    acts = {} if is_place(name) else get_model_spec(name).agent
    if not acts or not agents.get(acts["name"]).trains:
        return {}
    with torch.device("meta"):
        agent = create_agent(name)
    counts = {f"agent.{part}": sum(p.numel() for p in module.parameters() if p.requires_grad)
              for _, top in agent.named_children() for part, module in top.named_children()}
    counts = {part: count for part, count in counts.items() if count}
    return counts | {"trained together": model + sum(counts.values())} if counts else {}
