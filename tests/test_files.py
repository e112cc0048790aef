"""Files and folders have the mode that the umask asks for, and a cache serves several users of one machine."""

import os
import shutil
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from worldkit.data import cache as cache_module
from worldkit.data.cache import cached, cached_video
from worldkit.files import new_folder, open_to_others, umask, write_atomically
from worldkit.training.checkpoint import tidy
from worldkit.viz import save_gif, save_png

STRANGER = 65534


@pytest.fixture(params=[0o022, 0o002, 0o077])
def mask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_files_and_folders_follow_the_umask(tmp_path, mask, monkeypatch):
    assert umask() == mask
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))
    write_atomically(tmp_path / "z.safetensors", lambda path: save_file({"z": torch.zeros(2)}, path))
    save_png(torch.zeros(3, 8, 8), tmp_path / "a.png")
    save_gif(torch.zeros(2, 3, 8, 8), tmp_path / "a.gif")
    entry = cached("entry", lambda: [{"video": np.zeros((2, 3, 4, 4), np.uint8)}])
    for file in ("z.safetensors", "a.png", "a.gif"):
        assert mode(tmp_path / file) == 0o666 & ~mask
    assert (mode(entry), mode(entry / "video.npy")) == (0o777 & ~mask, 0o666 & ~mask)
    folder = new_folder(tmp_path, "new-")
    save_file({"z": torch.zeros(2)}, folder / "z.safetensors")
    open_to_others(folder)
    assert (mode(folder), mode(folder / "z.safetensors")) == (0o777 & ~mask, 0o666 & ~mask)


def test_a_system_without_proc_is_asked(monkeypatch, mask):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    assert umask() == mask and umask() == mask


@pytest.fixture
def shared(monkeypatch):
    """A cache folder as an administrator makes it: everybody may write, nobody may delete what is not theirs."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can be two users")
    folder = Path(tempfile.mkdtemp())
    (folder / "cache").mkdir()
    folder.chmod(0o755)
    (folder / "cache").chmod(0o1777)
    monkeypatch.setenv("WORLDKIT_CACHE", str(folder / "cache"))
    before = os.umask(0o022)
    cache_module.cached_maps.cache_clear()
    yield folder / "cache"
    os.seteuid(0)
    os.umask(before)
    shutil.rmtree(folder)


def entry_of(value):
    return [{"video": np.full((2, 3, 4, 4), value, np.uint8)}]


def test_what_one_user_decoded_the_other_reads(shared):
    first = cached("entry", lambda: entry_of(1))
    os.seteuid(STRANGER)
    assert cached("entry", lambda: pytest.fail("it is there")) == first
    assert cached_video(first).max() == 1
    assert cached("another", lambda: entry_of(2)).is_dir()


@pytest.mark.parametrize("spoil", [lambda entry: entry.chmod(0o700), lambda entry: (entry / "video.npy").chmod(0o600),
                                   lambda entry: (entry / "video.npy").write_bytes(b"cut")])
def test_an_entry_that_cannot_be_read_gets_another_name(shared, spoil):
    first = cached("entry", lambda: entry_of(1))
    spoil(first)
    os.seteuid(STRANGER)
    second = cached("entry", lambda: entry_of(2))
    assert second != first and cached_video(second).max() == 2
    assert cached("entry", lambda: pytest.fail("it is there")) == second
    os.seteuid(0)
    assert (first / "video.npy").exists()


def test_what_a_killed_run_was_writing_is_cleared_away_by_the_next(tmp_path):
    """Found by killing a training 669 times: three such files were left."""
    kept = [".lock", "log.jsonl", ".notes.tmp.txt", ".run.tmp.json", "a.12.tmp.json"]
    (tmp_path / "figures").mkdir()
    left = [".run.28858.tmp.json", ".log.25229.tmp.jsonl", "figures/.step-00000004-panel.7.tmp.png"]
    for name in (*kept, *left):
        (tmp_path / name).write_text("x")
    tidy(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == sorted(kept)
    assert not list((tmp_path / "figures").iterdir())
    written = []
    write_atomically(tmp_path / "run.json", lambda place: (place.touch(), written.append(place)))
    written[0].write_text("half")  # the name that is really used
    tidy(tmp_path)
    assert not written[0].exists() and (tmp_path / "run.json").exists()
