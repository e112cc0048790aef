"""From a trained run to weights that ship: ``python benchmarks/zoo.py runs/lpwm-balls-mini`` (minutes).

Takes the run's best model by validation, evaluates it on the test split by its preset's own protocol, over five
predicted frames, by every protocol that the preset's ``eval.protocols`` names, and by a probe of the column that its
``eval.probe`` names; a model that draws single pictures out of nothing (``eval.horizon = 0``) by what it draws, as the
encoder of the model that ``eval.judge`` names sees it. Then writes
``worldkit/presets/weights/NAME.safetensors`` and ``NAME.json``: how it was made, what it reaches, and ``check``: what a
few clips must give. ``--half`` stores numbers of 16 bits, and evaluates what is stored. ``--refresh NAME`` evaluates
shipped weights again, ``--check`` repeats the few clips of all.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import worldkit as wk
from worldkit.data import collate
from worldkit.errors import ConfigError, DataError, WorldkitError
from worldkit.metrics import Protocol, count_spots
from worldkit.presets import packaged_file, preset_spec
from worldkit.presets.shipped import MAX_MB, facts_of, refuse_older
from worldkit.storage.folders import WEIGHTS_FILE, digest, find_model, read_facts, read_json
from worldkit.storage.hub import load_folder
from worldkit.training import compare, find_protocol
from worldkit.training.generation import compare as compare_frames
from worldkit.training.generation import gaussian_frames, look_at
from worldkit.training.probe import probe
from worldkit.training.recipes import open_clips

WEIGHTS = Path(wk.__file__).parent / "presets" / "weights"
FRAMES, CLIPS, LEAST, FEW = 5, 200, 100, 8
"""Predicted frames of the headline; clips it rests on at most; clips of any number at least; clips of the check."""
LOG_LINES = 60
OF_OBJECTS, SEEN, TOLD = ("fg_ari", "miou"), "encoded", "inferred"
PICTURES = 1000
"""Half of the training pictures that a Gaussian is fitted to, at most."""
ENOUGH = 100
"""Episodes made for a training; a model that had more is scored on the usual number, on the same clips as others."""
DRAWN, SAMPLED = 128, 6
"""Videos drawn out of nothing, and frames predicted behind the first ones."""
STATIC, GAUSSIAN = "the encoder's own prior", "a Gaussian of pixels"
"""What they are held against: of videos, and of pictures alone."""
HALF = "numbers of 16 bits"


# -- evaluating


def evaluations(model: Any, name: str, data: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the documentation says of a model: each with the command that repeats it, its protocol and its results.

    First its predictions over the frames of the headline, and how it reconstructs the same frames, unless it encodes
    nothing; where the data know true segments and the model draws masks, with the metrics of objects. Of a model that
    draws single pictures, nothing.
    """
    if not predicts(name):
        return []
    own, objects = find_protocol(name), has_segments(model, data, options)
    seen = () if model.config.encoder.name == "identity" else (SEEN,)
    changes = {"horizon": min(FRAMES, own.horizon), "max_clips": CLIPS,
               "driven_by": tuple(dict.fromkeys((*own.driven_by, *seen))),
               "metrics": (*own.metrics, *(OF_OBJECTS if objects else ()))}
    wanted = [(own, changes, {"segments": "true"} if objects else {})]
    wanted += [(own, {}, {})] if own.horizon > FRAMES else []
    for other in preset_spec(name).eval.get("protocols", ()):
        few = find_protocol(other).windows == "start" and data.startswith("balls")  # 20 episodes: 20 such clips
        wanted.append((find_protocol(other), {}, {"num_episodes": 100} if few else {}))
    return [entry for protocol, changes, more in wanted
            for entry in _evaluated(model, name, data, protocol, changes, {**options, **more})]


