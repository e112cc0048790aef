"""HDF5 columns with ep_len and ep_offset: laid out by hand as stable-worldmodel does, broken ones, round trips."""

import pickle
import re

import numpy as np
import pytest
import torch

from worldkit.data import ArraySource, make_loader, open_dataset, validate, write_balls_hdf5, write_dataset
from worldkit.data import action_statistics as statistics_of
from worldkit.data.formats.columns import choose_cameras, is_columns, open_columns
from worldkit.errors import DataError

h5py = pytest.importorskip("h5py")

LENGTHS = (5, 7, 6, 4)


def by_hand(path, lengths=LENGTHS, size=(8, 10), **columns):
    """What stable-worldmodel records of PushT: growing datasets, one chunk per step, the last action NaN."""
    n, offsets = sum(lengths), np.concatenate([[0], np.cumsum(lengths)[:-1]])
    rng = np.random.default_rng(0)
    action = rng.normal(size=(n, 2)).astype(np.float32)
    action[offsets + np.array(lengths) - 1] = np.nan
    step = np.concatenate([np.arange(k) for k in lengths])
    data = {
        "pixels": rng.integers(0, 255, (n, *size, 3), np.uint8),
        "goal": rng.integers(0, 255, (n, *size, 3), np.uint8),
        "action": action,
        "proprio": rng.normal(size=(n, 4)),
        "reward": rng.normal(size=n),
        "step_idx": step,
        "terminated": step < 0,
        **columns,
    }
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in data.items():
            text = values.dtype.kind == "O"
            file.create_dataset(
                name, data=values, maxshape=(None, *values.shape[1:]), chunks=(1, *values.shape[1:]),
                dtype=h5py.string_dtype() if text else None,
            )
        file["ep_len"], file["ep_offset"] = np.array(lengths, np.int32), offsets.astype(np.int64)
    return data


def test_laid_out_by_hand(tmp_path):
    path = tmp_path / "pusht.h5"
    texts = np.array([f"task {i}" for i, n in enumerate(LENGTHS) for _ in range(n)], object)
    data = by_hand(path, instruction=texts)
    assert is_columns(str(path)) and is_columns(str(tmp_path))  # also as the only file of a folder
    found = []
    for split in ("train", "val", "test"):
        source = open_columns(str(path), split=split)
        for i in range(source.num_episodes):
            item = source.read(i, 0, source.length(i))
            e = int(item["language"][-1])
            rows = slice(sum(LENGTHS[:e]), sum(LENGTHS[: e + 1]))
            assert (item["video"] == data["pixels"][rows].transpose(0, 3, 1, 2)).all()
            assert (item["goal_image"] == data["goal"][rows.start].transpose(2, 0, 1)).all()
            assert (item["action"][:-1] == data["action"][rows][:-1]).all() and (item["action"][-1] == 0).all()
            assert (item["state"]["proprio"] == data["proprio"][rows]).all()
            assert item["state"]["step_idx"].tolist() == list(range(LENGTHS[e]))
            found.append(e)
    assert sorted(found) == [0, 1, 2, 3]


def test_it_reaches_a_batch(tmp_path):
    by_hand(tmp_path / "train.h5")
    by_hand(tmp_path / "val.h5", lengths=(9,))
    assert len(open_dataset(tmp_path, split="val", num_frames=9)) == 1
    with pytest.raises(DataError, match="nothing for split 'test'"):
        open_dataset(tmp_path, split="test", num_frames=9)
    dataset = open_dataset(tmp_path, num_frames=4, height=4)
    assert dataset.summary["kind"] == "columns" and dataset.summary["episodes"] == 4
    batches = list(make_loader(dataset, 3, num_workers=2))  # the handle is opened again in every process
    assert batches[0].video.shape == (3, 4, 3, 4, 4) and batches[0].video.dtype == torch.uint8
    assert set(batches[0].conditions) == {"action", "goal_image"}
    assert all(torch.isfinite(batch.conditions["action"]).all() for batch in batches)
    assert pickle.loads(pickle.dumps(dataset))[0]["video"].shape == (4, 3, 4, 4)


