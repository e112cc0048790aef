"""LeRobot data sets whose cameras are not alike: missing in some episodes, or depth that nothing marks as such."""

import io
import json
import warnings

import numpy as np
import pytest

from worldkit.data import ArraySource, describe, open_dataset, open_splits, validate, write_dataset
from worldkit.data.formats.lerobot import open_lerobot
from worldkit.errors import DataError

av = pytest.importorskip("av")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
image = pytest.importorskip("PIL.Image")

EPISODES, FRAMES, SIDE = 6, 5, 16
WRIST, DEPTH = "observation.images.view1", "observation.images.front_depth"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(root, views=2, **options):
    """A data set by our writer; the grey level tells episode, camera and frame."""
    levels = np.arange(EPISODES)[:, None, None] * 40 + np.arange(views)[:, None] * 20 + np.arange(FRAMES) * 3
    video = np.broadcast_to(levels[..., None, None, None], (*levels.shape, 3, SIDE, SIDE)).astype(np.uint8)
    action = np.arange(EPISODES * FRAMES, dtype=np.float32).reshape(EPISODES, FRAMES, 1)
    video = video if views > 1 else video[:, 0]
    episodes = [{"video": v.copy(), "action": a} for v, a in zip(video, action, strict=True)]
    return write_dataset({"train": ArraySource(episodes)}, root, "lerobot", fps=10, **options)


def without_wrist(root, episodes=(4, 5)):
    """What merging leaves: empty cells, and numbers that became float."""
    path = next((root / "meta" / "episodes").rglob("*.parquet"))
    table = pq.read_table(path)
    for name in [n for n in table.column_names if n.startswith(f"videos/{WRIST}/")]:
        cells = [None if i in episodes else float(v) for i, v in enumerate(table[name].to_pylist())]
        table = table.set_column(table.column_names.index(name), name, pa.array(cells, pa.float64()))
    pq.write_table(table, path)
    return root


