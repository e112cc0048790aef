"""Long runs with faults: a training that is killed at random moments, and a game in the browser whose viewers drop off.

    python benchmarks/soak.py train --minutes 120
    python benchmarks/soak.py web --minutes 60

train: a run of ``--steps`` steps is made once without a disturbance. Then, until the time is up, the same run is made
in a new folder, killed (SIGKILL) at random moments and started again until it is finished. Its log (clocks apart) and
all weights that are kept must be those of the undisturbed run, bit for bit, and nothing half written may be left.

web: a server plays the model of ``worldkit play --web`` for viewers who connect, steer, begin anew, branch, and leave:
with a closing handshake, without one in the middle of a frame, or by sending what is no command. Its resident memory,
open files, viewers and asyncio tasks are counted after every round.

Both print a line of JSON; the exit status is 1 if anything was lost or left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

MODEL = "g-swm-balls-mini"
DATA = ["--data", "balls-32", "-o", "data.num_episodes=4", "-o", "data.episode_length=16"]


# -- training


def start(words: list[str], said: Path) -> int:
    """``worldkit ...`` in a process forked from this one, which has made all imports."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        with open(said, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file), \
                contextlib.redirect_stderr(file):
            from worldkit.cli import main

            code = main(words)
    finally:
        os._exit(code)


def told(run: Path) -> list[dict]:
    """The log, clocks apart."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in ("seconds", "cpu")} for line in lines]


def weights(run: Path) -> dict[str, str]:
    """Weights file -> hash of its tensors, of the kept checkpoints and the best model; headers have no fixed order."""
    from safetensors.numpy import load_file

    found = {}
    for file in sorted(run.rglob("model.safetensors")):
        digest = hashlib.sha256()
        for name, array in sorted(load_file(file).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        found[str(file.relative_to(run))] = digest.hexdigest()
    return found


def steps_of(run: Path) -> tuple[int, int]:
    """Steps made so far, as the log has them, and of the newest checkpoint."""
    with contextlib.suppress(OSError, ValueError):
        lines = (run / "log.jsonl").read_text("utf-8").splitlines()
        steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        saved = [int(p.name.removeprefix("step-")) for p in (run / "checkpoints").glob("step-*")]
        return max(steps, default=0), max(saved, default=0)
    return 0, 0


def soak_training(minutes: float, steps: int, seed: int, place: Path) -> dict:
    """Runs with kills until the time is up; what was found."""
    import torch

    import worldkit.training.trainer  # noqa: F401 - imported once, before the forks
    from worldkit.cli import main  # noqa: F401

    torch.set_num_threads(1)
    os.environ["WORLDKIT_CACHE"] = str(place / "cache")
    options = ["-o", "train.batch_size=2", "-o", "train.log_every=1", "-o", "train.save_every=3", "-o",
               "train.eval_every=10", "-o", "train.eval_clips=2", "--steps", str(steps), "--quiet"]
    words = ["train", MODEL, *DATA, *options, "--run"]
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(start([*words, str(place / "whole")], place / "whole.txt"), 0)[1]) == 0
    lasts = time.monotonic() - began
    whole, rng = (told(place / "whole"), weights(place / "whole")), random.Random(seed)
    found = {"what": "train", "model": MODEL, "steps": steps, "seed": seed, "undisturbed_s": round(lasts, 1), "runs": 0,
             "kills": 0, "before_the_first_checkpoint": 0, "steps_made_again": 0, "while_a_checkpoint_was_written": 0,
             "differ": [], "left": [], "failed": []}
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        run = place / f"run-{found['runs']}"
        while True:
            pid, moment = start([*words, str(run)], place / "said.txt"), time.monotonic() + rng.uniform(0, 0.7 * lasts)
            status = None
            while status is None and time.monotonic() < moment:
                done, code = os.waitpid(pid, os.WNOHANG)
                status = os.waitstatus_to_exitcode(code) if done else None
                time.sleep(0.002)
            if status is None:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                found["kills"] += 1
                made, saved = steps_of(run)
                found["before_the_first_checkpoint"] += not saved
                found["steps_made_again"] += max(0, made - saved)
                found["while_a_checkpoint_was_written"] += any(run.rglob("*.partial"))
                continue
            if status:
                found["failed"].append(f"{run.name}: status {status}: {(place / 'said.txt').read_text()[-500:]}")
            break
        found["runs"] += 1
        if (told(run), weights(run)) != whole:
            found["differ"].append(run.name)
        found["left"] += [str(p) for p in run.rglob("*") if re.search(r"\.(partial|tmp|old)", p.name)]
        shutil.rmtree(run)
    return found | {"minutes": round((time.monotonic() - began) / 60, 1),
                    "good": not (found["differ"] or found["left"] or found["failed"])}


# -- the browser


def resident() -> float:
    """Memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def visit(client, server, rng: random.Random, found: dict) -> None:
    """One viewer: connects, does a few things, leaves in one of several ways."""
    import aiohttp

    address = f"http://127.0.0.1:{server.port}"
    socket = await client.ws_connect(f"{address}/socket?token={server.token}", headers={"Origin": address})
    found["connections"] += 1
    orders = [{"do": "play", "on": True}, {"do": "step"}, {"do": "begin"}, {"do": "branch"}, {"do": "drop"},
              {"do": "owners", "on": True}, {"do": "look", "t": 0}, {"do": "record", "on": True},
              {"do": "record", "on": False}, {"do": "steer", "action": None}, {"do": "play", "on": False},
              {"do": "outline", "future": 0, "at": [4, 4]}, {"do": "nothing"}, "no JSON", [1], {"got": 1}]
    for _ in range(rng.randint(1, 6)):
        order = rng.choice(orders)
        await socket.send_str(order if isinstance(order, str) else json.dumps(order))
        for _ in range(rng.randint(0, 4)):
            with contextlib.suppress(TimeoutError):
                message = await asyncio.wait_for(socket.receive(), 0.2)
                found["frames"] += message.type is aiohttp.WSMsgType.BINARY
                if message.type is aiohttp.WSMsgType.BINARY and rng.random() < 0.9:
                    await socket.send_str('{"got": 1}')
    found["messages"] += 1
    if rng.random() < 0.5:
        await socket.close()
    else:  # the line is cut
        found["cut"] += 1
        socket._conn.transport.abort()