def test_statistics_need_no_frame(tmp_path, monkeypatch):
    data = by_hand(tmp_path / "train.h5")
    source = open_columns(str(tmp_path), split="train")
    monkeypatch.setattr(type(source), "_frames", None)  # would fail if called
    found = statistics_of(source)
    actions = data["action"][np.isfinite(data["action"]).all(1)]
    assert found.count == len(actions) == sum(LENGTHS) - len(LENGTHS)
    assert np.allclose(found.mean, actions.mean(0)) and np.allclose(found.std, actions.std(0))


def test_balls_files_are_still_balls(tmp_path):
    write_balls_hdf5(tmp_path, splits={"train": 3}, image_size=16, num_frames=4)
    assert not is_columns(str(tmp_path)) and not is_columns(str(tmp_path / "train.hdf5"))
    assert open_dataset(tmp_path, num_frames=2).summary["kind"] == "hdf5"
    (tmp_path / "b.h5").write_bytes(b"no HDF5")
    assert not is_columns(str(tmp_path / "b.h5")) and not is_columns(str(tmp_path / "missing.h5"))


def test_a_folder_may_be_named_like_a_file(tmp_path):
    source = ArraySource([{"video": np.full((4, 3, 8, 8), i, np.uint8)} for i in range(2)])
    root = write_dataset({"train": source, "val": source}, tmp_path / "small.hdf5", "hdf5")
    assert root.is_dir() and open_dataset(root, split="val", num_frames=2).summary["kind"] == "columns"
    write_balls_hdf5(tmp_path / "balls.h5", splits={"train": 1}, image_size=16, num_frames=4)
    assert open_dataset(tmp_path / "balls.h5", num_frames=2).summary["kind"] == "hdf5"


def test_groups_are_left_out(tmp_path):
    by_hand(tmp_path / "train.h5")
    with h5py.File(tmp_path / "train.h5", "a") as file:
        file.create_group("about")["pixels"] = np.zeros(3)
        file.create_group("pixels.more")
    source = open_columns(str(tmp_path), split="train")
    assert "about" not in source.read(0, 0, 2)["state"] and source.cameras == ["pixels"]
    assert validate(str(tmp_path)).faults == []


def test_cameras(tmp_path):
    wrist = np.zeros((sum(LENGTHS), 8, 10, 3), np.uint8)
    by_hand(tmp_path / "train.h5", **{"pixels.wrist": wrist})
    both = open_columns(str(tmp_path), split="train")
    assert both.read(0, 0, 2)["video"].shape == (2, 2, 3, 8, 10)
    one = open_columns(str(tmp_path), split="train", cameras="wrist").read(0, 0, 2)["video"]
    assert one.shape == (2, 3, 8, 10) and one.max() == 0
    with pytest.raises(DataError, match="cameras: pixels 8x10, pixels.wrist 8x10"):
        open_columns(str(tmp_path), split="train", cameras="top")
    with pytest.raises(DataError, match="has no camera"):
        choose_cameras(tmp_path, {}, None)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"action": np.zeros((5, 2), np.float32)}, r"episode 1 should lie at rows 5..11 .* column 'action' has 5 rows"),
        ({"pixels": np.zeros((22, 8, 10), np.uint8)}, "has no camera"),
        ({"goal": np.zeros((22, 2, 8, 10, 3), np.uint8)}, r"'goal' should have one image per camera.*are 1 cameras"),
        ({"masks.action": np.ones(22, np.uint8)}, "train.h5, episode 0: 'masks.action' must be bool"),
        ({"action": np.full((22, 2), np.nan, np.float32)}, r"train.h5, episode 0: the action at frame 0 is not finite"),
    ],
)
def test_faults_are_named(tmp_path, columns, message):
    by_hand(tmp_path / "train.h5", **columns)
    with pytest.raises(DataError, match=message):
        source = open_columns(str(tmp_path), split="train")
        source.read(0, 0, source.length(0))


def test_a_nan_inside_is_found_wherever_the_clip_ends(tmp_path):
    data = by_hand(tmp_path / "train.h5")
    data["action"][2] = np.nan
    by_hand(tmp_path / "train.h5", action=data["action"])
    source = open_columns(str(tmp_path), split="train")
    for start in (0, 1):  # frames count from the beginning of the episode
        with pytest.raises(DataError, match="frame 2 is not finite"):
            source.read(0, start, 3)
    assert source.read(0, 3, 5)["action"].shape == (2, 2)


