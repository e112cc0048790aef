"""CPU seconds of worlds without pictures, beside the official code; one JSON line per measurement.

* ``lewm-train``: a training step (forward, backward, clipping, AdamW) of the default LeWM; 8 clips of 4 frames of
  224 x 224, beside stable-worldmodel 0.1.1.
* ``lewm-plan``: one plan of its CEM, 300 candidates x horizon 5 (5 actions of 2 numbers each) x 30 iterations,
  30 elites; start and goal are encoded once.
* ``ac-rollout``: V-JEPA 2-AC's predictor, 8 steps after one frame; 16 x 16 patches of 1024 numbers, 384 wide, 6 layers
  (the released one is 1024 wide and has 24), beside facebookresearch/vjepa2.
* ``dit-sample``: semantic-wm's DiT-S, 6 frames after 2 in 10 denoising steps; 16 x 16 tokens of 96 numbers, beside the
  straightforward way of the paper (plain_dit.py; there is no public code that may be used).

Before any pair, both sides compute with the same weights and the answers are compared.

    pip install --no-deps stable-worldmodel==0.1.1 loguru
    python benchmarks/jepa.py --reference installed --vjepa2 CHECKOUT --warmup 1 --tasks lewm-train ac-rollout
    python benchmarks/jepa.py --reference installed --tasks lewm-plan dit-sample

``--reference`` takes ``installed`` or a folder that holds ``stable_worldmodel``. See README.md and beside.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from beside import Benchmark, parse, run

SHAPES, TASKS = ("full",), ("lewm-train", "lewm-plan", "ac-rollout", "dit-sample")
PLAN = {"candidates": 300, "elites": 30}
SMALL = {"candidates": 24, "iterations": 3, "elites": 6}
AC = {"grid": 16, "features": 1024, "dim": 384, "layers": 6, "heads": 6, "steps": 8}
DIT = {"grid": 16, "layers": 12, "dim": 384, "heads": 6, "head_dim": 2048, "frames": 6, "steps": 10}
TINY = {"ac-rollout": {"grid": 4, "features": 24, "dim": 48, "layers": 2, "heads": 2, "steps": 4},
        "dit-sample": {"grid": 4, "layers": 2, "dim": 32, "heads": 2, "head_dim": 64, "frames": 3, "steps": 3}}
"""To see quickly that it runs (``--tiny``); LeWM has one size, and fewer clips and iterations then."""
SEEN, ACTION = 2, 10


def normed(pictures: Any) -> Any:
    """Pictures in [0, 1] as the official LeWM gets them."""
    import torch

    from worldkit.encoders.vit_cls import IMAGENET

    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    return (pictures - mean) / std


def clips(tiny: bool, seed: int) -> tuple[Any, Any]:
    """Pictures ``[B, 4, 3, 224, 224]`` in [0, 1], actions ``[B, 4, 10]``."""
    import torch

    source, count = torch.Generator().manual_seed(seed), 2 if tiny else 8
    return torch.rand(count, 4, 3, 224, 224, generator=source), torch.randn(count, 4, 10, generator=source)


def opened(model: Any) -> Any:
    """The same model, with what begins closed (gates at zero) drawn at random, so that everything counts."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.abs().max() == 0:
                torch.nn.init.normal_(parameter, std=0.02)
    return model


def lewm(**changes: Any) -> Any:
    """Ours."""
    import worldkit as wk

    return opened(wk.create_model("lewm", **changes))


def learn(model: Any, loss: Callable[[], Any]) -> Callable[[], float]:
    """A step of training."""
    import torch

    adam = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=1e-3)

    def step() -> float:
        total = loss()
        adam.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        return total.item()

    return step


def our_loss(model: Any, video: Any, action: Any) -> Callable[[], Any]:
    from worldkit.batch import Batch

    batch = Batch(video, {"action": action})
    return lambda: model.loss(batch).total


def our_plan(model: Any, video: Any, sizes: dict, seed: int) -> Callable[[], Any]:
    """One plan, from the first frame to the last of the first clip."""
    import torch

    from worldkit.planning import CEM, Continuous, Shooting

    def last(imagined: Any, goal: Any) -> Any:
        return imagined.split((imagined.latents[:, -1:].pack() - goal.latent.pack()).square().sum((1, 2, 3)))

    def solve() -> Any:
        unbounded = Continuous((-float("inf"),) * 10, (float("inf"),) * 10)
        task = Shooting(model, video[:1, :1], last, goal=video[:1, -1], space=unbounded)
        return CEM(**sizes).solve(task, 5, generator=torch.Generator().manual_seed(seed)).actions

    return solve


