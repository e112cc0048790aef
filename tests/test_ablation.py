"""Ablations: the grid, the numbers of the table, errors as rows, and going on after a kill."""

import errno
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.stats
import torch

import worldkit as wk
from worldkit.ablation import Ablation, Budget, Row, process, work
from worldkit.ablation.cell import process_peak
from worldkit.ablation.grid import expand, flatten, parse_axes
from worldkit.cli import main
from worldkit.errors import ConfigError, TrainingError, UnknownComponentError
from worldkit.metrics import confidence_interval
from worldkit.progress import Meter
from worldkit.registry import Entry, dynamics
from worldkit.training import evaluate
from worldkit.training.lock import locked
from worldkit.training.recipes import open_clips, train

PRESET = "lpwm-balls-mini"
CNN = {"base_channels": 4, "channel_multipliers": [1, 2], "latent_channels": 4}
WIDE = {"base_channels": 4, "channel_multipliers": [1, 1, 2], "latent_channels": 4}
MODEL = {
    "encoder": {"hidden_dim": 16, "num_particles": 4, "proposal_cnn": CNN, "glimpse_cnn": CNN, "background_cnn": WIDE},
    "decoder": {"hidden_dim": 16, "glimpse_cnn": CNN, "background_cnn": WIDE},
    "dynamics": {"dim": 16, "num_layers": 1, "num_heads": 2},
    "latent_action": {"dim": 16, "num_layers": 1, "num_heads": 2, "action_dim": 3},
    "timestep_horizon": 3,
}
DATA = {"num_episodes": 3, "episode_length": 20}
TINY = {**MODEL, "train.batch_size": 4, "data": DATA}
PROTOCOL = dict(context_frames=2, horizon=3, clips=4)
SWAPS = {"latent_action": ["gaussian", None], "decoder": ["particle", None]}
SETTINGS = {"train.lr": [1e-3, 1e38]}
COMMON = dict(swaps=SWAPS, settings=SETTINGS, seeds=2, budget="2steps", overrides=TINY, isolate=False,
              show_progress=False, **PROTOCOL)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache) -> Ablation:
    """Eight combinations: two finish, two become NaN, four cannot be built."""
    torch.set_num_threads(1)
    return wk.ablation.run(PRESET, out=tmp_path_factory.mktemp("ablation"), **COMMON)


def small(preset=PRESET, swaps=None, settings=None, **common):
    return expand(preset, swaps or {}, settings or {}, flatten(common))


# -- the grid

def test_swaps_and_settings_multiply_and_the_baseline_comes_first():
    variants = small(swaps={"latent_action": [None, "gaussian"]}, settings={"dynamics.num_layers": [4, 2, 3]})
    assert variants[0].baseline and variants[0].values == {"latent_action": "gaussian", "dynamics.num_layers": 2}
    assert len(variants) == 6 and sum(v.baseline for v in variants) == 1
    for variant in variants:
        assert (variant.config.latent_action is None) == (variant.values["latent_action"] is None)
        assert variant.config.dynamics.num_layers == variant.values["dynamics.num_layers"]


def test_the_unchanged_preset_is_added_with_its_own_values():
    variants = small(settings={"dynamics.num_layers": [4], "train.lr": [2e-3]})
    assert [v.values for v in variants] == [{"dynamics.num_layers": 2, "train.lr": 1e-3},
                                            {"dynamics.num_layers": 4, "train.lr": 2e-3}]
    assert variants[0].baseline and not variants[1].baseline


def test_two_spellings_of_one_model_are_one_row():
    variants = small(swaps={"dynamics": ["pint", "PINT"]}, settings={"dynamics__num_layers": [2, 2, 3]})
    assert [v.label for v in variants] == [f"dynamics=pint, dynamics.num_layers={n}" for n in (2, 3)]


