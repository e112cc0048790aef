"""Time and memory of Dreamer's parts and of a whole training step, beside public PyTorch code; one JSON line each.

Tasks: ``observe`` (an RSSM filters 16 clips of 64 frames: states, posterior and prior, and their two divergences),
``imagine`` (15 steps from 256 states, actions given), both without a graph: so imagine r2dreamer and our version 3 when
they are trained; ``imagine-actor`` (the same, and the backward pass to the actions alone, weights want no gradient: so
an actor learns through the dynamics in dreamerv3-torch and our version 1); ``observe-grad`` and ``imagine-grad`` (the
backward pass to all weights and inputs; nobody trains the latter); ``learn`` (one step of everything, 4 clips of 16
frames of 64 pixels, 15 imagined steps from each state; shape ``tiny``). Pictures are not part of the first five.

``--reference`` takes a checkout of r2dreamer, which has the network of ours (``block-gru``), or of dreamerv3-torch,
beside which ours has that one's (``layernorm-gru``; `--cell` chooses otherwise). With r2dreamer both sides have the
same weights, and before any pair what they compute is compared. See README.md and beside.py.

    python benchmarks/dreamer.py --repeat 5 --warmup 1 --reference ../r2dreamer
    python benchmarks/dreamer.py --repeat 5 --warmup 1 --reference ../dreamerv3-torch
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from beside import Benchmark, parse, run

COMMON = {"stoch": 32, "blocks": 8, "actions": 6, "image": 64, "horizon": 15}
SIZES = {
    "tiny": COMMON | {"deter": 128, "hidden": 32, "classes": 8, "depth": 4, "units": 32, "embed": 256},
    "small": COMMON | {"deter": 512, "hidden": 64, "classes": 4, "depth": 4, "units": 64, "embed": 256},
    "size12m": COMMON | {"deter": 2048, "hidden": 256, "classes": 16, "depth": 16, "units": 256, "embed": 1024},
}
CLIPS, FRAMES, STARTS = 16, 64, 256
TRAINED = (4, 16)
"""Clips and frames of a training step."""
TASKS = ("observe", "observe-grad", "imagine", "imagine-actor", "imagine-grad", "learn")
TOLERANCE = 1e-4
"""Largest difference of what both sides compute, relative to the largest number."""


def config_of(s: Mapping[str, int], cell: str) -> Any:
    """A Dreamer of these sizes, whose RSSM has this cell."""
    from worldkit.config import WorldModelConfig

    rssm: dict[str, Any] = {"name": "rssm", "deterministic_dim": s["deter"], "hidden_dim": s["hidden"],
                            "num_variables": s["stoch"], "num_classes": s["classes"]}
    action: dict[str, Any] = {"name": "transition-action", "num_actions": s["actions"]}
    if cell == "block-gru":
        rssm["cell"] = {"name": cell, "hidden": s["hidden"], "blocks": s["blocks"]}
    else:
        layer = {"norm": "layer", "norm_eps": 1e-3, "activation": "silu", "init": "truncated-normal"}
        rssm |= layer | {"prior_layers": 1, "cell": {"name": cell, "hidden": s["hidden"], "gate_bias": False} | layer}
        action |= {"norm": "none", "activation": "none", "bias": False}
    picture = {"name": "conv", "depth": s["depth"]}
    return WorldModelConfig.parse({
        "obs": {"height": s["image"], "width": s["image"]}, "encoder": picture, "dynamics": rssm,
        "decoder": picture | {"units": s["units"]}, "conditioners": {"action": action}, "objective": "elbo",
    })


def build_ours(shape: str, options: argparse.Namespace):
    """Our model, with the other side's weights where there are any."""
    import torch

    from worldkit.assembly import build

    torch.manual_seed(options.seed)
    model = build(config_of(SIZES[shape], cell_of(options)))
    if options.weights and Path(options.weights).exists():
        take_weights(model, torch.load(options.weights))
    return model


