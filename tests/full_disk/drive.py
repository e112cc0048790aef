"""Writes on a disk that fills up, in a process of its own; see ``shim.c``, ``cases.py`` and ``test_full_disk.py``.

Reads ``NAME ALL`` lines (ALL: 1 for every call, 0 for a choice) and answers each with a line of JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

SHIM = ctypes.CDLL(None)
"""Where ``shim.c`` is found, of a process that was started with it."""
PASSING = re.compile(r"(^|/)(\.(?!lock)[^/]*|[^/]*\.(tmp|partial|old))(/|$)")
"""Names of what is to be gone again."""


def check_file(path: Path) -> None:
    """That a file is whole, as far as its kind tells."""
    import numpy as np

    kind = path.suffix
    if kind in (".json",):
        json.loads(path.read_text())
    elif kind in (".png", ".gif"):
        from PIL import Image, ImageSequence

        with Image.open(path) as image:
            [frame.load() for frame in ImageSequence.Iterator(image)]
        assert kind != ".gif" or path.read_bytes()[-1:] == b";"
    elif kind in (".mp4", ".webm", ".mkv"):
        import av

        with av.open(str(path)) as film:
            assert list(film.decode(video=0))
    elif kind == ".safetensors":
        from safetensors.numpy import load_file

        load_file(path)
    elif kind in (".npz", ".npy"):
        found = np.load(path)
        [found[name] for name in found] if kind == ".npz" else None
    elif kind in (".hdf5", ".h5"):
        import h5py

        with h5py.File(path) as file:
            file.visititems(lambda _, held: held[()] if isinstance(held, h5py.Dataset) else None)
    elif kind in (".pt", ".pt2"):
        import zipfile

        assert zipfile.ZipFile(path).testzip() is None
    elif kind == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.read_table(path)
    elif kind == ".html":
        assert path.read_text().rstrip().endswith("</html>")
    elif kind == ".onnx":
        import onnx

        onnx.checker.check_model(str(path))


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def act(writing, is_command: bool) -> tuple[str, str]:
    """(what failed, what was said) of a writing; the first is empty if nothing did."""
    from worldkit.errors import WorldkitError

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda text, *_, **__: said.write(f"warning: {text}\n")
        try:
            status = writing()
            failed = f"status {status}" if is_command and status else ""
        except (WorldkitError, OSError) as error:
            failed = f"{type(error).__name__}"
            said.write(f"{error}")
        except BaseException as error:
            failed = f"UNEXPECTED {type(error).__name__}"
            said.write("".join(traceback.format_exception(error)[-4:]))
    return failed, said.getvalue()


def try_it(name: str, k: int, place: Path) -> tuple[list[str], str, str]:
    """Let the k-th call fail (0: none): what is wrong then, what failed, what was said."""
    from cases import CASES, COMMANDS

    folder = place / f"{name.replace(' ', '-')}-{k}"
    folder.mkdir()
    os.environ["WORLDKIT_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        writing = CASES[name](folder)
    before, is_command = files(folder), name in COMMANDS
    os.environ["FULLDISK"] = f"{k or -1} {folder}"  # of processes that this one starts
    SHIM.fulldisk_arm(str(folder).encode(), ctypes.c_long(k or -1))
    failed, said = act(writing, is_command)
    SHIM.fulldisk_disarm()
    del os.environ["FULLDISK"]
    SHIM.fulldisk_trace.restype = ctypes.c_char_p
    trace = SHIM.fulldisk_trace().decode(errors="replace").replace(str(folder) + "/", "").splitlines()
    if not k:
        shutil.rmtree(folder)
        assert not failed, (name, failed, said)
        return [], trace, ""
    wrong = []
    after = files(folder)
    if failed.startswith("UNEXPECTED") or "Traceback" in said:
        wrong.append(f"{failed}: {said[-1500:]}")
    call = trace[k - 1] if k <= len(trace) else "link"
    if not failed and not re.search("warning|space", said) and not call.startswith("link"):  # instead it is renamed
        wrong.append(f"nobody was told: {said[-200:]!r}")
    if failed and not wrong and str(folder) not in said.replace("\n", ""):
        wrong.append(f"names no file: {said[-300:]!r}")
    left = [file for file in after if PASSING.search(file) and file not in before]
    if left:
        wrong.append(f"left behind: {left}")
    if lost := [file for file in before if file not in after and not PASSING.search(file)]:
        wrong.append(f"lost: {lost}")
    for file in after:
        if after[file] == before.get(file) or file in left:
            continue
        try:
            check_file(folder / file)
        except BaseException as error:
            wrong.append(f"half a file: {file} ({type(error).__name__}: {str(error)[:100]})")
    failed_again, said_again = act(writing, is_command) if failed else ("", "")
    if failed_again:
        wrong.append(f"with room again: {failed_again} {said_again[-600:]}")
    shutil.rmtree(folder)
    return [f"call {k} ({call}): {text}" for text in wrong], failed, said


def choice(trace: list[str]) -> list[int]:
    """The first call of each kind and kind of file, at most six of them."""
    seen, found = set(), []
    for k, line in enumerate(trace, 1):
        call, path = line.split(" ", 1)
        kind = call, re.sub(r"[0-9a-f]{8,}|\d+", "N", path.rsplit("/", 1)[-1])
        if kind not in seen:
            seen.add(kind)
            found.append(k)
    return [found[round(i * (len(found) - 1) / 5)] for i in range(6)] if len(found) > 6 else found


def run(name: str, everything: bool, place: Path) -> dict:
    began = time.process_time()
    _, trace, _ = try_it(name, 0, place)
    ks = range(1, len(trace) + 1) if everything else choice(trace)
    wrong, outcomes = [], {}
    for k in ks:
        found, failed, said = try_it(name, k, place)
        wrong += found
        outcomes[failed or "went on"] = outcomes.get(failed or "went on", 0) + 1
    return {"calls": len(trace), "tried": len(ks), "wrong": wrong, "outcomes": outcomes, "last": said[-200:],
            "cpu": round(time.process_time() - began, 1)}


def serve() -> None:
    import torch

    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="full-disk-") as place:
        tempfile.tempdir = place
        for line in sys.stdin:
            name, everything = line.strip().rsplit(" ", 1)
            from cases import CASES

            try:
                found = sorted(CASES) if name == "?" else run(name, everything == "1", Path(place))
            except BaseException:
                found = {"broken": traceback.format_exc()}
            out.write(json.dumps(found) + "\n")
            out.flush()


if __name__ == "__main__":
    serve()