def test_options_of_all_cells_belong_to_the_baseline_too():
    variants = small(settings={"dynamics.num_layers": [1, 2]}, dynamics__dim=32, train={"batch_size": 3})
    assert [v.config.dynamics.dim for v in variants] == [32, 32] and variants[0].train == {"batch_size": 3}
    assert variants[0].key(PRESET) != small(settings={"dynamics.num_layers": [1, 2]})[0].key(PRESET)


def test_options_of_a_removed_part_are_an_error_row():
    variants = small(swaps={"latent_action": ["gaussian", None]}, settings={"latent_action.dim": [64, 32]},
                     latent_action={"num_layers": 1})
    errors = {v.label: v.error for v in variants if v.error}
    assert list(errors) == ["latent_action=none, latent_action.dim=64", "latent_action=none, latent_action.dim=32"]
    assert all("there is no latent_action in this combination" in e for e in errors.values())


def test_a_component_may_bring_options():
    variants = small(swaps={"dynamics": ["pint", {"name": "pint", "num_layers": 1}]})
    assert [v.label for v in variants] == ["dynamics=pint", "dynamics=pint(num_layers=1)"]
    assert variants[1].config.dynamics.num_layers == 1


def test_values_on_the_command_line():
    assert parse_axes(["a.b=[1,2],[3]", "c=none,x,1e-3", 'd=p,{"name":"q","n":[1,2]}'], "--set") == {
        "a.b": [[1, 2], [3]], "c": [None, "x", 1e-3], "d": ["p", {"name": "q", "n": [1, 2]}]}


@pytest.mark.parametrize("text, amount, unit, options", [
    (120, 120, "seconds", {"seconds": 120, "steps": None}), ("1.5min", 90, "seconds", {"seconds": 90}),
    ("2h", 7200, "seconds", {}), ("30 seconds", 30, "seconds", {}), ("500steps", 500, "steps", {"steps": 500}),
    ("60cpu", 60, "CPU seconds", {"cpu_seconds": 60, "seconds": None, "steps": None}),
    ("30samples", 30, "samples", {"steps": 8, "seconds": None}),
])
def test_budgets(text, amount, unit, options):
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit) == (amount, unit) and Budget.parse(str(budget)) == budget
    assert budget.train_options(4).items() >= options.items()


REFUSED = [
    (dict(swaps={"latent_action": ["gausian"]}), UnknownComponentError, "Did you mean 'gaussian'?"),
    (dict(swaps={"dynamic": ["pint"]}), ConfigError, "'dynamic' is no part to swap. Did you mean 'dynamics'?"),
    (dict(swaps={"encoder": ["particle", None]}), ConfigError, "can be swapped, but not removed"),
    (dict(swaps={"dynamics": "pint"}), ConfigError, "needs a list of values"),
    (dict(settings={"dynamics.num_layres": [1, 2]}), ConfigError, "Did you mean 'num_layers'?"),
    (dict(settings={"dynamics.num_layers": [1, 0]}), ConfigError, "no combination accepts dynamics.num_layers=0"),
    (dict(settings={"dynamics": ["pint"]}), ConfigError, "--swap dynamics=..."),
    (dict(settings={"train.lrr": [1]}), ConfigError, "Did you mean 'lr'?"),
    (dict(settings={"train.steps": [1, 2]}), ConfigError, "--budget decides it"),
    (dict(settings={"train.seed": [1, 2]}), ConfigError, "--seeds decides it"),
    (dict(settings={"obs.height": [32, 64]}), ConfigError, "changes the clips that are scored"),
    (dict(settings={"train.lr": [{1, 2}]}), ConfigError, "must be plain texts"),
    (dict(), ConfigError, "nothing to compare"),
    (dict(swaps={"decoder": [None]}, budget="5 parsecs"), ConfigError, "8000samples, got '5 parsecs'"),
    (dict(swaps={"decoder": [None]}, budget="2.5steps"), ConfigError, "a whole number"),
    (dict(swaps={"decoder": [None]}, seeds=0), ConfigError, "seeds must be a whole number"),
    (dict(swaps={"decoder": [None]}, context_frames=0), ConfigError, "context must be a whole number"),
    (dict(swaps={"decoder": [None]}, overrides={"train.seconds": 3}), ConfigError, "--budget decides it"),
    (dict(swaps={"decoder": [None]}, overrides={"dynamics.dimm": 3}), ConfigError, "Did you mean 'dim'?"),
    (dict(swaps={"decoder": [None]}, data="bals-32"), wk.DataError, "bals-32"),
    (dict(swaps={"decoder": [None]}, preset="lpwm-mini"), ConfigError, "names no data of its own: add --data"),
    (dict(swaps={"decoder": [None]}, preset="lpwm-balls-mni"), UnknownComponentError, "Did you mean 'lpwm-balls-m"),
]


