"""The name on the public index belongs to another project: nothing we say or declare fetches it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from worldkit import errors

ROOT = Path(__file__).parents[2]
FETCHES = re.compile(  # an installer, its options, then our bare name: not -e ., a path or worldkit-example-plugin
    r"""(?:pip3?|uv|pipx|poetry|conda|mamba)\s+(?:install|add|download)\b[^\n`;|&]*?
        (?<![\w./@:-])worldkit(?![\w./-]|\s*@)""", re.VERBOSE)


def texts():
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if name.endswith((".md", ".py", ".toml", ".yml", ".txt", ".sh", "run")) and name != "tests/docs/test_names.py":
            if (ROOT / name).exists():
                yield name, (ROOT / name).read_text(encoding="utf-8")


def test_nothing_tells_to_install_the_stranger():
    found = [f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
             for name, text in texts() for match in FETCHES.finditer(text)]
    assert found == []


@pytest.mark.parametrize("line", [
    "pip install worldkit", 'pip install "worldkit[video]"', "pip install -U 'worldkit[vision]'", "uv add worldkit",
    "python -m pip install -c constraints.txt worldkit==0.2.0", "uv pip install worldkit",
    "pip install einops worldkit",
])
def test_the_search_finds(line):
    assert FETCHES.search(line)


@pytest.mark.parametrize("line", [
    "pip install -c constraints.txt -e '.[video]' && .venv/bin/worldkit demo", "pip install -e . && worldkit list",
    "pip install ./worldkit", "pip install 'worldkit @ file:///src/worldkit'", "pip install worldkit-example-plugin",
    "pip install -e .; worldkit list", "pip install dist/worldkit-0.1.0-py3-none-any.whl",
])
def test_the_search_leaves_alone(line):
    assert not FETCHES.search(line)


def test_plugins_do_not_depend_on_the_name():
    """A plugin that names worldkit brings the stranger into an environment that has no worldkit yet."""
    project = tomllib.loads((ROOT / "examples/plugin/pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    shown = tomllib.loads(page.split('```toml title="pyproject.toml"\n')[1].split("```")[0])["project"]
    for dependencies in (project["dependencies"], shown["dependencies"]):
        assert not [d for d in dependencies if re.match(r"worldkit\b(?!-)", d)]


def test_our_own_extras_are_the_only_place_that_names_us():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    naming = {extra for extra, needs in project["optional-dependencies"].items() if any("worldkit" in n for n in needs)}
    assert naming <= {"dev", "all", "all-envs"} and not [d for d in project["dependencies"] if "worldkit" in d]


def test_the_readme_says_so():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "the name on the public index (PyPI) belongs to another project" in " ".join(text.split())


def test_the_hint_is_right_in_a_checkout_and_elsewhere(monkeypatch):
    from importlib import metadata

    monkeypatch.setattr(metadata, "requires", lambda name: [
        "torch>=2.6", 'av>=12; extra == "video"', "pillow>=10; extra == 'video'", 'h5py; extra == "data"'])
    assert errors.install_hint("video") == (
        'In the checkout of worldkit: pip install -c constraints.txt -e ".[video]"; '
        'elsewhere: pip install "av>=12" "pillow>=10"')

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    assert errors.install_hint("video") == 'In the checkout of worldkit: pip install -c constraints.txt -e ".[video]"'


def test_every_extra_that_code_asks_for_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "worldkit").rglob("*.py"))
    asked = set(re.findall(r'(?:require_extra\("[\w.]+", "|import_transformers\("|, extra="(?!forbid))(\w+)"', source))
    assert {"video", "train", "data"} <= asked <= set(project["optional-dependencies"])
