"""``worldkit data``: what it tells, every planted fault, conversions and pictures."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from worldkit.cli import main
from worldkit.data import ArraySource, open_dataset, validate, write_dataset, write_video
from worldkit.errors import DataError

for module in ("av", "h5py", "pyarrow", "PIL.Image"):
    pytest.importorskip(module)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def episode(length, seed=0, size=(10, 12), **entries):
    rng = np.random.default_rng(100 + seed)
    action = rng.normal(size=(length, 2)).astype(np.float32)
    return {"video": noise(length, 3, *size, seed=seed), "action": action, "language": f"task {seed}", **entries}


def npz_set(root, lengths=(6, 6, 8, 9)):
    write_dataset(ArraySource([episode(n, seed) for seed, n in enumerate(lengths)]), root, "npz")
    return root


def findings(target, **options):
    """(last part of the path, frame, problem) of every fault, and of every warning."""
    found = validate(str(target), **options)
    return tuple([(f.path.rpartition("/")[2], f.frame, f.problem) for f in part]
                 for part in (found.faults, found.warnings))


def has(found, path, frame, problem):
    return any(p == path and f == frame and problem in text for p, f, text in found)


def test_good_sets_have_no_faults(tmp_path):
    root = npz_set(tmp_path / "npz")
    for name in ("lerobot", "video", "frames", "columns"):
        out = tmp_path / (f"{name}.hdf5" if name == "columns" else name)
        write_dataset(ArraySource([episode(n, s, (16, 16)) for s, n in enumerate((6, 7, 8))]), out, name)
        found = validate(str(out))
        assert (found.format, found.episodes, found.frames) == (name if name != "frames" else "video", 3, 21)
        assert found.findings == [], name
    assert findings(root) == ([], [])
    assert findings("balls-32", num_episodes=2, episode_length=3)[0] == []


def rewrite(path, **change):
    with np.load(path) as arrays:
        held = dict(arrays)
    held |= {name: value(held.get(name)) for name, value in change.items()}
    np.savez(path, **{name: value for name, value in held.items() if value is not None})


def put(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def test_planted_faults_of_npz(tmp_path):
    root = npz_set(tmp_path / "set", (9, 9, 9, 9, 9, 9, 9, 9, 9, 9))
    names = sorted(root.iterdir())
    rewrite(names[0], action=lambda a: put(put(a, (2, 1), np.nan), (5, 0), np.inf))
    rewrite(names[1], action=lambda a: a[:-2])
    rewrite(names[2], action=lambda a: np.concatenate([a, a], 1))
    rewrite(names[3], language=lambda a: None)
    names[4].write_bytes(names[4].read_bytes()[:200])
    rewrite(names[5], video=lambda v: put(v, slice(2, 8), v[2]))
    rewrite(names[6], action=lambda a: put(a, (3, 1), 1e6))
    rewrite(names[7], video=lambda v: v[..., :8], state=lambda _: np.zeros(3))
    shutil.copy(names[8], root / "again.npz")
    faults, warnings = findings(root)
    name = [path.name for path in names]
    assert has(faults, name[0], 2, "'action' is not finite") and has(faults, name[0], 5, "'action' is not finite")
    assert has(faults, name[1], None, "'action' has 7 steps, the video has 9 frames")
    assert has(faults, name[2], None, "'action' is float32 [T, 4] here, but is float32 [T, 2] in most episodes")
    assert has(faults, name[3], None, "'language' is missing here, but is text in most episodes")
    assert has(faults, name[4], None, "cannot be read")
    assert has(warnings, name[5], 2, "frozen: frames 2 to 7 are equal")
    assert has(warnings, name[6], 3, "'action' is 1e+06 in dimension 1")
    assert has(warnings, name[7], None, "'frame size' is 10x8 here, but is 10x12")
    assert has(warnings, name[7], None, "'state' [3] fits neither the 9 frames")
    assert has(warnings, name[8], None, "the same frames as") or has(warnings, "again.npz", None, "the same frames as")
    assert not any(path == name[9] for path, _, _ in faults + warnings)
    assert len([f for f in faults if f[0] in name[5:9]]) == 1 and has(faults, name[7], None, "'state' is float64 [3]")


def test_planted_faults_of_videos(tmp_path):
    root = tmp_path / "videos"
    for seed, split in enumerate(("train", "train", "val", "test")):  # "0.mp4" gets too few actions
        frames = noise(12, 32, 32, 3, seed=seed)
        write_video(root / split / f"{seed}.mp4", frames)
    shutil.copy(root / "train" / "1.mp4", root / "test" / "leak.mp4")
    cut = root / "val" / "2.mp4"
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    (root / "train" / "text.mp4").write_text("not a video")
    np.savez(root / "train" / "0.npz", action=np.ones((11, 2)))
    faults, warnings = findings(root)
    assert {path for path, _, _ in faults} == {"2.mp4", "text.mp4", "0.mp4"}
    assert has(faults, "0.mp4", None, "'action' has 11 steps, the video has 12 frames")
    assert any(path == "leak.mp4" and "(split 'train')" in text for path, _, text in warnings)


def test_planted_faults_of_images(tmp_path):
    from PIL import Image

    root = tmp_path / "frames"
    for name in ("a", "b", "c"):
        (root / name).mkdir(parents=True)
        for t in range(8):
            Image.fromarray(noise(9, 9, 3, seed=t + 10 * ord(name))).save(root / name / f"f{t:03d}.png")
    (root / "a" / "f003.png").unlink()
    for t in (2, 5):
        (root / "b" / f"f{t:03d}.png").write_bytes(b"\x89PNG no")
    Image.fromarray(noise(7, 9, 3)).save(root / "c" / "f004.png")
    faults, _ = findings(root)
    assert has(faults, "a", 3, "missing in the numbering of the images: 3")
    assert has(faults, "f002.png", 2, "cannot be read") and has(faults, "f005.png", 5, "cannot be read")
    assert has(faults, "f004.png", 4, "is 7x9 pixels, the images before it are 9x9") and len(faults) == 4


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("action", np.ones((6, 2, 2)), "actions must be numbers [T, A], got float64 [6, 2, 2]"),
        ("action", np.ones((6, 2), bool), "actions must be numbers [T, A], got bool"),
        ("action", np.ones((6, 2), complex), "actions must be numbers [T, A], got complex128"),
        ("action", np.float32(1), "'action' has 1 steps, the video has 6 frames"),
        ("action", np.array([[1, 1e39], *[[1, 1]] * 5]), "'action' is too large for float32: [1.e+00, 1.e+39]"),
        ("language", np.array(["a", "b"]), "language must be a string or embeddings [L, E], got <U1 [2]"),
        ("language", np.array(b"push"), "language must be a string or embeddings"),
        ("goal_image", np.zeros((10, 12, 3)), "goal_image must be uint8 [H, W, 3] or [3, H, W], got float64"),
        ("done_mask", np.array([5, -3, 0, 0, 0, 0]), "'done_mask' must be 0 to 1, 1 while .* got int64 from -3 to 5"),
        ("done_mask", np.float32(1), "'done_mask' has 1 steps, the video has 6 frames"),
        ("masks.action", np.ones(6, np.uint8), "'masks.action' must be bool, True where .* got uint8"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_readers_refuse_is_a_fault(tmp_path, name, value, problem):
    np.savez(tmp_path / "a.npz", video=noise(6, 10, 12, 3), **{name: value})
    ((path, _, told),) = findings(tmp_path / "a.npz")[0]
    assert path == "a.npz" and re.search(re.escape(problem).replace(r"\.\*", ".*"), told)
    with pytest.raises(DataError):
        open_dataset(tmp_path / "a.npz", num_frames=2)


def test_state_that_is_not_finite(tmp_path):
    state = put(np.zeros((6, 3)), ([1, 4], 0), np.nan)
    np.savez(tmp_path / "a.npz", video=noise(6, 10, 12, 3), effort=state)
    assert [(frame, text[:23]) for _, frame, text in findings(tmp_path / "a.npz")[0]] == [
        (1, "'effort' is not finite:"), (4, "'effort' is not finite:"),
    ]


def test_what_a_lerobot_set_contradicts_itself_in(tmp_path):
    source = ArraySource([episode(n, s, (16, 16)) for s, n in enumerate((6, 7, 8))])
    root = write_dataset({"train": source}, tmp_path / "robot", "lerobot", fps=10)
    path = root / "meta" / "info.json"
    about = json.loads(path.read_text())
    changed = {"fps": 20, "total_frames": 99, "splits": {"train": "0:2", "validation": "1:3", "other": "0:3"}}
    path.write_text(json.dumps({**about, **changed}))
    assert [text for _, _, text in findings(root)[0]] == [
        "meta/info.json states 99 frames in all, but its episodes have 21",
        "meta/info.json: splits 'train' and 'val' share episodes 1 to 1",
        "meta/info.json states 20 frames per second, but the timestamps of episode 0 give 10",
    ]
    path.write_text(json.dumps(about))
    import pyarrow.parquet as parquet

    tasks = parquet.read_table(root / "meta" / "tasks.parquet")
    parquet.write_table(tasks.slice(0, 2), root / "meta" / "tasks.parquet")
    assert has(findings(root)[0], "robot", None, "file-000.parquet has task 2, which meta/tasks lacks")
    (root / "meta" / "tasks.parquet").unlink()
    assert has(findings(root)[0], "robot", None, "meta/tasks.parquet does not exist")


def test_planted_faults_of_columns_and_lerobot(tmp_path):
    import h5py
    import pyarrow.parquet as parquet

    episodes = ArraySource([episode(n, s, (16, 16)) for s, n in enumerate((6, 7, 8))])
    file = write_dataset(episodes, tmp_path / "x.hdf5", "columns")
    with h5py.File(file, "r+") as opened:
        opened["action"][3] = np.nan
        opened["action"][5] = np.nan  # the last of its episode
        opened["action"][8] = np.inf
        opened["ep_len"][2] = 9
    faults, _ = findings(file)
    assert has(faults, "x.hdf5, episode 0", 3, "not finite") and has(faults, "x.hdf5, episode 1", 2, "not finite")
    assert has(faults, "x.hdf5, episode 2", None, "rows 13..21") and len(faults) == 4  # two columns are short

    root = write_dataset(episodes, tmp_path / "robot", "lerobot")
    data = next(root.glob("data/*/*.parquet"))
    table = parquet.read_table(data)
    actions = table["action"].to_pylist()
    actions[2][0] = actions[8][1] = float("nan")
    column = table.schema.get_field_index("action")
    field = table.schema.field("action")
    import pyarrow

    parquet.write_table(table.set_column(column, field, pyarrow.array(actions, field.type)), data)
    faults, _ = findings(root)
    assert has(faults, "robot, episode 0", 2, "not finite") and has(faults, "robot, episode 1", 2, "not finite")
    next(root.glob("videos/**/*.mp4")).write_bytes(b"no video")
    faults, _ = findings(root)
    assert {path for path, _, text in faults if "video" in text} == {f"robot, episode {i}" for i in range(3)}


def test_planted_faults_of_a_layout(tmp_path):
    from PIL import Image

    for split in ("train", "valid", "test"):
        for name in ("1", "2"):
            folder = tmp_path / "bridge" / split / name
            folder.mkdir(parents=True)
            for t in range(4):
                Image.fromarray(noise(8, 8, 3, seed=hash((split, name, t)) % 2**31)).save(folder / f"frame_{t:04d}.png")
                torch.save({"action": torch.ones(3) * t}, folder / f"metadata_{t:04d}.pt")
            torch.save({"raw_instruction": "do", "instruction_embedding_t5": torch.ones(32, 1024)},
                       folder / "instruction.pt")
    torch.save({"action": torch.full((3,), torch.nan)}, tmp_path / "bridge/train/1/metadata_0001.pt")
    (tmp_path / "bridge/valid/2/frame_0002.png").write_bytes(b"")
    (tmp_path / "bridge/test/1/metadata_0000.pt").write_bytes(b"")
    found = validate(str(tmp_path / "bridge"))
    assert found.format == "bridge" and found.episodes == 6 and len(found.faults) == 3
    faults = [(f.path.removeprefix(str(tmp_path)), f.frame, f.problem) for f in found.faults]
    assert faults[0][0] == "/bridge/train/1" and faults[0][1] == 1 and "not finite" in faults[0][2]
    assert faults[1][0] == "/bridge/valid/2/frame_0002.png" or faults[1][0].endswith("frame_0002.png")
    assert "metadata_0000.pt" in faults[2][2]


def test_empty_episodes(tmp_path):
    root = npz_set(tmp_path / "set")
    np.savez(root / "empty.npz", video=np.zeros((0, 8, 8, 3), np.uint8))
    import h5py

    file = write_dataset(ArraySource([episode(3), episode(4, 1)]), tmp_path / "x.hdf5", "columns")
    with h5py.File(file, "r+") as opened:
        opened["ep_len"][1] = 0
    assert any(path == "empty.npz" for path, _, _ in findings(root)[0])
    assert has(findings(file)[0], "x.hdf5, episode 1", None, "no frames")


def test_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    npz_set(tmp_path / "set", (6, 6, 8, 9, 30))
    assert main(["data", "inspect", "set"]) == 0
    out = capsys.readouterr().out
    assert "10x12" in out and "float32 [T, 2]" in out and "task" in out and "on disk" in out
    assert main(["data", "inspect", "set", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert sum(split["frames"] for split in about["splits"].values()) == 59 and about["format"] == "npz"
    lengths = [split["lengths"] for split in about["splits"].values()]
    assert sum(sum(one["counts"]) for one in lengths) == 5 and all(one["edges"][-1] > one["max"] for one in lengths)
    assert main(["data", "validate", "set"]) == 0
    rewrite(tmp_path / "set" / "episode_000002.npz", action=lambda a: put(a, 4, np.nan))
    assert main(["data", "validate", "set"]) == 1
    assert "episode_000002.npz, frame 4: 'action' is not finite" in capsys.readouterr().out
    assert main(["data", "validate", "set", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [fault["frame"] for fault in told["faults"]] == [4] and told["episodes"] == 5
    assert main(["data", "inspect", "nothing"]) == 2 and "nothing" in capsys.readouterr().err
    assert main(["data", "inspect", "set", "-o", "sise=4"]) == 2 and "has no option 'sise'" in capsys.readouterr().err


def test_convert(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    npz_set(tmp_path / "set", (6, 6, 8, 9, 30))
    assert main(["data", "convert", "set", "out.hdf5", "--split", "train"]) == 0
    before, after = (open_dataset(p, num_frames=4).source for p in ("set", "out.hdf5"))
    assert open_dataset("out.hdf5", num_frames=4, split="train").source.num_episodes <= before.num_episodes
    assert main(["data", "convert", "set", "small", "--to", "lerobot", "--size", "16", "-w", "lossless=true"]) == 0
    for split in ("train", "val", "test"):
        ours, theirs = (open_dataset(p, split=split, num_frames=4, height=16)[0] for p in ("set", "small"))
        assert (ours["video"] == theirs["video"]).all() and ours["language"] == theirs["language"]
        assert torch.equal(ours["action"], theirs["action"])
    capsys.readouterr()
    assert main(["data", "convert", "set", "small", "--to", "npz"]) == 2 and "exists already" in capsys.readouterr().err
    assert main(["data", "convert", "set", "other"]) == 2 and "--to" in capsys.readouterr().err
    assert main(["data", "convert", "set", "other", "--to", "npz", "-w", "los=1"]) == 2
    assert "has no option 'los'" in capsys.readouterr().err and not list(tmp_path.glob(".*partial*"))
    del after


def test_videos_are_converted_at_their_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        write_video(tmp_path / "videos" / f"{seed}.mp4", noise(5, 40, 48, 3, seed=seed))
    assert main(["data", "convert", "videos", "frames", "--to", "frames"]) == 0
    assert open_dataset("frames", num_frames=2, height=40, width=48).summary["resolution"] == [40, 48]
    from PIL import Image

    assert Image.open(next((tmp_path / "frames").rglob("*.png"))).size == (48, 40)


def test_videos_keep_their_frames_per_second(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        write_video(tmp_path / "videos" / f"{seed}.mp4", noise(6, 16, 16, 3, seed=seed), fps=60)
    assert main(["data", "convert", "videos", "set", "--to", "lerobot"]) == 0
    assert open_dataset("set", num_frames=2).summary["fps"] == 60
    assert main(["data", "preview", "set"]) == 0  # though a GIF cannot be as fast
    write_video(tmp_path / "videos" / "3.mp4", noise(6, 16, 16, 3, seed=3), fps=30)
    assert main(["data", "convert", "videos", "mixed", "--to", "lerobot"]) == 2
    assert "differ in frames per second: 60 (0.mp4), 30 (3.mp4). Say which to write: --fps" in capsys.readouterr().err
    assert main(["data", "convert", "videos", "mixed", "--to", "lerobot", "--fps", "30"]) == 0


@pytest.mark.parametrize("kind, smallest", [("webm", 30), ("gif", 20)])
def test_other_kinds_of_video(tmp_path, monkeypatch, capsys, kind, smallest):
    monkeypatch.chdir(tmp_path)
    y, x = np.mgrid[:32, :48] / 8
    for seed in range(3):
        frames = [127 + 100 * np.sin(x + 0.3 * t + seed) * np.cos(y) for t in range(6)]
        write_video(tmp_path / "videos" / f"{seed}.mp4", np.repeat(np.uint8(frames)[..., None], 3, -1), fps=20)
    assert main(["data", "convert", "videos", "others", "--to", "video", "-w", f"kind={kind}"]) == 0
    assert len(list((tmp_path / "others").rglob(f"*.{kind}"))) == 3
    a, b = (open_dataset(p, num_frames=6, height=32, width=48)[0]["video"].float() for p in ("videos", "others"))
    assert 10 * torch.log10(255**2 / (a - b).square().mean()) > smallest
    assert open_dataset("others", num_frames=6).summary["fps"] == pytest.approx(20)
    assert main(["data", "convert", "videos", "none", "--to", "video", "-w", "kind=avi"]) == 2
    assert "kind must be mp4, webm, gif, got 'avi'" in capsys.readouterr().err


def test_what_is_read_is_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    npz_set(tmp_path / "all" / "set")
    assert main(["data", "convert", "all/set", "all", "--to", "npz", "--overwrite"]) == 2
    assert "all holds the data to convert, all/set" in capsys.readouterr().err and (tmp_path / "all/set").is_dir()


def test_brackets_are_shown_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = "push [red] block [/INST]"
    sets = {s: ArraySource([episode(6, i, language=task)]) for i, s in enumerate(("train", "val", "test"))}
    write_dataset(sets, "out[bold]x", "npz")
    assert main(["data", "inspect", "out[bold]x"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("push [red]", "[/INST]", "out[bold]x"))


@pytest.mark.parametrize("option", [["--fps", "inf"], ["--clips", "0"], ["--frames", "-2"], ["--size", "0"]])
def test_numbers_that_make_no_sense(option, capsys):
    with pytest.raises(SystemExit):
        main(["data", "preview", "balls-32", *option])
    assert f"argument {option[0]}: invalid" in capsys.readouterr().err


def test_a_failing_conversion_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    npz_set(tmp_path / "set", (6, 6, 8, 9, 30))
    rewrite(tmp_path / "set" / "episode_000004.npz", language=lambda _: np.array("x"), extra=lambda _: np.zeros(30))
    assert main(["data", "convert", "set", "out", "--to", "npz"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_preview(tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    goal = noise(2, 3, 10, 12)
    two = [episode(n, n, video=noise(2, n, 3, 10, 12), goal_image=goal) for n in (5, 9, 4)]
    write_dataset({"train": ArraySource(two)}, tmp_path / "set", "npz")
    assert main(["data", "preview", "set", "--clips", "2", "--frames", "3", "--out", "look"]) == 0
    sheet = Image.open(tmp_path / "look.png")
    assert sheet.size[0] > 4 * 5 * 12 and sheet.size[1] > 2 * 100
    assert Image.open(tmp_path / "look.gif").n_frames >= 5
    assert main(["data", "preview", "set", "--split", "val"]) == 2 and "nothing for split" in capsys.readouterr().err


def test_what_cannot_be_validated(tmp_path):
    with pytest.raises(DataError, match="does not exist|neither a file"):
        validate(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no video"):
        validate(str(tmp_path / "empty"))
