"""Data that names files: nothing outside of the data set is read, copied or written. All inputs are harmless."""

import json

import numpy as np
import pytest

from worldkit.data import ArraySource, describe, open_dataset, open_splits, validate, write_dataset
from worldkit.data.formats.lerobot_meta import read_episodes, read_info
from worldkit.data.paths import FOLLOW_LINKS, fill_template, inside
from worldkit.errors import DataError

h5py = pytest.importorskip("h5py")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("av")
pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))


def episodes(count=3, frames=4):
    rng = np.random.default_rng(0)

    def episode():
        video = rng.integers(0, 255, (frames, 3, 16, 16), np.uint8)
        return {"video": video, "action": rng.normal(size=(frames, 2)).astype(np.float32)}

    return ArraySource([episode() for _ in range(count)])


def lerobot(path, **options):
    return write_dataset(episodes(), path, "lerobot", **options)


def change_info(root, **changes):
    file = root / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("template", [
    "data/{chunk_index:01000d}.parquet",
    "data/{chunk_index:<9}.parquet",
    "data/{chunk_index.__class__}.parquet",
    "data/{chunk_index[0]}.parquet",
    "data/{chunk_index!r:>100}.parquet",
    "data/{chunk_index:{file_index}}.parquet",
    "data/{}.parquet",
    "data/{video_key}.parquet",
    "data/{chunk_index",
    "x" * 5000,
    7,
])
def test_a_template_takes_known_fields_of_bounded_width(tmp_path, template):
    root = lerobot(tmp_path / "set")
    change_info(root, data_path=template)
    with pytest.raises(DataError, match="info.json: 'data_path' must be a path with {chunk_index}, {file_index} in it"):
        read_episodes(read_info(root))


def test_what_templates_may_hold():
    fields = {"n": 7, "key": "front"}
    assert fill_template("a-{n:03d}/{key}/{n}{n:5d}{n:02}{{x}}.mp4", fields) == "a-007/front/7    707{x}.mp4"
    with pytest.raises(ValueError, match="field {key}"):
        fill_template("{key:90}", fields)


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/hostname", "", "a\0b", "."])
def test_no_path_leads_out(tmp_path, name):
    with pytest.raises(DataError, match="no path inside the data set"):
        inside(tmp_path, name)


def test_links(tmp_path, monkeypatch):
    (tmp_path / "set/deep").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "set/there").write_text("")
    (tmp_path / "set/in").symlink_to("there")
    (tmp_path / "set/out").symlink_to("../secret")
    (tmp_path / "set/deep/up").symlink_to(tmp_path)
    (tmp_path / "set/round").symlink_to("round")
    (tmp_path / "other").symlink_to("set")
    for root in (tmp_path / "set", tmp_path / "other"):  # the root may be a link
        assert inside(root, "in").read_text() == "" and inside(root, "not/there") == root / "not/there"
        for name in ("out", "deep/up/secret"):
            with pytest.raises(DataError, match=f"link out of the data set.*{FOLLOW_LINKS}=1"):
                inside(root, name)
    with pytest.raises(DataError, match="cannot be followed"):
        inside(tmp_path / "set", "round")
    monkeypatch.setenv(FOLLOW_LINKS, "1")
    assert inside(tmp_path / "set", "out").read_text() == "secret"
    with pytest.raises(DataError, match="no path inside"):
        inside(tmp_path / "set", "../secret")


def test_snapshots_of_the_hub_cache_link_to_its_blobs(tmp_path):
    root = lerobot(tmp_path / "datasets--a--b/snapshots/0123")
    blobs = tmp_path / "datasets--a--b/blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(f for f in root.rglob("*") if f.is_file())):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    assert len(open_dataset(root, num_frames=2)) > 0
    info = root / "meta/info.json"
    (tmp_path / "elsewhere.json").write_bytes(info.read_bytes())
    info.unlink()
    info.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(DataError, match="link out of the data set"):
        open_dataset(root, num_frames=2)


@pytest.mark.parametrize("path", ["../other/{}", "{root}/other/{}"])
@pytest.mark.parametrize(("key", "file"), [
    ("data_path", "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"),
    ("video_path", "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"),
])
def test_a_lerobot_set_cannot_name_files_of_others(tmp_path, path, key, file):
    root = lerobot(tmp_path / "set")
    lerobot(tmp_path / "other")
    change_info(root, **{key: path.replace("{}", file).replace("{root}", str(tmp_path))})
    with pytest.raises(DataError, match="info.json names the file .*no path inside the data set"):
        open_dataset(root, num_frames=2)
    for look in (validate, describe, lambda root: open_splits(str(root))):
        with pytest.raises(DataError, match="no path inside the data set"):
            look(str(root))


def test_a_huge_frame_is_no_reason_to_make_room_for_it(tmp_path):
    root = lerobot(tmp_path / "set")
    file = root / "meta/info.json"
    file.write_text(file.read_text().replace("16,\n                16,", "99999999,\n                99999999,"))
    assert "99999999" in file.read_text()
    for look in (describe, lambda root: open_dataset(root, num_frames=2)):
        with pytest.raises(DataError, match="has frames of 16x16, but .* states 99999999x99999999"):
            look(str(root))


