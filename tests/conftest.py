"""Fixtures shared by the tests: models small enough to train in seconds, and clips to train them on."""

import gc
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.data import ArraySource, ClipDataset, generate_balls

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start; there are two workers already

TINY = dict(
    encoder={
        "hidden_dim": 16, "num_particles": 4,
        "proposal_cnn": {"base_channels": 4, "channel_multipliers": [1, 2], "latent_channels": 4},
        "glimpse_cnn": {"base_channels": 4, "channel_multipliers": [1, 2], "latent_channels": 4},
        "background_cnn": {"base_channels": 4, "channel_multipliers": [1, 1, 2], "latent_channels": 4},
    },
    decoder={
        "hidden_dim": 16,
        "glimpse_cnn": {"base_channels": 4, "channel_multipliers": [1, 2], "latent_channels": 4},
        "background_cnn": {"base_channels": 4, "channel_multipliers": [1, 1, 2], "latent_channels": 4},
    },
    dynamics={"dim": 16, "num_layers": 1, "num_heads": 2},
    latent_action={"dim": 16, "num_layers": 1, "num_heads": 2, "action_dim": 3},
    timestep_horizon=3,
)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Thousands of collected tests and modules live to the end: no search for garbage walks through them.

    While they are collected, a third of the time would go into that.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny_model():
    """tiny_model(seed=0, **overrides) -> a 32-pixel LPWM with a few thousand parameters."""

    def make(seed=0, **overrides):
        torch.manual_seed(seed)
        return wk.create_model("lpwm-balls-mini", **(TINY | overrides))

    return make


@pytest.fixture
def tiny_overrides():
    """What makes a small model of the preset lpwm-balls-mini."""
    return dict(TINY)


@pytest.fixture(scope="session")
def balls():
    """balls(num_frames, split="train") -> clips of 32-pixel Balls."""
    episodes = {split: generate_balls(split, num_episodes=4, num_frames=16, image_size=32).video
                for split in ("train", "val", "test")}

    def clips(num_frames, split="train", mode="slide"):
        source = ArraySource([{"video": np.asarray(e)} for e in episodes[split]], name="balls", synthetic=True)
        return ClipDataset(source, num_frames=num_frames, mode=mode)

    return clips


@pytest.fixture(scope="session")
def build_wheel(tmp_path_factory):
    """build_wheel(folder, *names) -> a wheel of the folder's files below these names that git does not ignore.

    It is built from a copy: building in place would litter the checkout.
    """

    def build(folder, *names):
        work = tmp_path_factory.mktemp("wheel")
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *names]
        files = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if files.returncode:
            pytest.skip("not a git checkout")
        for name in filter(None, files.stdout.split("\0")):
            (work / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            (work / "src" / name).write_bytes((folder / name).read_bytes())
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", work, work / "src"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return next(work.glob("*.whl"))

    return build


@pytest.fixture(scope="session")
def wheel(build_wheel):
    """The wheel of worldkit."""
    return build_wheel(Path(__file__).parents[1], "worldkit", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def tiny_official_checkpoint():
    """(state dict file, hparams file) of a tiny random model of the official code; skips where they are absent."""
    default = Path(__file__).parents[2] / "shared" / "parity"
    folder = Path(os.environ.get("WORLDKIT_PARITY", default)) / "lpwm" / "plain"
    if not folder.exists():
        pytest.skip(f"golden files not found at {folder}; set WORLDKIT_PARITY")
    return folder / "state_dict.pt", folder / "config.json"


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURE = """<!doctype html><body style="margin:0">{frames}<script>onload=()=>{{
let out=[];for(const f of document.querySelectorAll("iframe")){{const d=f.contentDocument;
let w=d.documentElement.clientWidth,wide=0;for(const e of d.querySelectorAll("td,th,caption,p,h1,img,svg,figcaption"))
if(getComputedStyle(e).display!="none")wide=Math.max(wide,e.getBoundingClientRect().right);
out.push([w,d.documentElement.scrollWidth,Math.round(wide)].join(" "))}}document.title=out.join(",")}}</script>"""


@pytest.fixture
def layout(tmp_path):
    """layout(page): with a browser's real layout at 390 and 1,100 pixels, nothing reaches beyond the right edge."""
    if BROWSER is None:
        pytest.skip("needs chromium")

    def check(page):
        frame = f'<iframe src="{page}" style="border:0;width:{{}}px"></iframe>'
        (tmp_path / "measure.html").write_text(MEASURE.format(frames="".join(map(frame.format, (390, 1100)))))
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", "--disable-sync",
                   f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files",
                   "--window-size=1600,900", "--hide-scrollbars", "--dump-dom", f"file://{tmp_path / 'measure.html'}"]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        found = re.search("<title>(.*?)</title>", dom).group(1)
        sizes = [tuple(map(int, part.split())) for part in found.split(",")]
        assert [width for width, *_ in sizes] == [390, 1100]
        assert all(scrolled <= width and 0 < right <= width for width, scrolled, right in sizes), found

    return check
