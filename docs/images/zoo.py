"""Draw zoo-NAME.png for every model that ships, and write the table and records of docs/zoo.md: seconds each.

``python docs/images/zoo.py`` after ``benchmarks/zoo.py`` has put weights there; ``--text`` writes the page only.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

import worldkit as wk
from worldkit.presets import preset_spec
from worldkit.presets.shipped import facts_of, megabytes

HERE = Path(__file__).parent
PAGE, CLIP = HERE.parent / "zoo.md", 0
BASELINES = {"copy last frame": "over copying", "mean training frame": "over the mean frame"}
STATIC, GAUSSIAN, SHOWN = "the encoder's own prior", "a Gaussian of pixels", 6
KNOWN, SIDE = 10_000, 32
"""Frames of the training split among which the nearest ones are looked for, and their pixels."""
MORE = {"fg_ari": "FG-ARI", "miou": "mIoU", "ssim": "SSIM"}


def number(stored):
    """A mean with half of its interval; a star where that does not hold 0, of differences."""
    return f"{stored['mean']:.2f} ± {(stored['high'] - stored['low']) / 2:.2f}"


def error(stored):
    """The same of what may be very small."""
    return f"{stored['mean']:.2g} ± {(stored['high'] - stored['low']) / 2:.1g}"


def difference(stored):
    return f"{number(stored)}{' *' if stored['low'] > 0 or stored['high'] < 0 else ''}"


def table(names):
    """What each model reaches, in GitHub's Markdown."""
    rows = ["| model | what it is | MB | scored | PSNR (dB) ↑ | over copying | over the mean frame | more |",
            "| --- | --- | ---: | --- | ---: | ---: | ---: | --- |"]
    for name in names:
        facts, spec = facts_of(preset_spec(name)), preset_spec(name)
        evaluation, samples = facts["evaluation"], facts.get("samples")
        cells, more = of_frames(evaluation) if evaluation else of_pictures(samples)
        if evaluation and samples:
            more.append(f"drawn out of nothing: {in_words(samples, 'videos', STATIC)}")
        if read := facts.get("probe"):
            more.append(f"{read['target']} read off it by a linear map: R2 {number(read['r2']['latent linear'])} "
                        f"(off pixels {read['r2']['pixels linear']['mean']:.2f})")
        rows.append(f"| [`{name}`](#{name}) | {spec.summary} | {megabytes(spec):.1f} | {' | '.join(cells)} | "
                    f"{'; '.join(more)} |")
    return "\n".join(rows)


def of_frames(evaluation):
    """What was scored, the PSNR and what it is over the baselines, and more; of frames that follow others."""
    first, *others = evaluation
    model, protocol = first["results"]["model"], first["protocol"]
    over = [difference(model["psnr"]["over"][b]) if "psnr" in model else "-" for b in BASELINES]
    if first["driven by"] == "encoded":  # who sees the frames need not copy
        over[0] = "-"
    given, horizon = protocol["context_frames"], protocol["horizon"]
    frames = f"{given} frame{'s' if given > 1 else ''} given, {horizon} predicted"
    scored = {"prior": frames, "inferred": f"{frames} by latent actions read off them",
              "encoded": f"{given + horizon} frames seen, the last {horizon} drawn again"}[first["driven by"]]
    more = [f"{title} {number(model[key])}" for key, title in MORE.items() if key in model]
    if "probe_error" in model:
        still, seen = first["results"]["copy last frame"], others[0]["results"]["model"]
        more.append(f"state read off predicted latents by a linear map: error {error(model['probe_error'])} of its "
                    f"variance (off the last given one {error(still['probe_error'])}, off those of the true frames "
                    f"{error(seen['probe_error'])})")
    for other in others:
        if "med10" in other["results"]["model"]:
            still = other["results"]["copy last frame"]["med10"]["total"]
            more.append(f"MED10 {other['results']['model']['med10']['total']:.2f} (standing still {still:.2f})")
    return [f"{scored}, n = {first['n']}", number(model["psnr"]) if "psnr" in model else "-", *over], more


def of_pictures(samples):
    """The same of pictures that are drawn out of nothing."""
    return ["drawn out of nothing, n = {n}".format(**samples), "-", "-", "-"], [in_words(samples, "pictures", GAUSSIAN)]


def in_words(samples, what, against):
    """How near drawn frames are to true ones."""
    other = samples["other true videos"]
    return (f"{samples['model']['things']:.2f} things a frame (true {other['things, true']:.2f}), FID "
            f"{samples['model']['fid']:.1f} (true {what} {other['fid']:.1f}, {against} {samples[against]['fid']:.0f})")


def record(name):
    """The section of a model: picture, how it was made, how to score it."""
    facts = facts_of(preset_spec(name))
    scored = [*facts["evaluation"], *(facts[key] for key in ("samples", "probe") if key in facts)]
    commands = list(dict.fromkeys([facts["command"], *(entry["command"] for entry in scored)]))
    computed = f" ({facts['cpu minutes']:g} of them computing)" if facts.get("cpu minutes") else ""
    made = (f"Made by the first line: seed {facts['seed']}, {facts['steps']:,} steps, {facts['minutes']:g} minutes of "
            f"training{computed}, {facts['hardware']}; torch {facts['torch']}, {facts['date']}; {facts['note']}.")
    if facts.get("weights from"):
        made += f" It began with the weights of {facts['weights from']}."
    lines = "\n".join(f"    {command}" for command in commands)
    kind, spec = ("videos" if facts["evaluation"] else "pictures"), preset_spec(name)
    shown = f"{kind} out of nothing" if "samples" in facts else "the truth, the model, what it found on a test clip"
    if "psnr" not in spec.eval.get("metrics", ["psnr"]):
        shown = "the truth, and the recorded frames whose latents are nearest to the predicted ones"
    return (f"### {name}\n\n![{name}: {shown}](images/zoo-{name}.png)\n\n"
            f"{facts['headline']}.\n\n{lines}\n\n{made} The other lines score it again.")