@pytest.mark.parametrize("given, error, message", REFUSED)
def test_mistakes_are_refused_before_anything_trains(given, error, message, tmp_path):
    arguments = {"budget": "1steps", "out": tmp_path / "out", "preset": PRESET, **given}
    with pytest.raises(error) as caught:
        wk.ablation.run(arguments.pop("preset"), **arguments)
    assert message in str(caught.value), str(caught.value)
    assert not (tmp_path / "out").exists()


# -- numbers

@pytest.mark.parametrize("values", [[21.0, 22.5], [0.3, 0.1, 0.2, 0.25], [5.0, 5.0, 5.5]])
def test_the_interval_is_students(values):
    interval, n = confidence_interval(torch.tensor(values, dtype=torch.float64)), len(values)
    half = scipy.stats.t.ppf(0.975, n - 1) * scipy.stats.tstd(values) / math.sqrt(n)
    assert interval.mean == pytest.approx(sum(values) / n)
    assert interval.high - interval.mean == pytest.approx(half, rel=1e-6, abs=1e-12)


def test_the_table_is_what_the_cells_measured(finished):
    content = json.loads((finished.folder / "table.json").read_text())
    assert content["budget"] == {"amount": 2, "unit": "steps"} and content["seeds"] == 2
    done = [row for row in content["rows"] if row["values"] and not row["errors"]]
    assert [row["values"]["latent_action"] for row in done] == ["gaussian", None]
    assert [row["baseline"] for row in done] == [True, False] and done[0]["note"] == "baseline"
    results = [json.loads(p.read_text()) for p in finished.folder.glob("cells/*/seed-*/result.json")]
    lines = (finished.folder / "table.md").read_text().splitlines()
    for row in done:
        for metric, entry in row["metrics"].items():
            values = entry["values"]
            if metric != "time_per_step":
                assert all(any(r.get(metric) == v for r in results) for v in values), metric
            assert entry["mean"] == pytest.approx(sum(values) / 2)
            if values[0] != values[1]:
                interval = scipy.stats.t.interval(0.95, 1, entry["mean"], scipy.stats.sem(values))
                assert (entry["low"], entry["high"]) == pytest.approx(interval)
        psnr = row["metrics"]["psnr"]
        text = f"{sum(psnr['values']) / 2:.2f} ± {(psnr['high'] - psnr['low']) / 2:.2f}"
        assert [line for line in lines if text in line and f"| {row['values']['latent_action'] or 'none'} |" in line]
        assert set(row["metrics"]) == {"psnr", "ssim", "loss", "parameters", "steps", "time_per_step"}  # no memory here
        assert row["metrics"]["steps"]["values"] == [2, 2]
    assert [row["name"] for row in content["rows"][-2:]] == ["copy last frame", "mean training frame"]


