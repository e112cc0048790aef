"""The formats of exported functions: ``onnx``, ``torch-export`` (``.pt2``), ``safetensors`` (weights alone).

A format writes a file and can run it again, so that the file itself is checked, not the model that it was made of.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..assembly import build
from ..errors import ExportError, WorldkitError, require_extra
from ..nn.chunks import undivided
from ..storage.weights import read_weights, write_weights
from .graphs import Graph, Tensors
from .simplify import simplify

Run = Callable[[Tensors], Tensors]
Free = list[dict[int, str]]
"""Per input: axis -> name, of those axes that may have any size."""
Names = Collection[str]
_MOST = 2**31 - 2**24
"""Bytes of weights in one ONNX file, whose format ends at two gigabytes."""


class Format(ABC):
    """How a function is written.

    Attributes:
        name: What users call it.
        suffix: Of its files.
        runtime: What runs such a file.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]

    @abstractmethod
    def write(self, graph: Graph, example: Tensors, path: Path, wanted: Names) -> Free:
        """Write the file; says which of the ``wanted`` axes ("batch", "time") of the inputs may have any size."""

    @abstractmethod
    def load(self, graph: Graph, path: Path) -> Run:
        """What the file computes."""

    @abstractmethod
    def runtime(self) -> str:
        """Name and version of what runs the file."""


class TorchExport(Format):
    """``torch.export``: a program for PyTorch without our code, and for AOTInductor and ExecuTorch."""

    name, suffix = "torch-export", ".pt2"

    def write(self, graph: Graph, example: Tensors, path: Path, wanted: Names) -> Free:
        program = traced(graph, example, wanted)
        program._guards_code = []  # of how memory lay: "time < batch * time" refuses one clip. `check` tries sizes.
        made = BytesIO()  # PyTorch's own writer ends Python where the disk is full
        with _quiet():
            torch.export.save(program, made)
        path.write_bytes(made.getbuffer())
        return free_axes(graph, program)

    def load(self, graph: Graph, path: Path) -> Run:
        with _quiet(), _telling(graph, "by torch.export"):
            module = torch.export.load(path).module()
        return lambda inputs: tuple(module(*inputs))

    def runtime(self) -> str:
        return f"torch {torch.__version__}"


class Onnx(Format):
    """ONNX, for ONNX Runtime and whatever else reads it."""

    name, suffix = "onnx", ".onnx"

    def write(self, graph: Graph, example: Tensors, path: Path, wanted: Names) -> Free:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            require_extra(package, "export", "exporting to ONNX")
        size = sum(x.numel() * x.element_size() for x in graph.model.parameters())
        if size > _MOST:
            raise ExportError(f"the model has {size / 2**30:.1f} GB of weights, more than one ONNX file may hold: "
                              "--format torch-export has no such limit")
        program = traced(graph, example, wanted)
        free = free_axes(graph, program)
        program._example_inputs = None  # else PyTorch 2.13 adds a check of sizes that its own ONNX exporter fails on
        with _quiet(), _telling(graph, "to ONNX", Untranslated):
            made = torch.onnx.export(program, dynamo=True, verbose=False, external_data=False, optimize=False,
                                     custom_translation_table=_translations(),
                                     input_names=[port.name for port in graph.inputs],
                                     output_names=[port.name for port in graph.outputs])
            simplify(made.model)
            made.save(path, external_data=False)
        _clean(path, free)
        return free

    def load(self, graph: Graph, path: Path) -> Run:
        session = _session(path)
        names = [port.name for port in graph.inputs]
        wanted = {node.name for node in session.get_inputs()}  # an input that nothing depends on may be gone

        def run(inputs: Tensors) -> Tensors:
            fed = {name: x.numpy() for name, x in zip(names, inputs, strict=True) if name in wanted}
            return tuple(torch.from_numpy(x) for x in session.run([p.name for p in graph.outputs], fed))

        return run

    def runtime(self) -> str:
        return f"onnxruntime {require_extra('onnxruntime', 'export', 'running ONNX').__version__}"


class Safetensors(Format):
    """The weights that the function reads, and no program: for those who write it themselves."""

    name, suffix = "safetensors", ".safetensors"

    def write(self, graph: Graph, example: Tensors, path: Path, wanted: Names) -> Free:
        state = {name: x for name, x in graph.model.state_dict().items() if name in used(graph, example)}
        write_weights(state, path, metadata={"format": "pt"})
        return [{axis: name for axis, name in enumerate(port.axes) if name in wanted} for port in graph.inputs]

    def load(self, graph: Graph, path: Path) -> Run:
        fresh = build(graph.model.config).eval()
        with torch.no_grad():
            for x in fresh.parameters():
                x.fill_(float("nan"))
        fresh.load_state_dict(read_weights(path), strict=False)
        twin = copy.copy(graph)  # shares all but the model
        twin._modules = {"model": fresh}
        return lambda inputs: twin(*inputs)

    def runtime(self) -> str:
        return f"torch {torch.__version__}"


