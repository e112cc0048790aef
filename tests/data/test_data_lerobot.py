"""LeRobot data sets: laid out by hand from the published description (v3.0, v2.1), broken ones, and our writer."""

import io
import json
import pickle
import sys

import numpy as np
import pytest
import torch

from worldkit.data import ArraySource, list_formats, make_loader, open_dataset, write_dataset
from worldkit.data.formats.lerobot import open_lerobot
from worldkit.errors import DataError, MissingExtraError

av = pytest.importorskip("av")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
h5py = pytest.importorskip("h5py")
image = pytest.importorskip("PIL.Image")

FPS = 10
LENGTHS = (5, 7, 6, 4)
KEY = "observation.images.{}"
INDEX = {"timestamp": "float32"} | dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))


def level(episode, frame, camera=0):
    """The grey level of a frame tells which one it is."""
    return 20 + 60 * episode + 7 * frame + 3 * camera


def grey(levels, height=16, width=24):
    return np.stack([np.full((height, width, 3), n, np.uint8) for n in levels])


def film(path, frames, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.options = {"crf": "4", "g": "2", **options}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def features(cameras, kind="video", size=(16, 24)):
    camera = {"dtype": kind, "shape": [*size, 3], "names": ["height", "width", "channels"]}
    shown = {KEY.format(c): dict(camera) for c in cameras}
    return {
        "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
        "observation.state": {"dtype": "float32", "shape": [3], "names": ["a", "b", "c"]},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        **shown,
        **{name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in INDEX.items()},
    }


def info(version, cameras, **changes):
    return {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_tasks": 2,
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(LENGTHS)}"},
        "features": features(cameras),
        **changes,
    }


def rows(episode):
    """The table of one episode, action ``[episode, frame]``; the task changes inside the last episode."""
    n, t = LENGTHS[episode], np.arange(LENGTHS[episode])
    task = np.full(n, episode % 2)
    if episode == 3:
        task[2:] = 0
    return pa.table(
        {
            "action": pa.array([[float(episode), float(i)] for i in t], pa.list_(pa.float32(), 2)),
            "observation.state": pa.array([[i + 0.5, episode, 1.0] for i in t], pa.list_(pa.float32(), 3)),
            "next.reward": pa.array((t / 2).astype(np.float32)),
            "timestamp": pa.array((t / FPS).astype(np.float32)),
            "frame_index": pa.array(t),
            "episode_index": pa.array(np.full(n, episode)),
            "index": pa.array(t + sum(LENGTHS[:episode])),
            "task_index": pa.array(task),
        }
    )


