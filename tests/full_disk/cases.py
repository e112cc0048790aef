"""What worldkit writes: a name -> ``prepare(folder)``, which gives the writing as a function of no arguments.

Everything is written below ``folder``. A writing may be called again in the same folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

import worldkit as wk
from worldkit.agents import ActionSpec, create_agent, save_agent
from worldkit.assembly import build
from worldkit.cli import main
from worldkit.data import ArraySource, list_writers, open_dataset, write_dataset
from worldkit.data.formats.hdf5 import write_balls_hdf5
from worldkit.data.video_io import write_video
from worldkit.exporting.checks import Checked
from worldkit.storage.sharing import export_model
from worldkit.testing.examples import small_config

Act = Callable[[], object]
CASES: dict[str, Callable[[Path], Act]] = {}
COMMANDS: set[str] = set()
"""Cases that are a command line: what they return is its status."""
BALLS = ["--data", "balls-32", "-o", "data.num_episodes=4", "-o", "data.episode_length=16"]
RUN = ["train", "g-swm-balls-mini", *BALLS, "-o", "train.batch_size=2", "--quiet"]
PLAN = ["plan", "lpwm-push-mini", "-o", "data.num_episodes=1", "--candidates", "4", "--iterations", "1",
        "--horizon", "2"]
WHAT_IF = ["whatif", "lpwm-balls-mini", "-o", "data.num_episodes=1", "--horizon", "2", "--at", "0.55", "0.02"]
SUITE = {"name": "tiny", "kind": "prediction", "seeds": 1, "budget": "1steps", "context_frames": 2, "horizon": 2,
         "clips": 2, "tasks": [{"name": "balls", "data": "balls-32", "options": {"num_episodes": 4}}],
         "models": [{"name": "shipped", "preset": "g-swm-balls-mini", "weights": "shipped"}]}


def case(prepare: Callable[[Path], Act]) -> Callable[[Path], Act]:
    CASES[prepare.__name__.replace("_", " ")] = prepare
    return prepare


def command(prepare: Callable[[Path], list[str]]) -> Callable[[Path], list[str]]:
    name = prepare.__name__.replace("_", " ")
    COMMANDS.add(name)
    CASES[name] = lambda folder: (lambda words: lambda: main([str(w) for w in words]))(prepare(folder))
    return prepare


@cache
def model(seed: int = 0):
    torch.manual_seed(seed)
    return build(small_config())


def episodes(length: int = 5):
    frames = np.random.default_rng(0).integers(0, 255, (3, length, 3, 16, 16), np.uint8)
    actions = np.linspace(-1, 1, length * 2, dtype=np.float32).reshape(length, 2)
    return ArraySource([{"video": f, "action": actions} for f in frames])


@cache
def template(name: str) -> Path:
    """A folder that is made once and copied, with the cache of its data."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="template-"))
    before, os.environ["WORLDKIT_CACHE"] = os.environ["WORLDKIT_CACHE"], str(folder / "cache")
    TEMPLATES[name](folder)
    os.environ["WORLDKIT_CACHE"] = before
    return folder


def copied(name: str, folder: Path) -> None:
    shutil.copytree(template(name), folder, dirs_exist_ok=True)