def test_a_cell_is_an_ordinary_training(finished, tmp_path):
    model, result = train(PRESET, "balls-32", run=tmp_path / "run", overrides=MODEL, data_options=DATA,
                          train_overrides={"batch_size": 4, "steps": 2, "seed": 1}, show_progress=False)
    clips = open_clips(model, "balls-32", split="test", num_frames=5, **DATA)
    report = evaluate(model, clips, context_frames=2, max_clips=4)["prior"]
    row = finished.rows[0]
    assert row.numbers["psnr"][1] == pytest.approx(report.summary("model", "psnr").mean, abs=1e-6)
    assert row.numbers["ssim"][1] == pytest.approx(report.summary("model", "ssim").mean, abs=1e-6)
    assert row.numbers["parameters"] == [model.parameter_report()["total"]] * 2
    copied = next(row for row in finished.rows if row.name == "copy last frame")
    assert copied.numbers["psnr"] == [pytest.approx(report.summary("copy last frame", "psnr").mean)]
    margin, stored = report.margin("psnr", "copy last frame"), row.margins["copy last frame"][1]
    assert (stored.low, stored.high) == pytest.approx((margin.low, margin.high), abs=1e-6)
    assert margin.high < 0 and row.beats.startswith("0/2, ")  # two steps of training beat nothing


def test_what_fails_is_a_row_with_its_error(finished):
    errors = {(row.name, seed): error for row in finished.rows for seed, error in row.errors.items()}
    assert len(finished.rows) == 8 + 2 and len(errors) == 6 * 2
    for (name, _), error in errors.items():
        if "decoder=none" in name:
            assert error.startswith("IncompatibleComponentsError: objective 'elbo' needs a decoder")
        else:
            assert "train.lr=1e+38" in name and error.startswith("TrainingError: the loss became")
    header, rows = finished.table()
    assert header[:3] == ["latent_action", "decoder", "train.lr"]
    assert header[3:6] == ["PSNR (dB) ↑", "SSIM ↑", "seeds that beat copying, the mean frame"] and header[-1] == "note"
    failed = [row for row in rows if row[-1].startswith("failed")]
    assert len(failed) == 6 and all(row[3:-1] == ["-"] * 8 for row in failed)
    assert [row[-1] for row in rows if row[1] == "none"] == ["failed [2]"] * 4
    assert "- [2] IncompatibleComponentsError: objective 'elbo' needs a decoder" in finished.to_markdown()
    assert any("--retry" in note for note in finished.notes())


def test_rows_that_did_not_start_alike_are_told(finished):
    ready = [row for row in finished.rows if row.variant is not None and row.interval("psnr")]
    alike = replace(finished, rows=[replace(row, start="runs/a (encoder)") for row in ready])
    assert "All cells began with the weights of runs/a (encoder)." in alike.notes()
    unlike = replace(finished, rows=[replace(ready[0], start="runs/a (encoder, dynamics)"), ready[1]])
    note = next(note for note in unlike.notes() if "NOT start alike" in note)
    assert "runs/a (encoder, dynamics)" in note and "from nothing" in note
    assert not any("start alike" in note or "began with" in note for note in finished.notes())


def test_one_failed_seed_is_told(finished):
    row = finished.rows[0]
    numbers = {**row.numbers, "psnr": row.numbers["psnr"][:1]}
    partly = Row(row.variant, row.name, numbers, 2, {1: "OSError: x\n y"})
    assert partly.note == "baseline; 1 of 2 seeds failed: OSError: x y" and partly.interval("psnr").n == 1


def test_the_report_holds_example_rollouts_and_errors(finished):
    page = (finished.folder / "report.html").read_text()
    assert page.count("data:image/gif;base64,") == 2 and "<svg" in page
    assert "(baseline)" in page and "needs a decoder" in page and "copy last frame" in page
    assert "worldkit ablate lpwm-balls-mini --data balls-32 --swap latent_action=gaussian,none" in page


# -- going on