def by_hand_v3(root, cameras=("front",), **changes):
    """Episodes 0, 1 in data file 0, the others in file 1; videos: 0, 1, 2 in file 0, 3 in file 1."""
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    content = info(
        "v3.0",
        cameras,
        data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )
    (root / "meta" / "info.json").write_text(json.dumps({**content, **changes}))
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": ["push the cube", "lift the cup"]})
    pq.write_table(tasks, root / "meta" / "tasks.parquet")
    for number, episodes in enumerate([(0, 1), (2, 3)]):
        path = root / "data" / "chunk-000" / f"file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables([rows(e) for e in episodes]), path)
    table = []
    for e, n in enumerate(LENGTHS):
        first = sum(LENGTHS[:e])
        row = {"episode_index": e, "tasks": ["push the cube"], "length": n}
        row |= {"dataset_from_index": first, "dataset_to_index": first + n}
        row |= {"data/chunk_index": 0, "data/file_index": e // 2, "stats/action/count": [n]}
        start = first / FPS if e < 3 else 0.0
        for c in cameras:
            key = f"videos/{KEY.format(c)}"
            row |= {f"{key}/chunk_index": 0, f"{key}/file_index": int(e == 3)}
            row |= {f"{key}/from_timestamp": start, f"{key}/to_timestamp": start + n / FPS}
        table.append(row)
    pq.write_table(pa.Table.from_pylist(table), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    for i, c in enumerate(cameras):
        for number, episodes in enumerate([(0, 1, 2), (3,)]):
            levels = [level(e, t, i) for e in episodes for t in range(LENGTHS[e])]
            film(root / "videos" / KEY.format(c) / "chunk-000" / f"file-{number:03d}.mp4", grey(levels))
    return root


def by_hand_v2(root):
    (root / "meta").mkdir(parents=True)
    content = info(
        "v2.1",
        ("front",),
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        splits={"train": "0:2", "test": "2:4"},
    )
    (root / "meta" / "info.json").write_text(json.dumps(content))
    tasks = ({"task_index": 0, "task": "push the cube"}, {"task_index": 1, "task": "lift the cup"})
    (root / "meta" / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    listed = [{"episode_index": e, "tasks": [], "length": n} for e, n in enumerate(LENGTHS)]
    (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    for e, n in enumerate(LENGTHS):
        path = root / "data" / "chunk-000" / f"episode_{e:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(e), path)
        levels = [level(e, t) for t in range(n)]
        film(root / "videos" / "chunk-000" / KEY.format("front") / f"episode_{e:06d}.mp4", grey(levels))
    return root


def check_episode(source, i, camera=0):
    """An episode of the sets above, told by its action, frame by frame."""
    item = source.read(i, 0, source.length(i))
    e = int(item["action"][0, 0])
    assert item["action"][:, 1].tolist() == list(range(LENGTHS[e])) and item["action"].dtype == np.float32
    assert item["state"]["state"][:, 0].tolist() == [t + 0.5 for t in range(LENGTHS[e])]
    assert item["state"]["next.reward"].tolist() == [t / 2 for t in range(LENGTHS[e])]
    assert item["language"] == ("lift the cup" if e % 2 else "push the cube")
    video = item["video"] if item["video"].ndim == 4 else item["video"][camera]
    expected = [level(e, t, camera) for t in range(LENGTHS[e])]
    assert np.abs(video.astype(float).mean((1, 2, 3)) - expected).max() < 2
    return e


def test_v3_laid_out_by_hand(tmp_path):
    root = by_hand_v3(tmp_path / "set")
    found = []
    for split in ("train", "val", "test"):  # info.json knows train only: split by episode
        source = open_lerobot(str(root), split=split)
        assert source.summary["resolution"] == [16, 24] and source.summary["fps"] == FPS
        found += [check_episode(source, i) for i in range(source.num_episodes)]
    assert sorted(found) == [0, 1, 2, 3]


def test_v3_reaches_a_batch(tmp_path):
    dataset = open_dataset(by_hand_v3(tmp_path / "set", splits={"train": "0:2", "val": "2:4"}), num_frames=4, height=8)
    assert dataset.source.num_episodes == 2 and len(dataset) == 2 + 4
    assert len(pickle.dumps(dataset)) < 50_000
    batches = list(make_loader(dataset, 3, num_workers=2, shuffle=False))
    assert batches[0].video.shape == (3, 4, 3, 8, 8) and batches[0].video.dtype == torch.uint8
    assert set(batches[0].conditions) == {"action", "language"}
    assert batches[0].conditions["language"] == ["push the cube", "push the cube", "lift the cup"]
    assert batches[0].conditions["action"][2].tolist() == [[1, t] for t in range(4)]
    val = open_dataset(tmp_path / "set", split="val", num_frames=2)
    languages = [val[i]["language"] for i in range(len(val)) if val[i]["episode"] == 1]
    assert languages == ["lift the cup", "lift the cup", "push the cube"]  # the task of the first frame
    with pytest.raises(DataError, match="has splits train, val, but not 'test'"):
        open_dataset(tmp_path / "set", split="test", num_frames=2)


def test_v2_laid_out_by_hand(tmp_path):
    root = by_hand_v2(tmp_path / "set")
    for split, expected in (("train", [0, 1]), ("test", [2, 3])):
        source = open_lerobot(str(root), split=split)
        assert [check_episode(source, i) for i in range(2)] == expected
    assert "lerobot" in list_formats()


def test_cameras_become_views(tmp_path):
    root = by_hand_v3(tmp_path / "set", ("front", "wrist"))
    source = open_lerobot(str(root), split="train")
    assert source.read(0, 1, 3)["video"].shape == (2, 2, 3, 16, 24)
    assert [check_episode(source, 0, camera) for camera in (0, 1)]
    one = open_lerobot(str(root), split="train", cameras="wrist").read(0, 0, 1)["video"]
    assert one.shape == (1, 3, 16, 24) and abs(one.mean() - source.read(0, 0, 1)["video"][1].mean()) < 1
    assert open_lerobot(str(root), split="train", cameras="wrist,front").summary["cameras"][0].endswith("wrist")
    with pytest.raises(DataError, match=r"no single camera 'top'; its cameras: observation.images.front 16x24"):
        open_lerobot(str(root), split="train", cameras=["top"])
    content = json.loads((root / "meta" / "info.json").read_text())
    content["features"][KEY.format("wrist")]["shape"] = [32, 24, 3]
    (root / "meta" / "info.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="different sizes.*cameras='front'"):
        open_lerobot(str(root), split="train")
    for number, episodes in enumerate([(0, 1, 2), (3,)]):
        levels = [level(e, t, 1) for e in episodes for t in range(LENGTHS[e])]
        name = f"file-{number:03d}.mp4"
        film(root / "videos" / KEY.format("wrist") / "chunk-000" / name, grey(levels, height=32))
    both = open_lerobot(str(root), split="train", cameras="front,wrist", height=8, width=8)
    assert both.read(0, 0, 2)["video"].shape == (2, 2, 3, 8, 8)


@pytest.mark.parametrize("embedded", [True, False])
def test_images_in_parquet(tmp_path, embedded):
    root, key = by_hand_v3(tmp_path / "set"), KEY.format("front")
    content = json.loads((root / "meta" / "info.json").read_text())
    content["features"] = features(("front",), "image", size=(8, 10))
    (root / "meta" / "info.json").write_text(json.dumps(content))
    noise = np.random.default_rng(0).integers(0, 255, (12, 8, 10, 3), np.uint8)
    cells = []
    for i, frame in enumerate(noise):
        file = io.BytesIO()
        image.fromarray(frame).save(file, "png")
        (root / f"{i}.png").write_bytes(file.getvalue())
        cells.append({"bytes": file.getvalue() if embedded else None, "path": f"{i}.png"})
    table = pa.concat_tables([rows(0), rows(1)])
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = table.append_column(key, pa.array(cells, kind))
    # rows out of order: frame_index decides
    order = [3, 4, 0, 1, 2, *range(5, 12)]
    pq.write_table(table.take(order), root / "data" / "chunk-000" / "file-000.parquet")
    content["splits"] = {"train": "0:2", "test": "2:4"}
    (root / "meta" / "info.json").write_text(json.dumps(content))
    source = open_lerobot(str(root), split="train")
    assert (source.read(0, 0, 5)["video"] == noise[:5].transpose(0, 3, 1, 2)).all()
    assert (source.read(1, 2, 7)["video"] == noise[7:].transpose(0, 3, 1, 2)).all()


def change_info(**changes):
    def change(root):
        path = root / "meta" / "info.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def shorter_data(root):
    path = root / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 10), path)


def remove(*parts):
    return lambda root: (root.joinpath(*parts)).unlink()


def truncate(*parts):
    def cut(root):
        path = root.joinpath(*parts)
        path.write_bytes(path.read_bytes()[:200])

    return cut


def shorter_video(root):
    levels = [level(e, t) for e in (0, 1, 2) for t in range(LENGTHS[e])][:-2]
    film(root / "videos" / KEY.format("front") / "chunk-000" / "file-000.mp4", grey(levels))


def shifted_timestamps(root):
    path = root / "data" / "chunk-000" / "file-001.parquet"
    table = pq.read_table(path)
    late = pa.array(table["timestamp"].to_numpy() + np.float32(0.001))
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", late), path)


def without(name):
    def drop(root):
        path = root / "data" / "chunk-000" / "file-000.parquet"
        pq.write_table(pq.read_table(path).drop_columns([name]), path)

    return drop


def slid_actions(root):
    path = root / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path)
    actions = table["action"].to_pylist()
    actions[7:9] = [actions[7][:1], [*actions[7][1:], *actions[8]]]  # as many numbers as before
    ragged = pa.array(actions, pa.list_(pa.float32()))
    pq.write_table(table.set_column(table.column_names.index("action"), "action", ragged), path)


def feature_without_shape(root):
    changed = features(("front",))
    changed["action"]["shape"] = None
    change_info(features=changed)(root)


VIDEO = ("videos", KEY.format("front"), "chunk-000", "file-000.mp4")
DATA = ("data", "chunk-000", "file-000.parquet")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (change_info(codebase_version="v1.6"), "version v1.6 is not supported; v2.0, v2.1 and v3.0"),
        (change_info(codebase_version="v4.0"), "version v4.0 is not supported"),
        (change_info(total_episodes=5), "states 5 episodes, but the table of episodes has 4"),
        (change_info(features={"action": {}}), "info.json is damaged"),
        (change_info(fps=0), "info.json: fps must be above 0, got 0"),
        (change_info(video_path=None), r"info.json: 'video_path' must be a path with {video_key}.* in it, got None"),
        (change_info(data_path="{data}"), r"'data_path' must be a path with {chunk_index}.* in it, got '{data}'"),
        (feature_without_shape, r"feature 'action' must have a shape, a list of whole numbers, got None"),
        (slid_actions, r"file-000.parquet: column 'action' has 1 values in row 7, but 2 in the first"),
        (truncate("meta", "info.json"), "info.json cannot be read as JSON"),
        (remove("meta", "tasks.parquet"), "tasks.parquet does not exist"),
        (remove("meta", "episodes", "chunk-000", "file-000.parquet"), "holds no chunk-000/file-000.parquet"),
        (truncate("meta", "episodes", "chunk-000", "file-000.parquet"), "cannot be read as parquet"),
        (remove(*DATA), "file-000.parquet does not exist"),
        (truncate(*DATA), "file-000.parquet cannot be read as parquet"),
        (shorter_data, r"file-000.parquet holds 5 rows of episode 1, but meta says 7 frames"),
        (without("action"), "file-000.parquet has no column 'action'"),
        (remove(*VIDEO), "file-000.mp4 does not exist, but episode . of camera"),
        (truncate(*VIDEO), "file-000.mp4 cannot be read as a video"),
        (shorter_video, r"file-000.mp4: frame 4 of the episode, at 1.6000 s, is missing: it ends .* frame at 1.5000"),
        (shifted_timestamps, r"file-00..mp4: frame 0 of the episode should be at .*10 s, but the nearest frame is at"),
    ],
)
def test_faults_are_named(tmp_path, fault, message):
    root = by_hand_v3(tmp_path / "set")
    fault(root)
    with pytest.raises(DataError, match=message):
        for split in ("train", "val", "test"):
            open_lerobot(str(root), split=split)