def typed(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


TEMPLATES: dict[str, Callable[[Path], object]] = {
    "run": lambda folder: typed(*RUN, "--steps", "1", "--run", folder / "run"),
    "plan": lambda folder: typed(*PLAN, "--out", folder / "plan"),
    "what if": lambda folder: typed(*WHAT_IF, "--remove", "--out", folder / "what-if"),
    "demo": lambda folder: short_demo(folder),
    "ablation": lambda folder: unscored(folder, ablation),
    "bench": lambda folder: unscored(folder, benchmark),
}


# -- models


@case
def model_folder(folder):
    model(0).save_pretrained(folder / "model")
    return lambda: model(1).save_pretrained(folder / "model")


@case
def shared_folder(folder):
    model(0).save_pretrained(folder / "model")
    return lambda: export_model(folder / "model", folder / "shared")


@case
def agent_folder(folder):
    options = dict(action=ActionSpec(low=(-1,), high=(1,)), frame_shape=(3, 32, 32), channels=[4, 4], hidden_dim=8)
    save_agent(create_agent("cloning", **options), folder / "agent")
    return lambda: save_agent(create_agent("cloning", **options), folder / "agent")


@case
def act_in_a_game(folder):
    """A run that learns by acting, with its data, checkpoints and pictures."""
    from worldkit.online import OnlineConfig, OnlineTrainer
    from worldkit.training.config import TrainConfig

    make = partial(wk.make_env, "games/catch", size=32)
    config = OnlineConfig(steps=40, prefill=20, length=7, train_ratio=4, eval_every=0, save_every=30, eval_episodes=1,
                          max_steps=10, film_steps=0)
    return lambda: OnlineTrainer(stub_agent(make), make, config, TrainConfig(batch_size=2, log_every=10),
                                 run=folder / "run", show_progress=False).fit()


def stub_agent(make):
    with make() as env:
        return create_agent("stub", env=env, model=stubs().small_model(ActionSpec.of_space(env.action_space)))


@cache
def stubs():
    """The small agents that the tests of learning by acting have."""
    place = Path(__file__).parents[1] / "online" / "conftest.py"
    spec = importlib.util.spec_from_file_location("stubs", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@command
def train(folder):
    """A run that goes on from its first step to its second."""
    copied("run", folder)
    return [*RUN, "--steps", "2", "--run", folder / "run"]


@command
def train_anew(folder):
    return [*RUN, "--steps", "1", "--run", folder / "run"]


@case
def export(folder):
    """The exporters and the comparison, which take seconds, are left out: a file is written, and its specification."""
    exporting = importlib.import_module("worldkit.exporting.export")
    checked = Checked(0.0, 1e-4, [(2, 2)], "nothing")

    def write(form, graph, path, tolerance):
        path.write_bytes(bytes(4000))
        return graph.examples(2, graph.time()), [{}] * len(graph.inputs), {}, checked

    exporting._write = write
    wk.export(model(0), folder, what="encode", format="torch-export")
    return lambda: wk.export(model(1), folder, what="encode", format="torch-export")


# -- pictures and pages


def frames(count=6):
    return torch.from_numpy(np.random.default_rng(1).random((count, 3, 24, 24), np.float32))


@case
def png(folder):
    wk.viz.save_png(frames()[1], folder / "a.png")
    return lambda: wk.viz.save_png(frames()[0], folder / "a.png")


@case
def animation_gif(folder):
    return lambda: wk.viz.save_animation(frames(), folder / "a.gif")


@case
def animation_mp4(folder):
    wk.viz.save_animation(frames(3), folder / "a.mp4")
    return lambda: wk.viz.save_animation(frames(), folder / "a.mp4")


@case
def page(folder):
    report = wk.viz.HtmlReport("Page").heading("x").image(frames()[0])
    report.write(folder / "a.html")
    return lambda: report.text("more").write(folder / "a.html")


def _video(suffix):
    def prepare(folder):
        film = np.random.default_rng(1).integers(0, 255, (6, 24, 24, 3), np.uint8)
        write_video(folder / f"a{suffix}", film[:2])
        return lambda: write_video(folder / f"a{suffix}", film)

    return prepare


CASES |= {f"video {suffix}": _video(suffix) for suffix in (".mp4", ".webm", ".gif")}


# -- data


def _data(name):
    def prepare(folder):
        path = folder / ("set.hdf5" if name in ("hdf5", "columns") else "set")
        write_dataset(episodes(4), path, name)
        return lambda: write_dataset(episodes(), path, name, overwrite=True)

    return prepare


CASES |= {f"data {name}": _data(name) for name in list_writers()}


@case
def data_of_two_splits(folder):
    return lambda: write_dataset({"train": episodes(), "val": episodes(4)}, folder / "set", "columns")


@case
def data_balls_layout(folder):
    rng = np.random.default_rng(0)
    videos = rng.integers(0, 255, (3, 5, 3, 16, 16), np.uint8)
    source = ArraySource([{"video": v, "state": {"position": rng.random((5, 2, 2), np.float32)}} for v in videos])
    return lambda: write_dataset(source, folder / "a.hdf5", "hdf5", overwrite=True)


@case
def data_of_balls(folder):
    return lambda: write_balls_hdf5(folder / "balls", splits={"train": 2, "val": 1}, image_size=16, num_frames=4)


@case
def data_lossless(folder):
    return lambda: write_dataset(episodes(), folder / "set", "lerobot", lossless=True)


@command
def data_convert(folder):
    write_dataset(episodes(), folder / "set", "npz")
    return ["data", "convert", folder / "set", folder / "new", "--to", "lerobot", "--split", "all"]


@command
def data_preview(folder):
    write_dataset(episodes(), folder / "set", "npz")
    return ["data", "preview", folder / "set", "--split", "all", "--out", folder / "preview"]


@case
def cache_of_frames(folder):
    film = np.random.default_rng(1).integers(0, 255, (12, 24, 24, 3), np.uint8)
    write_video(folder / "a.mp4", film)
    return lambda: open_dataset(folder / "a.mp4", num_frames=4, split="all")[0]


@command
def collect(folder):
    return ["collect", "games/catch", "--out", folder / "set", "--episodes", "2", "--size", "16", "--max-steps", "9",
            "--quiet", "--append"]


# -- results


@command
def rollout(folder):
    copied("run", folder)
    return ["rollout", folder / "run", *BALLS, "--clips", "1", "--out", folder / "films", "--context", "2",
            "--horizon", "2"]


@command
def evaluate(folder):
    copied("run", folder)
    return ["eval", folder / "run", *BALLS, "--max-clips", "2", "--context", "2", "--horizon", "2", "--pictures", "1"]


@command
def probe(folder):
    copied("run", folder)
    return ["probe", folder / "run", *BALLS, "--target", "position", "--max-clips", "4", "--out", folder / "probe.json"]


@command
def control(folder):
    return ["control", "games/catch", "--budget", "4", "--episodes", "2", "--seeds", "0", "--together", "1", "--size",
            "16", "--out", folder / "control", "--quiet"]


@command
def sample(folder):
    small = small_config(latent_action=None, prior="diffusion", objective="first-frames")
    build(small).save_pretrained(folder / "model")
    return ["sample", folder / "model", "--out", folder / "films", "--n", "2", "--horizon", "1"]


@command
def plan(folder):
    copied("plan", folder)
    return [*PLAN, "--seed", "1", "--out", folder / "plan"]


@command
def what_if(folder):
    copied("what if", folder)
    return [*WHAT_IF, "--move", "0.2", "0.2", "--out", folder / "what-if"]


@case
def demo(folder):
    """On a few episodes, after two steps of training, whose writing is that of ``train anew``."""
    copied("demo", folder)
    return lambda: short_demo(folder)


def short_demo(folder):
    from worldkit.cli.demo import run

    open_clips, make_trainer, clips = run.open_clips, run.make_trainer, run.CLIPS
    few = {"num_episodes": 4, "episode_length": 24}
    run.open_clips = lambda *given, **options: open_clips(*given, **options | few)
    run.make_trainer = lambda *given, train_overrides, **options: make_trainer(
        *given, **options, data_options=few, train_overrides=train_overrides | {"seconds": None, "steps": 2})
    run.CLIPS = 2
    try:
        run.demo(out=folder / "demo", seconds=1)
    finally:
        run.open_clips, run.make_trainer, run.CLIPS = open_clips, make_trainer, clips


@case
def ablate(folder):
    """A cell that is trained and not scored yet."""
    copied("ablation", folder)
    return lambda: ablation(folder)


@case
def bench(folder):
    copied("bench", folder)
    return lambda: benchmark(folder)


@case
def bench_apart(folder):
    """The cell in a process of its own: the k-th call of either process fails."""
    copied("bench", folder)
    return lambda: benchmark(folder, isolate=True)


def ablation(folder):
    return wk.ablation.run("g-swm-balls-mini", "balls-32", settings={"train.lr": [1e-3]}, seeds=1, budget="1steps",
                           context_frames=2, horizon=2, clips=2, out=folder / "out", isolate=False, show_progress=False,
                           overrides={"train.batch_size": 2, "data.num_episodes": 4, "data.episode_length": 16})


def benchmark(folder, isolate=False):
    return wk.bench.run(SUITE, out=folder / "out", isolate=isolate, show_progress=False)


def unscored(folder, run):
    """As if it had been stopped between training and scoring."""
    run(folder)
    for file in (*folder.glob("out/*.*"), *folder.glob("out/cells/*/*/*.*")):
        file.unlink()
