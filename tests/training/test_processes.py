"""Two processes on one CPU: the same step as one process, and an exact resume after SIGKILL.

A fresh process spends half of its five or six CPU seconds on imports, torchrun comes on top. Where a test is about
steps and not about how processes start or get signals, they are forked from one that has imported everything.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

TINY = [
    "encoder.num_particles=4", "encoder.hidden_dim=16", "decoder.hidden_dim=16", "dynamics.dim=16",
    "dynamics.num_layers=1", "dynamics.num_heads=2", "latent_action.dim=16", "latent_action.num_layers=1",
    "latent_action.num_heads=2", "timestep_horizon=3", "data.num_episodes=3", "train.eval_clips=2", "train.log_every=1",
    "train.lr=1e-3", "train.ema=0.9", "train.save_every=2",
]

ALONE = {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}  # one that ends by a signal says where it was


def command(folder, processes, steps, *options):
    program = [sys.executable, "-m"]
    if processes > 1:
        program += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    overrides = [word for option in (*TINY, *options) for word in ("-o", option)]
    return [*program, "worldkit", "train", "lpwm-balls-mini", "--data", "balls-32", "--out", str(folder), "--steps",
            str(steps), "--quiet", *overrides]


def environment(folder):
    return os.environ | ALONE | {"WORLDKIT_CACHE": str(folder.parent / "cache")}


FORKS = """
import json, os, runpy, signal, sys
import accelerate, psutil, torch, torch._dynamo, torch.distributed.fsdp
import worldkit.cli.commands.train, worldkit.metrics, worldkit.training.trainer
from worldkit.compat import import_piqa

import_piqa(), worldkit.list_models()
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
    os.dup2(1, 2)
    os.environ.update(asked["environment"])
    sys.argv = ["worldkit", *asked["words"]]
    runpy.run_module("worldkit", run_name="__main__", alter_sys=True)
"""


class Forks:
    """Does ``python -m worldkit`` without the imports; several at once as torchrun would."""

    def __init__(self, folder):
        self.folder = folder
        self.parent = subprocess.Popen([sys.executable, "-c", FORKS], env=os.environ | ALONE,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **what):
        self.parent.stdin.write(json.dumps(what) + "\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def start(self, words, processes, environment):
        """Process ids."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        pids = []
        for rank in map(str, range(processes)):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if processes > 1 else {}
            pids.append(self.ask(words=words, environment=environment | own, output=str(self.folder / f"said-{rank}")))
        return pids

    def run(self, words, processes, environment):
        codes = [self.ask(wait=pid) for pid in self.start(words, processes, environment)]
        said = [(self.folder / f"said-{rank}").read_text()[-3000:] for rank in range(processes)]
        assert codes == [0] * processes, "\n".join(said)


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.parent.communicate()