async def play(server, minutes: float, seed: int) -> dict:
    import aiohttp

    ready, rng = asyncio.Event(), random.Random(seed)
    task = asyncio.create_task(server.run(lambda address: ready.set()))
    await ready.wait()
    found = {"what": "web", "model": MODEL, "seed": seed, "rounds": 0, "connections": 0, "cut": 0, "frames": 0,
             "messages": 0, "left": []}
    began, memory = time.monotonic(), []
    quiet = len(asyncio.all_tasks())
    files = len(os.listdir("/proc/self/fd"))
    while time.monotonic() < began + 60 * minutes:
        async with aiohttp.ClientSession() as client:
            await asyncio.gather(*(visit(client, server, rng, found) for _ in range(rng.randint(1, 4))))
        found["rounds"] += 1
        for _ in range(100):
            if not server._viewers and len(asyncio.all_tasks()) <= quiet:
                break
            await asyncio.sleep(0.05)
        else:
            found["left"].append(f"round {found['rounds']}: {len(server._viewers)} viewers, "
                                 f"{len(asyncio.all_tasks()) - quiet} tasks")
        if found["rounds"] % 20 == 0:
            server.session.begin(0)
            gc.collect()
            memory.append((round((time.monotonic() - began) / 60, 2), round(resident(), 1),
                           len(os.listdir("/proc/self/fd"))))
        if task.done():
            found["left"].append(f"the server stopped: {task.exception()}")
            break
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    half = memory[len(memory) // 2:]
    growth = half[-1][1] - half[0][1] if len(half) > 1 else None
    return found | {"minutes": round((time.monotonic() - began) / 60, 1),
                    "memory_MB": memory[:: max(1, len(memory) // 12)],
                    "growth_in_the_second_half_MB": growth, "open_files": (files, memory[-1][2] if memory else files),
                    "good": not found["left"]}


def soak_web(minutes: float, seed: int) -> dict:
    """A server and its viewers in one process, until the time is up; what was found."""
    import torch

    import worldkit as wk
    from worldkit.play.server import Server
    from worldkit.play.session import Session
    from worldkit.training.recipes import open_clips

    torch.set_num_threads(1)
    model = wk.create_model(MODEL, pretrained=True).eval()
    clips = open_clips(model, "balls-32", split="test", num_frames=12, num_episodes=4, episode_length=16)
    session = Session(model, clips, context_frames=6, seed=seed)
    return asyncio.run(play(Server(session, {"model": MODEL, "data": "balls-32"}, fps=20), minutes, seed))


def main() -> int:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("train", "web"))
    p.add_argument("--minutes", type=float, default=5)
    p.add_argument("--steps", type=int, default=30, help="of a training (default: 30)")
    p.add_argument("--seed", type=int, default=0)
    options = p.parse_args()
    if options.what == "web":
        found = soak_web(options.minutes, options.seed)
    else:
        with tempfile.TemporaryDirectory() as place:
            found = soak_training(options.minutes, options.steps, options.seed, Path(place))
    print(json.dumps(found))
    return 0 if found["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
