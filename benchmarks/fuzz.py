"""Fuzzing of what worldkit reads: damaged files must end in an error of worldkit's, in time, in little memory.

    python benchmarks/fuzz.py --seconds 60                 # every target, mutations of valid files
    python benchmarks/fuzz.py --seconds 3600 --guided      # coverage-guided, with atheris (pip install atheris)
    python benchmarks/fuzz.py --seconds 600 --guided --corpus fuzz/corpus   # an hour in parts
    python benchmarks/fuzz.py npz config --seconds 10

A target is a valid file, or one file of a valid folder, and what reads it. Inputs are mutations of that file: bytes
flipped, cut, repeated, numbers replaced by extreme ones, words of the format inserted; with ``--guided`` libFuzzer (by
way of atheris) mutates them and keeps those that reach new lines of worldkit, in ``--corpus`` for the next time, too. A
finding is any exception that is
neither a WorldkitError nor an OSError, a read of more than ``--limit`` seconds, or more than ``--memory`` MB of memory
than before. Every finding is written to ``--out``, so that it can be tried again: ``--again FILE``.

Prints a line of JSON for each target; the exit status is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

Read = Callable[[], object]


class Target(NamedTuple):
    """``make(folder)`` writes a valid input; gives the file to damage and what reads it."""

    make: Callable[[Path], tuple[Path, Read]]
    words: tuple[bytes, ...] = ()


class TooLong(BaseException):
    """A read that takes too long; no Exception, so that no reader swallows it."""


# -- targets


def _episodes():
    from worldkit.data import ArraySource

    rng = np.random.default_rng(0)
    action = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    return ArraySource([{"video": rng.integers(0, 255, (4, 3, 8, 8), np.uint8), "action": action} for _ in range(2)])


def _read_data(path: Path, file: str | None = None) -> Read:
    """Opens data with all they hold, and reads what there is."""

    def read() -> None:
        from worldkit.data import open_dataset
        from worldkit.data.validate import validate

        clips = open_dataset(path, num_frames=2, split="all", height=8, width=8)
        for index in range(min(3, len(clips))):
            clips[index]
        list(validate(str(path))) if file == "validate" else None

    return read


def _data(form: str, pattern: str, target: str = "set", **options) -> Callable[[Path], tuple[Path, Read]]:
    def make(folder: Path) -> tuple[Path, Read]:
        from worldkit.data import write_dataset

        path = folder / target
        write_dataset(_episodes(), path, form, **options)
        file = path if path.is_file() else sorted(path.rglob(pattern))[0]
        return file, _read_data(path)

    return make


def _film(suffix: str) -> Callable[[Path], tuple[Path, Read]]:
    def make(folder: Path) -> tuple[Path, Read]:
        from worldkit.data.video_io import write_video

        path = folder / f"a{suffix}"
        write_video(path, np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8))
        return path, _read_data(path)

    return make


def _frames(folder: Path) -> None:
    """Pictures of one episode, numbered."""
    from PIL import Image

    folder.mkdir(parents=True)
    for step in range(4):
        Image.new("RGB", (8, 8), (60 * step, 0, 0)).save(folder / f"{step}.png")


def _bair(folder: Path) -> tuple[Path, Read]:
    """A layout whose actions are pickles."""
    import pickle

    place = folder / "set" / "train" / "0"
    _frames(place)
    columns = {"actions": np.zeros((4, 4), np.float32), "rewards": [0.5] * 4, "dones": np.arange(4) == 3}
    for name, values in columns.items():
        (place / f"{name}.pkl").write_bytes(pickle.dumps(values))
    return place / "actions.pkl", _read_layout(folder / "set")


def _sketchy(folder: Path) -> tuple[Path, Read]:
    """A layout whose actions are ``.pt`` files."""
    import torch

    place = folder / "set" / "train" / "demos" / "ep0"
    (folder / "set" / "train" / "rollouts").mkdir(parents=True)
    _frames(place)
    for step, picture in enumerate(sorted(place.glob("*.png"))):
        picture.rename(place / f"image_f{step}.png")
        torch.save({"actions": torch.zeros(7)}, place / f"action_f{step}.pt")
    return place / "action_f1.pt", _read_layout(folder / "set", episode_length=4)


def _read_layout(path: Path, **options) -> Read:
    from worldkit.data import open_dataset

    return lambda: open_dataset(path, num_frames=2, split="train", height=8, width=8, **options)[0]


def _swm(folder: Path) -> tuple[Path, Read]:
    """A table of stable-worldmodel's folders."""
    from PIL import Image

    place = folder / "set"
    (place / "pixels").mkdir(parents=True)
    tables = {"action": np.zeros((8, 2), np.float32), "ep_len": np.array([4, 4]), "ep_offset": np.array([0, 4])}
    for name, values in tables.items():
        np.savez(place / f"{name}.npz", values)
    for episode in range(2):
        for step in range(4):
            Image.new("RGB", (8, 8), (60 * step, 0, 0)).save(place / "pixels" / f"ep_{episode}_step_{step}.jpeg")
    return place / "ep_offset.npz", _read_data(place)


