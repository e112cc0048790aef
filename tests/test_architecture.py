"""Who may import whom, and what ``import worldkit`` costs."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import worldkit

ROOT = Path(worldkit.__file__).parent
PARTS = {path.stem for path in ROOT.iterdir() if path.name != "__init__.py"}

BASICS = {"component", "errors", "registry", "config", "batch", "distributions", "latents", "conditions"}
COMPONENTS = {"encoders", "decoders", "dynamics", "conditioners", "latent_actions", "priors", "heads", "cells"}
ALLOWED = {  # at the top of a module; "" is the package itself (its version)
    "errors": set(),
    "lazy": set(),
    "registry": {"errors"},
    "names": {"errors"},
    "component": {"registry", "errors"},
    "config": {"registry", "errors", "names"},
    "batch": {"errors"},
    "pictures": {"errors"},
    "operators": {"batch", "config", "errors", "lazy", "names", "pictures"},
    "samplers": {"errors"},
    "distributions": {"samplers", "errors"},
    "picking": {"errors"},
    "editing": {"picking", "errors"},
    "latent_spec": {"names", "distributions", "errors"},
    "latents": {"latent_spec", "distributions", "editing", "errors"},
    "conditions": {"batch"},
    "compat": {"errors"},
    "progress": set(),
    "memory": set(),
    "presets": {"config", "registry", "errors"},
    "nn": {"component", "config", "errors", "distributions"},  # distributions know no latents
    **{kind: BASICS | {"nn", "compat", "lazy"} for kind in COMPONENTS},
    "objectives": BASICS | {"lazy", "nn"},
    "wiring": BASICS | {"dynamics"},
    "contract": BASICS | COMPONENTS | {"objectives"},
    "conditioning": BASICS | {"conditioners", "wiring"},
    "perception": BASICS | {"conditioners", "encoders", "dynamics", "conditioning"},
    "steering": BASICS | {"conditioning", "latent_actions", "perception", "wiring"},
    "assembly": {"contract", "latent_actions", "wiring", "perception", "config", "registry", "errors"},
    "dreaming": BASICS | {"wiring", "perception"},
    "rolling": BASICS | {"dreaming"},
    "imagining": BASICS | {"conditioning", "dreaming", "dynamics"},
    "model": BASICS | COMPONENTS | {"objectives", "assembly", "wiring", "conditioning", "perception", "dreaming",
                                    "rolling", "imagining", "steering", "operators"},
    "counterfactual": BASICS | {"model"},
    "scene": BASICS | {"counterfactual", "model", "viz"},
    "storage": {"", "files", "component", "assembly", "config", "operators", "registry", "errors"},
    "factory": {"config", "registry", "presets", "errors"},
    "gswm": BASICS | {"nn", "encoders", "dynamics", "decoders", "objectives", "model"},  # a family of its own
    "convert": {"assembly", "model", "gswm", "config", "errors", "files", "nn", "presets", "priors", "registry"},
    "gif": set(),
    "files": set(),
    "data": {"names", "batch", "errors", "compat", "files", "gif", "pictures", "progress", "registry", "lazy"},
    "metrics": {"batch", "errors", "compat", "files", "lazy"},
    "envs": {"pictures", "registry", "errors", "lazy"},  # no model, no data: whoever acts in them knows both
    "collecting": {"envs", "data", "registry", "errors", "files", "progress", "lazy"},
    "planning": BASICS | {"lazy", "memory", "viz"},  # models reach it as arguments: encode, rollout, decode
    "viz": {"batch", "latents", "errors", "compat", "files", "gif"},
    "training": BASICS | {"", "data", "metrics", "viz", "model", "perception", "storage", "factory", "presets", "nn",
                         "files", "memory", "operators", "progress", "lazy"},
}
FILES = {
    "nn/spec.py": {"latents"},  # the two layers that read a spec
    "envs/backends/world_model.py": {"factory", "presets", "storage"},  # models by name
    "envs/imagination.py": {"dreaming"},  # a model as an environment; the model by protocol
    "envs/dreams.py": BASICS | {"dreaming", "data"},
}
LAZY = {"model": {"storage", "metrics", "envs"}, "factory": {"assembly", "storage"}, "operators": {"conditioners"},
        "training": {"collecting"}}
"""Inside a function, for what few calls need."""
TYPES = {"objectives": {"model", "perception", "steering"} | COMPONENTS, "dynamics": {"encoders", "cells"},
         "conditioning": {"model"}, "perception": {"model"}, "steering": {"model"}, "imagining": {"model"},
         "rolling": {"model", "dynamics"}, "dreaming": {"model", "decoders", "dynamics"},
         "assembly": {"model"}, "storage": {"model"}, "factory": {"model"}, "planning": {"model"}}
"""For annotations only."""
TOP = {"ablation", "agents", "bench", "cli", "control", "exporting", "online", "play", "testing", "__main__"}
"""May import everything; nothing else may import them."""


def module_of(node, parts):
    """Top-level parts of worldkit that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif node.level:
        base = ["worldkit", *parts[: len(parts) - node.level]]
        names = [".".join([*base, node.module])] if node.module else [".".join([*base, a.name]) for a in node.names]
    else:
        names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "worldkit" else [node.module]
    inside = [name.split(".") for name in names if name.split(".")[0] == "worldkit"]
    return {name[1] if len(name) > 1 and name[1] in PARTS else "" for name in inside}