def test_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    root = by_hand_v3(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r'pyarrow, which is not installed\. .* -e "\.\[data\]"'):
        open_lerobot(str(root), split="train")
    with pytest.raises(MissingExtraError, match="writing a LeRobot data set needs pyarrow"):
        write_dataset(ArraySource([{"video": np.zeros((2, 3, 8, 8), np.uint8)}]), tmp_path / "out", "lerobot")
    assert not (tmp_path / "out").exists()


def recorded(lengths, size=(16, 24), views=0, seed=0):
    """Episodes of smooth moving pictures with everything that may come along."""
    rng, made = np.random.default_rng(seed), []
    y, x = np.mgrid[: size[0], : size[1]] / 4
    for e, n in enumerate(lengths):
        shape = (views, n) if views else (n,)
        goals = np.stack([np.full((3, *size), 40 * e + v, np.uint8) for v in range(views or 1)])
        video = np.stack([127 + 100 * np.sin(x + 0.3 * i + e) * np.cos(y) for i in range(int(np.prod(shape)))])
        made.append(
            {
                "video": np.repeat(video.astype(np.uint8).reshape(*shape, 1, *size), 3, axis=-3),
                "action": rng.normal(size=(n, 3)).astype(np.float32),
                "language": f"task {e % 2}",
                "goal_image": goals if views else goals[0],
                "done_mask": np.arange(n) < n - 1,
                "masks": {"action": np.arange(n) % 2 == 0},
                "state": {
                    "state": rng.normal(size=(n, 5)),
                    "position": rng.normal(size=(n, 3, 2)).astype(np.float32),
                    "scalar": rng.normal(size=n).astype(np.float32),
                    "one": rng.normal(size=(n, 1)).astype(np.float32),
                    "next.reward": np.arange(n),
                },
            }
        )
    return ArraySource(made)