def cell_of(options: argparse.Namespace) -> str:
    if options.cell:
        return options.cell
    return "layernorm-gru" if options.reference and is_plain(options.reference) else "block-gru"


def is_plain(checkout: str) -> bool:
    """Whether it holds dreamerv3-torch."""
    return (Path(checkout) / "models.py").exists()


def take_weights(model: Any, w: Mapping[str, Any]) -> None:
    """Those of an r2dreamer RSSM."""
    import torch

    rssm, action = model.dynamics, model.conditioners["action"]
    pairs = [
        (rssm.cell.from_state.linear, "_deter_net._dyn_in0.0"), (rssm.cell.from_drawn.linear, "_deter_net._dyn_in1.0"),
        (action.linear, "_deter_net._dyn_in2.0"), (rssm.cell.from_state.norm, "_deter_net._dyn_in0.1"),
        (rssm.cell.from_drawn.norm, "_deter_net._dyn_in1.1"), (action.norm, "_deter_net._dyn_in2.1"),
        (rssm.cell.layers[0], "_deter_net._dyn_hid.dyn_hid_0"), (rssm.cell.norms[0], "_deter_net._dyn_hid.norm_0"),
        (rssm.cell.gates, "_deter_net._dyn_gru"), (rssm.after.layers[0].linear, "_obs_net.obs_net_0"),
        (rssm.after.layers[0].norm, "_obs_net.obs_net_n_0"), (rssm.after.out, "_obs_net.obs_net_logit"),
        *((layer.linear, f"_img_net.img_net_{i}") for i, layer in enumerate(rssm.before.layers)),
        *((layer.norm, f"_img_net.img_net_n_{i}") for i, layer in enumerate(rssm.before.layers)),
        (rssm.before.out, "_img_net.img_net_logit"),
    ]
    with torch.no_grad():
        for layer, name in pairs:
            weight = w[f"{name}.weight"]
            if hasattr(layer, "scale"):
                layer.scale.copy_(weight)
                continue
            layer.weight.copy_(weight.permute(2, 1, 0) if weight.ndim == 3 else weight)
            layer.bias.copy_(w[f"{name}.bias"])


def inputs(shape: str, task: str) -> dict[str, Any]:
    """The same for both sides, by name."""
    import torch
    import torch.nn.functional as F

    s, draw = SIZES[shape], torch.Generator().manual_seed(0)
    rows = (CLIPS, FRAMES) if task.startswith("observe") else (STARTS, s["horizon"])
    numbers = torch.randint(s["actions"], rows, generator=draw)
    made = {"actions": F.one_hot(numbers, s["actions"]).float()}
    if task.startswith("observe"):
        first = torch.zeros(rows, dtype=torch.bool)
        first[:, 0] = True
        return made | {"embed": torch.randn(*rows, s["embed"], generator=draw), "first": first}
    stoch = torch.randint(s["classes"], (STARTS, s["stoch"]), generator=draw)
    return made | {"deter": torch.randn(STARTS, s["deter"], generator=draw).tanh(),
                   "stoch": F.one_hot(stoch, s["classes"]).float()}


def observe(model: Any, embed: Any, actions: Any, first: Any, sampler: Any = None) -> tuple[Any, Any, Any]:
    """Features ``[B, T, .]``, and the two divergences ``[B, T]``, as `reference_dreamer` has them."""
    from worldkit.conditioning import leading
    from worldkit.encoders.conv import embedding
    from worldkit.samplers import Sampler

    sampler = sampler or Sampler()
    cond = leading(model, {"action": actions[:, 1:]}, {}, first, sampler)
    found = model.dynamics.filter(embedding(model.encoder.spec, embed), cond, sampler, first=first)
    key = (model.spec.groups[0].name, "stochastic")
    posterior, prior = (x.params[key][:, :, 0] for x in (found.posterior, found.prior))
    dist = model.spec.field(key).dist
    return (found.latent.flat(key[0])[:, :, 0], dist.kl(posterior.detach(), prior).clamp(min=1),
            dist.kl(posterior, prior.detach()).clamp(min=1))


