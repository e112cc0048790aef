"""Benchmarks: cells, failures as failures, every format read back, papers' numbers, going on after a kill."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import worldkit as wk
from worldkit.bench import Bench, Suite, list_suites, load_suite, run
from worldkit.bench.formats import FILES, latex_escaped, to_csv, to_json, to_latex, to_markdown, to_page
from worldkit.bench.results import Record
from worldkit.bench.tables import tables
from worldkit.cli import main
from worldkit.errors import ConfigError, UnknownComponentError
from worldkit.training import evaluate
from worldkit.training.recipes import open_clips, train

NAME = "g_swm 100% & <small>"
DATA = {"num_episodes": 4, "episode_length": 20}
SUITE = {
    "name": "tiny", "kind": "prediction", "seeds": 2, "budget": "2steps", "context_frames": 2, "horizon": 3, "clips": 4,
    "tasks": [{"name": "balls", "data": "balls-32", "options": DATA}],
    "models": [
        {"name": NAME, "preset": "g-swm-balls-mini", "overrides": {"train": {"batch_size": 2}}},
        {"name": "bursts", "preset": "g-swm-balls-mini", "overrides": {"train": {"batch_size": 2, "lr": 1e38}}},
        {"name": "predicts nothing", "preset": "savi-balls-mini", "overrides": {"train": {"batch_size": 2}}},
        {"name": "no such part", "preset": "dvae-balls-mini", "overrides": {"dynamics": "gruu"}},
        {"name": "shipped", "preset": "g-swm-balls-mini", "weights": "shipped"},
        {"name": "no weights", "preset": "lpwm-mini", "weights": "shipped"},
    ],
    "papers": [
        {"model": "Theirs", "task": "balls", "metric": "psnr", "value": 31.4, "source": "arXiv:1, table 1",
         "protocol": {"context_frames": 2, "horizon": 3, "split": "test"}},
        {"model": "Other", "task": "balls", "metric": "psnr", "value": 40.0, "source": "arXiv:2, table 2",
         "protocol": {"context_frames": 2, "horizon": 30, "driven_by": "unknown"}},
    ],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory, cache) -> Bench:
    torch.set_num_threads(1)
    return run(SUITE, out=tmp_path_factory.mktemp("bench"), isolate=False, show_progress=False)


def test_a_cell_is_an_ordinary_training(done, tmp_path):
    model, _ = train("g-swm-balls-mini", "balls-32", run=tmp_path / "run", data_options=DATA,
                     train_overrides={"batch_size": 2, "steps": 2, "seed": 1}, show_progress=False)
    clips = open_clips(model, "balls-32", split="test", num_frames=5, **DATA)
    report = evaluate(model, clips, context_frames=2, max_clips=4)["prior"]
    record = done.of(NAME, "balls")[1]
    assert record.seed == 1 and record.number("psnr") == pytest.approx(report.summary("model", "psnr").mean, abs=1e-5)
    over = report.margin("psnr", "copy last frame").mean
    assert record.number("over copying") == pytest.approx(over, abs=1e-5)
    assert record.number("steps") == 2 and record.number("cpu_seconds") > 0
    assert record.number("parameters") == model.parameter_report()["total"]
    assert done.baselines("balls")["copy last frame"]["psnr"] == pytest.approx(
        report.summary("copy last frame", "psnr").mean, abs=1e-5)


def test_a_failed_cell_is_a_failed_cell(done):
    errors = {model: {r.error for r in done.of(model, "balls")} for model in done.models}
    assert len(errors["bursts"]) == 1 and "TrainingError: the loss became" in errors["bursts"].pop()
    assert "Did you mean 'gru'?" in errors["no such part"].pop()
    assert "comes without weights" in errors["no weights"].pop()
    assert "no dynamics and predicts nothing" in errors["predicts nothing"].pop()
    for model in ("bursts", "predicts nothing", "no such part", "no weights"):
        assert {r.status for r in done.of(model, "balls")} == {"failed"}
        assert done.runs(model) is None and model not in done.aggregates
        assert all(done.interval(model, "balls", score) is None for score in done.metrics)
        assert done.improvements[NAME, model].mean == 1 and done.improvements[model, NAME].mean == 0
        row = next(row for row in tables(done)[0].rows if row[0] == model)
        assert set(row[1:-1]) == {"-"} and row[-1].startswith("failed [")
    assert all(point.mean == 0 for point in done.profiles[1]["bursts"])
    assert not list(done.folder.glob("cells/predicts-nothing/*/rollout.gif"))


def test_shipped_weights_are_one_run_and_say_so(done):
    assert [r.seed for r in done.of("shipped", "balls")] == [0]
    assert done.interval("shipped", "balls", "psnr").mean > done.interval(NAME, "balls", "psnr").mean
    row = next(row for row in tables(done)[0].rows if row[0] == "shipped")
    assert row[-1].startswith("shipped weights, ") and "±" not in "".join(row)
    assert done.interval("shipped", "balls", "cpu_seconds") is None  # not this cell's


def test_numbers_of_papers_stand_beside_ours_only_under_the_same_protocol(done):
    beside, apart = done.papers()
    assert [p.model for p in beside] == ["Theirs"]
    (paper, why), = apart
    assert paper.model == "Other" and "horizon: 30 there, 3 here" in why and "driven_by: unknown there" in why
    rows = {row[0]: row for row in tables(done)[0].rows}
    assert rows["Theirs †"][2] == "31.4" and rows["Theirs †"][-1] == "theirs: arXiv:1, table 1"
    assert "Other" not in rows and "Other †" not in rows
    assert any(note.startswith("Not beside ours: Other on balls") for note in done.notes())


# -- formats

def test_json_holds_everything(done):
    text = (done.folder / "bench.json").read_text()
    assert text == to_json(done)
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    psnr = content["per task"]["balls"][NAME]["psnr"]
    cells = [c["result"]["scores"]["psnr"] for c in content["cells"] if c["model"] == NAME]
    assert psnr["mean"] == pytest.approx(sum(cells) / 2) and psnr["n"] == 2
    assert set(content["all tasks"]) == {NAME, "shipped"}
    assert set(content["all tasks"][NAME]) == {"mean", "median", "IQM"}
    assert content["all tasks"]["shipped"]["IQM"]["low"] is None  # one run: no interval
    assert Suite.parse({**content["suite"]}).name == "tiny"
    assert [c["status"] for c in content["cells"]].count("failed") == 7  # one model that ships nothing has one cell


def test_csv_has_a_line_for_every_cell(done):
    lines = list(csv.DictReader(io.StringIO((done.folder / "bench.csv").read_text())))
    assert len(lines) == len(done.records) == 10
    for line, record in zip(lines, done.records, strict=True):
        assert (line["model"], line["task"], line["seed"]) == (record.model, record.task, str(record.seed))
        assert (float(line["psnr"]) == record.number("psnr")) if record.status == "finished" else line["psnr"] == ""
        assert line["error"] == record.error and None not in line
    assert to_csv(done) == (done.folder / "bench.csv").read_bytes().decode()


def test_latex_escapes_and_balances(done):
    text = (done.folder / "bench.tex").read_text()
    assert text == to_latex(done)
    assert r"g\_swm 100\% \& \textless{}small\textgreater{}" in text
    assert r"$\pm$" in text and r"Theirs $^\dagger$" in text
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert "±" not in "".join(lines) and "†" not in "".join(lines)
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == len(tables(done))
    for table, begin in zip(tables(done), re.finditer(r"\\begin\{tabular\}\{([lr]+)\}", text), strict=True):
        body = text[begin.end():text.index(r"\end{tabular}", begin.end())]
        assert begin[1][0] == "l" and len(begin[1]) == len(table.header)
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) == len(table.rows) + 1
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(table.header) - 1 for row in rows)
    bare = re.sub(r"\\[&%$#_{}]", "", "".join(lines))
    assert not re.search(r"(?<!\\)[#_]", bare) and bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0


@pytest.mark.parametrize("text, escaped", [
    ("a\\b", r"a\textbackslash{}b"), ("{x}^~", r"\{x\}\textasciicircum{}\textasciitilde{}"), ("$5 # 6", r"\$5 \# 6"),
])
def test_latex_of_every_odd_letter(text, escaped):
    assert latex_escaped(text) == escaped


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(done, tmp_path):
    tables_file = done.folder / "bench.tex"
    (tmp_path / "a.tex").write_text("\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
                                    f"\\input{{{tables_file}}}\\end{{document}}")
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"], cwd=tmp_path, check=True,
                   stdout=subprocess.DEVNULL)


def test_markdown_tables_are_whole(done):
    text = (done.folder / "bench.md").read_text()
    assert text == to_markdown(done)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert "- [1] bursts on balls: TrainingError" in text and "    worldkit bench tiny" in text


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [value for name, value in attributes if name in ("src", "href")]


def test_html_needs_nothing_else(done):
    text = (done.folder / "bench.html").read_text()
    page = _Links()
    page.feed(text)
    assert page.found and all(link.startswith("data:image/") for link in page.found)
    assert "script" not in page.tags and "link" not in page.tags and "@import" not in text and "small>" not in page.tags
    assert "&lt;small&gt;" in text and page.tags.count("img") == 2 and "svg" in page.tags  # two models that finished
    assert to_page(done).to_html() == text


# -- going on

def stamps(folder):
    return {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/*/result.json")}


def test_the_command_goes_on_and_only_adds_cells(done, capsys):
    before = stamps(done.folder)
    again = run(SUITE, models=[NAME], seeds=3, out=done.folder, isolate=False, show_progress=False)
    after = stamps(done.folder)
    assert {p: after[p] for p in before} == before and len(after) == len(before) + 1
    assert [r.status for r in again.records] == ["finished"] * 3
    assert again.interval(NAME, "balls", "psnr").n == 3
    again.print()
    assert "PSNR over copying" in capsys.readouterr().out
    run(SUITE, out=done.folder, isolate=False, show_progress=False)  # the tables of the whole again
    assert stamps(done.folder) == after


def test_another_budget_or_protocol_in_the_same_folder_is_refused(done):
    for change, message in (({"budget": "3steps"}, "budget: 2 steps there, 3 steps now"),
                            ({"suite": {**SUITE, "horizon": 4}}, "horizon: 3 there, 4 now")):
        with pytest.raises(ConfigError, match=message):
            run(change.pop("suite", SUITE), out=done.folder, isolate=False, show_progress=False, **change)


def test_failed_cells_are_tried_again_when_asked(tmp_path, cache, monkeypatch):
    suite = {**SUITE, "seeds": 1, "models": SUITE["models"][:1], "papers": []}
    with monkeypatch.context() as patch:
        patch.setattr("worldkit.bench.cell.train", lambda *a, **k: 1 / 0)
        found = run(suite, out=tmp_path, isolate=False, show_progress=False)
    assert found.records[0].error == "ZeroDivisionError: division by zero"
    kept = run(suite, out=tmp_path, isolate=False, show_progress=False)
    assert kept.records[0].status == "failed"
    again = run(suite, out=tmp_path, isolate=False, show_progress=False, retry=True)
    assert again.records[0].status == "finished"


def test_stages_share_the_budget(tmp_path, cache):
    suite = {**SUITE, "seeds": 1, "budget": "4steps", "papers": [], "models": [
        {"name": "two", "preset": "slotformer-balls-mini", "overrides": {"train": {"batch_size": 2}},
         "stages": [{"preset": "savi-balls-mini", "share": 0.75, "overrides": {"train": {"batch_size": 2}}}]}]}
    record, = run(suite, out=tmp_path, isolate=False, show_progress=False).records
    assert record.status == "finished", record.error
    stages = json.loads((record.folder / "cell.json").read_text())["stages"]
    assert [stage["train"]["steps"] for stage in stages] == [3, 1]
    assert record.number("steps") == 4 and "stage-0" in record.result["weights_from"]


def test_a_killed_benchmark_goes_on(tmp_path, cache):
    """kill -9 in the middle of the second cell: the first is kept, the second goes on from its checkpoint."""
    (tmp_path / "two.toml").write_text(
        'kind = "prediction"\nseeds = 1\nbudget = "40steps"\ncontext_frames = 2\nhorizon = 3\nclips = 2\n'
        '[[tasks]]\nname = "balls"\ndata = "balls-32"\noptions = { num_episodes = 4, episode_length = 20 }\n'
        + "".join(f'[[models]]\nname = "{name}"\npreset = "g-swm-balls-mini"\n'
                  f'overrides = {{ train = {{ batch_size = 1, save_every = 5, log_every = 1, lr = {lr} }} }}\n'
                  for name, lr in (("a", 1e-3), ("b", 2e-3))))
    words = ["bench", "two.toml", "--out", "out", "--quiet"]
    root = Path(wk.__file__).parents[1]
    command = subprocess.Popen([sys.executable, "-m", "worldkit", *words], cwd=tmp_path, stdout=subprocess.DEVNULL,
                               env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})
    log = wait_for(tmp_path, "out/cells/b/*/run/log.jsonl", lines=12)
    command.kill()
    command.wait()
    first, = tmp_path.glob("out/cells/a/*/result.json")
    stamp, at = first.stat().st_mtime_ns, len(log.read_text().splitlines())
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(words) == 0
    assert first.stat().st_mtime_ns == stamp and 10 <= at <= 45
    steps = [line["step"] for line in map(json.loads, log.read_text().splitlines()) if "grad_norm" in line]
    assert steps == list(range(1, 41)), "the second cell did not go on where it was"
    record = json.loads((log.parents[1] / "run" / "run.json").read_text())
    assert record.get("resumed"), "it began anew"
    lines = list(csv.DictReader((tmp_path / "out/bench.csv").open()))
    assert [(line["model"], line["status"], line["steps"]) for line in lines] == [
        ("a", "finished", "40.0"), ("b", "finished", "40.0")]
    assert all((tmp_path / "out" / name).stat().st_size > 100 for name in FILES)


def wait_for(folder, pattern, lines=1, seconds=300):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path in folder.glob(pattern):
            if len(path.read_text().splitlines()) >= lines:
                return path
        time.sleep(0.02)
    raise AssertionError(f"no {pattern} in {folder}")


def test_a_process_that_dies_is_a_failed_cell(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("worldkit.ablation.process.sys.executable", "/bin/false")
    found = run({**SUITE, "seeds": 1, "models": SUITE["models"][:1]}, out=tmp_path, show_progress=False)
    assert found.records[0].status == "failed" and "ended with status 1 and no result" in found.records[0].error


# -- control

CONTROL = {
    "name": "acting", "kind": "control", "seeds": 2, "budget": "60steps", "episodes": 2, "steps": 20,
    "tasks": [{"name": "catch", "env": "games/catch", "size": 32, "options": {"grid": 8}, "low": "random",
               "high": "scripted"}],
    "models": [
        {"name": "random", "policy": "random"}, {"name": "scripted", "policy": "scripted"},
        {"name": "gone", "policy": "no/such/agent"},
        {"name": "dreamer", "preset": "dreamer-v3-mini", "overrides": {
            "online": {"prefill": 30, "train_ratio": 8.0, "eval_every": 0, "eval_episodes": 1, "film_steps": 0},
            "train": {"batch_size": 2}}},
    ],
}


@pytest.fixture(scope="module")
def acted(tmp_path_factory, cache) -> Bench:
    torch.set_num_threads(1)
    return run(CONTROL, out=tmp_path_factory.mktemp("control"), isolate=False, show_progress=False)


def test_agents_and_baselines_meet_the_same_episodes(acted):
    assert {r.status for r in acted.of("random", "catch") + acted.of("scripted", "catch")} == {"finished"}
    starts = []
    for model in ("random", "scripted"):
        folder = acted.of(model, "catch")[1].folder
        episodes = [json.loads(line) for line in (folder / "episodes/episodes.jsonl").read_text().splitlines()]
        assert [(e["seed"], e["episode"]) for e in episodes] == [(1, 0), (1, 1)]
        starts.append(json.loads((folder / "episodes/protocol.json").read_text())["protocol"])
        mean = sum(e["return"] for e in episodes) / 2
        assert acted.of(model, "catch")[1].number("return") == pytest.approx(mean)
    assert starts[0] == starts[1]
    assert [r.error for r in acted.of("dreamer", "catch")] == ["", ""]
    assert all(r.number("steps") == 60 for r in acted.of("dreamer", "catch"))


def test_returns_are_normalised_between_random_and_the_script(acted):
    score = "normalised return"
    assert sum(acted.values("scripted", "catch", score)) / 2 == pytest.approx(1)
    assert sum(acted.values("random", "catch", score)) / 2 == pytest.approx(0)
    assert acted.suite.score == score and acted.aggregates["scripted"]["IQM"].mean == pytest.approx(1)


def test_an_agent_that_is_not_there_is_a_failed_cell(acted):
    """Not an untrained one that is scored."""
    assert {r.status for r in acted.of("gone", "catch")} == {"failed"} and "gone" not in acted.aggregates
    assert all("no/such/agent" in r.error for r in acted.of("gone", "catch"))


# -- suites

@pytest.mark.parametrize("name", list_suites())
def test_suites_that_come_along_name_what_there_is(name):
    """Every model is configured on every task; nothing trains."""
    from worldkit.bench.runner import _cells

    suite = load_suite(name)
    tasks = tuple(task.model_copy(update={"data": task.data or "somewhere"}) if task.data is not None else task
                  for task in suite.tasks)
    cells, records = _cells(suite.model_copy(update={"tasks": tasks, "seeds": 1}), Path("x"))
    assert [cell.error for cell in cells if cell.error] == [] and len(records) >= len(suite.models)
    assert suite.summary


@pytest.mark.parametrize("change, error, message", [
    ({"kind": "predictions"}, ConfigError, "kind"),
    ({"score": "fps"}, ConfigError, "score is one of over copying, psnr, ssim"),
    ({"models": [{"name": "x"}]}, ConfigError, "needs a preset, or else a policy"),
    ({"models": [{"name": "x", "policy": "random"}]}, ConfigError, "a policy predicts nothing"),
    ({"models": [{"name": "x", "preset": "lpwm-mini", "on": {"bals": {}}}]}, ConfigError, "task 'bals'"),
    ({"models": [{"name": "a,b", "preset": "lpwm-mini"}]}, ConfigError, "comma"),
    ({"tasks": [{"name": "balls", "env": "games/catch"}]}, ConfigError, "needs data and no env"),
    ({"tasks": [{"name": "balls", "data": "balls-32"}] * 2}, ConfigError, "different names"),
    ({"tasks": [{"name": "balls", "data": "", "note": "at x.org"}]}, ConfigError, r"\(at x.org\): --data balls=PATH"),
    ({"budget": "5 parsecs"}, ConfigError, "got '5 parsecs'"),
    ({"extra": 1}, ConfigError, "extra"),
])
def test_mistakes_are_refused_before_anything_trains(change, error, message, tmp_path):
    with pytest.raises(error, match=message):
        run({**SUITE, **change}, out=tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_unknown_names_have_the_nearest_one(tmp_path):
    with pytest.raises(UnknownComponentError, match="Did you mean 'small-worlds'"):
        load_suite("small-world")
    with pytest.raises(ConfigError, match="no model 'bust'. Did you mean 'bursts'"):
        run(SUITE, models=["bust"], out=tmp_path / "out")
    (tmp_path / "bad.toml").write_text("kind = ")
    with pytest.raises(ConfigError, match="bad.toml"):
        load_suite(tmp_path / "bad.toml")


def test_the_command_lists_suites_and_reads_its_options(capsys, tmp_path):
    assert main(["bench"]) == 0
    out = capsys.readouterr().out
    assert [name for name in list_suites() if f"{name}: " not in out] == []
    assert main(["bench", "families", "--models", "LPWMM", "--out", str(tmp_path)]) == 2
    assert "Did you mean 'LPWM'" in capsys.readouterr().err
    assert main(["bench", "families", "--data", "balls", "--out", str(tmp_path)]) == 2
    assert "--data is TASK=PATH" in capsys.readouterr().err


def test_what_is_not_done_is_missing(done):
    records = [Record(r.model, r.task, r.seed, r.folder) for r in done.records]
    nothing = Bench(done.suite, records, done.folder, "x")
    assert nothing.aggregates == {} and nothing.improvements == {} and nothing.profiles == ([], {})
    assert "2 of 2 not done" in to_markdown(nothing) and to_latex(nothing) and to_json(nothing) and to_csv(nothing)
    assert to_page(nothing).to_html()


def test_models_of_another_picture_size_are_not_compared(tmp_path):
    from worldkit.bench.runner import _cells

    suite = load_suite({**SUITE, "seeds": 1, "papers": [], "models": [
        {"name": "small", "preset": "lpwm-balls-mini"}, {"name": "large", "preset": "lpwm-mini"}]})
    errors = [cell.error for cell in _cells(suite, tmp_path)[0]]
    assert errors[0] == "" and "its pictures are 64x64, those of task 'balls' 32x32" in errors[1]


def test_paper_suites_hold_predictions_of_the_prior(tmp_path):
    """A suite of a paper that drives rollouts by what it saw of the future measures predictions all the same."""
    from worldkit.bench.runner import _cells

    suite = load_suite("lpwm")
    suite = suite.model_copy(update={"tasks": tuple(t.model_copy(update={"data": "x"}) for t in suite.tasks)})
    contents = [cell.content for cell in _cells(suite, tmp_path)[0]]
    assert {tuple(content["protocol"]["driven_by"]) for content in contents} == {("prior",)}
    assert {content["protocol"]["horizon"] for content in contents} == {44, 15}
    assert all(paper.protocol["driven_by"] == "unknown" for paper in suite.papers)
