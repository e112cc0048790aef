"""From a trained run to weights that ship: ``python benchmarks/zoo.py runs/lpwm-balls-mini`` (minutes).

Takes the run's best model by validation, evaluates it on the test split by its preset's own protocol, over five
predicted frames, by every protocol that the preset's ``eval.protocols`` names, and by a probe of the column that its
``eval.probe`` names; then writes
``worldkit/presets/weights/NAME.safetensors`` and ``NAME.json``: how it was made, what it reaches, and ``check``: what a
few clips must give. ``--refresh NAME`` evaluates shipped weights again, ``--check`` repeats the few clips of all.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

import worldkit as wk
from worldkit.data import collate
from worldkit.errors import ConfigError, DataError, WorldkitError
from worldkit.metrics import Protocol
from worldkit.presets import packaged_file, preset_spec
from worldkit.presets.shipped import MAX_MB, facts_of, refuse_older
from worldkit.storage.folders import WEIGHTS_FILE, digest, find_model, read_facts, read_json
from worldkit.storage.hub import load_folder
from worldkit.training import compare, evaluate, find_protocol
from worldkit.training.generation import compare as compare_frames
from worldkit.training.generation import look_at
from worldkit.training.probe import probe
from worldkit.training.recipes import open_clips

WEIGHTS = Path(wk.__file__).parent / "presets" / "weights"
FRAMES, CLIPS, LEAST, FEW = 5, 200, 100, 8
"""Predicted frames of the headline; clips it rests on at most; clips of any number at least; clips of the check."""
LOG_LINES = 60
OF_OBJECTS, SEEN, TOLD = ("fg_ari", "miou"), "encoded", "inferred"
ENOUGH = 100
"""Episodes made for a training; a model that had more is scored on the usual number, on the same clips as others."""
DRAWN, SAMPLED, STATIC = 128, 6, "the encoder's own prior"
"""Videos drawn out of nothing, frames predicted behind the first ones, and a prior that they are held against."""


# -- evaluating


def evaluations(model: Any, name: str, data: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the documentation says of a model: each with the command that repeats it, its protocol and its results.

    First its predictions over the frames of the headline, and how it reconstructs the same frames, unless it encodes
    nothing; where the data know true segments and the model draws masks, with the metrics of objects.
    """
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


def has_segments(model: Any, data: str, options: Mapping[str, Any]) -> bool:
    """Whether the data can tell true segments, and the model draws masks that can be held against them."""
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
    """Videos that a model with a prior draws out of nothing, beside true ones and those of its encoder's own prior."""
    frames, step = model.prior.config.frames + SAMPLED, 8
    clips = open_clips(model, data, split="test", num_frames=frames, mode="first", **options)
    chosen = torch.linspace(0, len(clips) - 1, min(2 * DRAWN, len(clips))).long().tolist()
    seen = look_at(model, collate([clips[i] for i in chosen]).video)
    true, other = seen.in_units_of(seen)[::2], seen.in_units_of(seen)[1::2]

    def scores() -> dict[str, float]:
        generator, videos = torch.Generator().manual_seed(0), []
        with torch.no_grad():
            for _ in range(0, DRAWN, step):
                first = model.sample_first_frames(step, generator=generator)
                rollout = model.rollout(first, frames - first.shape[1], generator=generator, deterministic=True)
                videos.append(torch.cat([rollout.context_video, rollout.video], -4))
        return rounded(compare_frames(true, look_at(model, torch.cat(videos)).in_units_of(seen)))

    found, prior = scores(), model.prior
    model.prior = None
    static = scores()
    model.prior = prior
    return {"command": f"worldkit sample {name} --data {data} --n {DRAWN} --horizon {SAMPLED} --follow means",
            "n": DRAWN, "frames": frames, "model": found, "other true videos": rounded(compare_frames(true, other)),
            STATIC: static}


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
    found: Iterable[Mapping[str, Any]], samples: Mapping[str, Any] | None = None,
    read: Mapping[str, Any] | None = None,
) -> str:
    """What a model reaches, in a line."""
    first, *others = found
    model, still, horizon = first["results"]["model"], first["results"]["copy last frame"], first["protocol"]["horizon"]
    if first["driven by"] == SEEN:
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
    if samples:
        fid = {whose: samples[whose]["fid"] for whose in ("model", "other true videos", STATIC)}
        things, true = samples["model"]["things"], samples["model"]["things, true"]
        parts.insert(0, f"draws {things:.1f} things a frame, true {true:.1f}; FID {fid['model']:.0f}, other true "
                        f"videos {fid['other true videos']:.0f}, {STATIC} {fid[STATIC]:.0f}")
    if read:
        parts.append(f"{read['target']} read off it: R2 {read['r2']['latent linear']['mean']:.2f} by a linear map")
    return "; ".join(parts)


# -- the check: a few clips, a second


def few_clips(model: Any, name: str, data: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a few fixed clips, and how to get them again (`numbers_of`)."""
    own, objects = find_protocol(name), has_segments(model, data, options)
    small = {**options, "num_episodes": 4} if _takes_episodes(model, data, options) else dict(options)
    check = {"data": data, "options": small | ({"segments": True} if objects else {}), "driven by": own.driven_by[0],
             "context_frames": own.context_frames, "horizon": min(FRAMES, own.horizon), "clips": FEW,
             "metrics": [*own.metrics, *(OF_OBJECTS if objects else ())]}
    return check | {"numbers": rounded(numbers_of(model, check))}


def numbers_of(model: Any, check: Mapping[str, Any]) -> dict[str, float]:
    """Mean scores of the model, and the PSNR of the copied last frame, on the clips of a check."""
    context, driver = check["context_frames"], check["driven by"]
    clips = open_clips(model, check["data"], split="test", num_frames=context + check["horizon"], **check["options"])
    report = evaluate(model, clips, context_frames=context, driven_by=[driver], max_clips=check["clips"],
                      metrics=check["metrics"])[driver]
    return {metric: report.summary("model", metric).mean for metric in report.metrics} | {
        "copy last frame, psnr": report.summary("copy last frame", "psnr").mean}


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
    size = (folder / WEIGHTS_FILE).stat().st_size / 1e6
    if size > MAX_MB:
        raise SystemExit(f"error: {folder / WEIGHTS_FILE} has {size:.1f} MB, more than the {MAX_MB} MB that may ship: "
                         "train a smaller model")
    refuse_older(preset_spec(name), wk.create_config(name).to_dict(), facts)
    facts["weights"] = digest(folder / WEIGHTS_FILE)
    model = load_folder(folder)
    facts = judged(model, name, facts)
    shutil.copyfile(folder / WEIGHTS_FILE, WEIGHTS / f"{name}.safetensors")
    write(name, facts)
    if preset_spec(name).weights is None:
        print(f'now say in its table of worldkit/presets/*.toml: weights = "weights/{name}.safetensors"')


def refresh(name: str) -> None:
    """Evaluate shipped weights again; how they were made stays as it is."""
    facts = facts_of(preset_spec(name))
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
    parser.add_argument("--refresh", nargs="+", metavar="NAME", help="evaluate shipped weights again")
    parser.add_argument("--check", action="store_true", help="repeat the few clips of all shipped weights")
    arguments = parser.parse_args()
    if not (arguments.run or arguments.refresh or arguments.check):
        parser.error("give a run folder, --refresh NAME or --check")
    try:
        if arguments.run:
            ship(arguments.run, arguments)
        for name in arguments.refresh or ():
            refresh(name)
        for name in wk.list_models(pretrained=True) if arguments.check else ():
            check(name)
    except WorldkitError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
