"""What people bring: names in other letters, several pictures in a file, flags of other recorders."""

from fractions import Fraction

import numpy as np
import pytest

from worldkit.data import describe, open_dataset, open_source, validate, write_video
from worldkit.errors import DataError

image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def frames(count, value=0):
    found = np.zeros((count, 8, 8, 3), np.uint8)
    found[..., 0], found[..., 1] = np.arange(count)[:, None, None] * 10, value
    return found


def save_images(folder, pictures):
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        image.fromarray(picture).save(folder / f"{number}.png")


@pytest.mark.parametrize("names", [("Train", "Valid", "TEST"), ("training", "validation", "testing")])
def test_splits_keep_apart_in_any_spelling(tmp_path, names):
    for value, name in enumerate(names):
        for clip in range(2):
            save_images(tmp_path / "images" / name / str(clip), frames(4, value))
            (tmp_path / "npz" / name).mkdir(parents=True, exist_ok=True)
            np.savez(tmp_path / "npz" / name / f"{clip}.npz", video=frames(4, value))
    for kind in ("images", "npz"):
        for value, split in enumerate(("train", "val", "test")):
            clips = open_dataset(tmp_path / kind, split=split, num_frames=4, height=8)
            assert [int(clip["video"][0, 1, 0, 0]) for clip in clips] == [value, value]


def test_split_under_two_names_is_refused(tmp_path):
    for name in ("train", "val", "validation"):
        save_images(tmp_path / name / "0", frames(2))
    with pytest.raises(DataError, match="holds val and validation, both of split 'val'"):
        open_dataset(tmp_path, split="val", num_frames=2)


def test_hdf5_and_npz_in_capitals(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "TRAIN.H5", "w") as file:
        file["imgs"] = frames(3)[None]
    (tmp_path / "single").mkdir()
    np.savez(tmp_path / "single" / "a.npz", video=frames(3))
    (tmp_path / "single" / "a.npz").rename(tmp_path / "single" / "A.NPZ")
    for path in (tmp_path / "TRAIN.H5", tmp_path, tmp_path / "single" / "A.NPZ", tmp_path / "single"):
        assert np.array_equal(open_dataset(path, num_frames=2)[0]["video"], frames(2).transpose(0, 3, 1, 2))


LAST = np.array([0, 0, 1, 0, 0, 1, 0, 0])


