"""Episodes as .npz: what is read, what is refused, and round trips."""

import pickle

import numpy as np
import pytest
import torch

from worldkit.data import (
    ArraySource,
    action_statistics,
    collate,
    list_formats,
    open_dataset,
    validate,
    write_dataset,
)
from worldkit.data.formats.npz import is_npz, open_npz
from worldkit.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def one(path, split="train", **options):
    """All that is read of the only episode of a split folder."""
    source = open_npz(str(path), split=split, **options)
    return source.read(0, 0, source.length(0))


def save(tmp_path, **arrays):
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "a.npz", **arrays)
    return tmp_path / "set"


@pytest.mark.parametrize("name", ["video", "frames", "observations", "image"])
@pytest.mark.parametrize("first", [True, False])
def test_layouts(tmp_path, name, first):
    video = noise(6, 3, 8, 10)
    stored = video if first else video.transpose(0, 2, 3, 1)
    found = one(save(tmp_path, **{name: stored}))["video"]
    assert found.dtype == np.uint8 and (found == video).all()


def test_views_grey_and_size(tmp_path):
    views = noise(2, 6, 8, 10, 3)
    assert (one(save(tmp_path, video=views))["video"] == views.transpose(0, 1, 4, 2, 3)).all()
    small = one(save(tmp_path, video=views), height=4, width=4)["video"]
    assert small.shape == (2, 6, 3, 4, 4)
    grey = noise(6, 8, 10, 1)
    found = one(save(tmp_path, video=grey))["video"]
    assert found.shape == (6, 3, 8, 10) and (found == grey.transpose(0, 3, 1, 2)).all()


def test_everything_arrives_in_the_batch(tmp_path):
    root = save(
        tmp_path,
        observations=noise(6, 8, 8, 3),
        actions=np.arange(12.0).reshape(6, 2),
        state=np.arange(6),
        done=np.array([0, 0, 0, 1, 0, 0]),
        language="push",
        goal_image=noise(8, 8, 3),
        fps=10,
        **{"masks.action": np.ones(6, bool), "state.position": np.zeros((6, 3, 2))},
    )
    dataset = open_dataset(root, num_frames=5)
    assert set(dataset[0]["state"]) == {"state", "position"}
    batch = collate([dataset[0], dataset[1]])
    assert set(batch.conditions) == {"action", "language", "goal_image"}
    assert batch.conditions["action"].dtype == torch.float32 and batch.conditions["action"][1, 0].tolist() == [2, 3]
    assert batch.conditions["language"] == ["push", "push"]
    assert batch.conditions["goal_image"].shape == (2, 3, 8, 8) and batch.conditions["goal_image"].dtype == torch.uint8
    assert batch.done_mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]  # the last frame still belongs to it
    assert batch.masks["action"].shape == (2, 5)


def test_discrete_actions_and_embeddings(tmp_path):
    actions = np.array([[3], [1], [0], [2]])
    found = one(save(tmp_path, video=noise(4, 8, 8, 3), action=actions, language=np.ones((5, 7))))
    assert found["action"].dtype == np.int64 and found["action"].tolist() == [3, 1, 0, 2]
    assert found["language"].shape == (5, 7) and found["language"].dtype == np.float32


def test_an_action_that_leads_nowhere_may_be_nan(tmp_path):
    actions = np.ones((4, 2), np.float32)
    actions[3] = np.nan
    assert one(save(tmp_path, video=noise(4, 8, 8, 3), action=actions))["action"][3].tolist() == [0, 0]
    actions[1] = np.nan
    with pytest.raises(DataError, match="a.npz: the action at frame 1 is not finite"):
        one(save(tmp_path, video=noise(4, 8, 8, 3), action=actions))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "has no video: expected uint8 frames under video, frames.*it has x"),
        ({"video": np.zeros((4, 8, 8, 3), np.float32)}, "must be uint8"),
        ({"video": noise(4, 8, 8)}, "must be uint8"),
        ({"video": noise(4, 8, 8, 4)}, "neither 1 nor 3 channels"),
        ({"video": noise(4, 3, 8, 3)}, "first or last"),
        ({"video": noise(4, 8, 8, 3), "action": np.zeros((3, 2))}, "'action' has 3 steps, the video has 4 frames"),
        ({"video": noise(4, 8, 8, 3), "action": np.array(["a"] * 4)}, "actions must be numbers"),
        ({"video": noise(4, 8, 8, 3), "language": np.zeros(3)}, "language must be a string or embeddings"),
        ({"video": noise(4, 8, 8, 3), "goal_image": np.zeros((8, 8, 3))}, "goal_image must be uint8"),
        ({"video": noise(4, 8, 8, 3), "action": np.array([{}] * 4, object)}, "never loaded"),
    ],
)
def test_faults_are_named(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        one(save(tmp_path, **arrays))


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_pickles_are_not_run(tmp_path, capsys):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="a.npz cannot be read"):
        open_dataset(folder, num_frames=1)
    root = save(tmp_path, video=noise(4, 8, 8, 3), x=np.array([Evil()], object))
    with pytest.raises(DataError, match="pickled"):
        one(root)
    assert "executed" not in capsys.readouterr().out


