"""Targets of clips: rewards, ends and states of transitions, from the columns of any format to batches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from worldkit.batch import Batch
from worldkit.collecting import collect
from worldkit.data import ArraySource, ClipDataset, collate, make_loader, open_dataset
from worldkit.envs import make_env
from worldkit.errors import DataError, ShapeError
from worldkit.names import TargetColumn


def clips(frames=9, num_frames=3, column="reward", values=None, **options):
    values = np.arange(frames, dtype=np.float32) if values is None else values
    episode = {"video": np.zeros((frames, 3, 8, 8), np.uint8), "state": {column: values}}
    return ClipDataset(ArraySource([episode], "made"), num_frames, **options)


def test_an_index_is_the_transition_that_leaves_its_frame():
    batch = collate([clips()[4], clips()[0]])
    assert batch.targets["reward"].tolist() == [[4, 5, 6], [0, 1, 2]]
    assert batch.targets["reward"].dtype == torch.float32 and not batch.conditions


def test_rewards_of_skipped_frames_are_summed_and_ends_are_kept():
    ends = np.zeros(9, bool)
    ends[3] = True
    assert clips(frame_skip=2)[0]["targets"]["reward"][:-1].tolist() == [0 + 1, 2 + 3]
    assert clips(frame_skip=2, column="terminated", values=ends)[0]["targets"]["terminated"][:-1].tolist() == [0, 1]


def test_columns_that_tell_of_the_frame_reached_are_shifted_once():
    asked = {"reward": TargetColumn(reached=True)}
    assert clips(targets=asked)[2]["targets"]["reward"][:-1].tolist() == [3, 4]
    asked = {"place": TargetColumn("where", reached=True)}
    places = np.arange(18, dtype=np.float64).reshape(9, 2)
    found = clips(column="where", values=places, targets=asked, frame_skip=2)[0]["targets"]["place"]
    assert found[:-1].tolist() == [[4, 5], [8, 9]] and found.dtype == torch.float32


def test_a_first_reward_of_nan_says_that_rewards_tell_of_the_frame_reached():
    values = np.array([np.nan, 1, 2, 3, 4, 5, 6, 7, 8])
    assert [clips(values=values)[i]["targets"]["reward"][:-1].tolist() for i in (0, 4)] == [[1, 2], [5, 6]]


def test_a_number_per_row_may_have_an_axis_of_one():
    assert clips(values=np.ones((9, 1)))[0]["targets"]["reward"].shape == (3,)


@pytest.mark.parametrize("skip", [1, 2])
@pytest.mark.parametrize("asked", [None, {"reward": TargetColumn()}])
def test_single_images_have_targets_that_lead_nowhere(asked, skip):
    assert clips(num_frames=1, targets=asked, frame_skip=skip)[3]["targets"]["reward"].shape == (1,)


@pytest.mark.parametrize("name", ["rewards", "next.reward"])
def test_names_of_other_packages_are_known(name):
    assert "reward" in clips(column=name)[0]["targets"]


def test_what_is_missing_is_told():
    with pytest.raises(DataError, match=r"made: no column 'reward or rewards or next.reward' for the target 'reward'; "
                                        r"it has: score. Feed it from one of them: heads.reward.from=COLUMN"):
        clips(column="score", targets={"reward": TargetColumn()})
    assert "targets" not in clips(column="score")[0]
    assert "reward" in clips(column="score", targets={"reward": TargetColumn("score")})[0]["targets"]
    assert "targets" not in clips(targets={})[0]


def test_what_is_not_finite_is_told():
    values = np.ones(9, np.float32)
    values[5] = np.nan
    with pytest.raises(DataError, match="'reward', which is the target 'reward', is not finite at frame 1 of a clip"):
        clips(values=values, targets={"reward": TargetColumn()})[4]
    found = clips(values=values, targets={"reward": TargetColumn()})[3]["targets"]["reward"]
    assert found.tolist() == [1, 1, 0]  # the last one leads nowhere
    assert clips(values=values)[4]["targets"]["reward"].isnan().any()  # nobody asked for it


def test_collected_episodes_have_targets_in_every_format(tmp_path: Path):
    from worldkit.data import write_dataset

    collect(make_env("games/catch", size=8), tmp_path / "npz", episodes=3, max_steps=20)
    found = {"npz": open_dataset(tmp_path / "npz", split="all", num_frames=21)}
    for name in ("hdf5", "lerobot"):
        pytest.importorskip({"hdf5": "h5py", "lerobot": "pyarrow"}[name])
        path = tmp_path / (f"{name}.h5" if name == "hdf5" else name)
        write_dataset(found["npz"].source, path, format=name)
        found[name] = open_dataset(path, split="all", num_frames=21)
    for name, data in found.items():
        for a, b in zip(data, found["npz"], strict=True):
            assert set(a["targets"]) == {"reward", "terminated", "truncated"}, name
            assert all(torch.equal(a["targets"][k], b["targets"][k]) for k in b["targets"]), name
    assert collate([found["npz"][0]]).targets["reward"].sum() != 0


def test_a_loader_gives_them_and_batches_move_them():
    batch = next(iter(make_loader(clips(), 2)))
    moved = batch.to("meta")
    assert moved.targets["reward"].device.type == "meta" and moved.targets["reward"].shape == (2, 3)


@pytest.mark.parametrize("value, message", [
    ([1.0], r"target 'reward' must be a tensor \[b t\], got list"),
    (torch.zeros(2, 4), r"target 'reward' must be \[b=2 t=5 \.\.\.\], one entry per clip and frame .*got \[2, 4\]"),
    (torch.zeros(10), r"got \[10\]"),
])
def test_bad_targets_are_told(value, message):
    with pytest.raises(ShapeError, match=message):
        Batch(torch.zeros(2, 5, 3, 8, 8), targets={"reward": value})


def test_targets_must_be_a_table():
    with pytest.raises(ShapeError, match=r'targets must be a table, targets=\{"reward": ...\}, got Tensor'):
        Batch(torch.zeros(2, 5, 3, 8, 8), targets=torch.zeros(2, 5))