@pytest.mark.parametrize(
    "flags",
    [
        {"dones": LAST},
        {"done": LAST.astype(bool)},
        {"terminated": np.array([0, 0, 1, 0, 0, 0, 0, 0]), "truncated": np.array([0, 0, 0, 0, 0, 1, 0, 1])},
        {"is_first": np.roll(LAST, 1), "is_last": np.roll(LAST, 0)},
        {"episode_index": np.array([4, 4, 4, 5, 5, 5, 6, 6])},
        {"episode_ends": np.array([3, 6, 8])},
    ],
)
def test_flat_npz_ends_where_its_flags_say(tmp_path, flags):
    np.savez(tmp_path / "flat.npz", observations=frames(8), actions=np.ones((8, 2)), **flags)
    clips = open_dataset(tmp_path / "flat.npz", split="all", num_frames=2)
    starts = [int(clip["video"][0, 0, 0, 0]) // 10 for clip in clips]
    assert starts == [0, 1, 3, 4, 6]  # 2 to 3 and 5 to 6 lead from one episode into another
    assert clips.source.num_episodes == validate(tmp_path / "flat.npz").episodes == 3
    assert clips.source.read(0, 0, 3)["action"][:, 0].tolist() == [1, 1, 0]
    assert "done_mask" not in clips[0]


def test_flags_that_stay_are_padding(tmp_path):
    np.savez(tmp_path / "a.npz", video=frames(5), done=np.array([0, 0, 1, 0, 0]), truncated=np.array([0, 0, 1, 1, 1]))
    episode = open_dataset(tmp_path / "a.npz", split="all", num_frames=5)[0]
    assert episode["done_mask"].tolist() == [1, 1, 1, 0, 0]


def test_names_of_frames_may_hold_numbers_and_nothing_is_lost(tmp_path):
    low, right = np.arange(10.0).reshape(5, 2), frames(5, 9)
    np.savez(tmp_path / "a.npz", observations=low, images=frames(5), pixels=right)
    item = open_dataset(tmp_path / "a.npz", split="all", num_frames=5)[0]
    assert item["video"][:, 1].max() == 0
    assert np.array_equal(item["state"]["observations"], low) and np.array_equal(item["state"]["pixels"], right)
    save_images(tmp_path / "clip", frames(5))
    np.savez(tmp_path / "clip" / "entries.npz", observation=low)
    assert np.array_equal(open_dataset(tmp_path / "clip", split="all", num_frames=5)[0]["state"]["observation"], low)


def test_what_is_wrong_in_an_npz_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", video=frames(5), action=np.ones((4, 2)))
    with pytest.raises(DataError, match="4 steps, the video has 5 frames. The last action leads nowhere: give"):
        open_dataset(tmp_path / "a.npz", num_frames=1)
    np.savez(tmp_path / "a.npz", video=frames(5), info=np.array([{}] * 5, dtype=object))
    with pytest.raises(DataError, match="cannot be read: 'info': Object arrays"):
        open_dataset(tmp_path / "a.npz", num_frames=1)


@pytest.mark.parametrize("suffix", ["tiff", "webp", "png"])
def test_image_file_of_several_pictures_is_refused(tmp_path, suffix):
    first, *others = [image.fromarray(frame) for frame in frames(3)]
    first.save(tmp_path / f"0.{suffix}", save_all=True, append_images=others)
    with pytest.raises(DataError, match="it holds 3 pictures, of which one would be read; save each as a file"):
        open_dataset(tmp_path, num_frames=1)
    assert "holds 3 pictures" in validate(tmp_path).faults[0].problem


def test_turned_image_has_the_size_that_is_shown(tmp_path):
    exif = image.Exif()
    exif[0x0112] = 6
    for number in range(5):
        image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(tmp_path / f"{number}.jpg", exif=exif)
    found = describe(str(tmp_path))
    assert found["native_resolution"] == [16, 8] and found["splits"]["train"]["frame_sizes"] == {"16x8": 1}
    clips = open_dataset(tmp_path, num_frames=1, height=16, width=8)
    assert clips[0]["video"].shape[-2:] == (16, 8) and str(clips.source.fitting) == "16x8, as they are"


@pytest.mark.parametrize(("times", "told"), [([0, 40, 80, 120, 160], 0), ([0, 33, 67, 100, 133], 0),
                                             ([0, 40, 80, 400, 440], 1)])
def test_film_of_varying_rate_is_told(tmp_path, times, told):
    av, ms = pytest.importorskip("av"), Fraction(1, 1000)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        stream.codec_context.time_base = ms
        for time, picture in zip(times, np.repeat(np.repeat(frames(5), 2, 1), 2, 2), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, ms
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found = [str(finding) for finding in validate(tmp_path / "a.mkv").findings]
    assert len(found) == told and all("0.04 s apart as a rule, but up to 0.32 s" in text for text in found)


def test_nothing_beside_the_images_of_hdf5_is_lost(tmp_path):
    h5py = pytest.importorskip("h5py")
    rewards, actions = np.arange(12.0).reshape(3, 4), np.ones((3, 4, 2), np.float32)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["imgs"] = np.stack([frames(4)] * 3)
        file["action"], file["rewards"], file["note"] = actions, rewards, np.ones(7)
        file["meta/x"] = 1
    item = open_dataset(tmp_path / "a.hdf5", split="all", num_frames=4)[1]
    assert item["action"].shape == (4, 2) and np.array_equal(item["state"]["rewards"], rewards[1])
    told = [finding.problem for finding in validate(tmp_path / "a.hdf5").findings]
    assert [text.split()[0] for text in told if "not read" in text] == ["'meta'", "'note'"]


def test_splits_below_the_top_are_not_mixed(tmp_path):
    for split in ("train", "test"):
        for clip in range(2):
            save_images(tmp_path / "sub" / split / str(clip), frames(3, clip))
    with pytest.raises(DataError, match="holds sub/test and sub/train: .* split anew. To keep them apart, give .*sub"):
        open_dataset(tmp_path, num_frames=2)
    assert "split anew" in validate(tmp_path).faults[0].problem
    assert open_dataset(tmp_path, split="all", num_frames=3).source.num_episodes == 4
    assert open_dataset(tmp_path / "sub", num_frames=3).source.num_episodes == 2


def test_missing_split_is_told(tmp_path):
    for split in ("train", "test"):
        save_images(tmp_path / "images" / split / "0", frames(3, len(split)))
        (tmp_path / "npz" / split).mkdir(parents=True)
        np.savez(tmp_path / "npz" / split / "0.npz", video=frames(3, len(split)))
    for kind in ("images", "npz"):
        (told,) = validate(tmp_path / kind).findings
        assert told.warning and "add val or valid or validation with some of train's clips" in told.problem


def test_time_before_cameras_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", video=np.stack([frames(5), frames(5)], 1))
    with pytest.raises(DataError, match="would be 5 cameras of 2 frames: cameras come first, then time. Swap"):
        open_dataset(tmp_path / "a.npz", num_frames=1)


def test_convert_tells_of_frame_rates(tmp_path, capsys):
    from worldkit.cli import main

    (tmp_path / "npz").mkdir()
    for number in range(3):
        np.savez(tmp_path / "npz" / f"{number}.npz", video=np.repeat(np.repeat(frames(3, number), 2, 1), 2, 2))
    assert main(["data", "convert", str(tmp_path / "npz"), str(tmp_path / "films"), "--to", "video"]) == 0
    assert "frames per second: 10, as the data state none; --fps gives others" in capsys.readouterr().out
    assert main(["data", "convert", str(tmp_path / "films"), str(tmp_path / "back"), "--to", "npz"]) == 0
    assert "frames per second: 10; 'npz' has no place for it (converting back: --fps 10)" in capsys.readouterr().out


def test_folders_and_hdf5_of_other_layouts_say_what_to_give(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "act").mkdir()
    with h5py.File(tmp_path / "act" / "episode_0.hdf5", "w") as file:
        file["action"], file["observations/qpos"] = np.ones((3, 2)), np.ones((3, 2))
    with pytest.raises(DataError, match=r"It has 1 \.hdf5\. Of HDF5 files, give one"):
        open_dataset(tmp_path / "act", num_frames=1)
    with pytest.raises(DataError, match="it has action, the group observations. .*robomimic, ACT, D4RL.*npz file"):
        open_dataset(tmp_path / "act" / "episode_0.hdf5", num_frames=1)
    (tmp_path / "npz" / "day1").mkdir(parents=True)
    np.savez(tmp_path / "npz" / "day1" / "a.npz", video=frames(3))
    with pytest.raises(DataError, match="It has 1 .npz. Of .npz episodes, give the folder that they lie in"):
        open_dataset(tmp_path / "npz", num_frames=1)


def test_files_beside_clips_that_nobody_reads_are_told(tmp_path):
    for clip in range(3):
        save_images(tmp_path / str(clip), frames(4, clip))
        np.savez(tmp_path / str(clip) / "entries.npz", action=np.ones((4, 2)))
    assert "not read" not in str(validate(tmp_path).warnings)
    np.savez(tmp_path / "1" / "actions.npz", action=np.ones((4, 2)))
    (tmp_path / "actions.csv").write_text("1,2")
    told = [finding.problem for finding in validate(tmp_path).warnings if "not read" in finding.problem]
    assert len(told) == 1 and "2 file(s) beside the clips are not read: actions.csv, 1/actions.npz;" in told[0]


def test_link_that_leads_nowhere_is_an_error_of_data(tmp_path):
    save_images(tmp_path / "a", frames(3))
    (tmp_path / "a" / "3.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match="3.png leads nowhere: it is a link to a file that is not there"):
        open_dataset(tmp_path, num_frames=1)


def test_results_do_not_become_data(tmp_path, capsys, monkeypatch):
    from worldkit.cli import main

    for clip in range(3):
        save_images(tmp_path / "data" / str(clip), frames(3, clip))
    monkeypatch.chdir(tmp_path / "data")
    for command in (["preview", "."], ["convert", ".", "small", "--to", "frames"]):
        assert main(["data", *command]) == 2
        assert "would lie inside the data" in capsys.readouterr().err
    save_images(tmp_path / "data" / "runs" / "lpwm-mini" / "rollouts", frames(3))
    (tmp_path / "data" / "runs" / "lpwm-mini" / "run.json").write_text("{}")
    assert open_dataset(".", split="all", num_frames=3).source.num_episodes == 3


def films(folder, names):
    moving = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3)).astype(np.uint8)
    for number, name in enumerate(names):
        write_video(folder / name, np.roll(moving, number, 1))


@pytest.mark.parametrize("names", [("front.mp4", "wrist.mp4"), ("cam_0.mp4", "cam_1.mp4")])
def test_films_of_one_scene_stay_in_one_split(names, tmp_path):
    films(tmp_path, [f"ep{i}/{name}" for i in range(5) for name in names] + [f"ep5/{names[0]}"])
    scenes = {}
    for split in ("train", "val", "test"):
        source = open_source(tmp_path, split=split, height=16)
        scenes[split] = {source.episode_name(i).split("/")[0] for i in range(source.num_episodes)}
    assert not scenes["train"] & scenes["val"] and not scenes["train"] & scenes["test"]
    assert set.union(*scenes.values()) == {f"ep{i}" for i in range(6)}
    assert "5 folders hold films of one scene each" in str(validate(tmp_path).warnings[0])


def test_numbered_films_in_folders_of_the_same_numbers_are_clips_of_their_own(tmp_path):
    films(tmp_path, [f"{kind}/clip_{i}.mp4" for kind in ("run", "walk") for i in range(4)])
    counts = [open_source(tmp_path, split=split, height=16).num_episodes for split in ("train", "val", "test")]
    assert counts == [6, 1, 1] and validate(tmp_path).warnings == []


def test_a_path_is_as_good_as_its_name(tmp_path, recwarn):
    films(tmp_path, [f"{i}.mp4" for i in range(4)])
    assert describe(tmp_path) == describe(str(tmp_path))
    assert open_source(tmp_path, split="val", height=16).num_episodes == 1 and not recwarn.list
