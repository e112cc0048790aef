"""What is done with one cell of a benchmark: train and score a predictor, score shipped weights, or act.

A cell that cannot do what it says is a failed cell: nothing is scored that was not trained or loaded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..ablation.cell import DEFAULTS, EXAMPLES, GIF_FILE, STILL_FILE, peak_memory, read_json
from ..errors import ConfigError
from ..metrics import Protocol, Report
from ..model import ComposedWorldModel
from ..training import compare
from ..training.recipes import WEIGHTS_FROM, train
from ..viz import save_gif, save_png

COPYING, MEAN_FRAME = "copy last frame", "mean training frame"


def do(cell: Mapping[str, Any], folder: Path, isolated: bool) -> dict[str, Any] | None:
    """Do what ``cell.json`` says, as `worldkit.ablation.cell.run_cell` wants it."""
    found = {"train": _trained, "shipped": _shipped, "agent": _agent, "policy": _policy}[cell["kind"]](
        cell, folder, isolated)
    if found is None:
        return None
    return {"status": "finished", **found, "threads": torch.get_num_threads(), "worldkit": __version__,
            "torch": torch.__version__}


# -- predictions

def _trained(cell: Mapping[str, Any], folder: Path, isolated: bool) -> dict[str, Any] | None:
    """Every stage begins with the weights of the one before; the last one is scored."""
    steps, seconds, cpu, begin, model = 0, 0.0, 0.0, {}, None
    for number, stage in enumerate(cell["stages"]):
        run = folder / ("run" if number == len(cell["stages"]) - 1 else f"stage-{number}")
        model, trained = train(
            stage["preset"], cell["data"], run=run, overrides=stage["overrides"],
            train_overrides={**DEFAULTS, **begin, **stage["train"]}, data_options=cell["data_options"],
            show_progress=False)
        if not trained.finished:
            return None
        steps, seconds, cpu = steps + trained.step, seconds + trained.seconds, cpu + trained.cpu
        begin = {"init_from": str(run)}
    memory = peak_memory(folder, isolated)
    return {"steps": steps, "seconds": seconds, "cpu_seconds": cpu, "peak_memory": memory,
            "weights_from": read_json(folder / "run" / "run.json")["facts"].get(WEIGHTS_FROM),
            **_scored(model, cell, folder)}


def _shipped(cell: Mapping[str, Any], folder: Path, isolated: bool) -> dict[str, Any]:
    """Weights that come along, as they are; what their training took is not this cell's."""
    from ..factory import create_model, get_model_spec
    from ..presets.shipped import facts_of

    model = create_model(cell["preset"], pretrained=True)
    facts = facts_of(get_model_spec(cell["preset"]))
    return {"steps": facts.get("steps"), "seconds": None, "cpu_seconds": None, "shipped": True,
            "shipped_minutes": facts.get("minutes"), "peak_memory": peak_memory(folder, isolated),
            **_scored(model.eval(), cell, folder)}


def _scored(model: ComposedWorldModel, cell: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The protocol's numbers, the baselines' on the same clips, and pictures of two of them."""
    protocol = Protocol(**{**cell["protocol"], "driven_by": tuple(cell["protocol"]["driven_by"]),
                           "metrics": tuple(cell["protocol"]["metrics"])})
    device = next(model.parameters()).device
    driver = protocol.driven_by[0]
    started = time.process_time()
    compared = compare({"model": model}, cell["data"], protocol, data_options=cell["data_options"], pictures=EXAMPLES,
                       device=device)
    spent = time.process_time() - started
    if driver not in compared.reports:  # a reconstruction is no prediction, and does not stand for one
        raise ConfigError(f"nothing of this model is {driver!r}-driven: {' '.join(compared.notes)}")
    report = compared.reports[driver]["model"]
    if compared.pictures:
        save_gif(torch.cat([film for _, film, _ in compared.pictures], -1), folder / GIF_FILE, fps=4)
        save_png(torch.cat([still for _, _, still in compared.pictures], -2), folder / STILL_FILE)
    scores = {name: report.summary("model", name).mean for name in ("psnr", "ssim")}
    margins = {baseline: report.margin("psnr", baseline) for baseline in (COPYING, MEAN_FRAME)
               if baseline in report.baselines}
    scores |= {f"over {short}": margins[name].mean for name, short in ((COPYING, "copying"), (MEAN_FRAME, "the mean"))
               if name in margins}
    return {"scores": scores, "margins": {name: margin.to_dict() for name, margin in margins.items()},
            "baselines": {name: {m: report.summary(name, m).mean for m in ("psnr", "ssim")}
                          for name in report.baselines},
            "clips": report.protocol["n"], "protocol_as_run": _protocol(report),
            "parameters": model.parameter_report()["total"],
            "scoring_cpu_seconds": spent, "device": str(device), "report": report.to_dict()}


def _protocol(report: Report) -> dict[str, Any]:
    """What was really done, to hold papers' numbers against."""
    return {name: report.protocol[name] for name in ("context_frames", "horizon", "split", "resolution", "driven_by")}


# -- control

def _agent(cell: Mapping[str, Any], folder: Path, isolated: bool) -> dict[str, Any] | None:
    """Train an agent by acting, then let it act."""
    from ..online import make_online_trainer
    from ..online.acting import load_acting

    trainer = make_online_trainer(cell["preset"], cell["env"], run=folder / "run", overrides=cell["overrides"],
                                  show_progress=False)
    trained = trainer.fit()
    if not trained.finished:
        return None
    acting = load_acting(folder / "run", env=cell["env"], env_options=cell["env_options"],
                         budget=cell["acting"]["budget"])
    found = _acted({"agent": acting.agent}, cell, folder, make=acting.make)
    return {"steps": trained.steps, "updates": trained.updates, "seconds": trained.seconds,
            "cpu_seconds": trainer.progress.cpu, "peak_memory": peak_memory(folder, isolated),
            "parameters": sum(p.numel() for p in acting.agent.model.parameters()), **found}


def _policy(cell: Mapping[str, Any], folder: Path, isolated: bool) -> dict[str, Any]:
    """A baseline, or an agent that was trained before."""
    from ..control.evaluate import BASELINES

    if cell["policy"] in BASELINES:
        return _acted({"agent": cell["policy"]}, cell, folder)
    from ..online.acting import load_acting

    acting = load_acting(cell["policy"], env=cell["env"], env_options=cell["env_options"],
                         budget=cell["acting"]["budget"])
    return _acted({"agent": acting.agent}, cell, folder, make=acting.make)


def _acted(policies: Mapping[str, Any], cell: Mapping[str, Any], folder: Path, make: Any = None) -> dict[str, Any]:
    from ..control import ControlProtocol, evaluate_control

    policy = policies["agent"]
    size = cell["size"] if isinstance(policy, str) else list(policy.frame_shape[1:])
    protocol = ControlProtocol.parse({**cell["acting"], "env": cell["env"], "env_options": cell["env_options"],
                                      "size": size})
    results = evaluate_control(policies, protocol, out=folder / "episodes", make=make)
    scores = {}
    for score in ("return", "success"):
        found = [value for episodes in results.of("agent", score).values() for value in episodes.values()]
        if found:
            scores[score] = sum(found) / len(found)
    return {"scores": scores, "episodes": len(results.episodes)}