@pytest.mark.parametrize(
    ("lengths", "offsets"), [([6, 6], [0, 6, 12]), ([[6, 6]], [[0, 6]]), ([6.0, 6.5], [0, 6]), (["a", "b"], [0, 6])]
)
def test_an_index_that_disagrees(tmp_path, lengths, offsets):
    by_hand(tmp_path / "train.h5")
    with h5py.File(tmp_path / "train.h5", "a") as file:
        del file["ep_len"], file["ep_offset"]
        file["ep_len"], file["ep_offset"] = lengths, offsets
    for read in (lambda: open_columns(str(tmp_path), split="train"), lambda: validate(str(tmp_path))):
        with pytest.raises(DataError, match=r"must be whole numbers \[E\], one per episode, but ep_len is "):
            read()


def test_a_damaged_chunk_is_named(tmp_path):
    path = tmp_path / "train.h5"
    by_hand(path)
    with h5py.File(path, "a") as file:
        values = file["proprio"][:]
        del file["proprio"]
        data = file.create_dataset("proprio", data=values, chunks=(11, 4), compression="gzip")
        place = data.id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 20] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train.h5, episode 3: rows 18..21 of column 'proprio' cannot be read"):
        open_columns(str(tmp_path), split="train").read(3, 0, 4)
    problems = {fault.path[-9:]: fault.problem for fault in validate(str(tmp_path)).faults}
    assert sorted(problems) == ["episode 1", "episode 2", "episode 3"]
    assert problems["episode 2"].startswith("rows 12..17 of column 'proprio' cannot be read")


def test_missing_truncated_and_without_index(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_columns(str(tmp_path / "a"), split="train")
    path = tmp_path / "train.h5"
    by_hand(path)
    with pytest.raises(DataError, match="holds split 'train', not 'val'"):
        open_columns(str(path), split="val")
    with h5py.File(path, "a") as file:
        del file["ep_offset"]
    with pytest.raises(DataError, match="has no 'ep_offset'; it has action"):
        open_columns(str(path), split="train")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        open_columns(str(path), split="train")


def test_a_name_that_would_be_a_folder_is_refused(tmp_path):
    source = ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8), "state": {"a/b": np.zeros(4)}}])
    with pytest.raises(DataError, match="no place for 'a/b'.*Write npz"):
        write_dataset(source, tmp_path / "a.h5", "columns")


@pytest.mark.parametrize("views", [0, 2])
def test_what_is_written_reads_back_equal(tmp_path, views):
    rng = np.random.default_rng(0)

    def episode(n):
        return {
            "video": rng.integers(0, 255, (*((views,) if views else ()), n, 3, 8, 10), np.uint8),
            "action": rng.normal(size=(n, 2)).astype(np.float32),
            "state": {"proprio": rng.normal(size=(n, 3)), "action": np.arange(n), "pixels": np.arange(n)},
            "language": f"task {n}",
            "goal_image": rng.integers(0, 255, (*((views,) if views else ()), 3, 8, 10), np.uint8),
            "done_mask": np.ones(n, np.float32),
            "masks": {"action": np.arange(n) % 2 == 0},
        }

    before = [episode(n) for n in (5, 3, 6)]
    root = write_dataset({"train": ArraySource(before)}, tmp_path / "set", "columns")
    with h5py.File(root / "train.hdf5") as file:
        assert file["ep_len"][:].tolist() == [5, 3, 6] and file["ep_offset"][:].tolist() == [0, 5, 8]
        assert "proprio" in file and "state.action" in file and len(file["action"]) == 14
    source = open_columns(str(root), split="train")
    for i, expected in enumerate(before):
        found = source.read(i, 0, source.length(i))
        assert set(found) == set(expected) and found["language"] == expected["language"]
        for name in ("video", "action", "goal_image", "done_mask"):
            assert (found[name] == expected[name]).all() and found[name].dtype == expected[name].dtype, name
        assert set(found["state"]) == set(expected["state"])
        assert all((found["state"][k] == expected["state"][k]).all() for k in expected["state"])
        assert (found["masks"]["action"] == expected["masks"]["action"]).all()
    if views:  # a chosen camera comes with its own goal
        found = open_columns(str(root), split="train", cameras="pixels.1").read(0, 0, 2)
        assert (found["goal_image"] == before[0]["goal_image"][1]).all()


