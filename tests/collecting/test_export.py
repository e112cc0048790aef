"""Episodes collected into other formats: all of it, appended, and nothing lost where the format is wrong."""

import numpy as np
import pytest

import worldkit as wk
from worldkit.cli import main
from worldkit.collecting import collect
from worldkit.errors import DataError


@pytest.fixture
def env():
    with wk.make_env("games/catch", size=16) as env:
        yield env


@pytest.mark.parametrize("to, name", [("columns", "catch.hdf5"), ("frames", "catch"), ("lerobot", "catch")])
def test_another_format(env, to, name, tmp_path):
    pytest.importorskip({"columns": "h5py", "frames": "PIL", "lerobot": "pyarrow"}[to])
    found = collect(env, tmp_path / name, episodes=3, max_steps=5, to=to)
    assert found.path == tmp_path / name and found.before == 0
    found = collect(env, tmp_path / name, episodes=1, max_steps=5, to=to, append=True)
    assert found.before == 3
    clips = wk.data.open_dataset(tmp_path / name, split="all", num_frames=6)
    assert len(clips) == 4
    for number in range(4):
        stored = np.load(tmp_path / f"{name}.episodes" / f"episode_{number:06d}.npz")
        np.testing.assert_array_equal(np.asarray(clips[number]["action"])[:5], stored["action"][:5])
        np.testing.assert_array_equal(np.asarray(clips[number]["state"]["reward"]), stored["state.reward"])
    with pytest.raises(DataError, match="exists already: append=True adds to it"):
        collect(env, tmp_path / name, episodes=1, to=to)


def test_wrong_formats(env, tmp_path, capsys):
    """It is seen after the first episode, which is kept."""
    with pytest.raises(DataError, match="no writer for the data format 'lerobt'. Did you mean 'lerobot'"):
        collect(env, tmp_path / "a", episodes=9, max_steps=5, to="lerobt")
    assert len(list((tmp_path / "a.episodes").glob("*.npz"))) == 1 and not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="not its episodes"):
        collect(env, tmp_path / "b", episodes=1, to="frames", append=True)
    assert main(["collect", "games/catch", "--episodes", "2", "--max-steps", "3", "--quiet", "--to", "columns", "--out",
                 str(tmp_path / "c")]) == 2
    assert "is a file: give a path with .hdf5" in capsys.readouterr().err