def stamps(folder):
    return {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/seed-*/result.json")}


def test_the_command_goes_on_and_only_adds_cells(finished, capsys):
    before, changed = stamps(finished.folder), {"swaps": {}, "settings": {"dynamics.num_heads": [1]}, "seeds": 1}
    more = wk.ablation.run(PRESET, out=finished.folder, **{**COMMON, **changed})
    after = stamps(finished.folder)
    assert {p: after[p] for p in before} == before and len(after) == len(before) + 1
    assert more.rows[0].numbers["psnr"] == finished.rows[0].numbers["psnr"][:1]  # found again under another label
    words = shlex.split(finished.command)
    assert main([*words[1:], "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "copy last frame" in out and "baseline" in out and "table.md" in out
    assert stamps(finished.folder) == after


@pytest.mark.parametrize("change, message", [
    ({"budget": "3steps"}, "budget: 2 steps there, 3 steps now"),
    ({"horizon": 4}, "horizon: 3 there, 4 now"),
    ({"clips": 5}, "scored clips: 4 there, 5 now"),
    ({"overrides": {**TINY, "data.num_episodes": 4}}, "options of the data"),
    ({"overrides": {**TINY, "dynamics.dim": 32}}, "options of all cells"),
])
def test_a_folder_of_other_numbers_is_refused(finished, change, message):
    before = (finished.folder / "table.json").read_bytes()
    with pytest.raises(ConfigError) as caught:
        wk.ablation.run(PRESET, out=finished.folder, **{**COMMON, **change})
    assert message in str(caught.value)
    assert (finished.folder / "table.json").read_bytes() == before


def test_failed_cells_are_kept_or_tried_again(tmp_path, monkeypatch):
    calls = []

    def broken(*args, **kwargs):
        calls.append(1)
        raise ZeroDivisionError("oh")

    arguments = {**COMMON, "swaps": {}, "settings": {"dynamics.num_layers": [1]}, "seeds": 1, "out": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr("worldkit.ablation.cell.train", broken)
        for _ in range(2):
            rows = wk.ablation.run(PRESET, **arguments).rows
    assert rows[0].errors == {0: "ZeroDivisionError: oh"} and len(calls) == 1
    again = wk.ablation.run(PRESET, retry=True, **arguments)
    assert again.rows[0].errors == {} and len(again.rows[0].numbers["psnr"]) == 1
    assert "One seed: there is no interval" in again.to_markdown() and "±" not in "".join(again.table()[1][0])


def test_an_interruption_leaves_a_table(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "run_cell", stop)
    with pytest.raises(KeyboardInterrupt):
        wk.ablation.run(PRESET, out=tmp_path, **{**COMMON, "seeds": 3})
    table = (tmp_path / "table.md").read_text()
    assert "baseline; 0 of 3 seeds done" in table and "copy last frame" not in table


def test_components_registered_by_hand(tmp_path, monkeypatch):
    class Mine(dynamics.get("pint")):
        """A dynamics of a script."""

    monkeypatch.setitem(dynamics._entries, "mine", Entry("mine", Mine, provider="__main__"))
    result = wk.ablation.run(PRESET, out=tmp_path, **{
        **COMMON, "swaps": {"dynamics": ["pint", {"name": "mine", **MODEL["dynamics"]}]}, "settings": {}, "seeds": 1})
    assert [len(row.numbers["psnr"]) for row in result.rows[:2]] == [1, 1] and result.rows[1].errors == {}


# -- processes

def test_a_process_that_dies_is_a_failure(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho last words\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(program))
    result = process.run_isolated(tmp_path, lock=None, watch=lambda: None)
    assert result["status"] == "failed" and "SIGKILL (most often: out of memory)" in result["error"]
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert (tmp_path / "output.log").read_text() == "last words\n"
    program.write_text("#!/bin/sh\nexit 75\n")
    (tmp_path / "result.json").unlink()
    with pytest.raises(TrainingError, match="the same command goes on"):
        process.run_isolated(tmp_path, lock=None, watch=lambda: None)


def fill_up(cell, folder, isolated):
    try:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "rollout.gif"))
    except OSError as error:
        raise TrainingError("cannot write a picture") from error


def test_a_full_disk_is_no_result_of_a_cell(tmp_path, monkeypatch):
    """The same command goes on, where a failed cell would need --retry."""
    cells = [work.Cell("a", tmp_path / "a", {}, "a")]
    with pytest.raises(TrainingError, match="cannot write a picture"):
        work.Work(cells, verdict=str, does=fill_up, module=None, show=False).do([0], None)
    assert not (tmp_path / "a/result.json").exists()
    monkeypatch.setattr(process, "_follow_parent", lambda: None)
    assert process.main(str(tmp_path / "a"), fill_up) == process.FULL
    (program := tmp_path / "python").write_text(f"#!/bin/sh\nexit {process.FULL}\n")
    program.chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(program))
    with pytest.raises(OSError, match="No space left") as error:
        process.run_isolated(tmp_path / "a", lock=None, watch=lambda: None)
    assert error.value.filename == str(tmp_path / "a") and not (tmp_path / "a/result.json").exists()


@pytest.mark.parametrize(("budget", "done"), [("120cpu", 30.5), ("120", 61.0), ("500steps", 7)])
def test_progress_is_told_in_the_unit_of_the_budget(budget, done, tmp_path):
    cell = work.Cell("a", tmp_path, {"train": {"steps": None}}, "a", Budget.parse(budget))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 7, "epoch": 0, "seconds": 61.0, "cpu": 30.5}\n')
    with Meter("a", total=cell.budget.amount, enabled=False) as meter:
        work._show(meter, cell)
        assert meter.done == done


