"""What a LeRobot data set says of itself and what its files hold: shapes of cameras, ranges of episodes, actions."""

import io
import json

import numpy as np
import pytest

from worldkit.data import ArraySource, open_dataset, validate, write_dataset
from worldkit.errors import DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("av")
image = pytest.importorskip("PIL.Image")

FRONT = "observation.images.front"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))


def written(path, lengths=(4, 5, 6), size=(16, 24), views=None, splits=None, **options):
    rng = np.random.default_rng(0)

    def episode(n):
        shape = (n, 3, *size) if views is None else (views, n, 3, *size)
        return {"video": rng.integers(0, 255, shape, np.uint8), "action": rng.normal(size=(n, 2)).astype(np.float32)}

    source = ArraySource([episode(n) for n in lengths])
    if splits:
        source = {split: ArraySource([episode(n) for n in lengths]) for split in splits}
    return write_dataset(source, path, "lerobot", fps=10, **options)


def change(root, edit):
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    edit(info)
    path.write_text(json.dumps(info))


def shape(name, value, names=None):
    def edit(info):
        info["features"][name] |= {"shape": value, "names": names}

    return edit


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("stated", [[24, 16, 3], [8, 12, 3], [100000, 100000, 3]])
def test_a_camera_of_another_shape_is_refused(tmp_path, lossless, stated):
    root = written(tmp_path / "set", lossless=lossless)
    change(root, shape(FRONT, stated))
    problem = rf"file-000.\w+ has frames of 16x24, but .*info.json states {stated[0]}x{stated[1]} for '{FRONT}'"
    for size in ({}, {"height": 8}):
        with pytest.raises(DataError, match=problem):
            open_dataset(root, num_frames=2, **size)
    assert len(validate(root).faults) == 3 and "has frames of 16x24" in str(validate(root).faults[0])


@pytest.mark.parametrize(("stated", "names"), [
    ([3, 16, 24], ["channels", "height", "width"]), ([24, 16, 3], ["width", "height", "channel"]), ([3, 16, 24], None),
])
def test_shapes_follow_the_names_of_their_axes(tmp_path, stated, names):
    root = written(tmp_path / "set")
    change(root, shape(FRONT, stated, names))
    assert open_dataset(root, num_frames=2).summary["resolution"] == [16, 24]


def test_splits_that_share_episodes_are_refused(tmp_path):
    root = written(tmp_path / "set", splits=("train", "test"))
    change(root, lambda info: info["splits"].update(train="0:4"))
    for read in (lambda: open_dataset(root, num_frames=2), lambda: open_dataset(root, split="test", num_frames=2)):
        with pytest.raises(DataError, match="info.json: splits 'train' and 'test' share episodes 3 to 3"):
            read()
    assert any("share episodes 3 to 3" in str(fault) for fault in validate(root).faults)


@pytest.mark.parametrize(("column", "value", "problem"), [
    (f"videos/{FRONT}/from_timestamp", 0.3, r"episode 0 lasts until 0.400 s, but episode 1 begins at 0.300 s of .*mp4"),
    ("episode_index", 0, "episode 0 is listed twice"),
])
def test_episodes_that_share_frames_are_refused(tmp_path, column, value, problem):
    root = written(tmp_path / "set")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[1] = value
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values)), path)
    with pytest.raises(DataError, match=problem):
        open_dataset(root, num_frames=2)
    assert any("share frames" in str(f) or "listed twice" in str(f) for f in validate(root).faults)


def test_actions_that_are_text_are_no_actions(tmp_path):
    root = written(tmp_path / "set")
    change(root, lambda info: info["features"]["action"].update(dtype="string"))
    with pytest.raises(DataError, match="info.json: feature 'action' must be numbers, it is 'string'"):
        open_dataset(root, num_frames=2)


def test_validate_reads_cameras_of_different_sizes(tmp_path):
    root = written(tmp_path / "set", views=2, lossless=True)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    name = "observation.images.view1"

    def smaller(cell):
        file = io.BytesIO()
        image.open(io.BytesIO(cell["bytes"])).resize((8, 8)).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": cell["path"]}

    cells = pa.array([smaller(cell) for cell in table[name].to_pylist()], table.schema.field(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), name, cells), path)
    change(root, shape(name, [8, 8, 3]))
    with pytest.raises(DataError, match="cameras of different sizes make no views"):
        open_dataset(root, num_frames=2)
    found = validate(root)
    assert not found.findings and found.frames == 15


def test_validate_tells_features_that_are_not_read(tmp_path):
    root = written(tmp_path / "set")
    change(root, lambda info: info["features"].update(subtask={"dtype": "string", "shape": [1], "names": None}))
    told = [str(finding) for finding in validate(root).warnings]
    assert any("feature 'subtask' is string, no numbers: it is not read" in text for text in told)