def page(names):
    """Everything that is made of the records beside the weights."""
    return "\n\n".join(["<!-- zoo -->", table(names), *map(record, names), "<!-- end -->"])


def strip(model, batch, context_frames):
    """Truth, prediction and what was found; of a model with actions also what it predicts for the opposite ones."""
    from worldkit.training.glance import PREDICTED, Glance, glance

    seen = glance(model, batch, context_frames=context_frames)
    if "action" not in model.conditioners or not seen.predicts:
        return seen.strip()
    action, number = batch.conditions["action"].clone(), model.conditioners["action"].config.num_actions
    done = action[:, context_frames - 1:]  # the first of them leads to the first predicted frame
    done.copy_(-done if number is None else -done % number)
    other = replace(batch, conditions={**batch.conditions, "action": action})
    rows = {"the opposite actions": glance(model, other, context_frames=context_frames).rows[PREDICTED]}
    return Glance(seen.rows | rows, seen.context_frames, seen.predicts).strip()


@torch.no_grad()
def nearest(model, facts, context_frames, horizon):
    """Truth, and of a model that draws nothing the recorded frames whose latents are nearest to what it predicts."""
    from worldkit.data import collate, open_dataset
    from worldkit.training.recipes import open_clips
    from worldkit.viz import rollout_strip

    def opened(split, frames, mode):
        options = facts.get("data options", {})
        clips = open_clips(model, facts["data"], split=split, num_frames=frames, mode=mode, **options)
        size = {"height": SIDE, "width": SIDE}
        return clips, open_dataset(facts["data"], split=split, num_frames=frames, mode=mode, **size, **options)

    def latents(batch):
        return model.encode(batch).pack().flatten(0, 1).flatten(1)

    (clips, seen), (known, recorded) = opened("test", context_frames + horizon, "tile"), opened("train", 1, "tile")
    some = torch.linspace(0, len(known) - 1, KNOWN).long()
    there = torch.cat([latents(collate([known[i] for i in part.tolist()])) for part in some.split(64)])
    batch = collate([clips[CLIP]])
    made = model.rollout(batch.context(context_frames), horizon, conditions=batch.conditions, decode=False,
                         deterministic=True).latents.pack()[0].flatten(1)
    found = [recorded[i]["video"][0] for i in some[torch.cdist(made, there).argmin(1)].tolist()]
    truth = seen[CLIP]["video"]
    shown = wk.batch.to_float_video(torch.cat([truth[:context_frames], torch.stack(found)]))
    return rollout_strip(wk.batch.to_float_video(truth), {"nearest recorded": shown}, context_frames=context_frames)


def draw(name):
    """A picture of a shipped model on a test clip."""
    from worldkit.data import collate
    from worldkit.training.figures import rollouts_beside_truth
    from worldkit.training.recipes import open_clips
    from worldkit.viz import animate_samples, rollout_strip, samples_strip, save_png
    from worldkit.viz.animation import INFERRED

    model, facts = wk.create_model(name, pretrained=True), facts_of(preset_spec(name))
    if model.prior is not None:
        horizon, count = (6, SHOWN) if facts["evaluation"] else (0, 2 * SHOWN)
        rollout = model.sample(count, horizon, generator=torch.Generator().manual_seed(0), deterministic=True)
        videos = torch.cat([rollout.context_video, rollout.video], 1).clamp(0, 1)
        first = rollout.context_video.shape[1]
        shown = samples_strip(videos, first_frames=first) if horizon else animate_samples(videos, first_frames=first)[0]
        save_png(shown, HERE / f"zoo-{name}.png")
        return
    first = facts["evaluation"][0]
    given, horizon = first["protocol"]["context_frames"], first["protocol"]["horizon"]
    if model.decoder is None:
        save_png(nearest(model, facts, given, 2 * horizon), HERE / f"zoo-{name}.png")
        return
    clips = open_clips(model, facts["data"], split="test", num_frames=given + horizon, **facts.get("data options", {}))
    batch = collate([clips[CLIP]])
    if first["driven by"] == "inferred":
        found = rollouts_beside_truth(model, batch, context_frames=given)
        shown = rollout_strip(found["truth"], {INFERRED: found["rollouts"][INFERRED]}, context_frames=given)
    else:
        shown = strip(model, batch, given)
    save_png(shown, HERE / f"zoo-{name}.png")


def main():
    """Pictures and page."""
    names = wk.list_models(pretrained=True)
    for name in names if "--text" not in sys.argv else ():
        draw(name)
    text = PAGE.read_text("utf-8")
    PAGE.write_text(re.sub("<!-- zoo -->.*<!-- end -->", lambda match: page(names), text, flags=re.S), "utf-8")


if __name__ == "__main__":
    main()