def _traffic(folder: Path) -> tuple[Path, Read]:
    np.save(folder / "a.npy", np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), np.uint8))
    return folder / "a.npy", _read_data(folder / "a.npy")


def _small_model():
    from worldkit.assembly import build
    from worldkit.testing.examples import small_config

    return build(small_config(encoder={"name": "conv", "depth": 2, "multipliers": (2, 3, 4)}, decoder="conv",
                              latent_action=None, dynamics="gru"))


def _model(name: str) -> Callable[[Path], tuple[Path, Read]]:
    """As commands read a model."""

    def make(folder: Path) -> tuple[Path, Read]:
        from worldkit.cli.loading import load
        from worldkit.storage.hub import save_pretrained

        save_pretrained(_small_model(), folder / "model", facts={"step": 1, "preset": "gru-mini", "data": "shapes"})

        def read() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                load(f"dir:{folder / 'model'}")

        return folder / "model" / name, read

    return make


def _run(folder: Path) -> tuple[Path, Read]:
    """A training that goes on: the state of its one checkpoint."""
    import torch

    from worldkit.training import checkpoint

    model = _small_model()
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}}
    state = {"rng": checkpoint.random_state(), "optimizer": optimizer, "progress": {"step": 1}}
    file = checkpoint.save_checkpoint(folder, model, state, keep=1, facts={}) / checkpoint.STATE_FILE
    zipfile.ZipFile.testzip = lambda self: None  # else checksums refuse every input before anything else is read
    return file, lambda: checkpoint.load_checkpoint(checkpoint.latest_checkpoint(folder), model)


def _agent(folder: Path) -> tuple[Path, Read]:
    from worldkit.agents import ActionSpec, create_agent, load_agent, save_agent

    agent = create_agent("cloning", action=ActionSpec(low=(-1, -1), high=(1, 1)), frame_shape=(3, 16, 16), channels=[4])
    save_agent(agent, folder / "agent")
    return folder / "agent" / "config.json", lambda: load_agent(folder / "agent")


def _state(folder: Path) -> tuple[Path, Read]:
    """What every converter reads first."""
    import torch

    from worldkit.convert.state import read_state

    torch.save({"model": {"encoder.weight": torch.zeros(2, 2)}}, folder / "a.pth")
    return folder / "a.pth", lambda: read_state(folder / "a.pth")


def _hparams(folder: Path) -> tuple[Path, Read]:
    """DDLP's, as far as its converter reads them before the weights that they must agree with."""
    from worldkit.convert.ddlp import config_from_hparams
    from worldkit.convert.state import read_hparams

    official = json.loads((Path(__file__).parents[1] / "tests" / "official_ddlp_hparams.json").read_text("utf-8"))
    file = folder / "hparams.json"
    file.write_text(json.dumps(official["common"] | official["configs"]["balls"]))
    return file, lambda: config_from_hparams(read_hparams(file))


