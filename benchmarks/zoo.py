"""From a trained run to weights that ship: ``python benchmarks/zoo.py runs/lpwm-balls-mini`` (minutes).

Takes the run's best model by validation, evaluates it on the test split by its preset's own protocol, over five
predicted frames, and by every protocol that the preset's ``eval.protocols`` names; then writes
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
from types import SimpleNamespace
from typing import Any

import torch

import worldkit as wk
from worldkit.data import collate
from worldkit.errors import ConfigError, DataError, WorldkitError
from worldkit.metrics import Protocol, Report
from worldkit.metrics.report import confidence_interval
from worldkit.presets import packaged_file, preset_spec
from worldkit.presets.shipped import MAX_MB, facts_of, refuse_older
from worldkit.storage.folders import WEIGHTS_FILE, digest, find_model, read_facts, read_json
from worldkit.storage.hub import load_folder
from worldkit.training import compare, evaluate, find_protocol, mean_image
from worldkit.training.evaluation import choose_clips
from worldkit.training.recipes import open_clips
from worldkit.training.scores import Scorer, Truth

WEIGHTS = Path(wk.__file__).parent / "presets" / "weights"
FRAMES, CLIPS, FEW = 5, 200, 8
"""Predicted frames of the headline, clips it rests on at most, and clips of the check."""
LOG_LINES = 60
OF_OBJECTS = ("fg_ari", "miou")
SHORT = {"fg_ari": "FG-ARI", "miou": "mIoU"}


# -- evaluating


def evaluations(model: Any, name: str, data: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the documentation says of a model: each with the command that repeats it, its protocol and its results."""
    if model.dynamics is None:
        return [reconstructions(model, name, data, options)]
    own = find_protocol(name)
    wanted = [(own.changed(horizon=min(FRAMES, own.horizon), max_clips=CLIPS)[0], {})]
    wanted += [(own, {})] if own.horizon > FRAMES else []
    for other in preset_spec(name).eval.get("protocols", ()):
        few = find_protocol(other).windows == "start" and data.startswith("balls")  # 20 episodes: 20 such clips
        wanted.append((find_protocol(other), {"num_episodes": 100} if few else {}))
    return [_evaluation(model, name, data, protocol, {**options, **more}) for protocol, more in wanted]


def _evaluation(model: Any, name: str, data: str, protocol: Protocol, options: Mapping[str, Any]) -> dict[str, Any]:
    base = find_protocol(protocol.name)
    _, changed = base.changed(horizon=protocol.horizon, max_clips=protocol.max_clips)
    result = compare({name: model}, data, protocol, changed=changed, data_options=options, pictures=0)
    report = result.reports["prior"][name]
    words = [f"worldkit eval {name} --data {data}", *([f"--protocol {base.name}"] if base.name != name else []),
             *(f"--{key.replace('_', '-')} {value}" for key, value in changed.items()), *_typed(options)]
    return {"command": " ".join(words), "protocol": protocol.to_dict(), "n": report.protocol["n"],
            "results": rounded(report.to_dict()["results"])}


def _typed(options: Mapping[str, Any]) -> list[str]:
    return [f"-o data.{key}={value}" for key, value in options.items()]


@torch.no_grad()
def reconstructions(
    model: Any, name: str, data: str, options: Mapping[str, Any], *, clips: int = CLIPS,
) -> dict[str, Any]:
    """Of a model without dynamics: the frames it sees drawn again, beside the mean training frame; and its masks."""
    frames = open_clips(model, data, split="test", num_frames=model.clip_length, **options)
    metrics = OF_OBJECTS if "segmentation" in frames[0].get("state", {}) else ()
    mean = mean_image(open_clips(model, data, split="train", num_frames=1, **options))
    scorer = Scorer(model, metrics, None, {})
    found: dict[str, dict[str, list[torch.Tensor]]] = {"model": {}, "mean training frame": {}}
    indices = choose_clips(frames, clips)
    for index in indices:
        items = [frames[index]]
        truth = Truth.of(items, collate(items), 0)
        latents = model.encode(collate(items).video)
        drawn = SimpleNamespace(video=model.decode(latents).video, latents=latents)
        rows = {"model": scorer.model_scores(drawn, truth),
                "mean training frame": scorer.image_scores(mean.expand_as(truth.video), truth)}
        for row, scores in rows.items():
            for metric, value in scores.items():
                found[row].setdefault(metric, []).append(value.double().nanmean())
    values = {row: {m: torch.stack(v) for m, v in scores.items()} for row, scores in found.items()}
    results = {row: {m: _interval(v) for m, v in scores.items()} for row, scores in values.items()}
    for metric in values["mean training frame"]:
        over = _interval(values["model"][metric] - values["mean training frame"][metric])
        results["model"][metric]["over"] = {"mean training frame": over}
    return {"command": f"python benchmarks/zoo.py --refresh {name}", "n": len(indices), "results": rounded(results),
            "protocol": {"summary": f"{model.clip_length} frames seen and drawn again: reconstruction, no prediction",
                         "split": "test", "max_clips": clips}}