def train_afresh(folder, processes, steps, *options):
    words = command(folder, processes, steps, *options)
    done = subprocess.run(words, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def train(forks):
    def run(folder, processes, steps, *options):
        forks.run(command(folder, 1, steps, *options)[3:], processes, {"WORLDKIT_CACHE": str(folder.parent / "cache")})
        return folder

    return run


def kill_afresh(folder, processes, steps, *options, when, orphans=False):
    """Start a run and SIGKILL all its processes as soon as ``when()`` is true; whether it was still running.

    ``orphans``: kill the first process only, torchrun itself.
    """
    run = subprocess.Popen(command(folder, processes, steps, *options), env=environment(folder),
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while run.poll() is None and not when():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    alive = run.poll() is None
    if alive:  # torchrun's workers have sessions of their own, so no signal to a group reaches them all
        family = [psutil.Process(run.pid), *([] if orphans else psutil.Process(run.pid).children(recursive=True))]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family[1:], timeout=60)
    run.wait()
    return alive


def weights(folder, step):
    return load_file(folder / f"checkpoints/step-{step:08d}/model.safetensors")


def losses(folder, term="loss"):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[term] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def one(tmp_path_factory, train):
    return train(tmp_path_factory.mktemp("runs") / "one", 1, 4, "train.batch_size=4")


@pytest.fixture(scope="module")
def two(one):
    return train_afresh(one.parent / "two", 2, 4, "train.batch_size=2")


def test_two_processes_take_the_steps_of_one(one, two):
    assert losses(two) == pytest.approx(losses(one), rel=2e-4)
    start, after, other = weights(one, 2), weights(one, 4), weights(two, 4)
    moved, apart = (sum((b[n] - a[n]).square().sum() for n in a).sqrt() for a, b in ((start, after), (after, other)))
    assert apart < 0.01 * moved  # Adam makes whole steps of gradients that are zero but for rounding
    state = torch.load(two / "checkpoints/step-00000004/state.pt", weights_only=True)
    assert len(state["rng"]) == 2 and state["progress"]["clips_per_step"] == 4


def test_two_processes_share_the_statistics_of_diffusion(one, train):
    options = ("dynamics=diffusion", "train.save_every=1")
    alone = train(one.parent / "diffusion-one", 1, 2, "train.batch_size=4", *options)
    pair = train(one.parent / "diffusion-two", 2, 2, "train.batch_size=2", *options)
    assert losses(pair) == pytest.approx(losses(alone), rel=2e-4)
    scales = {name for name in weights(alone, 1) if "_scale." in name}
    assert len(scales) == 6
    for name in scales:
        torch.testing.assert_close(weights(pair, 1)[name], weights(alone, 1)[name], rtol=1e-4, atol=1e-6)


def test_accumulated_batches_take_the_steps_of_whole_ones(one, train):
    parts = train(one.parent / "parts", 1, 2, "train.batch_size=2", "train.gradient_accumulation=2")
    assert losses(parts) == pytest.approx(losses(one)[:2], rel=2e-4)


def same_state(a, b, step):
    """Weights, moving average and log of two runs are the same to the bit."""
    states = [torch.load(f / f"checkpoints/step-{step:08d}/state.pt", weights_only=True) for f in (a, b)]
    pairs = [(weights(a, step), weights(b, step)), tuple(state["ema"]["average"] for state in states)]
    return losses(a) == losses(b) and all(torch.equal(x[n], v) for x, y in pairs for n, v in y.items())


@pytest.mark.parametrize("last_step", [1, 2, 3])  # a checkpoint is written after every second step
def test_killed_after_any_step_a_run_ends_the_same(one, last_step, forks, train):
    folder, batch = one.parent / f"killed-{last_step}", "train.batch_size=4"
    log, deadline = folder / "log.jsonl", time.monotonic() + 240
    (pid,) = forks.start(command(folder, 1, 4, batch)[3:], 1, {"WORLDKIT_CACHE": str(folder.parent / "cache")})
    while not log.exists() or len(log.read_text().splitlines()) < last_step:
        assert time.monotonic() < deadline and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    assert forks.ask(wait=pid) == -signal.SIGKILL  # it was still running
    assert same_state(train(folder, 1, 4, batch), one, 4)


def test_killed_processes_go_on_to_the_same_weights(two, train):
    folder, batch = two.parent / "killed", "train.batch_size=2"
    checkpoint = folder / "checkpoints/step-00000002/state.pt"
    assert kill_afresh(folder, 2, 4, batch, when=checkpoint.exists)
    assert same_state(train(folder, 2, 4, batch), two, 4)


def test_workers_that_outlive_torchrun_keep_others_out(two, train):
    """kill -9 of torchrun alone: a new run refuses the folder and names who to end; then it goes on."""
    pytest.importorskip("fcntl")
    folder, batch = two.parent / "orphans", "train.batch_size=2"
    checkpoint = folder / "checkpoints/step-00000002"
    assert kill_afresh(folder, 2, 4000, batch, when=checkpoint.exists, orphans=True)
    worker = psutil.Process(int((folder / ".lock").read_text().split()[1]))
    try:
        with pytest.raises(AssertionError, match=rf"another worldkit train \(process {worker.pid} on "):
            train(folder, 2, 4, batch)
        assert worker.is_running()
    finally:
        worker.kill()
    steps = max(int(p.name.removeprefix("step-")) for p in folder.glob("checkpoints/step-*")) + 2
    train(folder, 2, steps, batch)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, steps + 1))