def test_damaged_and_missing(tmp_path):
    root = save(tmp_path, video=noise(20, 8, 8, 3))
    path = root / "train" / "a.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="a.npz cannot be read as .npz"):
        one(root)
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "b.npz", num_frames=1)


@pytest.mark.parametrize("place", [60, 400, 2000, -1000])
def test_damaged_inside(tmp_path, place):
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "a.npz", video=noise(60, 8, 8, 3) % 3, x=noise(9000) % 3)  # packs well
    content = bytearray((folder / "a.npz").read_bytes())
    content[place : place + 40] = b"\xff" * 40
    (folder / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="a.npz cannot be read"):
        one(tmp_path / "set")
    assert ["cannot be read" in fault.problem for fault in validate(str(tmp_path / "set")).faults] == [True]


def test_recognition(tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("a.mp4", "a.npz"):  # a clip with a sidecar
        (tmp_path / "clips" / name).write_bytes(b"")
    assert not is_npz(str(tmp_path / "clips")) and not is_npz(str(tmp_path / "missing"))
    assert is_npz(str(save(tmp_path, video=noise(2, 8, 8, 3)))) and is_npz("a.npz")
    assert "npz" in list_formats()


def test_splits(tmp_path):
    for i in range(12):
        np.savez(tmp_path / f"{i}.npz", video=np.full((3, 4, 4, 3), i, np.uint8))
    seen = []
    for split in ("train", "val", "test"):
        source = open_npz(str(tmp_path), split=split)
        seen += [int(source.read(i, 0, 1)["video"].max()) for i in range(source.num_episodes)]
    assert sorted(seen) == list(range(12))
    np.savez(tmp_path / "one.npz", video=noise(20, 4, 4, 3), action=np.arange(20.0)[:, None])
    val = open_npz(str(tmp_path / "one.npz"), split="val")  # one episode: in time
    assert val.summary["split_by"] == "time" and val.read(0, 0, 2)["action"].tolist() == [[16], [17]]
    val.read(0, 0, 2)["action"][:] = 0
    assert val.read(0, 0, 2)["action"].tolist() == [[16], [17]]  # an item is the caller's own


@pytest.mark.parametrize("views", [0, 2])
def test_what_is_written_reads_back_equal(tmp_path, views):
    def episode(n, seed):
        rng = np.random.default_rng(seed)
        return {
            "video": noise(*((views, n) if views else (n,)), 3, 8, 10, seed=seed),
            "action": rng.normal(size=(n, 2)).astype(np.float32),
            "state": {"x": rng.normal(size=(n, 3)), "y": np.arange(n)},
            "language": rng.normal(size=(4, 6)).astype(np.float32),
            "goal_image": noise(*((views,) if views else ()), 3, 8, 10, seed=seed + 1),
            "done_mask": np.ones(n, np.float32),
            "masks": {"action": np.arange(n) % 2 == 0},
        }

    episodes = [episode(n, n) for n in (5, 3, 6)]
    sources = {"train": ArraySource(episodes[:2]), "test": ArraySource(episodes[2:])}
    root = write_dataset(sources, tmp_path / "set", "npz")
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*.npz")) == [
        "test/episode_000000.npz", "train/episode_000000.npz", "train/episode_000001.npz",
    ]
    found = [open_npz(str(root), split="train").read(i, 0, n) for i, n in enumerate((5, 3))]
    for before, after in zip(episodes, [*found, one(root, "test")], strict=True):
        assert set(before) == set(after)
        for name in ("video", "action", "language", "goal_image", "done_mask"):
            assert (before[name] == after[name]).all() and before[name].dtype == after[name].dtype, name
        assert all((before["state"][k] == after["state"][k]).all() for k in "xy")
        assert (before["masks"]["action"] == after["masks"]["action"]).all()
    single = write_dataset(ArraySource(episodes[:1]), tmp_path / "a.npz", "npz")
    assert single.is_file() and open_npz(str(single), split="train").read(0, 0, 4)["video"].shape[-4] == 4
    with pytest.raises(DataError, match="a.npz can hold one episode, not 2"):
        write_dataset(ArraySource(episodes[:2]), single, "npz", overwrite=True)
    assert single.is_file()


def ogbench(path, lengths, first=0):
    """A visual data set of OGBench: rows of all episodes, ``terminals`` 1 at the last row of each."""
    rows = sum(lengths)
    levels = first + np.concatenate([20 * e + np.arange(n) for e, n in enumerate(lengths)])
    ends = np.isin(np.arange(rows), np.cumsum(lengths) - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path, observations=(np.ones((rows, 8, 8, 3)) * levels[:, None, None, None]).astype(np.uint8),
        actions=np.stack([levels, -levels], 1).astype(np.float32) + 1, terminals=ends.astype(np.float32),
        qpos=levels[:, None] / 10,
    )
    return path