def types_only(test):
    return any("TYPE_CHECKING" in (getattr(node, "id", ""), getattr(node, "attr", "")) for node in ast.walk(test))


@cache
def imports(source, parts):
    """(Imported part, "top", "lazy" or "types", line) of every import."""
    def visit(node, how):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                for name in module_of(child, parts):
                    yield name, how, child.lineno
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield from visit(child, "lazy")
            elif isinstance(child, ast.If) and types_only(child.test):
                yield from visit(child, "types")
            else:
                yield from visit(child, how)

    return tuple(visit(ast.parse(source), "top"))


def owner(parts):
    return parts[0] if len(parts) > 1 else parts[0].removesuffix(".py")


def violations(source, parts):
    """Forbidden arrows of one file, given as its path's parts inside the package."""
    part, found = owner(parts), []
    top = ALLOWED.get(part, set()) | FILES.get("/".join(parts), set()) | {part}
    allowed = {"top": top, "lazy": top | LAZY.get(part, set()), "types": top | TYPES.get(part, set())}
    for name, how, line in imports(source, parts):
        if part not in TOP and name not in allowed[how]:
            found.append(f"{'/'.join(parts)}:{line} {part} -> {name or 'worldkit'} ({how})")
    return found


FILES_HERE = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py"))


def test_no_forbidden_arrow():
    found = [v for f in FILES_HERE if f.name != "__init__.py" or len(f.parts) > 1
             for v in violations((ROOT / f).read_text(encoding="utf-8"), f.parts)]
    assert found == []


def circles(arrows):
    """Parts that reach themselves, with a way; ``arrows``: part -> parts that it imports."""
    found = []
    for start in sorted(arrows):
        ways, seen = [[start]], set()
        while ways:
            way = ways.pop()
            for following in sorted(arrows.get(way[-1], ())):
                if following == start:
                    found.append(" -> ".join([*way, start]))
                elif following not in seen:
                    seen.add(following)
                    ways.append([*way, following])
    return found


def test_no_circle_between_packages():
    """Not even by an import inside a function; annotations are read by type checkers only."""
    arrows = {}
    for file in FILES_HERE:
        source, part = (ROOT / file).read_text(encoding="utf-8"), owner(file.parts)
        arrows.setdefault(part, set()).update(
            name for name, how, _ in imports(source, file.parts) if how != "types" and name not in (part, ""))
    assert circles(arrows) == []


def test_circles_are_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}) == []
    assert "a -> b -> c -> a" in circles({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_every_part_has_a_place():
    parts = {owner(f.parts) for f in FILES_HERE} - {"__init__"}
    assert parts - set(ALLOWED) - TOP == set(), "say in this file what the new part may import"


@pytest.mark.parametrize("path, source, arrow", [
    ("encoders/x.py", "from ..dynamics import PINT", "encoders -> dynamics (top)"),
    ("encoders/x.py", "from ..dynamics.pint import PINT", "encoders -> dynamics (top)"),
    ("encoders/x.py", "import worldkit.decoders.particle", "encoders -> decoders (top)"),
    ("encoders/x.py", "from .. import model", "encoders -> model (top)"),
    ("encoders/x.py", "from worldkit import factory", "encoders -> factory (top)"),
    ("encoders/x.py", "def f():\n    from ..model import WorldModel", "encoders -> model (lazy)"),
    ("objectives/x.py", "from ..model import WorldModel", "objectives -> model (top)"),
    ("nn/conv.py", "from ..latents import Latent", "nn -> latents (top)"),
    ("registry.py", "from . import config", "registry -> config (top)"),
    ("model.py", "from .storage.hub import save_pretrained", "model -> storage (top)"),
    ("storage/hub.py", "def f():\n    from ..model import WorldModel", "storage -> model (lazy)"),
    ("storage/hub.py", "from ..factory import create_model", "storage -> factory (top)"),
    ("data/x.py", "from ..model import WorldModel", "data -> model (top)"),
])
def test_the_check_sees_forbidden_arrows(path, source, arrow):
    found = violations(source, Path(path).parts)
    assert len(found) == 1 and found[0].endswith(arrow)


@pytest.mark.parametrize("path, source", [
    ("encoders/x.py", "from .base import Encoder\nfrom ..nn.conv import mlp\nimport torch"),
    ("objectives/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..model import WorldModel"),
    ("nn/spec.py", "from ..latents import Latent"),
    ("model.py", "def f():\n    from .storage.hub import save_pretrained"),
    ("storage/hub.py", "from .. import __version__"),
])
def test_the_check_passes_what_is_allowed(path, source):
    assert violations(source, Path(path).parts) == []


HEAVY = {"torch", "torchvision", "piqa", "gymnasium", "transformers", "pydantic", "numpy", "accelerate"}


def test_import_is_cheap():
    code = (
        "import sys, time; start = time.perf_counter(); import worldkit; seconds = time.perf_counter() - start;"
        f"print(seconds, *sorted({HEAVY!r} & set(sys.modules)))"
    )
    seconds = []
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        first, *loaded = run.stdout.split()
        assert loaded == []
        seconds.append(float(first))
    assert min(seconds) < 0.5, seconds


def test_models_load_nothing_they_do_not_need():
    code = (
        "import sys, worldkit as wk; wk.create_model('lpwm-balls-mini');"
        "print(*sorted({'torchvision', 'piqa', 'gymnasium', 'transformers', 'accelerate', 'av', 'h5py'}"
        " & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.split() == []