@pytest.mark.slow  # some minutes: a dozen starts each
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_again_and_again_at_random_moments(processes, tmp_path):
    """While importing, reading data, stepping, evaluating, writing a checkpoint or the log: whatever the clock hits."""
    options = (f"train.batch_size={4 // processes}", "train.save_every=3", "train.eval_every=7")
    started, folder = time.monotonic(), tmp_path / "killed"
    whole = train_afresh(tmp_path / "whole", processes, 40, *options)
    longest, chance, kills = time.monotonic() - started, random.Random(0), 0
    for _ in range(8):
        end = time.monotonic() + chance.uniform(0.2, 0.9) * longest
        if kill_afresh(folder, processes, 40, *options, when=lambda end=end: time.monotonic() >= end):
            kills += 1
        else:  # it was through before
            assert same_state(folder, whole, 40)
            shutil.rmtree(folder)
    assert kills >= 3
    assert same_state(train_afresh(folder, processes, 40, *options), whole, 40)


def test_sharded_weights_take_the_same_steps(two, train):
    sharded = train(two.parent / "sharded", 2, 2, "train.batch_size=2", "train.strategy=fsdp")
    assert losses(sharded) == pytest.approx(losses(two)[:2], rel=2e-4)
    whole = weights(two, 2)
    assert {n: v.shape for n, v in weights(sharded, 2).items()} == {n: v.shape for n, v in whole.items()}
    train(sharded, 2, 4, "train.batch_size=2", "train.strategy=fsdp")  # goes on from its own checkpoint
    assert losses(sharded) == pytest.approx(losses(two), rel=2e-3)


def test_sharded_weights_compute_in_the_asked_precision(two, train):
    half = train(two.parent / "bf16", 2, 1, "train.batch_size=2", "train.strategy=fsdp", "train.precision=bf16")
    assert losses(half) == pytest.approx(losses(two)[:1], rel=0.02)
    # bf16 shows in the KL (3e-3; float32 agrees to 1e-6); the loss of an untrained model hardly moves
    assert 1e-4 < abs(losses(half, "kl")[0] / losses(two, "kl")[0] - 1) < 0.02


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_writes_a_checkpoint_and_leaves(one, processes, train):
    """Sent twice to every process: torchrun, trainers, workers of data loaders."""
    folder = one.parent / f"stopped-{processes}"
    options = (f"train.batch_size={4 // processes}", "train.save_every=0", "train.num_workers=1")
    run = subprocess.Popen(command(folder, processes, 4000, *options), env=environment(folder),
                           stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (folder / "log.jsonl").exists() or len(losses(folder)) < 3:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    for process in family * 2:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    said = " ".join(run.communicate(timeout=120)[0].split())  # the lines are wrapped
    assert "stopped; the same command goes on" in said
    assert ("best model: none yet" in said) == (not (folder / "best").exists())
    assert run.returncode == 0 or processes == 2  # torchrun calls it a failure
    steps = int(next(folder.glob("checkpoints/step-*")).name.removeprefix("step-"))
    assert steps == len(losses(folder))  # nothing done was lost
    again = train(folder, processes, steps + 1, *options)
    assert len(losses(again)) == steps + 1


def test_another_number_of_clips_per_step_is_refused(two):
    done = subprocess.run(command(two, 1, 6, "train.batch_size=2"), capture_output=True, text=True)
    assert done.returncode == 2 and "was made with 4 clips per step, this run has 2" in done.stderr