@pytest.mark.parametrize("name", [
    "meta/info.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet",
    "data/chunk-000/file-000.parquet", "videos/observation.images.front/chunk-000/file-000.mp4", "videos",
])
def test_a_lerobot_set_cannot_link_to_files_of_others(tmp_path, name):
    root = lerobot(tmp_path / "set")
    (root / name).rename(tmp_path / "taken")
    (root / name).symlink_to(tmp_path / "taken")
    with pytest.raises(DataError, match="link out of the data set"):
        open_dataset(root, num_frames=2)


def test_images_of_a_lerobot_set_lie_inside(tmp_path):
    from PIL import Image

    root = lerobot(tmp_path / "set", lossless=True)
    Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / "secret.png")
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    name = "observation.images.front"
    cells = pa.array([{"bytes": None, "path": "../secret.png"}] * len(table), table.schema.field(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), name, cells), file)
    with pytest.raises(DataError, match="file-000.parquet names the file '../secret.png', which is no path inside"):
        open_dataset(root, num_frames=2)


@pytest.mark.parametrize("camera", ["observation.images.../../../../x", "observation.images.{chunk_index:099d}", "a/b"])
def test_a_name_of_a_camera_writes_nothing_elsewhere(tmp_path, camera):
    source = episodes()
    source.__class__ = type("Named", (ArraySource,), {
        "summary": property(lambda self: {**ArraySource.summary.fget(self), "cameras": [camera]})})
    try:
        write_dataset(source, tmp_path / "a/b/c/set", "lerobot")
    except DataError:
        pass
    written = [f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*.mp4")]
    assert all(name.startswith("a/b/c/set/videos/observation.images.") for name in written), written


def columns(path, **datasets):
    with h5py.File(path, "w") as file:
        file["ep_len"], file["ep_offset"] = np.array([4]), np.array([0])
        file["pixels"] = np.zeros((4, 8, 8, 3), np.uint8)
        for name, make in datasets.items():
            make(file, name)
    return path


def external(target):
    return lambda file, name: file.__setitem__(name, h5py.ExternalLink(target, "proprio"))


def virtual(target):
    def make(file, name):
        layout = h5py.VirtualLayout((4, 2), "f8")
        layout[:] = h5py.VirtualSource(target, "proprio", shape=(4, 2))
        file.create_virtual_dataset(name, layout)

    return make


def raw(target):
    return lambda file, name: file.create_dataset(name, (4, 2), "f8", external=[(target, 0, 64)])


@pytest.mark.parametrize("make", [external, virtual])
@pytest.mark.parametrize("where", ["beside", "../outside", "absolute", "link", "chain"])
def test_hdf5_takes_datasets_from_its_own_folder_only(tmp_path, make, where):
    (tmp_path / "set").mkdir()
    outside = columns(tmp_path / "outside.h5", proprio=lambda f, n: f.__setitem__(n, np.ones((4, 2))))
    columns(tmp_path / "set/beside.part", proprio=lambda f, n: f.__setitem__(n, np.ones((4, 2))))
    (tmp_path / "set/link.part").symlink_to(outside)
    columns(tmp_path / "set/chain.part", proprio=external("../outside.h5"))
    name = {"absolute": str(outside), "../outside": "../outside.h5"}.get(where, f"{where}.part")
    path = columns(tmp_path / "set/data.h5", proprio=make(name))
    if where == "beside":
        assert (open_dataset(path, num_frames=1)[0]["state"]["proprio"] == 1).all()
        return
    for read in (lambda: open_dataset(path, num_frames=1), lambda: validate(path), lambda: open_dataset(
            tmp_path / "set", num_frames=1)):
        with pytest.raises(DataError, match=r"data.h5: 'proprio' names the file .*(no path inside|a link out of)"):
            read()


def test_hdf5_with_raw_files_is_not_read(tmp_path):
    (tmp_path / "raw").write_bytes(bytes(64))
    path = columns(tmp_path / "data.h5", proprio=raw(str(tmp_path / "raw")))
    with pytest.raises(DataError, match="'proprio' is stored in the raw file .*h5repack"):
        open_dataset(path, num_frames=1)


def test_hdf5_with_links_that_lead_nowhere(tmp_path):
    path = columns(tmp_path / "data.h5", proprio=lambda f, n: f.__setitem__(n, h5py.SoftLink("/gone")))
    with pytest.raises(DataError, match="'proprio' is a link that leads nowhere"):
        open_dataset(path, num_frames=1)
    path = columns(tmp_path / "more.h5", proprio=virtual("gone.h5"))
    with pytest.raises(DataError, match="put together from files, of which .*gone.h5 does not exist"):
        open_dataset(path, num_frames=1)


@pytest.mark.parametrize("format", ["npz", "frames", "video"])
def test_links_in_a_folder_of_clips_are_the_user_s_and_are_told(tmp_path, format):
    write_dataset(episodes(4), tmp_path / "there", format)
    names = sorted(p.name for p in (tmp_path / "there").iterdir())
    (tmp_path / "here").mkdir()
    for name in names[:2]:  # with a video lies its npz
        (tmp_path / "here" / name).symlink_to(tmp_path / "there" / name)
    assert open_dataset(tmp_path / "here", num_frames=1).source.num_episodes
    found = validate(tmp_path / "here")
    told = [f.problem for f in found.warnings if "links out of the folder" in f.problem]
    assert not found.faults and len(told) == 1 and f"-> {tmp_path / 'there'}" in told[0]
    assert not [f for f in validate(tmp_path / "there").warnings if "links out" in f.problem]