def add_images(root, name, shape, pictures):
    """One more feature of images, a file in every row (``None``: an empty cell)."""
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"][name] = {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]}
    (root / "meta" / "info.json").write_text(json.dumps(info))
    path = next((root / "data").rglob("*.parquet"))
    table, cells = pq.read_table(path), []
    for picture in pictures:
        file = io.BytesIO()
        if picture is not None:
            picture.save(file, "PNG")
        cells.append(None if picture is None else {"bytes": file.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(table.append_column(name, pa.array(cells, kind)), path)
    return root


def depth_of(values):
    return [image.fromarray(np.full((SIDE, SIDE), v, np.uint16)) for v in values]


def test_a_camera_that_some_episodes_lack_is_left_out(tmp_path):
    root = without_wrist(written(tmp_path / "set"))
    with pytest.warns(RuntimeWarning, match=f"camera '{WRIST}' is missing in episodes 4, 5"):
        sources, _ = open_splits(str(root))
    assert sum(source.num_episodes for source in sources.values()) == EPISODES
    assert sources["train"].read(0, 0, FRAMES)["video"].shape == (FRAMES, 3, SIDE, SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_lerobot(str(root), split="train", cameras="view0").summary["cameras"]) == 1


def test_a_camera_that_is_named_leaves_out_episodes_without_it(tmp_path):
    root = without_wrist(written(tmp_path / "set"))
    with pytest.warns(RuntimeWarning, match=f"episodes 4, 5 lack camera '{WRIST}' and are left out"):
        sources, _ = open_splits(str(root), cameras="view1")
    assert sum(source.num_episodes for source in sources.values()) == 4
    assert {source.skipped for source in sources.values()} == {2}


def test_validate_reads_the_camera_where_it_is(tmp_path):
    root = without_wrist(written(tmp_path / "set"))
    found = validate(str(root))
    assert (found.faults, found.frames) == ([], EPISODES * FRAMES)
    assert any("is missing in episodes 4, 5" in str(warning) for warning in found.warnings)
    video = next((root / "videos" / WRIST).rglob("*.mp4"))
    video.write_bytes(video.read_bytes()[:700])
    assert any(WRIST in fault.problem for fault in validate(str(root)).faults)


def test_images_that_some_episodes_lack(tmp_path):
    root = written(tmp_path / "set", views=1)
    pictures = [image.new("RGB", (SIDE, SIDE), (50, 60, 70)) for _ in range((EPISODES - 1) * FRAMES)] + [None] * FRAMES
    add_images(root, "observation.images.extra", [SIDE, SIDE, 3], pictures)
    with pytest.warns(RuntimeWarning, match=r"images.extra' is missing in episode 5: it is left out"):
        sources, _ = open_splits(str(root))
    assert sources["train"].summary["cameras"] == ["observation.images.front"]
    assert validate(str(root)).faults == []


def test_unmarked_depth_is_left_out_or_scaled(tmp_path):
    root = written(tmp_path / "set", views=1)
    depth = 600 + 25 * np.arange(EPISODES * FRAMES)
    add_images(root, DEPTH, [SIDE, SIDE, 1], depth_of(depth))
    with pytest.warns(RuntimeWarning, match="front_depth' has one channel of 16 bits, so it is probably depth"):
        assert open_dataset(root, num_frames=2)[0]["video"].shape == (2, 3, SIDE, SIDE)
    about = describe(str(root))
    assert about["splits"]["train"]["views"] == 1
    assert any("probably depth" in note for note in about["notes"])
    found = validate(str(root))
    assert (found.faults, [w.problem for w in found.warnings if "probably depth" in w.problem]) == ([], [
        f"'{DEPTH}' has one channel of 16 bits, so it is probably depth: it is left out unless cameras= names it"])
    scaled = open_lerobot(str(root), split="train", cameras="front_depth", white=1500)
    item = scaled.read(0, 0, FRAMES)
    first = int(item["action"][0, 0])
    assert item["video"][:, 0, 0, 0].tolist() == (depth[first : first + FRAMES] * 255 // 1500).tolist()
    upper = open_lerobot(str(root), split="train", cameras="front_depth").read(0, 0, FRAMES)["video"]
    assert upper[:, 0, 0, 0].tolist() == (depth[first : first + FRAMES] >> 8).tolist()


def test_depth_alone_must_be_asked_for(tmp_path):
    root = written(tmp_path / "set", views=1, lossless=True)
    path = next((root / "data").rglob("*.parquet"))
    pq.write_table(pq.read_table(path).drop_columns(["observation.images.front"]), path)
    info = json.loads((root / "meta" / "info.json").read_text())
    del info["features"]["observation.images.front"]
    (root / "meta" / "info.json").write_text(json.dumps(info))
    add_images(root, DEPTH, [SIDE, SIDE, 1], depth_of([800] * EPISODES * FRAMES))
    with pytest.raises(DataError, match="no camera to show by default: .* probably depth"):
        open_lerobot(str(root), split="train")


def test_sixteen_bits_of_a_goal_are_scaled(tmp_path):
    root = add_images(written(tmp_path / "set", views=1), "goal_image", [SIDE, SIDE, 1], depth_of([30000] * 30))
    goal = open_lerobot(str(root), split="train").read(0, 0, 1)["goal_image"]
    assert np.unique(goal).tolist() == [30000 >> 8]
    eight = [image.new("L", (SIDE, SIDE), 90)] * 30
    root = add_images(written(tmp_path / "other", views=1), "observation.images.grey", [SIDE, SIDE, 1], eight)
    assert open_lerobot(str(root), split="train", cameras="grey").read(0, 0, 1)["video"].max() == 90


def test_looking_decodes_nothing_into_the_cache(tmp_path, cache):
    root = written(tmp_path / "set")
    about = describe(str(root))
    assert (about["splits"]["train"]["views"], about["splits"]["train"]["resolution"]) == (2, [SIDE, SIDE])
    validate(str(root))
    assert not cache.exists()
    peeked, _ = open_splits(str(root), peek=True)
    for split, source in open_splits(str(root))[0].items():
        for name in ("video", "action"):
            assert np.array_equal(peeked[split].read(0, 1, 4)[name], source.read(0, 1, 4)[name])