def imagine(model: Any, deter: Any, stoch: Any, actions: Any, sampler: Any = None, grad: bool = True) -> Any:
    """Features ``[N, H, .]``."""
    from worldkit.latents import Latent

    group = model.spec.groups[0].name
    start = Latent.build(model.spec, {(group, "deterministic"): deter[:, None, None],
                                      (group, "stochastic"): stoch.flatten(1)[:, None, None]})
    steps = iter(actions.split(1, 1))
    found = model.imagine(start, lambda *_: (next(steps), {}), actions.shape[1], sampler=sampler, grad=grad)
    return found.latents.flat(group).flatten(2)[:, 1:]


def timed(call: Callable[..., Any], given: Mapping[str, Any], task: str) -> Callable[[], object]:
    """One call without a graph, or one and its backward pass to weights and inputs, or to the actions."""
    import torch

    if not task.endswith(("grad", "actor")):
        return torch.no_grad()(lambda: call(**given))
    wants = given.keys() if task.endswith("grad") else {"actions"}
    given = {name: x.requires_grad_() if x.is_floating_point() and name in wants else x for name, x in given.items()}

    def both() -> None:
        found = call(**given)
        parts = found if isinstance(found, tuple) else (found,)
        sum(part.mean() for part in parts).backward()

    return both


