"""The example plugin, built, installed and used as a stranger would; and plugins that are broken or in the way."""

import json
import os
import re
import shlex
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

import worldkit as wk

ROOT = Path(__file__).parents[1]
PLUGIN = "worldkit-example-plugin 0.1.0"
SHORT = "--budget 1steps --seeds 1 --clips 1 --horizon 1 -o data.num_episodes=2"


class Environment:
    """A virtual environment with packages of its own, and those of the running one behind them."""

    def __init__(self, folder, *, wheels=(), behind=()):
        venv.create(folder)
        self.bin, self.folder = folder / "bin", folder
        self.site = next(folder.glob("lib/python*/site-packages"))
        if wheels:
            pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--no-index", "--no-deps"]
            done = subprocess.run([*pip, *wheels], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        outside = [*map(str, behind), *(path for path in sys.path if path.endswith("-packages"))]
        (self.site / "outside.pth").write_text("\n".join(outside) + "\n", encoding="utf-8")

    def run(self, program, *arguments, cwd, **variables):
        """Standard output and standard error of a program in ``bin``."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "WORLDKIT"))}
        env |= {"COLUMNS": "200", "WORLDKIT_CACHE": str(self.folder / "cache"), **variables}
        done = subprocess.run([self.bin / program, *map(str, arguments)], cwd=cwd, env=env, capture_output=True,
                              text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, done.stderr

    def python(self, code, **options):
        """What a program prints last, read as JSON."""
        out, _ = self.run("python", "-c", code, **options)
        return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheel, build_wheel):
    """worldkit and the example plugin, installed from wheels."""
    plugin = build_wheel(ROOT / "examples" / "plugin", ".")
    return Environment(tmp_path_factory.mktemp("environment"), wheels=(wheel, plugin))


USE = """
import json
import torch
import worldkit as wk
from worldkit import registry

found = {"worldkit": wk.__file__, "encoders": wk.list_encoders(), "models": wk.list_models("mosaic*"),
         "errors": [e.error for e in wk.plugin_errors()],
         "provider": registry.encoders.entry("mosaic").provider, "ours": registry.encoders.entry("particle").provider}
swapped = wk.create_model("lpwm-balls-mini", encoder="mosaic", dynamics={"name": "token-mlp", "dim": 32},
                          latent_action=None, conditioners={"action": {"name": "action", "dim": 2}})
actions, video = torch.rand(1, 6, 2), torch.rand(1, 6, 3, 32, 32)
found["loss"] = swapped.loss(wk.Batch(video, conditions={"action": actions})).total.item()
swapped.eval().save_pretrained("saved")
again = wk.WorldModel.from_pretrained("saved")
a, b = (m.rollout(video[:, :2], 4, conditions={"action": actions}, deterministic=True).video for m in (swapped, again))
found["same"] = torch.equal(a, b)
found["providers"] = json.load(open("saved/config.json"))["providers"]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def used(environment, tmp_path_factory):
    """(what a program that uses the plugin found, the folder it worked in)."""
    folder = tmp_path_factory.mktemp("used")
    return environment.python(USE, cwd=folder), folder


def test_found_through_the_entry_point(used, environment):
    found, _ = used
    assert found["worldkit"].startswith(str(environment.folder))
    assert {"mosaic", "particle"} <= set(found["encoders"]) and found["models"] == ["mosaic-balls-mini"]
    assert found["provider"] == PLUGIN and found["ours"] == "worldkit" and found["errors"] == []


def test_used_in_a_model_beside_our_parts(used):
    found, _ = used
    assert found["loss"] > 0 and found["same"]


def test_a_saved_model_names_its_providers(used):
    ours = f"worldkit {wk.__version__}"
    assert used[0]["providers"] == {
        "encoder": PLUGIN, "decoder": PLUGIN, "dynamics": PLUGIN, "objective": ours, "conditioners.action": ours}


@pytest.mark.skipif(find_spec("worldkit_example_plugin") is not None, reason="the plugin is installed here")
def test_loading_without_the_plugin_names_the_distribution(used):
    with pytest.raises(wk.CheckpointError) as error:
        wk.WorldModel.from_pretrained(used[1] / "saved")
    text = str(error.value)
    assert "unknown encoder 'mosaic'" in text
    assert f"encoder 'mosaic' was provided by {PLUGIN}: it is not installed here" in text
    assert f"dynamics 'token-mlp' was provided by {PLUGIN}" in text and "conditioners.action" not in text


OFF = """
import json
import worldkit as wk

try:
    wk.WorldModel.from_pretrained("saved")
except wk.CheckpointError as error:
    message = str(error)
print(json.dumps([wk.list_encoders("mosaic"), wk.list_models("mosaic*"), message]))
"""


def test_plugins_can_be_switched_off(environment, used):
    encoders, models, message = environment.python(OFF, cwd=used[1], WORLDKIT_PLUGINS="0")
    assert encoders == models == [] and f"provided by {PLUGIN}: plugins are switched off" in message


def test_passes_the_checks_for_plugins(environment, tmp_path):
    (tmp_path / "test_plugin.py").write_bytes((ROOT / "examples/plugin/tests/test_plugin.py").read_bytes())
    out, _ = environment.run("python", "-m", "pytest", "-q", "test_plugin.py", cwd=tmp_path)
    assert "passed" in out and "failed" not in out


TRAIN = """
import worldkit as wk
from worldkit.cli import main

assert main(["info", "mosaic-balls-mini"]) == 0
options = ["-o", "data.num_episodes=2", "-o", "train.batch_size=2"]
assert main(["train", "mosaic-balls-mini", "--data", "balls-32", "--steps", "2", "--quiet", *options]) == 0
wk.ablation.run("mosaic-balls-mini", swaps={"dynamics": ["pint"]}, budget="1steps", seeds=1, clips=1, horizon=1,
                overrides={"data.num_episodes": 2, "train.batch_size": 2}, out="table", isolate=False)
"""


def check_table(folder):
    rows = {row["name"]: row for row in json.loads((folder / "table.json").read_text(encoding="utf-8"))["rows"]}
    for name in ("dynamics=token-mlp", "dynamics=pint"):
        assert rows[name]["errors"] == {} and rows[name]["metrics"]["psnr"]["mean"] > 0
    assert rows["dynamics=token-mlp"]["baseline"]


def test_described_trained_and_compared(environment, tmp_path):
    out, _ = environment.run("python", "-c", TRAIN, cwd=tmp_path)
    assert "worldkit-example-plugin" in out and "parameters: encoder" in out and '"token-mlp"' in out
    assert "at step 2" in out and (tmp_path / "runs/mosaic-balls-mini/best/config.json").exists()
    check_table(tmp_path / "table")


@pytest.mark.slow
def test_on_the_command_line(environment, tmp_path):
    environment.run("worldkit", "train", "mosaic-balls-mini", "--data", "balls-32", "--steps", "2", "--quiet", "-o",
                    "data.num_episodes=2", cwd=tmp_path)
    environment.run("worldkit", "rollout", "runs/mosaic-balls-mini", "--data", "balls-32", "--clips", "1", cwd=tmp_path)
    environment.run("worldkit", "ablate", "mosaic-balls-mini", "--swap", "dynamics=token-mlp,pint", *SHORT.split(),
                    "--out", "table", cwd=tmp_path)
    check_table(tmp_path / "table")


def distribution(folder, name, code):
    """What an installer leaves behind for a plugin of one module."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[worldkit.plugins]\nmain = {module}\n", encoding="utf-8")


@pytest.fixture
def strangers(tmp_path):
    """Beside the example: a plugin that cannot be imported, one that quits, and two that claim taken names."""
    distribution(tmp_path, "wk-broken", "import mamba_ssm_is_not_here\n")
    distribution(tmp_path, "wk-quitter", "raise SystemExit('needs a GPU')\n")
    claim = "import worldkit as wk\n\n@wk.register_{kind}('{name}')\nclass Mine: pass\n"
    distribution(tmp_path, "wk-thief", claim.format(kind="dynamics", name="pint"))
    distribution(tmp_path, "xx-rival", claim.format(kind="encoder", name="mosaic"))
    return tmp_path


STRANGERS = """
import json, warnings
import worldkit as wk
from worldkit import registry

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = {"encoders": wk.list_encoders()}
found["warnings"] = [str(w.message) for w in caught if w.category is RuntimeWarning]
found["errors"] = {e.plugin: e.error for e in wk.plugin_errors()}
found["provider"] = registry.encoders.entry("mosaic").provider
found["pint"] = registry.dynamics.get("pint").__module__
found["parameters"] = wk.create_model("mosaic-balls-mini").parameter_report()["total"]
messages = []
for make in (lambda: wk.create_model("lpwm-mini", dynamics="pnit"), lambda: wk.create_model("no-such-model")):
    try:
        make()
    except wk.WorldkitError as error:
        messages.append(str(error))
print(json.dumps({**found, "messages": messages}))
"""


def test_strangers_are_reported_and_harm_nothing(environment, strangers):
    found = environment.python(STRANGERS, cwd=strangers, PYTHONPATH=str(strangers))
    errors = found["errors"]
    assert errors["wk-broken 0.1"] == "ModuleNotFoundError: No module named 'mamba_ssm_is_not_here'"
    assert errors["wk-quitter 0.1"] == "SystemExit: needs a GPU"
    for plugin, message in (
        ("wk-thief 0.1", "dynamics 'pint' is registered twice: by worldkit and by wk-thief 0.1."),
        ("xx-rival 0.1", f"encoder 'mosaic' is registered twice: by {PLUGIN} and by xx-rival 0.1."),
    ):
        assert errors[plugin].startswith(f"DuplicateComponentError: {message}")
    assert len(errors) == len(found["warnings"]) == 4
    assert all(any(plugin in text for text in found["warnings"]) for plugin in errors)
    assert found["provider"] == PLUGIN and found["pint"] == "worldkit.dynamics.pint" and found["parameters"] > 0
    assert len(found["messages"]) == 2
    assert all(plugin in message for plugin in errors for message in found["messages"])


def test_the_command_line_lists_plugins_that_failed(environment, strangers):
    out, _ = environment.run("worldkit", "list", "mosaic*", cwd=strangers, PYTHONPATH=str(strangers))
    assert "encoders: mosaic" in out and "mosaic-balls-mini" in out
    for plugin in ("wk-broken", "wk-quitter", "wk-thief", "xx-rival"):
        assert f"plugin {plugin} 0.1 failed to load" in out


OFFLINE = {  # what the page says -> what a test can do, without a network and in seconds
    "--budget 120": SHORT,
    "python -m pip install -e .": "python -m pip install --no-index --no-deps --no-build-isolation -e .",
}


@pytest.fixture
def page(tmp_path):
    """The page's blocks in order, as (language, code); blocks with a title are written to files of that name."""
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    blocks = re.findall(r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$', text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count("```") // 2
    for _, title, code in blocks:
        if title:
            (tmp_path / title).write_text(code, encoding="utf-8")
    return [(language, code) for language, title, code in blocks if not title]


@pytest.fixture
def own(environment, tmp_path):
    """An environment to install into, without changing the one that other tests share."""
    return Environment(tmp_path / "own", behind=[environment.site])


def test_the_page_s_python_runs(own, page, tmp_path):
    (_, code), _ = page
    check = "import pytest; assert pytest.main(['-q', 'test_my_plugin.py']) == 0"
    own.run("python", "-c", f"{code}\nassert type(model.dynamics).__name__ == 'Solo'\n{check}", cwd=tmp_path)


@pytest.mark.slow
def test_the_page_s_commands_run(own, page, tmp_path):
    _, (_, commands) = page
    for command in commands.splitlines():
        for said, done in OFFLINE.items():
            command = command.replace(said, done)
        _, *arguments = shlex.split(command.replace("worldkit", "python -m worldkit", 1))
        out, _ = own.run("python", *arguments, cwd=tmp_path)
        if "list" in arguments:
            assert "dynamics: solo" in out
    assert "ablate" in command and "solo" in out