def same(first, second):
    """Equal in everything but the video."""
    assert set(first) == set(second)
    for name, value in first.items():
        if isinstance(value, dict):
            same(value, second[name])
        elif name != "video":
            a, b = np.asarray(value), np.asarray(second[name])
            assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all(), name


def psnr(a, b):
    return 10 * np.log10(255**2 / ((a.astype(float) - b.astype(float)) ** 2).mean())


@pytest.mark.parametrize("format", ["lerobot", "lerobot-v2.1"])
@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize(("views", "size"), [(0, (16, 24)), (2, (15, 21))])
def test_what_is_written_reads_back_equal(tmp_path, format, lossless, views, size):
    sources = {"train": recorded((6, 9, 4), size, views), "val": recorded((5,), size, views, seed=1)}
    seen = []
    options = {"lossless": lossless, "progress": lambda *count: seen.append(count), "robot_type": "a"}
    write_dataset(sources, tmp_path / "set", format, fps=12.5, **options)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for split, source in sources.items():
        read = open_lerobot(str(tmp_path / "set"), split=split)
        assert read.num_episodes == source.num_episodes and read.summary["fps"] == 12.5
        for i in range(read.num_episodes):
            assert read.length(i) == source.length(i)
            before, after = (s.read(i, 0, s.length(i)) for s in (source, read))
            same(before, after)
            frames = np.asarray(before["video"])
            assert after["video"].shape == frames.shape
            if lossless:
                assert (after["video"] == frames).all()
            else:
                assert psnr(after["video"], frames) > 36
    if views:
        one = open_lerobot(str(tmp_path / "set"), split="train", cameras="view1").read(1, 0, 2)
        assert one["video"].shape[:2] == (2, 3) and (one["goal_image"] == 41).all()
    assert not [p for p in tmp_path.iterdir() if p.name not in ("set", "cache")]