def shown(data):
    """Levels of the frames of every clip, and its actions."""
    items = [data[i] for i in range(len(data))]
    return [(item["video"][:, 0, 0, 0].tolist(), item["action"][:, 0].tolist()) for item in items]


def test_ogbench_episodes_end_at_terminals(tmp_path):
    """The transitions are those of OGBench's own loader: rows but the last of an episode, with the row behind."""
    folder = ogbench(tmp_path / "set" / "cube.npz", (5, 3, 70)).parent
    ogbench(folder / "cube-val.npz", (4, 4), first=100)
    for target in (folder, folder / "cube.npz"):
        train = open_dataset(target, num_frames=2)
        pairs = [(e, t) for e, n in enumerate((5, 3, 70)) for t in range(n - 1)]
        assert [frames for frames, _ in shown(train)] == [[20 * e + t, 20 * e + t + 1] for e, t in pairs]
        assert [actions[0] for _, actions in shown(train)] == [20 * e + t + 1 for e, t in pairs]
        val = open_dataset(target, split="val", num_frames=4, mode="tile")
        assert shown(val) == [([100, 101, 102, 103], [101, 102, 103, 0]), ([120, 121, 122, 123], [121, 122, 123, 0])]
        assert val[0]["state"]["qpos"][:, 0].tolist() == [10.0, 10.1, 10.2, 10.3]
        with pytest.raises(DataError, match=r"cube.npz for training and cube-val.npz for validation, but nothing for"):
            open_dataset(target, split="test", num_frames=2)
        found = validate(str(target))
        assert (found.faults, found.episodes, found.frames) == ([], 5, 86)
    assert action_statistics(train.source).count == 4 + 2 + 69


def test_rows_of_one_file_are_split_by_episode(tmp_path):
    path = ogbench(tmp_path / "cube.npz", [4] * 10)
    levels = {s: {f for frames, _ in shown(open_dataset(path, split=s, num_frames=4)) for f in frames}
              for s in ("train", "val", "test")}
    assert [len(found) for found in levels.values()] == [32, 4, 4]
    assert not levels["train"] & levels["val"] and not levels["val"] & levels["test"]


def test_rows_without_a_last_end(tmp_path):
    """An episode that is still going on at the end of the file, an episode of one row, and ends in two arrays."""
    np.savez(tmp_path / "a.npz", video=noise(7, 8, 8, 3), terminals=np.array([0, 1, 1, 0, 0, 0, 0]),
             timeouts=np.array([0, 0, 0, 0, 1, 0, 0]))
    (tmp_path / "train").mkdir()
    (tmp_path / "a.npz").rename(tmp_path / "train" / "a.npz")
    source = open_dataset(tmp_path, num_frames=2).source
    assert [source.length(i) for i in range(source.num_episodes)] == [2, 1, 2, 2]
    np.savez(tmp_path / "train" / "a.npz", video=noise(7, 8, 8, 3), terminals=np.zeros(6))
    with pytest.raises(DataError, match="'terminals' must hold one number per row"):
        open_dataset(tmp_path, num_frames=2)
    assert "'terminals' must hold" in validate(str(tmp_path)).faults[0].problem


def test_split_files(tmp_path):
    """train.npz, val.npz and test.npz are the splits, as train.hdf5 and so on are."""
    for number, name in enumerate(("train", "valid", "test")):
        np.savez(tmp_path / f"{name}.npz", video=np.full((4, 8, 8, 3), number, np.uint8))
    for number, split in enumerate(("train", "val", "test")):
        assert int(open_dataset(tmp_path, split=split, num_frames=4)[0]["video"].max()) == number


def test_long_files_are_read_piece_by_piece(tmp_path):
    """Frames are those of the array, whatever its layout, over several pieces."""
    video = noise(150, 6, 8, 3)
    layouts = {"rows": video, "columns": np.asfortranarray(video), "front": video.transpose(0, 3, 1, 2).copy()}
    for name, array in layouts.items():
        for save_as in (np.savez, np.savez_compressed):
            (tmp_path / name / "train").mkdir(parents=True, exist_ok=True)
            save_as(tmp_path / name / "train" / "a.npz", video=array)
            assert (one(tmp_path / name)["video"] == video.transpose(0, 3, 1, 2)).all()


def test_validate_tells_text_that_is_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", video=np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), np.uint8),
             action=np.ones((4, 2), np.float32), actions=np.zeros((4, 3)), language="push", words=np.array(["a"] * 4))
    found = validate(tmp_path / "a.npz")
    told = [finding.problem for finding in found.warnings]
    assert not found.faults and any("'words' is text, and no instruction (language): it is not read" in t for t in told)
    item = open_dataset(tmp_path / "a.npz", num_frames=1)[0]
    assert item["action"].tolist() == [[1, 1]] and item["state"]["actions"].tolist() == [[0, 0, 0]]
