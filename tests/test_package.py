"""The wheel holds everything, and the command works from it alone."""

import subprocess
import sys
import zipfile
from pathlib import Path


def run(wheel, tmp_path, code):
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    start = (f"import sys; sys.path.insert(0, {str(target)!r}); import worldkit; "
             f"assert {str(target)!r} in worldkit.__file__")
    return subprocess.run([sys.executable, "-c", f"{start}; {code}"], cwd=tmp_path, capture_output=True, text=True)


def test_help_works_from_the_wheel_alone(wheel, tmp_path):
    done = run(wheel, tmp_path, "from worldkit.cli import main; main(['--help'])")
    assert done.returncode == 0 and "worldkit demo" in done.stdout, done.stderr


def test_presets_and_weights_are_in_the_wheel(wheel, tmp_path):
    code = (
        "import worldkit as wk; assert len(wk.list_models('lpwm-*')) > 15; "
        "from worldkit.presets.shipped import facts_of; "
        "names = wk.list_models(pretrained=True); [wk.create_model(n, pretrained=True) for n in names]; "
        "assert all(facts_of(wk.get_model_spec(n))['headline'] for n in names); "
        "print(len(wk.list_models(pretrained=True)))"
    )
    done = run(wheel, tmp_path, code)
    assert done.returncode == 0 and int(done.stdout) >= 1, done.stderr


def test_the_page_of_play_is_in_the_wheel(wheel):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("worldkit/play/page/")}
    assert {Path(n).name for n in names} == {"index.html", "play.js", "play.css"}


def test_the_wheel_declares_the_command_and_the_extras(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    read = {Path(n).name: zipfile.ZipFile(wheel).read(n).decode() for n in names if ".dist-info/" in n}
    assert "worldkit = worldkit.cli:main" in read["entry_points.txt"]
    for extra in ("video", "play", "train", "data", "language", "envs", "dev", "all"):
        assert f"Provides-Extra: {extra}" in read["METADATA"]
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "examples/"))]