def test_actions_that_are_text_are_no_actions(tmp_path):
    path = tmp_path / "words.h5"
    by_hand(path, action=np.array(["left"] * sum(LENGTHS), object))
    with pytest.raises(DataError, match=r"words.h5, episode \d: actions must be numbers \[T, A\], got text"):
        open_dataset(path, num_frames=2)[0]
    faults = validate(path).faults
    assert len(faults) == len(LENGTHS) and all("actions must be numbers" in str(fault) for fault in faults)


def test_actions_may_be_called_actions(tmp_path):
    data = by_hand(tmp_path / "train.h5", actions=np.ones((sum(LENGTHS), 3), np.float32))
    item = open_dataset(tmp_path / "train.h5", num_frames=2)[0]
    assert item["action"].tolist() == data["action"][:2].tolist() and item["state"]["actions"].tolist() == [[1] * 3] * 2
    with h5py.File(tmp_path / "train.h5", "a") as file:
        del file["action"]
    item = open_dataset(tmp_path / "train.h5", num_frames=2)[0]
    assert item["action"].tolist() == [[1] * 3] * 2 and "actions" not in item["state"]
    assert not validate(tmp_path / "train.h5").faults


@pytest.mark.parametrize(("offsets", "shared"), [
    ((0, 4, 12, 18), r"episodes 0 and 1 share rows 4..4"),
    ((0, 5, 5, 18), r"episodes 1 and 2 share rows 5..10"),
    ((16, 0, 7, 18), r"episodes 0 and 3 share rows 18..20"),
])
def test_episodes_that_share_rows_are_refused(tmp_path, offsets, shared):
    path = tmp_path / "leak.h5"
    by_hand(path)
    with h5py.File(path, "a") as file:
        file["ep_offset"][...] = offsets
    with pytest.raises(DataError, match=f"leak.h5: {shared}"):
        open_dataset(path, num_frames=2)
    assert any(re.search(f"leak.h5: {shared}", str(fault)) for fault in validate(path).faults)


def test_validate_takes_what_stable_worldmodel_writes_at_a_reset(tmp_path):
    n, starts = sum(LENGTHS), np.concatenate([[0], np.cumsum(LENGTHS)[:-1]])
    reward = np.zeros(n)
    reward[starts] = np.nan
    by_hand(tmp_path / "a.h5", reward=reward, terminated=reward)
    assert not validate(tmp_path / "a.h5").faults
    reward[3] = np.nan
    by_hand(tmp_path / "b.h5", reward=reward)
    assert [str(fault) for fault in validate(tmp_path / "b.h5").faults] == [
        f"{tmp_path / 'b.h5'}, episode 0, frame 3: 'reward' is not finite: [nan]"]
    by_hand(tmp_path / "c.h5", proprio=np.where(np.arange(n) == 0, np.nan, 1.0)[:, None])
    assert len(validate(tmp_path / "c.h5").faults) == 1


def test_validate_reads_cameras_of_different_sizes(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (sum(LENGTHS), 6, 6, 1), np.uint8)
    by_hand(tmp_path / "a.h5", **{"pixels.wrist": pixels})
    found = validate(tmp_path / "a.h5")
    assert not found.findings and found.frames == sum(LENGTHS)
    pixels[1:6] = pixels[0]  # one of two cameras moves
    by_hand(tmp_path / "b.h5", **{"pixels.wrist": pixels})
    assert not validate(tmp_path / "b.h5").findings


def test_validate_tells_what_is_not_read(tmp_path):
    n = sum(LENGTHS)
    extra = {"note": np.array(["a"] * n, object), "maps": np.zeros((n, 2, 2, 2))}
    extra |= {"pixels_deep": np.zeros((n, 4, 4, 4), np.uint8), "instruction": np.array(["push"] * n, object)}
    by_hand(tmp_path / "a.h5", **extra)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["group/inside"] = np.zeros(n)
    found = validate(tmp_path / "a.h5")
    told = "\n".join(f.problem for f in found.warnings)
    assert not found.faults and len(found.warnings) == 4
    for text in ("group 'group' is not read", "'note' is text, and not called language", "'maps' is 4 axes wide",
                 "'pixels_deep' is uint8 [22, 4, 4, 4], no camera"):
        assert text in told