@pytest.mark.parametrize(("fps", "length"), [(0.003, 20), (0.0123, 20)])  # two hours; a rate that is rounded
def test_times_are_found_again(tmp_path, fps, length):
    source = ArraySource([{"video": np.zeros((length, 3, 16, 16), np.uint8)}] * 2)
    root = write_dataset({"train": source, "val": source}, tmp_path / "set", "lerobot", fps=fps)
    read = open_lerobot(str(root), split="val")
    assert read.length(1) == length and read.summary["fps"] == pytest.approx(fps, rel=1e-3)


def test_written_meta_is_as_published(tmp_path):
    source = recorded((6, 4))
    root = write_dataset(source, tmp_path / "set", "lerobot", fps=10)
    content = json.loads((root / "meta" / "info.json").read_text())
    assert content["codebase_version"] == "v3.0" and content["fps"] == 10 and content["total_frames"] == 10
    assert content["splits"] == {"train": "0:2"}
    names = ["action_0", "action_1", "action_2"]
    assert content["features"]["action"] == {"dtype": "float32", "shape": [3], "names": names}
    assert content["features"]["observation.images.front"]["shape"] == [16, 24, 3]
    assert set(INDEX) <= set(content["features"])
    stats = json.loads((root / "meta" / "stats.json").read_text())
    actions = np.concatenate([source.read(i, 0, source.length(i))["action"] for i in range(2)])
    assert np.allclose(stats["action"]["mean"], actions.mean(0)) and np.allclose(stats["action"]["std"], actions.std(0))
    assert np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)
    tasks = pq.read_table(root / "meta" / "tasks.parquet")
    assert tasks.to_pylist() == [{"task_index": 0, "task": "task 0"}, {"task_index": 1, "task": "task 1"}]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    episodes = pq.read_table(root / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    key = "videos/observation.images.front"
    assert episodes[1]["tasks"] == ["task 1"] and episodes[1]["length"] == 4
    assert (episodes[1]["dataset_from_index"], episodes[1]["dataset_to_index"]) == (6, 10)
    assert episodes[1][f"{key}/from_timestamp"] == pytest.approx(0.6)
    data = pq.read_table(root / "data" / "chunk-000" / "file-000.parquet")
    assert data["index"].to_pylist() == list(range(10)) and data["task_index"].to_pylist() == [0] * 6 + [1] * 4
    assert data.schema.field("action").type == pa.list_(pa.float32(), 3)
    with av.open(str(root / "videos" / "observation.images.front" / "chunk-000" / "file-000.mp4")) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        keys = [i for i, p in enumerate(packets) if p.is_keyframe]
        assert len(packets) == 10 and {0, 6} <= set(keys)  # a key frame where an episode begins
        assert [float(p.pts * p.time_base) for p in packets] == pytest.approx([i / 10 for i in range(10)])


def test_v2_is_written_as_published(tmp_path):
    source = recorded((6, 4), views=2)
    root = write_dataset(source, tmp_path / "set", "lerobot-v2.1", fps=10)
    content = json.loads((root / "meta" / "info.json").read_text())
    assert content["codebase_version"] == "v2.1" and content["splits"] == {"train": "0:2"}
    assert (content["total_chunks"], content["total_videos"]) == (1, 4)
    assert content["data_path"] == "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    assert content["video_path"] == "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    episodes, tasks, stats = (
        [json.loads(line) for line in (root / "meta" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("episodes", "tasks", "episodes_stats")
    )
    assert episodes[1] == {"episode_index": 1, "tasks": ["task 1"], "length": 4}
    assert tasks == [{"task_index": 0, "task": "task 0"}, {"task_index": 1, "task": "task 1"}]
    for e, row in enumerate(stats):
        actions = np.asarray(source.read(e, 0, source.length(e))["action"])
        assert row["episode_index"] == e and row["stats"]["action"]["count"] == [len(actions)]
        assert np.allclose(row["stats"]["action"]["max"], actions.max(0))
        assert np.shape(row["stats"]["observation.images.view1"]["mean"]) == (3, 1, 1)
        film = root / f"videos/chunk-000/observation.images.view1/episode_{e:06d}.mp4"
        with av.open(str(film)) as container:
            times = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.size]
        assert times == pytest.approx([i / 10 for i in range(len(actions))])
    assert sorted(p.name for p in (root / "data").rglob("*.parquet")) == [f"episode_{e:06d}.parquet" for e in (0, 1)]


def test_large_files_are_followed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("worldkit.data.formats.lerobot_write.LeRobotWriter.megabytes", (1e-6, 1e-6))
    monkeypatch.setattr("worldkit.data.formats.lerobot_write.CHUNK_FILES", 2)
    source = recorded((4, 5, 6, 3, 4))
    root = write_dataset({"train": source}, tmp_path / "set", "lerobot", lossless=True)
    files = sorted(p.relative_to(root / "data").as_posix() for p in (root / "data").rglob("*.parquet"))
    assert len(files) > 2 and "chunk-001/file-000.parquet" in files
    found = [open_lerobot(str(root), split=s) for s in ("train", "val", "test")]
    actions = {f.length(i): f.read(i, 0, 1)["action"] for f in found for i in range(f.num_episodes)}
    assert len(actions) == 4 and (actions[6] == source.read(2, 0, 1)["action"].numpy()).all()


@pytest.mark.parametrize("group", [3, 100])
def test_rows_of_pictures_may_lie_in_any_order(tmp_path, group):
    source = recorded((4, 5, 6))
    root = write_dataset({"train": source}, tmp_path / "set", "lerobot", lossless=True)
    (path,) = (root / "data").rglob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path, row_group_size=group)
    parts = [open_lerobot(str(root), split=split) for split in ("train", "val", "test")]
    found = [part.read(i, 0, part.length(i))["video"] for part in parts for i in range(part.num_episodes)]
    whole = [source.read(i, 0, n)["video"] for i, n in enumerate((4, 5, 6))]
    assert len(found) == 3 and all(any(np.array_equal(x, y) for y in whole) for x in found)


def test_what_lerobot_cannot_hold_is_refused(tmp_path):
    video = np.zeros((3, 3, 8, 8), np.uint8)
    with pytest.raises(DataError, match=r"no place for 'language' \[4, 8\]: write npz"):
        write_dataset(ArraySource([{"video": video, "language": np.zeros((4, 8))}]), tmp_path / "a", "lerobot")
    with pytest.raises(DataError, match="must be one image, or one per camera: it has 2, the video 1"):
        goals = np.zeros((2, 3, 8, 8), np.uint8)
        write_dataset(ArraySource([{"video": video, "goal_image": goals}]), tmp_path / "a", "lerobot")
    assert not list(tmp_path.iterdir())