def _evaluated(
    model: Any, name: str, data: str, base: Protocol, changes: Mapping[str, Any], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One entry for each of what drives the rollouts."""
    protocol, changed = base.changed(**changes)
    read = {key: True if value == "true" else value for key, value in options.items()}
    result = compare({name: model}, data, protocol, changed=changed, data_options=read, pictures=0)
    words = [f"worldkit eval {name} --data {data}", *([f"--protocol {base.name}"] if base.name != name else [])]
    words += [f"--{key.replace('_', '-')} {value}" for key, value in changed.items() if not isinstance(value, tuple)]
    words += [f"--metrics {','.join(changed['metrics'])}"] if "metrics" in changed else []
    words += [f"--driven-by {driver}" for driver in changed.get("driven_by", ())]
    words += [f"-o data.{key}={value}" for key, value in options.items()]
    return [{"command": " ".join(words), "driven by": driver, "protocol": protocol.to_dict(),
             "n": reports[name].protocol["n"], "results": rounded(reports[name].to_dict()["results"])}
            for driver, reports in result.reports.items()]


def predicts(name: str) -> bool:
    """Whether a preset is about frames that follow others, or draws single ones out of nothing."""
    return preset_spec(name).eval.get("horizon") != 0


def has_segments(model: Any, data: str, options: Mapping[str, Any]) -> bool:
    """Whether the data can tell true segments, and the model draws masks that can be held against them."""
    if model.decoder is None:
        return False
    try:
        options = {**options, "num_episodes": 1, "segments": True}
        clip = open_clips(model, data, split="test", num_frames=1, **options)[0]
    except (ConfigError, DataError):
        return False
    return model.decode(model.encode(clip["video"][None]), masks=True).masks is not None


def rounded(value: Any) -> Any:
    """Floats of a nested table with five digits."""
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def drawn(model: Any, name: str, data: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a model with a prior draws out of nothing, beside true videos and something simple."""
    judged_by = preset_spec(name).eval.get("judge")
    judge = wk.create_model(judged_by, pretrained=True) if judged_by else model
    sampled, step = SAMPLED if predicts(name) else 0, 8
    frames = model.prior.config.frames + sampled
    seen = look_at(judge, _some(model, data, "test", frames, DRAWN, options))
    true, other = seen.in_units_of(seen)[::2], seen.in_units_of(seen)[1::2]

    def scores(videos: torch.Tensor) -> dict[str, float]:
        return rounded(compare_frames(true, look_at(judge, videos).in_units_of(seen)))

    def made() -> torch.Tensor:
        generator, videos = torch.Generator().manual_seed(0), []
        with torch.no_grad():
            for _ in range(0, DRAWN, step):
                rollout = model.sample(step, sampled, generator=generator, deterministic=True)
                videos.append(torch.cat([rollout.context_video, rollout.video], -4))
        return torch.cat(videos)

    words = [f"worldkit sample {name} --data {data} --n {DRAWN}"]
    words += [f"--horizon {SAMPLED} --follow means"] if sampled else [f"--judge {judged_by}"]
    found, prior = scores(made()), model.prior
    if sampled:
        model.prior = None
        simple = {STATIC: scores(made())}
        model.prior = prior
    else:
        learned = _some(model, data, "train", frames, PICTURES, options)
        simple = {GAUSSIAN: scores(gaussian_frames(learned, DRAWN, generator=torch.Generator().manual_seed(0)))}
    return {"command": " ".join(words), "n": DRAWN, "frames": frames, "model": found,
            "other true videos": rounded(compare_frames(true, other)), **simple}


def _some(model: Any, data: str, split: str, frames: int, half: int, options: Mapping[str, Any]) -> torch.Tensor:
    """Twice so many true videos, if there are so many, evenly spread; they begin with their episodes."""
    clips = open_clips(model, data, split=split, num_frames=frames, mode="first", **options)
    return collate([clips[i] for i in clips.spread(2 * half)]).video


def probed(model: Any, name: str, data: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What is read off a model's latents: R2 and its interval by features and kind of probe."""
    target = preset_spec(name).eval["probe"]
    report = probe(model, data, target, data_options=options)
    words = [f"worldkit probe {name} --data {data} --target {target}"]
    words += [f"-o data.{key}={value}" for key, value in options.items()]
    return {"command": " ".join(words), "target": target, "n": report.frames[1], "episodes": report.episodes,
            "r2": rounded({f"{score.features} {score.probe}": {"mean": score.r2, "low": score.low, "high": score.high}
                           for score in report.scores})}


def headline(
    found: Sequence[Mapping[str, Any]], samples: Mapping[str, Any] | None = None,
    read: Mapping[str, Any] | None = None,
) -> str:
    """What a model reaches, in a line."""
    parts = []
    if samples:
        against = STATIC if STATIC in samples else GAUSSIAN
        what = "videos" if against == STATIC else "pictures"
        fid = {whose: samples[whose]["fid"] for whose in ("model", "other true videos", against)}
        things, true = samples["model"]["things"], samples["model"]["things, true"]
        parts.append(f"draws {things:.1f} things a frame, true {true:.1f}; FID {fid['model']:.0f}, other true "
                     f"{what} {fid['other true videos']:.0f}, {against} {fid[against]:.0f}")
    if found:
        parts += _of_frames(found)
    if read:
        parts.append(f"{read['target']} read off it: R2 {read['r2']['latent linear']['mean']:.2f} by a linear map")
    return "; ".join(parts)


def _of_frames(found: Sequence[Mapping[str, Any]]) -> list[str]:
    first, *others = found
    model, still, horizon = first["results"]["model"], first["results"]["copy last frame"], first["protocol"]["horizon"]
    if "psnr" not in model:
        encoded = next(entry["results"]["model"] for entry in others if entry["driven by"] == SEEN)
        parts = [f"state read off {horizon} predicted latents: error {model['probe_error']['mean']:.2g} of its "
                 f"variance, off the last given one {still['probe_error']['mean']:.2g}, off those of the true frames "
                 f"{encoded['probe_error']['mean']:.2g}"]
    elif first["driven by"] == SEEN:
        mean = first["results"]["mean training frame"]["psnr"]["mean"]
        parts = [f"frames drawn again at {model['psnr']['mean']:.1f} dB, the mean frame {mean:.1f}"]
    else:
        told = " by latent actions read off them" if first["driven by"] == TOLD else ""
        parts = [f"{model['psnr']['mean']:.1f} dB over {horizon} predicted frames{told}, "
                 f"copying {still['psnr']['mean']:.1f}"]
    parts += [f"FG-ARI {model['fg_ari']['mean']:.2f}"] if "fg_ari" in model else []
    for table in (other["results"] for other in others):
        if "med10" in table["model"]:
            parts.append(f"MED10 {table['model']['med10']['total']:.2f}, standing still "
                         f"{table['copy last frame']['med10']['total']:.2f}")
    return parts


# -- the check: a few clips, a second


def few_clips(model: Any, name: str, data: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a few fixed clips, or of a few drawn pictures, and how to get them again (`numbers_of`)."""
    if not predicts(name):
        return {"drawn": FEW, "numbers": rounded(numbers_of(model, {"drawn": FEW}))}
    own, objects = find_protocol(name), has_segments(model, data, options)
    small = {**options, "num_episodes": 4} if _takes_episodes(model, data, options) else dict(options)
    check = {"data": data, "options": small | ({"segments": True} if objects else {}), "driven by": own.driven_by[0],
             "context_frames": own.context_frames, "horizon": min(FRAMES, own.horizon), "clips": FEW,
             "metrics": [*own.metrics, *(OF_OBJECTS if objects else ())]}
    return check | {"numbers": rounded(numbers_of(model, check))}


def numbers_of(model: Any, check: Mapping[str, Any]) -> dict[str, float]:
    """Mean scores of the model, and what the copied last frame scores by the first of them, on the clips of a check."""
    if "drawn" in check:
        drawn = model.sample(check["drawn"], 0, generator=torch.Generator().manual_seed(0)).context_video
        return {"things": count_spots(drawn).double().mean().item(), "brightness": drawn.mean().item()}
    driver, metrics = check["driven by"], tuple(check["metrics"])
    protocol = Protocol("check", "", "", check["context_frames"], check["horizon"], driven_by=(driver,),
                        max_clips=check["clips"], metrics=metrics)
    found = compare({"it": model}, check["data"], protocol, data_options=check["options"], pictures=0)
    report = found.reports[driver]["it"]
    return {metric: report.summary("model", metric).mean for metric in report.scores["model"]} | {
        f"copy last frame, {metrics[0]}": report.summary("copy last frame", metrics[0]).mean}


def _takes_episodes(model: Any, data: str, options: Mapping[str, Any]) -> bool:
    try:
        return bool(open_clips(model, data, split="test", num_frames=1, **{**options, "num_episodes": 4}))
    except (ConfigError, DataError):
        return False


# -- facts of a run


def facts_of_run(run: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """How a run's best model was made."""
    record, card = read_json(run / "run.json"), read_facts(folder)
    if not record or "step" not in card:
        raise SystemExit(f"error: {run} is no run folder of worldkit train: it lacks run.json, or {folder} train.json")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    options = {key.removeprefix("data."): value for key, value in card.items() if key.startswith("data.")}
    return {
        "command": arguments.command or public(record["command"]), "preset": card["preset"], "data": card["data"],
        "data options": options, "synthetic data": card.get("synthetic data"), "seed": card["seed"],
        "steps": card["step"], "minutes": round(card["training seconds"] / 60, 1),
        "cpu minutes": round(cpu / 60, 1) if (cpu := card.get("training cpu seconds")) else None,
        "note": arguments.note or _chosen(log, card["step"]),
        "weights from": public(card.get("weights from", "")) or None,
        "hardware": arguments.hardware or hardware(record), "torch": record["torch"], "worldkit": record["worldkit"],
        "date": datetime.datetime.fromtimestamp((folder / WEIGHTS_FILE).stat().st_mtime).date().isoformat(),
        "train": {key: public(value) if isinstance(value, str) else value for key, value in record["train"].items()},
        "config": record["model"], "log": thinned(log),
    }


def public(text: str) -> str:
    """A command without the places of one machine: ``/a/b/runs/x`` becomes ``runs/x``."""
    text = re.sub(r"^\S*/worldkit(/__main__\.py)?(?=\s)", "worldkit", text)
    return re.sub(r"(?<![\w.])/\S*/([^/\s]+)", r"runs/\1", text)


def _chosen(log: list[Mapping[str, Any]], step: int) -> str:
    scored = [entry["step"] for entry in log if "valid_loss" in entry]
    return f"the best of {len(scored)} evaluations on validation clips, step {step} of {log[-1]['step']}"


def hardware(record: Mapping[str, Any]) -> str:
    """Processor and threads of a run on this machine; a GPU is named by ``--hardware``."""
    if not str(record["device"]).startswith("cpu"):
        raise SystemExit(f"error: the run used {record['device']}: name it, for example --hardware 'one NVIDIA H100'")
    text = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", text)
    return f"{record['threads']} thread(s) of {name.group(1) if name else record['machine']}"


def thinned(log: list[Mapping[str, Any]], lines: int = LOG_LINES) -> list[dict[str, Any]]:
    """A log of at most so many lines of training and as many of evaluation, evenly spaced, with five digits."""
    parts = [[e for e in log if "loss" in e], [e for e in log if "valid_loss" in e]]
    kept = [part[i] for part in parts if part
            for i in sorted({round(j * (len(part) - 1) / max(1, lines - 1)) for j in range(lines)})]
    kept.sort(key=lambda entry: entry["step"])
    return [rounded({key: value for key, value in entry.items() if key != "epoch"}) for entry in kept]


# -- writing


def ship(run: Path, arguments: argparse.Namespace) -> None:
    """Evaluate a run's best model and put it among the shipped ones."""
    folder = find_model(run)
    facts = facts_of_run(run, folder, arguments)
    name = arguments.name or facts["preset"]
    with tempfile.TemporaryDirectory() as temporary:
        stored = Path(shutil.copytree(folder, Path(temporary) / "model")) / WEIGHTS_FILE
        if arguments.half:
            halve(stored)
            facts["note"] += f"; stored as {HALF}"
        size = stored.stat().st_size / 1e6
        if size > MAX_MB:
            raise SystemExit(f"error: {folder / WEIGHTS_FILE} has {size:.1f} MB, more than the {MAX_MB} MB that may "
                             f"ship: {'train a smaller model' if arguments.half else 'try --half'}")
        refuse_older(preset_spec(name), wk.create_config(name).to_dict(), facts)
        facts["weights"] = digest(stored)
        facts = judged(load_folder(stored.parent), name, facts)
        shutil.copyfile(stored, WEIGHTS / f"{name}.safetensors")
    write(name, facts)
    if preset_spec(name).weights is None:
        print(f'now say in its table of worldkit/presets/*.toml: weights = "weights/{name}.safetensors"')


def halve(file: Path) -> None:
    """Round a weights file's numbers to 16 bits, in place; as they are loaded they become what the model has."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    save_file({key: x.half() if x.is_floating_point() else x for key, x in tensors.items()}, file, metadata)


def refresh(name: str, arguments: argparse.Namespace) -> None:
    """Evaluate shipped weights again; how they were made stays as it is."""
    facts = facts_of(preset_spec(name))
    if arguments.half and HALF not in facts["note"]:
        halve(WEIGHTS / f"{name}.safetensors")
        facts["note"] += f"; stored as {HALF}"
    facts["config"] = wk.create_config(name).to_dict()  # they load strictly, so it fits
    facts["weights"] = digest(packaged_file(preset_spec(name)))
    write(name, judged(wk.create_model(name, pretrained=True), name, facts))


def judged(model: Any, name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts with evaluation, headline and check."""
    data = facts["data"]
    options = {key: value for key, value in facts.get("data options", {}).items()
               if key != "num_episodes" or int(value) <= ENOUGH}
    found = evaluations(model, name, data, options)
    lack = [f"{entry['n']} by {entry['command']}" for entry in found if entry["n"] < LEAST]
    if lack:
        raise SystemExit(f"error: numbers of fewer than {LEAST} clips do not ship: {'; '.join(lack)}")
    samples = {} if model.prior is None else {"samples": drawn(model, name, data, options)}
    read = {"probe": probed(model, name, data, options)} if preset_spec(name).eval.get("probe") else {}
    facts |= {"headline": headline(found, samples.get("samples"), read.get("probe")), "evaluation": found,
              **samples, **read, "check": few_clips(model, name, data, options)}
    order = ["headline", *(key for key in facts if key not in ("headline", "log")), "log"]
    return {key: facts[key] for key in order}


def write(name: str, facts: Mapping[str, Any]) -> None:
    """``weights/NAME.json``; the log one line an entry."""
    *others, log = facts.items()
    text = json.dumps(dict(others), indent=1, ensure_ascii=False)[:-2]
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in log[1])
    (WEIGHTS / f"{name}.json").write_text(f'{text},\n "log": [\n{lines}\n ]\n}}\n', "utf-8")
    print(f"{name}: {facts['headline']}\nwritten: {WEIGHTS / name}.json")


def check(name: str) -> None:
    """Repeat the few clips of a shipped model."""
    stored = facts_of(preset_spec(name))["check"]
    found = numbers_of(wk.create_model(name, pretrained=True), stored)
    print(name, "; ".join(f"{key} {found[key]:.4g} (stored: {value:.4g})" for key, value in stored["numbers"].items()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="run folder of worldkit train")
    parser.add_argument("--name", help="preset whose weights they become (default: the run's)")
    parser.add_argument("--hardware", help="what it was trained on (default: read from this machine)")
    parser.add_argument("--command", help="what made it, if the run's own record does not say it well")
    parser.add_argument("--note", help="what else is to say (default: how the best model was chosen)")
    parser.add_argument("--half", action="store_true", help=f"store {HALF}: half the size")
    parser.add_argument("--refresh", nargs="+", metavar="NAME", help="evaluate shipped weights again")
    parser.add_argument("--check", action="store_true", help="repeat the few clips of all shipped weights")
    arguments = parser.parse_args()
    if not (arguments.run or arguments.refresh or arguments.check):
        parser.error("give a run folder, --refresh NAME or --check")
    try:
        if arguments.run:
            ship(arguments.run, arguments)
        for name in arguments.refresh or ():
            refresh(name, arguments)
        for name in wk.list_models(pretrained=True) if arguments.check else ():
            check(name)
    except WorldkitError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
