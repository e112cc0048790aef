"""What lies beside an exported file: a JSON of its inputs and outputs, and a README for people."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import write_atomically
from ..operators import get_operator
from .checks import Checked
from .formats import Format, Free
from .graphs import Graph, Tensors

FORMAT = "worldkit export 1"


def describe(graph: Graph, form: Format, file: str, free: Free, fixed: dict[str, str], example: Tensors,
             outputs: Tensors, checked: Checked, model: str) -> dict[str, Any]:
    """The specification of a file, in plain values; ``fixed``: sizes that could not be left open, and why."""
    batch, time = example[0].shape[0], graph.time()

    def named(port: Any, tensor: Any) -> dict[int, str]:
        """Free axes of an output are those that bear the name of a free axis of an input."""
        open_ = {name for axes in free for name in axes.values()}
        return {axis: name for axis, name in enumerate(port.axes) if name in open_}

    return {
        "format": FORMAT, "worldkit": __version__, "model": model, "what": graph.what, "file": file,
        "file_format": form.name, "traced_with": {"batch": batch, "time": time}, "fixed": fixed,
        "inputs": [port.describe(x, axes) for port, x, axes in zip(graph.inputs, example, free, strict=True)],
        "outputs": [port.describe(x, named(port, x)) for port, x in zip(graph.outputs, outputs, strict=True)],
        "randomness": "inputs called noise" if graph.draws else "means: nothing is drawn",
        "checked": checked.to_dict(), "operator": get_operator(graph.model).spec.to_dict(),
        "config": graph.model.config.to_dict(),
    }


def write_specification(path: Path, told: dict[str, Any], *, before: Callable[[], None]) -> None:
    """Write ``FILE.json`` beside an exported file.

    Args:
        path: The file.
        told: Its specification.
        before: Puts the file into its place; called when the specification is on disk under a temporary name, so that
            the two change together.
    """
    text = json.dumps(told, indent=2) + "\n"

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")
        before()

    write_atomically(path.with_name(f"{path.name}.json"), write)


def write_readme(folder: Path) -> None:
    """Write a README of all exported files that lie in a folder."""
    all_ = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    text = readme([part for part in all_ if isinstance(part, dict) and part.get("format") == FORMAT])
    write_atomically(folder / "README.md", lambda file: file.write_text(text, encoding="utf-8"))


def readme(parts: list[dict[str, Any]]) -> str:
    """A README of exported files.

    Args:
        parts: Their specifications.
    """
    models = ", ".join(sorted({part["model"] for part in parts}))
    lines = [f"# {models}, exported", "", "Written by `worldkit export`; each file was run and compared with the model "
             "before it was kept.", ""]
    for part in parts:
        lines += [f"## {part['file']}", "", f"{_WHAT[part['what']]} Randomness: {part['randomness']}.", "",
                  "| | name | type | shape | meaning |", "|---|---|---|---|---|"]
        for kind in ("inputs", "outputs"):
            lines += [f"| {kind[:-1]} | `{port['name']}` | {port['dtype']} | "
                      f"{' x '.join(map(str, port['shape']))} | {port['meaning']} |" for port in part[kind]]
        for size, why in part.get("fixed", {}).items():
            lines += ["", f"The {size} is fixed: {textwrap.shorten(why, 160, placeholder=' ...')}."]
        checked = part["checked"]
        sizes = ", ".join(f"{a} x {b}" for a, b in checked["sizes"])
        lines += ["", f"Checked with {checked['runtime']}: largest difference from the model "
                  f"{checked['largest_difference']:.1e} (tolerance {checked['tolerance']:.0e}), at batch x time "
                  f"{sizes}.", ""]
        lines += _HOW.get(part["file_format"], "").format(file=part["file"]).splitlines() + [""]
    return "\n".join(lines)


_WHAT = {"encode": "Frames to latents.", "decode": "Latents to frames.",
         "step": "One step of a prediction: latents of the newest frames, and what is done, to the next latent.",
         "rollout": "A whole prediction: latents of the context, and what is done, to those of the horizon."}
_HOW = {
    "onnx": "    import onnxruntime\n\n    session = onnxruntime.InferenceSession(\"{file}\")\n"
            "    outputs = session.run(None, inputs)   # a dict of NumPy arrays by name",
    "torch-export": "    import torch\n\n    outputs = torch.export.load(\"{file}\").module()(*inputs)   # in order",
    "safetensors": "Weights alone, by the names that they have in worldkit; the configuration is in the JSON beside.",
}