def _config(folder: Path) -> tuple[Path, Read]:
    """The configuration of a model, as JSON."""
    from worldkit.config import WorldModelConfig
    from worldkit.errors import ConfigError
    from worldkit.testing.examples import small_config

    file = folder / "config.json"
    file.write_text(json.dumps(small_config().to_dict()))

    def read() -> None:
        try:
            data = json.loads(file.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ConfigError(str(error)) from error
        WorldModelConfig.parse(data)

    return file, read


JSON = (b"null", b"true", b"-1", b"0", b"1e999", b"99999999999999999999", b"[]", b"{}", b'""', b"NaN", b"[[[[[[")
TARGETS = {
    "npz": Target(_data("npz", "*.npz"), (b"video.npy", b"PK\x03\x04", b"'shape': (", b"|O", b"<f8", b"(-1,")),
    "traffic": Target(_traffic, (b"'shape': (", b"|O", b"'fortran_order': True", b"(999999999,")),
    "hdf5": Target(_data("columns", "*", "set.hdf5"), (b"TREE", b"HEAP", b"SNOD", b"OHDR", b"\xff" * 8)),
    "hdf5 episodes": Target(_data("hdf5", "*", "set.hdf5"), (b"TREE", b"HEAP", b"SNOD", b"OHDR", b"\xff" * 8)),
    "swm table": Target(_swm, (b"PK\x03\x04", b"'shape': (", b"|O", b"<f8", b"(-1,")),
    "pickle": Target(_bair, (b"\x80\x04", b"cnumpy\n", b"R.", b"\x8e", b"r\xff\xff")),
    "pt": Target(_sketchy, (b"PK\x03\x04", b"data.pkl", b"ctorch\n", b"\x80\x02", b"R.")),
    "lerobot info": Target(_data("lerobot", "info.json"), (*JSON, b"../..", b"{chunk_index:09999999d}")),
    "lerobot v2.1 episodes": Target(_data("lerobot-v2.1", "episodes.jsonl"), JSON),
    "lerobot parquet": Target(_data("lerobot", "data/**/*.parquet"), (b"PAR1", b"\x15\x02", b"\xff" * 4)),
    "lerobot images": Target(_data("lerobot", "data/**/*.parquet", lossless=True), (b"PAR1", b"IDAT", b"\xff" * 4)),
    "lerobot video": Target(_data("lerobot", "*.mp4"), (b"moov", b"stsz", b"mdat", b"\xff" * 4)),
    "video mp4": Target(_film(".mp4"), (b"moov", b"stsz", b"stts", b"mdat", b"\xff" * 4)),
    "video gif": Target(_film(".gif"), (b"GIF89a", b"\x21\xf9", b"\x2c", b"\xff\xff")),
    "images": Target(_data("frames", "*.png"), (b"IHDR", b"IDAT", b"PLTE", b"\xff" * 4)),
    "model config": Target(_model("config.json"), (*JSON, b'"name"', b'"conv"', b'"gru"', b'"particle"')),
    "model weights": Target(_model("model.safetensors"), (b'"F32"', b'"BF16"', b"data_offsets", b'"aliases"', *JSON)),
    "model facts": Target(_model("train.json"), JSON),
    "training state": Target(_run, (b"PK\x03\x04", b"data.pkl", b"ctorch\n", b"\x80\x02", b"R.")),
    "agent": Target(_agent, (*JSON, b'"name"', b'"place"')),
    "torch file": Target(_state, (b"PK\x03\x04", b"data.pkl", b"ctorch\n", b"\x80\x02", b"R.")),
    "hparams": Target(_hparams, JSON),
    "config": Target(_config, (*JSON, b'"name"', b'"pint"', b'"slot"')),
}


# -- trying


def mutated(valid: bytes, rng: random.Random, words: tuple[bytes, ...]) -> bytes:
    """One to four damages of a file."""
    data = bytearray(valid)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not data:
            break
        at, kind = rng.randrange(len(data)), rng.randrange(8)
        length = min(len(data) - at, rng.choice((1, 2, 4, 8, 32)))
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            number = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1))
            size = rng.choice((1, 2, 4, 8))
            packed = (number & (1 << 8 * size) - 1).to_bytes(size, rng.choice(("little", "big")))
            data[at : at + size] = packed
        elif words:
            word = rng.choice(words)
            data[at : at + (len(word) if kind == 6 else 0)] = word
    return bytes(data)


def peak() -> float:
    """Largest memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Trial:
    """A target in a folder of its own; call it with what its file is to hold."""

    def __init__(self, name: str, folder: Path, *, limit: float, memory: float, out: Path):
        from worldkit.errors import WorldkitError

        self.name, self.limit, self.memory, self.out = name, limit, memory, out
        with contextlib.redirect_stdout(io.StringIO()):
            self.file, self.read = TARGETS[name].make(folder)
        self.valid, self.expected = self.file.read_bytes(), (WorldkitError, OSError)
        self.tried = self.read_well = 0
        self.slowest, self.found = 0.0, {}
        self.read()  # imports, before anything is measured
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, *_: object) -> None:
        raise TooLong

    def __call__(self, data: bytes) -> None:
        self.file.write_bytes(data)
        before, began, problem = peak(), time.process_time(), None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 20 * self.limit)  # a busy machine
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.read()
            self.read_well += 1
        except self.expected:
            pass
        except TooLong:
            problem = "too long"
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in last if "worldkit" in frame.filename] or last
            problem = f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}: {str(error)[:120]}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        spent, grown = time.process_time() - began, peak() - before
        self.tried += 1
        self.slowest = max(self.slowest, spent)
        if spent > self.limit:
            problem = f"{spent:.1f} s"
        if grown > self.memory:
            problem = f"{grown:.0f} MB"
        if problem is not None:
            key = problem.split(": ")[0]
            if key not in self.found:
                self.out.mkdir(parents=True, exist_ok=True)
                place = self.out / f"{self.name.replace(' ', '-')}-{len(self.found)}{self.file.suffix}"
                place.write_bytes(data)
                print(f"{self.name}: {problem} ({place})", file=sys.stderr)
            self.found.setdefault(key, 0)
            self.found[key] += 1

    def result(self, seconds: float) -> dict:
        """What is printed."""
        return {"target": self.name, "tried": self.tried, "read": self.read_well, "seconds": round(seconds, 1),
                "slowest_s": round(self.slowest, 2), "found": self.found}


def fuzz(name: str, folder: Path, seconds: float, seed: int, guided: bool, corpus: Path | None, **options) -> dict:
    """Try a target for so many seconds of this process's time. ``folder / LAST`` names the file with the last input."""
    os.environ["WORLDKIT_CACHE"] = str(folder / "cache")
    trial = Trial(name, folder, **options)
    (folder / LAST).write_text(str(trial.file))
    began, rng = time.process_time(), random.Random(f"{name} {seed}")
    if guided:
        import atheris

        def once(data: bytes) -> None:
            if time.process_time() - began > seconds:
                print(json.dumps(trial.result(time.process_time() - began)), flush=True)
                os._exit(bool(trial.found))
            trial(data)

        corpus = (corpus or folder / "corpus") / name.replace(" ", "-")
        corpus.mkdir(parents=True, exist_ok=True)
        (corpus / "valid").write_bytes(trial.valid)
        words = ("".join(rf"\x{byte:02x}" for byte in word) for word in TARGETS[name].words)
        (folder / "words").write_text("".join(f'"{word}"\n' for word in words))
        atheris.Setup([sys.argv[0], str(corpus), f"-dict={folder}/words", f"-seed={seed + 1}", "-rss_limit_mb=0",
                       "-timeout=0", f"-max_len={2 * len(trial.valid)}", "-verbosity=0",
                       f"-artifact_prefix={folder}/"], once)
        atheris.Fuzz()
    while time.process_time() - began < seconds:
        trial(mutated(trial.valid, rng, TARGETS[name].words))
    return trial.result(time.process_time() - began)