def _interval(values: torch.Tensor) -> dict[str, Any]:
    return confidence_interval(values[~values.isnan()]).to_dict()


def rounded(value: Any) -> Any:
    """Floats of a nested table with five digits."""
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def headline(found: Iterable[Mapping[str, Any]]) -> str:
    """What a model reaches, in a line."""
    first, *others = found
    results = first["results"]
    psnr = {row: values["psnr"]["mean"] for row, values in results.items() if "psnr" in values}
    if "horizon" in first["protocol"]:
        parts = [f"{psnr['model']:.1f} dB over {first['protocol']['horizon']} predicted frames, copying "
                 f"{psnr['copy last frame']:.1f}"]
    else:
        parts = [f"{psnr['model']:.1f} dB of frames drawn again, the mean frame {psnr['mean training frame']:.1f}"]
    for table in [results, *(other["results"] for other in others)]:
        model, still = table["model"], table.get("copy last frame", {})
        parts += [f"{SHORT[m]} {model[m]['mean']:.2f}" for m in ("fg_ari",) if m in model]
        if "med10" in model:
            parts.append(f"MED10 {model['med10']['total']:.2f}, standing still {still['med10']['total']:.2f}")
    return "; ".join(dict.fromkeys(parts))


# -- the check: a few clips, a second


def few_clips(model: Any, name: str, data: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a few fixed clips, and how to get them again (`numbers_of`)."""
    small = {**options, "num_episodes": 4} if _takes_episodes(model, data, options) else dict(options)
    context = 0 if model.dynamics is None else find_protocol(name).context_frames
    check = {"data": data, "options": small, "context_frames": context, "horizon": FRAMES, "clips": FEW}
    return check | {"numbers": rounded(numbers_of(model, check))}


def numbers_of(model: Any, check: Mapping[str, Any]) -> dict[str, float]:
    """Mean scores of the model and of the copied last frame on the clips of a check."""
    if model.dynamics is None:
        options = {"clips": check["clips"]}
        results = reconstructions(model, "", check["data"], check["options"], **options)["results"]
        return {metric: values["mean"] for metric, values in results["model"].items()}
    context = check["context_frames"]
    clips = open_clips(model, check["data"], split="test", num_frames=context + check["horizon"], **check["options"])
    segments = "segmentation" in clips[0].get("state", {}) and model.decode(
        model.encode(collate([clips[0]]).video), masks=True).masks is not None
    metrics = ("psnr", "ssim", *(OF_OBJECTS if segments else ()))
    report: Report = evaluate(model, clips, context_frames=context, max_clips=check["clips"], metrics=metrics)["prior"]
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
        "note": arguments.note or _chosen(log, card["step"]),
        "weights from": public(card.get("weights from", "")) or None,
        "hardware": arguments.hardware or hardware(record), "torch": record["torch"], "worldkit": record["worldkit"],
        "date": datetime.datetime.fromtimestamp((folder / WEIGHTS_FILE).stat().st_mtime).date().isoformat(),
        "train": record["train"], "config": record["model"], "log": thinned(log),
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
    data, options = facts["data"], facts.get("data options", {})
    found = evaluations(model, name, data, options)
    lack = [e["command"] for e in found if e["n"] < 100]
    if lack:
        raise SystemExit(f"error: fewer than 100 clips: {'; '.join(lack)}")
    facts |= {"headline": headline(found), "evaluation": found, "check": few_clips(model, name, data, options)}
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
