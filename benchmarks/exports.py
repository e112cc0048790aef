"""What can be exported: encode, decode, step and rollout of every small preset, in ONNX Runtime beside the model.

    python benchmarks/exports.py                           docs/exports.json and the table of docs/export.md
    python benchmarks/exports.py --only 'iris*' --again    these presets anew, the others as they are
    python benchmarks/exports.py --page                    the table alone
    python benchmarks/exports.py --format torch-export --what encode decode step     prints, and stores nothing

Weights are drawn anew and moved away from zero (`worldkit.testing.report.shake`): a layer that begins at zero
would be alike in every runtime. `tests/exporting/test_table.py` holds the file against the presets that there are.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

import worldkit as wk
from worldkit.cli.commands.export import WHAT
from worldkit.errors import WorldkitError
from worldkit.exporting import export
from worldkit.files import write_atomically
from worldkit.testing.report import shake

DOCS = Path(__file__).parents[1] / "docs"
STORED = DOCS / "exports.json"
HARDWARE = "Intel Xeon (Sapphire Rapids) or AMD EPYC (Zen 4 and Zen 5), two shared cores"
BEGIN, END = "<!-- exports -->", "<!-- end -->"
HORIZON = 3
"""Frames of a rollout; every step is written out, so the time to export grows with them."""
LIMIT = 1800
"""Seconds that one export may take."""


def presets() -> list[str]:
    """Those that are small enough for a CPU."""
    return [name for name in wk.list_models() if re.search(r"-mini(-|$)", name) or name.startswith("modular-rssm")]


def tried(preset: str, what: str, form: str) -> dict[str, Any]:
    """What came of one export: ``{"difference", "free", "seconds"}``, or ``{"why"}``."""
    torch.manual_seed(0)
    model = shake(wk.create_model(preset))
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = export(model, folder, what=what, format=form, horizon=HORIZON if what == "rollout" else None)
        except WorldkitError as error:
            return {"why": " ".join(str(error).split())}
    inputs = found.specification["inputs"]
    free = sorted({size for port in inputs for size in port["shape"] if isinstance(size, str)})
    return {"difference": found.checked.difference, "free": free, "runtime": found.checked.runtime,
            "seconds": round(time.process_time() - begun, 1)}


def _child(send: Any, preset: str, whats: list[str], form: str) -> None:
    torch.set_num_threads(1)
    for what in whats:
        send.send((what, tried(preset, what, form)))


def apart(preset: str, whats: list[str], form: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """`tried`, in a process of its own, which may take `LIMIT` seconds for each export."""
    receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(send, preset, whats, form))
    process.start()
    send.close()
    try:
        for what in whats:
            yield receive.recv() if receive.poll(LIMIT) else (what, {"why": f"not done in {LIMIT} seconds"})
    except EOFError:
        yield what, {"why": "the process died"}
    finally:
        process.kill()
        process.join()


def page(found: dict[str, dict[str, Any]]) -> str:
    """The table, and the reasons of what is not exported."""
    reasons: list[str] = []

    def told(cell: dict[str, Any] | None) -> str:
        if cell is None:
            return "not run"
        if "why" not in cell:
            open_ = [name[0] for name in ("batch", "time") if name in cell["free"]]
            return " ".join([f"{cell['difference']:.0e}", *open_])
        why = re.sub(r" \(objective '[^']*'\)", "", cell["why"])
        if why not in reasons:
            reasons.append(why)
        return f"[{reasons.index(why) + 1}]"

    there = [preset for preset in presets() if preset in found]
    rows = [[f"`{preset}`", *(told(found[preset].get(what)) for what in WHAT)] for preset in there]
    lines = [["preset", *(f"`{what}`" for what in WHAT)], ["---"] * 5, *rows]
    done = [cell for cells in found.values() for cell in cells.values() if "why" not in cell]
    runtime = ", ".join(sorted({cell["runtime"] for cell in done}))
    head = (f"{len(done)} files were written and run beside their models; the largest difference of any is "
            f"{max(cell['difference'] for cell in done):.0e}. b: the batch is free, t: the time, too. {runtime}, "
            f"one thread, {HARDWARE}; a rollout has {HORIZON} frames.")
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    rest = ", ".join(f"`{preset}`" for preset in presets() if preset not in found)
    notes = [f"- [{n}] {why}" for n, why in enumerate(reasons, 1)] + ([f"- not run yet: {rest}"] if rest else [])
    return "\n\n".join([head, table, "\n".join(notes)])


def write(found: dict[str, dict[str, Any]]) -> None:
    """Put the table between the marks of the page."""
    path = DOCS / "export.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    made = f"{before}{BEGIN}\n\n{page(found)}\n\n{END}{rest.split(END, 1)[1]}"
    write_atomically(path, lambda file: file.write_text(made, "utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="these presets")
    parser.add_argument("--what", nargs="+", default=list(WHAT), choices=WHAT)
    parser.add_argument("--format", default="onnx", choices=("onnx", "torch-export", "safetensors"),
                        help="any other is printed alone")
    parser.add_argument("--again", action="store_true", help="those that were exported before, too")
    parser.add_argument("--page", action="store_true", help="the table alone")
    options = parser.parse_args()
    stored = options.format == "onnx"
    found = json.loads(STORED.read_text("utf-8")) if stored and STORED.is_file() else {}
    for preset in () if options.page else presets():
        if not fnmatch(preset, options.only):
            continue
        missing = [what for what in options.what if options.again or what not in found.get(preset, {})]
        for what, cell in apart(preset, missing, options.format):
            found.setdefault(preset, {})[what] = cell
            print(preset, what, cell, flush=True)
            if stored:
                write_atomically(STORED, lambda file: file.write_text(json.dumps(found, indent=1) + "\n", "utf-8"))
    if stored:
        write(found)
    elif done := [cell["difference"] for cells in found.values() for cell in cells.values() if "why" not in cell]:
        print(f"{len(done)} files, largest difference {max(done):.0e}")


if __name__ == "__main__":
    main()