def test_memory_is_not_inherited():
    ballast = bytearray(10**6 * 200)
    code = "from pathlib import Path; print([l for l in open('/proc/self/status') if l.startswith('VmHWM')])"
    if not Path("/proc/self/status").exists():
        pytest.skip("not Linux")
    out = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    assert process_peak() > len(ballast) > 10**6 * 100 > int(out.split()[1]) * 1024


def test_killed_and_started_again(tmp_path, capsys):
    """kill -9 of the command in its second cell; the same command then finishes it without repeating the first."""
    words = ["ablate", PRESET, "--set", "dynamics.num_layers=1,2", "--seeds", "1", "--budget", "30steps",
             "--context", "2", "--horizon", "3", "--clips", "4", "--out", str(tmp_path)]
    options = {**TINY, "train.log_every": 1}
    words += [w for k, v in flatten(options).items() for w in ("-o", f"{k}={json.dumps(v)}")]
    first_cell = {"swaps": {}, "settings": {"dynamics.num_layers": [1]}, "seeds": 1, "budget": "30steps"}
    wk.ablation.run(PRESET, out=tmp_path, **{**COMMON, **first_cell, "overrides": options})
    (first,) = stamps(tmp_path)
    stamp, trained = first.stat().st_mtime_ns, (first.parent / "run/log.jsonl").stat().st_mtime_ns
    root = str(Path(wk.__file__).parents[1])
    command = subprocess.Popen([sys.executable, "-m", "worldkit", *words], cwd=root, stdout=subprocess.DEVNULL)
    try:
        log = wait_for(tmp_path, "cells/*num_layers=2*/seed-0/run/log.jsonl", lines=3)
    finally:
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
    with locked(tmp_path, command="ablation", instead="--out"):  # the orphan writes its checkpoint and ends
        pass
    assert not (log.parents[1] / "result.json").exists()
    stopped = max(int(p.name.removeprefix("step-")) for p in log.parent.glob("checkpoints/step-*"))
    assert 3 <= stopped < 30
    assert main(words) == 0
    assert first.stat().st_mtime_ns == stamp and (first.parent / "run/log.jsonl").stat().st_mtime_ns == trained
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if "grad_norm" in line]
    assert steps == list(range(1, 31))
    out = capsys.readouterr().out
    assert "2 cells, 1 done already" in out and "in all 30 steps of training to go" in out
    assert "[1/1] dynamics.num_layers=2, seed 0: PSNR" in out
    result = json.loads((log.parents[1] / "result.json").read_text())
    assert 10**8 < result["peak_memory"] < 10**10 and result["steps"] == 30 and result["threads"] >= 1


def wait_for(folder, pattern, lines=1, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path in folder.glob(pattern):
            if len(path.read_text().splitlines()) >= lines:
                return path
        time.sleep(0.02)
    raise AssertionError(f"no {pattern} in {folder}")