def ac(sizes: dict, seed: int) -> tuple[Any, Any, Any]:
    """Our model with a small encoder, which nothing runs; latents of one frame; actions."""
    import torch

    import worldkit as wk
    from worldkit.latents import Latent

    torch.manual_seed(seed)
    side = 16 * sizes["grid"]
    picture = {"dim": sizes["features"], "num_layers": 1, "num_heads": sizes["features"] // 12, "mlp_ratio": 1.0}
    if sizes["features"] % 12:
        picture["num_heads"] = sizes["features"] // 64
    model = wk.create_model(
        "vjepa2-ac", obs={"height": side, "width": side}, timestep_horizon=sizes["steps"], encoder={"picture": picture},
        dynamics={"dim": sizes["dim"], "num_layers": sizes["layers"], "num_heads": sizes["heads"]},
    ).eval()
    patches = torch.nn.functional.layer_norm(torch.randn(1, 1, sizes["grid"] ** 2, sizes["features"]),
                                             (sizes["features"],))
    pose = 0.3 * torch.rand(1, 1, 1, 7)
    values = {key: patches if key[0] == "patches" else pose for key in model.encoder.spec.keys()}
    return model, Latent.build(model.encoder.spec, values), 0.05 * torch.randn(1, sizes["steps"], 7)


def our_rollout(model: Any, z: Any, actions: Any) -> Callable[[], Any]:
    import torch

    told = torch.cat([actions, torch.zeros_like(actions[:, :1])], 1)
    return torch.no_grad()(lambda: model.rollout(z, actions.shape[1], conditions={"action": told},
                                                 decode=False).latents.get("features"))


def dit(sizes: dict, seed: int) -> tuple[Any, Any, Any, Any]:
    """Our dynamics; tokens of the frames that are seen, what frames carry, and the noise of the others."""
    import torch

    import worldkit as wk

    torch.manual_seed(seed)
    side = 16 * sizes["grid"]
    model = wk.create_model(
        "semantic-wm-s", obs={"height": side, "width": side}, decoder=None, encoder={"picture": {"num_layers": 1}},
        dynamics={"dim": sizes["dim"], "num_layers": sizes["layers"], "num_heads": sizes["heads"],
                  "head_dim": sizes["head_dim"], "steps": sizes["steps"]},
    ).eval()
    seen, noise = torch.randn(1, SEEN + sizes["frames"], sizes["grid"] ** 2, 96).split([SEEN, sizes["frames"]], 1)
    return opened(model.dynamics), seen, torch.randn(1, SEEN + sizes["frames"] - 1, ACTION), noise


def our_sample(dynamics: Any, seen: Any, actions: Any, noise: Any) -> Callable[[], Any]:
    import torch

    from worldkit.conditions import Condition

    @torch.no_grad()
    def sample() -> Any:
        z, past = dynamics._latent(seen), seen.shape[1] - 1
        carry = dynamics.start(z, Condition(frame=actions[:, :past]))
        found = []
        for n in range(noise.shape[1]):
            now = actions[:, : past + n + 1]
            frame = dynamics.draw(carry, noise[:, n : n + 1], now)
            carry.action = now[:, -1:]
            dynamics.observe(carry, dynamics._latent(frame))
            found.append(frame)
        return torch.cat(found, 1)

    return sample


def plain_sample(dynamics: Any, sizes: dict, seen: Any, actions: Any, noise: Any) -> Callable[[], Any]:
    from plain_dit import PlainDiT

    weights = {name: value.detach() for name, value in dynamics.network.state_dict().items()}
    plain = PlainDiT(weights, layers=sizes["layers"], heads=sizes["heads"], grid=(sizes["grid"],) * 2)
    told, given = dynamics.carried(actions)
    told[~given] = told.new_tensor([0.0] * (ACTION - 1) + [1.0])
    return lambda: plain.sample(seen, told, noise, sizes["steps"], dynamics.noise.shift)


def sizes_of(task: str, options: argparse.Namespace) -> dict:
    if task == "dit-sample" and not options.tiny:
        return DIT | {"steps": options.denoising}
    return TINY[task] if options.tiny else AC


def rounds(options: argparse.Namespace) -> dict:
    return SMALL if options.tiny else PLAN | {"iterations": options.iterations}


def run_ours(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    import torch

    torch.manual_seed(options.seed)
    if task == "ac-rollout":
        return our_rollout(*ac(sizes_of(task, options), options.seed))
    if task == "dit-sample":
        return our_sample(*dit(sizes_of(task, options), options.seed))
    video, action = clips(options.tiny, options.seed)
    model = lewm()
    if task == "lewm-train":
        return learn(model, our_loss(model.train(), video, action))
    return our_plan(model.eval(), video, rounds(options), options.seed)


def run_reference(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    import torch

    torch.manual_seed(options.seed)
    if task == "dit-sample":
        sizes = sizes_of(task, options)
        return plain_sample(*reordered(dit(sizes, options.seed), sizes))
    if task == "ac-rollout":
        sizes = sizes_of(task, options)
        _, z, actions = ac(sizes, options.seed)
        theirs = official_ac(options, sizes)
        return lambda: theirs.rollout(z.get("features"), z.flat("pose")[:, :, 0], actions)
    from reference_jepa import LeWM

    video, action = clips(options.tiny, options.seed)
    video, theirs = normed(video), LeWM(options.reference)
    opened(theirs.model)
    if task == "lewm-train":
        theirs.model.train()
        return learn(theirs.model, lambda: theirs.loss(video, action))
    theirs.model.eval()
    solve = theirs.planner(rounds(options), options.seed)
    return lambda: quietly(lambda: solve(video[:1, :1], video[:1, -1:]))


def reordered(made: tuple, sizes: dict) -> tuple:
    return made[0], sizes, *made[1:]


def official_ac(options: argparse.Namespace, sizes: dict) -> Any:
    from reference_jepa import VJEPA2AC

    if not options.vjepa2:
        raise SystemExit("ac-rollout runs beside a checkout of github.com/facebookresearch/vjepa2: --vjepa2 FOLDER")
    return VJEPA2AC(options.vjepa2, sizes)


def quietly(solve: Callable[[], Any]) -> Any:
    """Without the lines that its solver prints."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        return solve()


def check(shape: str, options: argparse.Namespace) -> dict:
    """Answers of both sides with equal weights; tasks that were not asked for are left out."""
    import torch

    asked, found = options.checked.split(","), {}
    if {"lewm-train", "lewm-plan"} & set(asked):
        found |= check_lewm(options)
    if "ac-rollout" in asked:
        from worldkit.convert.vjepa import target_of

        sizes = sizes_of("ac-rollout", options)
        model, z, actions = ac(sizes, options.seed)
        theirs = official_ac(options, sizes)
        ours = dict(model.named_parameters())
        with torch.no_grad():
            for key, value in theirs.predictor.state_dict().items():
                ours[target_of(f"ac|{key}")].copy_(value)
        pose = z.flat("pose")[:, :, 0]
        found["ac-rollout"] = apart(our_rollout(model, z, actions)(), theirs.rollout(z.get("features"), pose, actions))
    if "dit-sample" in asked:
        sizes = TINY["dit-sample"]
        made = dit(sizes, options.seed)
        found["dit-sample"] = apart(our_sample(*made)(), plain_sample(*reordered(made, sizes))())
    if not max(found.values()) <= 1e-3:
        raise SystemExit(f"answers of the two sides are apart by {found}")
    return {"apart": found}


def check_lewm(options: argparse.Namespace) -> dict[str, float]:
    """Loss of two clips without dropout, and a small plan under equal noise; ours is the official model, converted."""
    import torch
    from reference_jepa import LeWM

    from worldkit.convert import from_lewm

    theirs = LeWM(options.reference, dropout=0.0)
    opened(theirs.model)
    ours = from_lewm(theirs.model.state_dict(), dynamics={"dropout": 0.0}, conditioners={"action": {"dropout": 0.0}},
                     objective={"sigreg": {"weight": 0.09}})
    video, action = clips(True, options.seed)
    found = {}
    solve = theirs.planner(SMALL, options.seed)
    theirs.model.eval()
    plan = quietly(lambda: solve(normed(video[:1, :1]), normed(video[:1, -1:])))
    found["lewm-plan"] = apart(our_plan(ours.eval(), video, SMALL, options.seed)(), plan)
    torch.manual_seed(0)
    wanted = theirs.model.train() and theirs.loss(normed(video), action)
    torch.manual_seed(0)
    found["lewm-train"] = apart(our_loss(ours.train(), video, action)(), wanted)
    return found


def apart(a: Any, b: Any) -> float:
    return float((a - b).abs().max())


BENCHMARK = Benchmark(__file__, __doc__, SHAPES, TASKS, run_ours, run_reference, check)

if __name__ == "__main__":
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--iterations", type=int, default=30, help="of lewm-plan; fewer take less long")
    more.add_argument("--denoising", type=int, default=10, help="steps of dit-sample; fewer take less long")
    more.add_argument("--vjepa2", help="checkout of github.com/facebookresearch/vjepa2, for ac-rollout")
    more.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    more.add_argument("--checked", help=argparse.SUPPRESS)
    asked = parse(BENCHMARK, more)
    asked.checked = asked.checked or ",".join(asked.tasks)
    run(BENCHMARK, asked)