FORMATS: dict[str, Format] = {form.name: form for form in (Onnx(), TorchExport(), Safetensors())}


def traced(graph: Graph, example: Tensors, wanted: Names) -> Any:
    """The program of a function, with those of the ``wanted`` sizes left open that can be.

    Raises:
        ExportError: naming what cannot be traced, and where.
    """
    axis = torch.export.Dim.AUTO
    follows = {"rows": "batch", "transitions": "time"}
    shapes = tuple({number: axis for number, name in enumerate(port.axes) if follows.get(name, name) in wanted}
                   for port in graph.inputs)
    with torch.no_grad(), undivided(), _quiet(), _telling(graph, "by torch.export"):
        return torch.export.export(graph, example, dynamic_shapes=(shapes,), strict=False)


def free_axes(graph: Graph, program: Any) -> Free:
    """Which axes of the inputs were left open, by the names that ports give them."""
    wanted = program.graph_signature.user_inputs
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.name in wanted}
    free: Free = []
    for port, name in zip(graph.inputs, wanted, strict=True):
        sizes = values[name].shape
        free.append({axis: called for axis, called in enumerate(port.axes)
                     if axis < len(sizes) and not isinstance(sizes[axis], int)})
    fixed = {called for port, axes in zip(graph.inputs, free, strict=True) for axis, called in enumerate(port.axes)
             if axis not in axes}  # an axis of one input is that of all inputs
    fixed |= {"transitions"} if "time" in fixed else set()  # which are as many as the frames of context ask for
    return [{axis: called for axis, called in axes.items() if called not in fixed} for axes in free]


def used(graph: Graph, example: Tensors) -> set[str]:
    """Names of the parameters and buffers that a function reads."""
    state = {id(x): name for name, x in (*graph.model.named_parameters(remove_duplicate=False),
                                         *graph.model.named_buffers(remove_duplicate=False))}
    touched: set[str] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            for x in torch.utils._pytree.tree_leaves((args, kwargs or {})):
                if id(x) in state:
                    touched.add(state[id(x)])
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        graph(*example)
    return touched


class Untranslated(ExportError):
    """A format has no word for something that the program does, whatever the sizes."""


def _translations() -> dict[Any, Callable[..., Any]]:
    """What PyTorch's exporter to ONNX lacks: sorting that keeps the order of equals, as ONNX's TopK does."""
    op = require_extra("onnxscript", "export", "exporting to ONNX").opset18

    def sort(x: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:
        size = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]))
        return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)

    return {torch.ops.aten.sort.stable: sort}


@contextlib.contextmanager
def _telling(graph: Graph, how: str, kind: type[ExportError] = ExportError) -> Iterator[None]:
    """Say what could not be exported, and where, in a line."""
    try:
        yield
    except WorldkitError:
        raise
    except Exception as error:  # of two large packages, which raise whatever they like
        first = innermost(error)
        reason = next((line for line in str(first).splitlines() if line.strip()), "")
        raise kind(f"{graph.what} of this model cannot be exported {how}: {where(error)}"
                   f"{type(first).__name__}: {reason}") from error


def innermost(error: BaseException) -> BaseException:
    """What an error was raised from, to the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def where(error: BaseException) -> str:
    """The innermost of our own lines behind an error."""
    found, seen = "", error
    while seen is not None:
        for frame in traceback.extract_tb(seen.__traceback__):
            place = Path(frame.filename).as_posix().rpartition("/worldkit/")[2]
            if place != Path(frame.filename).as_posix() and not place.startswith("exporting/"):
                found = f"in {frame.name} (worldkit/{place}:{frame.lineno}), "
        seen = seen.__cause__ or seen.__context__
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters tell about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _session(path: Path) -> Any:
    runtime = require_extra("onnxruntime", "export", "running ONNX")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _clean(path: Path, free: Free) -> None:
    """Name the axes that are free, and leave out what the exporter notes of our source files."""
    onnx = require_extra("onnx", "export", "exporting to ONNX")
    made = onnx.load(str(path))
    del made.graph.value_info[:]
    for node in made.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del made.graph.metadata_props[:]
    for function in made.functions:
        for node in function.node:
            del node.metadata_props[:]
    names: dict[str, str] = {}
    for number, value in enumerate(made.graph.input):
        for axis, called in free[number].items() if number < len(free) else ():
            names[value.type.tensor_type.shape.dim[axis].dim_param] = called
    for value in (*made.graph.input, *made.graph.output):
        del value.metadata_props[:]
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    onnx.save(made, str(path))