LAST = "last"


def ended(pid: int, last: Path, patience: float) -> int:
    """Exit status of a process; one that waits within a library, where no signal reaches Python, is killed."""
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        time.sleep(0.2)
        with contextlib.suppress(FileNotFoundError):  # before the first input, or a reader that moves it away
            if time.time() - Path(last.read_text()).stat().st_mtime > patience:
                os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(found[1])


def apart(name: str, options: argparse.Namespace) -> int:
    """`fuzz` in a process of its own; 0: nothing was found. One that dies is a finding, its last input is kept."""
    limits = {"limit": options.limit, "memory": options.memory, "out": options.out}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pid = os.fork()
        if not pid:
            code = 3
            try:
                found = fuzz(name, folder, options.seconds, options.seed, options.guided, options.corpus, **limits)
                print(json.dumps(found), flush=True)
                code = int(bool(found["found"]))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        status = ended(pid, folder / LAST, 40 * options.limit)
        if status not in (0, 1) and not (folder / LAST).exists():
            print(json.dumps({"target": name, "died": status}), flush=True)  # before the first input
        elif status not in (0, 1):
            last = Path((folder / LAST).read_text())
            options.out.mkdir(parents=True, exist_ok=True)
            kept = options.out / f"{name.replace(' ', '-')}-died{last.suffix}"
            kept.write_bytes(last.read_bytes())
            print(json.dumps({"target": name, "died": status, "input": str(kept)}), flush=True)
    return status


def main() -> int:
    """The command: a process for every target, so that one that dies is a finding, too."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("targets", nargs="*", help=f"default: all ({', '.join(TARGETS)})")
    p.add_argument("--seconds", type=float, default=10, help="CPU time for each target (default: 10)")
    p.add_argument("--guided", action="store_true", help="coverage-guided, by atheris")
    p.add_argument("--corpus", type=Path, help="folder of inputs that reach new lines, of guided runs (default: none)")
    p.add_argument("--limit", type=float, default=5, help="seconds that a read may take (default: 5)")
    p.add_argument("--memory", type=float, default=500, help="MB that a read may add (default: 500)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("fuzz"), help="where findings go (default: fuzz)")
    p.add_argument("--again", type=Path, metavar="FILE", help="read this in the place of the target's file")
    options = p.parse_args()
    if unknown := set(options.targets) - {*TARGETS}:
        p.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if options.again is not None:
        with tempfile.TemporaryDirectory() as folder:
            file, read = TARGETS[options.targets[0]].make(Path(folder))
            file.write_bytes(options.again.read_bytes())
            read()
        return 0
    names = options.targets or list(TARGETS)
    if options.guided:  # lines are counted of what is imported here: read everything once
        import atheris

        with atheris.instrument_imports(include=["worldkit"]), tempfile.TemporaryDirectory() as folder:
            os.environ["WORLDKIT_CACHE"] = str(Path(folder) / "cache")
            for name in names:
                place = Path(folder) / name.replace(" ", "-")
                place.mkdir()
                with contextlib.redirect_stdout(io.StringIO()):
                    TARGETS[name].make(place)[1]()
    import torch

    import worldkit.data  # noqa: F401

    torch.set_num_threads(1)
    return int(any([apart(name, options) for name in names]))


if __name__ == "__main__":
    sys.exit(main())
