"""Is it training that latent actions read off the true future lack? One JSON line per evaluation.

    python benchmarks/latent_actions.py --steps 3000

Perception stays as the shipped weights have it: frames are encoded once, and only the dynamics and the latent actions
of `lpwm-balls-mini` learn on, by their own two terms of the ELBO (KL of the dynamics, KL of the latent actions) with
the preset's weights. Whatever changes in the two rows therefore comes from training those two parts longer.

The first line says what the shipped weights do with either (see `explain`). Every other line: steps, their wall
seconds, the mean of the KL terms since the last line (nats per clip), and PSNR in dB of five frames after five given
ones on test clips: the mean of all, then frame by frame, driven by the mean of the policy (``prior``)
and by latent actions read off the true future (``inferred``); ``gap`` is inferred - prior, paired over clips, with half
of its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import Tensor

import worldkit as wk
from worldkit.batch import Batch, to_float_video
from worldkit.conditions import EMPTY
from worldkit.data import ClipDataset, collate
from worldkit.distributions import MEANS, Sampler
from worldkit.latents import Latent, LatentDist
from worldkit.metrics import score_predictions
from worldkit.model import ComposedWorldModel
from worldkit.objectives.terms import action_kl, by_field
from worldkit.training import evaluate, predict
from worldkit.training.evaluation import choose_clips
from worldkit.training.recipes import open_clips

PRESET, DATA, CONTEXT, HORIZON = "lpwm-balls-mini", "balls-32", 5, 5


@torch.no_grad()
def encode(model: ComposedWorldModel, count: int) -> LatentDist:
    """Posteriors of all frames of training episodes, ``[episodes, frames]``."""
    episodes = open_clips(model, DATA, split="train", num_frames=100)
    return LatentDist.cat([model.perceive(to_float_video(episodes[i]["video"])[None]).posterior
                           for i in range(min(count, len(episodes)))], 0)


def terms(model: ComposedWorldModel, frames: LatentDist, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """KL terms of random training clips, in nats per clip."""
    count, length = frames.shape
    episode = torch.randint(count, (batch,), generator=generator)[:, None]
    start = torch.randint(length - model.clip_length + 1, (batch,), generator=generator)[:, None]
    posterior = frames[episode, start + torch.arange(model.clip_length)]
    sampler = Sampler(generator=generator)
    z = posterior.sample(sampler)
    steering = model.condition(z, Batch(z.pack()), sampler=sampler)
    prior = model.predict_next(z, steering.cond)
    found = by_field(posterior[:, 1:].kl(prior), z.spec, gate=z[:, 1:])
    found["latent_action"] = action_kl(steering, z.spec, 0)
    return {name: kl.sum(2).mean() for name, kl in found.items()}


def score(model: ComposedWorldModel, clips: ClipDataset, count: int) -> dict[str, list[float]]:
    """PSNR by what drives the rollouts, and the paired gap."""
    reports = evaluate(model, clips, context_frames=CONTEXT, driven_by=("prior", "inferred"), max_clips=count)
    out = {driver: [r.summary("model", "psnr").mean, *(p.mean for p in r.curve("model", "psnr"))]
           for driver, r in reports.items()}
    gap = reports["inferred"].per_clip("model", "psnr") - reports["prior"].per_clip("model", "psnr")
    out["gap"] = [gap.mean().item(), 1.96 * gap.std().item() / len(gap) ** 0.5]
    return {name: [round(value, 2) for value in values] for name, values in out.items()}


@torch.no_grad()
def explain(model: ComposedWorldModel, clips: ClipDataset, count: int) -> dict[str, dict]:
    """What either driver knows, and what its drawings lack.

    KL of the first transitions by field, from true frames (nats per transition); PSNR of the predicted frames as drawn,
    with the particles drawn that the encoder would choose, and with the true positions put in.
    """
    batch = collate([clips[i] for i in choose_clips(clips, count)])
    truth = to_float_video(batch.video)
    given, seen = model.perceive(truth[:, : CONTEXT + 1]), model.encode(truth)[:, CONTEXT:]
    action, policy = model.latent_action(given.latent, EMPTY)
    found = {}
    for driver, dist in (("prior", policy[:, :-1]), ("inferred", action)):
        cond = model.latent_action.condition(dist.sample(MEANS, driver))
        kl = given.posterior[:, 1:].kl(model.dynamics.prior(given.latent[:, :-1], cond))
        z = predict(model, batch, context_frames=CONTEXT, driven_by=driver, generator=None).latents
        where = {("particles", "position"): seen.position}
        drawn = {"as drawn": z, "those the encoder would draw": Latent.build(z.spec, z.values, score=seen.score),
                 "true positions": Latent.build(z.spec, {**z.values, **where})}
        found[driver] = {"kl": {name if group == "particles" else group: round(v.sum(-1).mean().item(), 1)
                                 for (group, name), v in kl.items()}}
        for name, latent in drawn.items():
            psnr = score_predictions(model.decode(latent).video.clamp(0, 1), truth[:, CONTEXT:])["psnr"].mean(0)
            found[driver][name] = [round(p, 2) for p in psnr.tolist()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=500, help="steps between evaluations")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=6e-4, help="after a rise over 200 steps")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=200, help="of the training split")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model = wk.create_model(PRESET, pretrained=True).eval().requires_grad_(False)
    learning = [*model.dynamics.parameters(), *model.latent_action.parameters()]
    for parameter in learning:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(learning, lr=options.lr, eps=1e-6)
    generator = torch.Generator().manual_seed(options.seed)
    frames, clips = encode(model, options.episodes), open_clips(model, DATA, split="test", num_frames=CONTEXT + HORIZON)
    print(json.dumps(explain(model, clips, options.clips)), flush=True)
    print(json.dumps({"step": 0, **score(model, clips, options.clips)}), flush=True)
    seconds, sums = 0.0, {}
    factor = model.objective.scale * model.config.objective.weights.dynamics / model.clip_length
    for step in range(1, options.steps + 1):
        began = time.perf_counter()
        optimizer.param_groups[0]["lr"] = options.lr * min(1.0, step / 200)
        found = terms(model, frames, options.batch_size, generator)
        optimizer.zero_grad()
        (factor * sum(found.values())).backward()
        torch.nn.utils.clip_grad_norm_(learning, 100.0)
        optimizer.step()
        seconds += time.perf_counter() - began
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value.item() / options.every
        if step % options.every == 0:
            line = {"step": step, "seconds": round(seconds), "kl": {k: round(v, 1) for k, v in sums.items()}}
            print(json.dumps(line | score(model, clips, options.clips)), flush=True)
            sums = {}


if __name__ == "__main__":
    main()