def run_ours(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    """What to time, with worldkit; everything that is built once is built here."""
    if task == "learn":
        return train_ours(shape, options)
    model = build_ours(shape, options).train().requires_grad_(not task.endswith("actor"))
    if task.startswith("observe"):
        return timed(lambda **given: observe(model, **given), inputs(shape, task), task)
    return timed(lambda **given: imagine(model, **given, grad=task != "imagine"), inputs(shape, task), task)


def run_reference(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    """The same thing with the other side."""
    reference = open_reference(shape, options)
    if task == "learn":
        if not hasattr(reference, "agent"):
            raise SystemExit("a whole training step is measured beside r2dreamer, whose agent is ours")
        agent, clips = reference.agent(), clips_of(shape)
        return lambda: reference.train_step(agent, {key: x.clone() for key, x in clips.items()})
    rssm = build_reference(reference, options).requires_grad_(not task.endswith("actor"))
    call = reference.observe if task.startswith("observe") else reference.imagine
    return timed(lambda **given: call(rssm, **given), inputs(shape, task), task)


def open_reference(shape: str, options: argparse.Namespace) -> Any:
    import torch
    from reference_dreamer import Reference

    torch.manual_seed(options.seed)
    return Reference.open(options.reference, SIZES[shape])


def build_reference(reference: Any, options: argparse.Namespace) -> Any:
    import torch

    rssm = reference.build()
    if options.weights and Path(options.weights).exists():
        rssm.load_state_dict(torch.load(options.weights))
    return rssm


def check(shape: str, options: argparse.Namespace) -> dict:
    """Compare what both sides make of the same weights and inputs when all draws are the likeliest ones."""
    import torch

    from worldkit.samplers import MEANS

    if is_plain(options.reference) or options.cell:
        return {"who": "difference", "compared": "no: the weights are each side's own"}
    reference = open_reference(shape, options)
    rssm = reference.build()
    torch.save(rssm.state_dict(), options.weights)
    model, differences = build_ours(shape, options).eval(), {}
    reference.draw_the_likeliest()
    with torch.no_grad():
        clip, dream = ({name: x[:4, :8] if x.ndim > 2 and name != "stoch" or x.dtype == torch.bool else x[:4]
                        for name, x in inputs(shape, task).items()} for task in ("observe", "imagine"))
        ours, theirs = observe(model, **clip, sampler=MEANS)[0], reference.observe(rssm, **clip)[0]
        differences["observe"] = _apart(ours, theirs, SIZES[shape])
        ours, theirs = imagine(model, **dream, sampler=MEANS), reference.imagine(rssm, **dream)
        differences["imagine"] = _apart(ours, theirs, SIZES[shape])
    if not max(differences.values()) < TOLERANCE:
        raise SystemExit(f"{shape}: the two sides do not compute the same: {differences}")
    return {"who": "difference", **{name: f"{value:.1g}" for name, value in differences.items()}}


def _apart(ours: Any, theirs: Any, s: Mapping[str, int]) -> float:
    """Features here are (deterministic, stochastic), there the other way round."""
    theirs = theirs.roll(s["deter"], -1)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def clips_of(shape: str) -> dict[str, Any]:
    """Made-up experience for a training step, as the other side keeps it: rewards and actions that led to frames."""
    import torch
    import torch.nn.functional as F

    (clips, frames), s, draw = TRAINED, SIZES[shape], torch.Generator().manual_seed(0)
    flags = {name: torch.zeros(clips, frames, 1) for name in ("is_last", "is_terminal")}
    return flags | {
        "image": torch.randint(256, (clips, frames, s["image"], s["image"], 3), dtype=torch.uint8, generator=draw),
        "action": F.one_hot(torch.randint(s["actions"], (clips, frames), generator=draw), s["actions"]).float(),
        "reward": torch.randn(clips, frames, 1, generator=draw),
        "is_first": torch.zeros(clips, frames, dtype=torch.bool),
    }


def train_ours(shape: str, options: argparse.Namespace) -> Callable[[], object]:
    """One update of everything on the same experience; frame t's transition is the one that leaves it here."""
    import torch

    import worldkit
    from worldkit.agents import ActionSpec, create_agent
    from worldkit.batch import Batch
    from worldkit.samplers import Sampler
    from worldkit.training.config import TrainConfig

    torch.manual_seed(options.seed)
    s = SIZES[shape]
    units = {"units": s["units"]}
    model = worldkit.create_model(
        "dreamer-v3-size1m",
        obs={"height": s["image"], "width": s["image"]}, encoder={"depth": s["depth"]},
        decoder={"depth": s["depth"], **units}, conditioners={"action": {"dim": None, "num_actions": s["actions"]}},
        dynamics={"deterministic_dim": s["deter"], "hidden_dim": s["hidden"], "num_classes": s["classes"],
                  "cell": {"hidden": s["hidden"]}},
        heads={name: {"readout": units} for name in ("reward", "terminated")},
    )
    actions = ActionSpec(num_actions=s["actions"])
    agent = create_agent("actor-critic", model=model, action=actions, frame_shape=(3, s["image"], s["image"]),
                         horizon=s["horizon"], actor={"readout": {"layers": 3, **units}},
                         critic={"readout": {"layers": 3, **units}})
    learner, clips = agent.learner(TrainConfig()), clips_of(shape)
    after = {name: clips[name][..., 0].roll(-1, 1) for name in ("reward", "is_terminal", "is_last")}
    batch = Batch(
        clips["image"].permute(0, 1, 4, 2, 3).contiguous(),
        {"action": clips["action"].roll(-1, 1).argmax(-1)}, first=clips["is_first"],
        targets={"reward": after["reward"], "terminated": after["is_terminal"].bool(),
                 "truncated": after["is_last"].bool()},
    )
    return lambda: learner.update(batch, Sampler())["loss"].item()


BENCHMARK = Benchmark(__file__, __doc__, SIZES, TASKS, run_ours, run_reference, check)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--cell", help="of our RSSM; default: the other side's")
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    options = parse(BENCHMARK, parser)
    if options.worker:
        run(BENCHMARK, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        for shape in options.shapes:
            tasks = [task for task in options.tasks if (task == "learn") == (shape == "tiny")]
            if options.reference and is_plain(options.reference):
                tasks = [task for task in tasks if task != "learn"]
            weights = str(Path(folder) / f"{shape}.pth") if options.reference else None
            if tasks:
                part = {"shapes": [shape], "tasks": tasks, "weights": weights}
                run(BENCHMARK, argparse.Namespace(**vars(options) | part))


if __name__ == "__main__":
    main()
