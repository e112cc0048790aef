"""The layouts of the official LPWM loaders: imitations written by hand, read, and trained on."""

import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.cli import main
from worldkit.data import collate, list_formats, make_loader, open_dataset, validate, write_dataset
from worldkit.data.layouts import files
from worldkit.data.registry import find_format
from worldkit.errors import DataError

Image = pytest.importorskip("PIL.Image")

SIZE = 34  # odd among the sizes of models, so that resizing is seen


def frame(value, size=(SIZE, SIZE)):
    """A picture whose grey level tells which it is."""
    return np.full((*size, 3), value % 256, np.uint8)


def save_png(path, value, size=(SIZE, SIZE)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame(value, size)).save(path)


def save_pt(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)


def save_pkl(path, value):
    path.write_bytes(pickle.dumps(value))


def levels(item, view=None):
    """The grey level of every frame of a clip."""
    video = item["video"] if view is None else item["video"][view]
    return video[:, 0, 0, 0].tolist()


def sketchy(root):
    for split, first in (("train", 0), ("valid", 100), ("test", 200)):
        for group, number, length in (("demos", 10, 9), ("demos", 9, 8), ("rollouts", 3, 8), ("rollouts", 4, 5)):
            folder = root / split / group / f"ep{number}"
            for t in range(length):
                save_png(folder / f"image_f{t}.png", first + 10 * (number % 8) + t)
                save_pt(folder / f"action_f{t}.pt", {"actions": torch.full((7,), float(t))})


def language(root, embedding, action_size, lengths=(7, 3)):
    for split, first in (("train", 0), ("valid", 100), ("test", 200)):
        for episode, length in enumerate(lengths):
            folder = root / split / str(episode)
            for t in range(length):
                save_png(folder / f"frame_{t:04d}.png", first + 20 * episode + t, (SIZE, SIZE + 10))
                metadata = {"action": torch.full((action_size,), t + 1.0), "is_last": torch.tensor(t == length - 1)}
                save_pt(folder / f"metadata_{t:04d}.pt", metadata)
            tokens = torch.full((32, 1024), float(episode), requires_grad=True) * 1  # as stored: not detached
            save_pt(folder / "instruction.pt", {"raw_instruction": f"do {episode}", embedding: tokens})


def bridge(root):
    language(root, "instruction_embedding_t5", 3)


def langtable(root):
    language(root, "instruction_embedding", 2)


def bair(root):
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        for episode in (2, 10):
            folder = root / split / str(episode)
            for t in range(6):
                save_png(folder / f"{t}.png", first + 3 * episode + t)
            save_pkl(folder / "actions.pkl", np.stack([np.full(4, t, np.float32) for t in range(6)]))
            save_pkl(folder / "rewards.pkl", [0.5 * t for t in range(6)])
            save_pkl(folder / "dones.pkl", np.arange(6) == 5)


def bair64(root):
    for split, first in (("train", 0), ("test", 200)):
        for group, number in (("traj_256_to_511", 0), ("traj_0_to_255", 10), ("traj_0_to_255", 9)):
            folder = root / split / group / str(number)
            for t in range(6):
                save_png(folder / f"{t}.png", first + 2 * number + t)
            rows = [f"{t},0.5,{number}" for t in range(6)]
            (folder / "endeffector_positions.csv").write_text("\n".join(rows))


def panda(root, episodes=2, length=23):
    for task in ("1C", "1T"):
        for v, view in enumerate(("view1", "view2")):
            for episode in range(episodes):
                folder = root / task / view / f"episode_{episode:04d}"
                for t in range(length):
                    save_png(folder / f"image_{t:04d}.png", 100 * v + 40 * episode + t)
                    metadata = {"action": torch.full((3,), float(t)), "is_terminal": torch.tensor(t == 18)}
                    save_pt(folder / f"metadata_{t:04d}.pt", metadata)
                save_png(folder / "goal_0000.png", 255)


def ogbench(root, lengths=(9, 3)):
    for split, first in (("train", 0), ("valid", 100)):
        for episode, length in enumerate(lengths):
            folder = root / "cube" / split / f"ep{episode:04d}"
            for t in range(length):
                save_png(folder / f"f{t:04d}.png", first + 20 * episode + t)
                metadata = {"actions": torch.full((5,), float(t)), "terminals": np.float32(t == length - 1)}
                save_pt(folder / f"metadata{t:04d}.pt", metadata)


def numbers(root, splits, prefix="", length=8):
    for split, first in splits:
        for episode in (2, 10):
            for t in range(length):
                save_png(root / split / str(episode) / f"{prefix}{t}.png", first + 3 * episode + t)


def obj3d(root):
    numbers(root, (("train", 0), ("val", 100), ("test", 200)), "test_")


def clevrer(root):
    numbers(root, (("train", 0), ("valid", 100)))
    for t in range(8):
        save_png(root / "valid" / "1003" / f"{t}.png", 200 + t)


def mario(root):
    numbers(root, (("train", 0), ("val", 100)))


def phyre(root):
    numbers(root, (("train", 0), ("valid", 100), ("test", 200)), length=36)


def traffic(root):
    root.mkdir(parents=True)
    np.save(root / "img.npy", np.stack([frame(t) for t in range(100)]))


LAYOUTS = (sketchy, bridge, langtable, bair, bair64, panda, ogbench, obj3d, clevrer, mario, phyre, traffic)
OPTIONS = {"sketchy": {"episode_length": 8}, "traffic": {"episode_length": 5}}


def make(tmp_path, layout):
    """The path of an imitation."""
    root = tmp_path / layout.__name__
    layout(root)
    return root / "img.npy" if layout is traffic else root


def opened(path, name, split="train", **options):
    return open_dataset(path, split=split, format=name, **{"num_frames": 4, **OPTIONS.get(name, {}), **options})


def test_recognition(tmp_path):
    for layout in LAYOUTS:
        name, path = layout.__name__, make(tmp_path, layout)
        assert name in list_formats()
        assert find_format(str(path)).name == name, name
        if layout in (clevrer, mario, phyre):  # told by the name of their folder: their files look like any
            inside = shutil.copytree(path, tmp_path / name.upper() / "episodes" / "x", dirs_exist_ok=True)
            assert find_format(str(inside)).name == "video", name
            assert find_format(str(inside.rename(inside.parents[1] / "frames"))).name == name
    frames = tmp_path / "frames"
    numbers(frames, (("train", 0), ("val", 9), ("test", 18)))
    (frames / "train" / "2" / "notes.txt").write_text("")
    assert find_format(str(frames)).name == "video"
    assert find_format("balls-32").name == "balls" and find_format(str(tmp_path / "none.mp4")).name == "video"


def test_sketchy(tmp_path):
    data = opened(make(tmp_path, sketchy), "sketchy", num_frames=4)
    assert data.source.num_episodes == 3 and len(data) == 3 * 5  # the short one is left out, the long one cut
    assert [data.source.length(i) for i in range(3)] == [8, 8, 8]
    assert [levels(data[i]) for i in (0, 5, 10)] == [[10, 11, 12, 13], [20, 21, 22, 23], [30, 31, 32, 33]]  # 9, 10; 3
    item = data[14]
    assert item["start"] == 4 and item["action"].tolist() == [[t] * 7 for t in (4.0, 5.0, 6.0, 7.0)]
    assert item["action"].dtype == torch.float32
    assert levels(opened(tmp_path / "sketchy", "sketchy", "val", num_frames=2)[0]) == [110, 111]
    with pytest.raises(DataError, match="no episode has 70 frames"):
        open_dataset(tmp_path / "sketchy", num_frames=4)


@pytest.mark.parametrize("layout, size", [(bridge, 3), (langtable, 2)])
def test_instructions_and_padding(tmp_path, layout, size):
    name, path = layout.__name__, make(tmp_path, layout)
    data = open_dataset(path, num_frames=4)
    # episode 0, 7 frames: bridge stays inside, langtable may pass the end by half a clip; episode 1, 3 frames
    starts = [data.window(i) for i in range(len(data))]
    inside = 4 if layout is bridge else 6
    assert starts == [(0, i) for i in range(inside)] + [(1, i) for i in range(2 if layout is bridge else 3)]
    item = data[inside + 1]  # frames 1 and 2 of the short episode, then padding
    assert levels(item) == [21, 22, 22, 22] and item["done_mask"].tolist() == [1, 1, 0, 0]
    assert item["action"].tolist() == [[2.0] * size, [3.0] * size, [0.0] * size, [0.0] * size]
    assert item["language"].shape == (32, 1024) and item["language"].eq(1).all()
    assert item["video"].shape == (4, 3, SIZE, SIZE + 10)
    text = open_dataset(path, num_frames=4, language="text")
    assert text[0]["language"] == "do 0" and text.source.read_entry(1, "language") == "do 1"
    for split, first in (("val", 100), ("test", 200)):
        part = open_dataset(path, split=split, num_frames=4, mode="slide", height=16)
        assert [levels(part[i]) for i in range(len(part))] == [[first + t for t in range(4)], [first + 20 + t for t in
                                                                                            (0, 1, 2, 2)]]
    assert open_dataset(path, num_frames=4, max_episodes=1).source.num_episodes == 1
    with pytest.raises(DataError, match="language must be 'embedding' or 'text'"):
        open_dataset(path, num_frames=4, language="token")
    assert name == data.summary["kind"]


def test_bridge_trains_on_the_first_49_frames(tmp_path):
    language(tmp_path / "bridge", "instruction_embedding_t5", 3, lengths=(52,))
    data = open_dataset(tmp_path / "bridge", num_frames=45)
    assert [data.window(i) for i in range(len(data))] == [(0, start) for start in range(5)]
    assert len(open_dataset(tmp_path / "bridge", num_frames=51)) == 1


def test_bair(tmp_path):
    data = open_dataset(make(tmp_path, bair), num_frames=4)
    assert len(data) == 2 * 3 and levels(data[3]) == [30, 31, 32, 33]  # 2 comes before 10
    item = data[5]
    assert item["action"][:, 0].tolist() == [2, 3, 4, 5] and item["done_mask"].tolist() == [1, 1, 1, 0]
    assert item["state"]["reward"].tolist() == [1.0, 1.5, 2.0, 2.5]
    assert levels(open_dataset(tmp_path / "bair", split="val", num_frames=6)[0]) == [106 + t for t in range(6)]
    assert len(open_dataset(tmp_path / "bair", num_frames=4, episode_length=4)) == 2


def test_bair64(tmp_path):
    data = open_dataset(make(tmp_path, bair64), num_frames=6)
    assert [levels(data[i])[0] for i in range(3)] == [18, 20, 0]  # traj_0: 9, 10; then traj_256
    assert data[0]["action"][2].tolist() == [2, 0.5, 9]
    val, test = (open_dataset(tmp_path / "bair64", split=split, num_frames=6) for split in ("val", "test"))
    assert levels(val[0]) == levels(test[0]) and levels(val[0])[0] == 218


def test_panda(tmp_path):
    data = open_dataset(make(tmp_path, panda), num_frames=6, height=16)
    assert data.source.num_episodes == 2  # one of each task; the other one is for validation
    assert [data.source.length(i) for i in range(2)] == [23, 20]  # 1C is cut to 25, 1T to 20
    item = data[14]
    assert item["video"].shape == (2, 6, 3, 16, 16)
    assert (levels(item, 0), levels(item, 1)) == ([14, 15, 16, 17, 18, 19], [114, 115, 116, 117, 118, 119])
    assert item["done_mask"].tolist() == [1, 1, 1, 1, 0, 1] and item["action"].shape == (6, 3)
    goals = [data[i]["goal_image"] for i in range(18)]
    assert goals[0].shape == (2, 3, 16, 16)
    later = [int(goal[0, 0, 0, 0]) for goal in goals]
    assert all(start + 6 <= goal <= 22 for start, goal in enumerate(later[:17])) and later[17] == 22
    assert len(set(later)) > 5 and all(int(goal[1, 0, 0, 0]) == g + 100 for goal, g in zip(goals, later, strict=True))
    again = open_dataset(tmp_path / "panda", num_frames=6, height=16)
    assert [int(again[i]["goal_image"][0, 0, 0, 0]) for i in range(18)] == later
    other = open_dataset(tmp_path / "panda", num_frames=6, height=16, goal_seed=1)
    assert [int(other[i]["goal_image"][0, 0, 0, 0]) for i in range(18)] != later
    val = open_dataset(tmp_path / "panda", split="val", num_frames=30, height=16)
    assert len(val) == 2 and levels(val[0], 0) == [40 + t for t in range(23)] + [62] * 7
    assert val[0]["done_mask"].tolist() == [float(t != 18 and t < 23) for t in range(30)]
    assert val[0]["goal_image"][:, 0, 0, 0].tolist() == [62, 162]


def test_ogbench(tmp_path):
    data = open_dataset(make(tmp_path, ogbench), num_frames=4, height=16)
    assert [data.window(i) for i in range(len(data))] == [(0, i) for i in range(8)] + [(1, i) for i in range(3)]
    assert levels(data[7]) == [7, 8, 8, 8] and data[7]["done_mask"].tolist() == [1, 0, 0, 0]  # 8 is terminal
    assert data[0]["action"].shape == (4, 5) and data[0]["done_mask"].tolist() == [1, 1, 1, 1]
    goals = [int(data[i]["goal_image"][0, 0, 0]) for i in range(8)]
    assert all(min(i + 4, 8) <= goal <= 8 for i, goal in enumerate(goals))
    for split in ("val", "test"):
        part = open_dataset(tmp_path / "ogbench", split=split, num_frames=4, height=16)
        assert [levels(part[i]) for i in (0, 1)] == [[100, 101, 102, 103], [120, 121, 122, 122]]
        assert [int(part[i]["goal_image"][0, 0, 0]) for i in (0, 1)] == [103, 122]


def test_an_empty_episode_is_told(tmp_path):
    path = make(tmp_path, ogbench)
    (path / "cube" / "train" / "ep0002").mkdir()
    assert open_dataset(path, num_frames=4, height=16).skipped == 1
    faults = validate(str(path)).faults
    assert [fault.problem for fault in faults] == ["the episode has no frames"] and "ep0002" in faults[0].path


@pytest.mark.parametrize("layout, tested", [(obj3d, 206), (mario, 106)])
def test_images(tmp_path, layout, tested):
    name, path = layout.__name__, make(tmp_path, layout)
    data = opened(path, name, num_frames=4, height=16)
    assert len(data) == 2 * 5 and levels(data[5]) == [30, 31, 32, 33] and set(data[0]) == {"video", "episode", "start"}
    assert levels(opened(path, name, "test", num_frames=8, mode="tile")[0]) == [tested + t for t in range(8)]


def test_clevrer(tmp_path):
    """Test is the validation videos from 1000 on, unless it has a folder of its own."""
    path = make(tmp_path, clevrer)
    data = open_dataset(path, num_frames=4)
    assert len(data) == 2 * 5 and levels(data[5]) == [30, 31, 32, 33] and data.summary["kind"] == "clevrer"
    val, test = (open_dataset(path, split=split, num_frames=8) for split in ("val", "test"))
    assert [levels(val[i])[0] for i in range(len(val))] == [106, 130] and levels(test[0]) == [200 + t for t in range(8)]
    shutil.copytree(path / "train", path / "test")
    assert len(open_dataset(path, split="val", num_frames=8)) == 3
    assert levels(open_dataset(path, split="test", num_frames=8)[0])[0] == 6


def test_the_data_command_names_the_layout(tmp_path, capsys):
    for layout in (obj3d, clevrer, phyre, traffic):
        path = make(tmp_path, layout)
        assert main(["data", "inspect", str(path)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f": {layout.__name__} " in said and ("colours inverted, the last 30" in said) == (layout is phyre)
        assert main(["data", "validate", str(path)]) == 0
        assert f"{layout.__name__}: " in capsys.readouterr().out
    assert open_dataset(tmp_path / "clevrer", split="all", num_frames=8).source.num_episodes == 5


def test_phyre(tmp_path):
    data = opened(make(tmp_path, phyre), "phyre", num_frames=4)
    assert [data.source.length(i) for i in range(2)] == [6, 6] and len(data) == 2 * 3  # the last 30 are dropped
    assert levels(data[0]) == [255 - 6 - t for t in range(4)]
    short = opened(tmp_path / "phyre", "phyre", num_frames=8)
    assert len(short) == 2 and levels(short[0]) == [249, 248, 247, 246, 245, 244, 244, 244]
    assert "done_mask" not in short[0]


def test_traffic(tmp_path):
    path = make(tmp_path, traffic)
    data = open_dataset(path, num_frames=4, height=16)
    assert len(data) == 77 and levels(data[76]) == [76, 77, 78, 79] and data[0]["video"].shape[-1] == 16
    val, test = (open_dataset(path, split=s, num_frames=5, episode_length=5, mode="tile") for s in ("val", "test"))
    assert [levels(val[i])[0] for i in range(len(val))] == [80, 85] and levels(test[1]) == [95, 96, 97, 98, 99]
    with pytest.raises(DataError, match="make no episode of 50"):
        open_dataset(path, split="val", num_frames=4)


TINY = dict(
    obs={"height": 32, "width": 32},
    encoder={
        "patch_size": 8, "glimpse_ratio": 0.25, "hidden_dim": 16, "num_particles": 4,
        "proposal_cnn": {"base_channels": 4, "channel_multipliers": [1, 2], "latent_channels": 4},
        "glimpse_cnn": {"base_channels": 4, "channel_multipliers": [1, 2], "latent_channels": 4},
        "background_cnn": {"base_channels": 4, "channel_multipliers": [1, 1, 2], "latent_channels": 4},
    },
    decoder={
        "glimpse_ratio": 0.25, "glimpse_map_size": 4, "hidden_dim": 16,
        "glimpse_cnn": {"base_channels": 4, "channel_multipliers": [1, 2], "latent_channels": 4},
        "background_cnn": {"base_channels": 4, "channel_multipliers": [1, 1, 2], "latent_channels": 4},
    },
    dynamics={"dim": 16, "num_layers": 1, "num_heads": 2},
    latent_action={"dim": 16, "num_layers": 1, "num_heads": 2, "action_dim": 3},
    objective={"reconstruction": "mse"}, timestep_horizon=3,
)
PRESETS = [
    (sketchy, "lpwm-sketchy"), (sketchy, "lpwm-sketchy-action"), (bridge, "lpwm-bridge"),
    (langtable, "lpwm-langtable"), (langtable, "lpwm-langtable-action"), (bair, "lpwm-bair"), (bair64, "lpwm-bair64"),
    (panda, "lpwm-panda"), (ogbench, "lpwm-ogbench"), (obj3d, "lpwm-obj3d128"), (mario, "lpwm-mario"),
    (phyre, "lpwm-phyre"), (traffic, "lpwm-traffic"),
]


@pytest.mark.parametrize("layout, preset", PRESETS, ids=[preset for _, preset in PRESETS])
def test_the_preset_takes_a_training_step(tmp_path, layout, preset):
    torch.manual_seed(0)
    model = wk.create_model(preset, **TINY).train()
    obs = model.config.obs
    path = make(tmp_path, layout)
    data = opened(path, layout.__name__, num_frames=model.clip_length, height=obs.height, width=obs.width)
    batch = next(iter(make_loader(data.feeding(model.config.columns), 2)))
    assert set(model.config.conditioners) <= set(batch.conditions) and batch.video.dtype == torch.uint8
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loss = model.loss(batch, 10**6)  # after the warm-up, so that a done mask counts
    loss.total.backward()
    optimizer.step()
    assert torch.isfinite(loss.total)


def test_workers_read_and_decode(tmp_path):
    data = open_dataset(make(tmp_path, langtable), num_frames=4, height=16)
    here = [batch.video for batch in make_loader(data, 2, shuffle=False)]
    there = [batch.video for batch in make_loader(data, 2, shuffle=False, num_workers=1)]
    assert all((a == b).all() for a, b in zip(here, there, strict=True))


def test_convert_keeps_what_the_layout_holds(tmp_path):
    source = open_dataset(make(tmp_path, bridge), num_frames=4, language="text").source
    write_dataset(source, tmp_path / "copy", "npz")
    copy = open_dataset(tmp_path / "copy", num_frames=3)
    item = copy[0]
    assert item["language"].startswith("do ") and item["action"].shape == (3, 3) and item["done_mask"].eq(1).all()


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_pickles_cannot_run_code(tmp_path):
    for number, value in enumerate([Attack(tmp_path / "ran"), [np.zeros(3), Attack(tmp_path / "ran")]]):
        save_pkl(tmp_path / f"{number}.pkl", value)
        with pytest.raises(DataError, match="never loaded"):
            files.load_pickle(tmp_path / f"{number}.pkl")
        torch.save(value, tmp_path / f"{number}.pt")
        with pytest.raises(DataError, match="never loaded"):
            files.load_pt(tmp_path / f"{number}.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol(tmp_path, protocol):
    value = [np.arange(6.0).reshape(2, 3), np.float32(2.5), {"a": (1, "b", b"c")}, np.array([True, False]),
             np.asfortranarray(np.arange(6).reshape(2, 3))]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol))
    found = files.load_pickle(tmp_path / "a.pkl")
    assert (found[0] == value[0]).all() and found[1] == 2.5 and found[2] == value[2] and (found[3] == value[3]).all()
    assert (found[4] == value[4]).all()


def test_numpy_in_pt_files(tmp_path):
    save_pt(tmp_path / "a.pt", {"x": np.arange(3.0), "y": np.bool_(True), "z": np.float64(2), "n": 3})
    found = files.load_pt(tmp_path / "a.pt")
    assert found["x"].tolist() == [0, 1, 2] and found["y"] and found["z"] == 2


def broken(change, layout, expected, **options):
    return pytest.param(change, layout, expected, options, id=f"{layout.__name__}: {expected}")


def truncate(path):
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize("change, layout, expected, options", [
    broken(lambda r: truncate(r / "train/0/frame_0002.png"), bridge, "frame_0002.png .frame 2. cannot be read"),
    broken(lambda r: truncate(r / "train/0/metadata_0002.pt"), bridge, "metadata_0002.pt cannot be read"),
    broken(lambda r: (r / "train/0/metadata_0006.pt").unlink(), bridge, "'action' has 6 steps, but there are 7"),
    broken(lambda r: (r / "train/0/frame_0002.png").unlink(), bridge, "frame_0003.png would go with metadata_0002.pt"),
    broken(lambda r: (r / "1C/view2/episode_0000/metadata_0005.pt").unlink(), panda,
           "image_0005.png would go with metadata_0006.pt"),
    broken(lambda r: save_pt(r / "train/0/metadata_0002.pt", {"act": 1}), bridge, "metadata_0002.pt has no 'action'"),
    broken(lambda r: save_pt(r / "train/0/metadata_0002.pt", {"action": torch.ones(4)}), bridge,
           "metadata_0002.pt: 'action' has shape .4."),
    broken(lambda r: save_pt(r / "train/0/instruction.pt", {"raw": ""}), bridge, "no 'instruction_embedding_t5'"),
    broken(lambda r: save_pkl(r / "train/2/actions.pkl", np.full((6, 4), np.nan)), bair, "frame 0 is not finite"),
    broken(lambda r: save_pkl(r / "train/2/actions.pkl", ["a"] * 6), bair, "actions.pkl must be numbers"),
    broken(lambda r: (r / "train/2/actions.pkl").write_bytes(b"no"), bair, "actions.pkl cannot be read"),
    broken(lambda r: (r / "train/2/x.png").write_bytes(b""), bair, "x.png has no number"),
    broken(lambda r: (r / "train/traj_0_to_255/9/endeffector_positions.csv").write_text("1,2\n3"), bair64,
           "cannot be read as a table"),
    broken(lambda r: (r / "1C/view2/episode_0000/image_0022.png").unlink(), panda, "has 22 frames"),
])
def test_faults_are_named(tmp_path, change, layout, expected, options):
    path = make(tmp_path, layout)
    change(path)
    with pytest.raises(DataError, match=expected):
        open_dataset(path, num_frames=4, format=layout.__name__, **options)[0]


def test_skip_leaves_out_broken_episodes(tmp_path):
    path = make(tmp_path, bridge)
    truncate(path / "train/0/frame_0002.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = open_dataset(path, num_frames=3, on_error="skip")
    assert data.skipped == 1 and data.source.num_episodes == 1 and "frame_0002.png" in str(caught[0].message)


def test_missing_splits_and_options(tmp_path):
    path = make(tmp_path, bridge)
    with pytest.raises(DataError, match="has no option 'episode_length'"):
        open_dataset(path, num_frames=3, episode_length=4)
    with pytest.raises(DataError, match="on_error must be"):
        open_dataset(path, num_frames=3, on_error="never")
    assert collate([open_dataset(path, num_frames=3)[0]]).conditions["language"].shape == (1, 32, 1024)
    with pytest.raises(DataError, match="no folders train"):
        open_dataset(tmp_path, num_frames=3, format="bair")


def test_what_lies_beside_the_action_is_state(tmp_path):
    root = make(tmp_path, bridge)
    for file in (root / "train/0").glob("metadata_*.pt"):
        t = float(int(file.stem[-4:]))
        pose = {"state": torch.full((7,), t), "action_world_vector": torch.full((3,), -t)}
        pose["action_gripper"] = torch.tensor(t > 2)
        extra = {"../odd name": t, "note": "text", "picture": torch.zeros(2, 2, 3), **({"some": t} if t else {})}
        save_pt(file, torch.load(file) | pose | extra)
    item = open_dataset(root, num_frames=4, max_episodes=1)[1]
    state = item["state"]
    assert state["state"].tolist() == [[t] * 7 for t in (1, 2, 3, 4)]
    assert state["action_world_vector"][2].tolist() == [-3] * 3
    assert state["action_gripper"].tolist() == [False, False, True, True] and item["action"].shape == (4, 3)
    assert set(state) == {"state", "action_world_vector", "action_gripper", "is_last", ".._odd_name"}


@pytest.mark.parametrize("missing", [3, 0])
@pytest.mark.parametrize("layout", [bair, bair64])
def test_a_missing_frame_does_not_shift_actions(tmp_path, layout, missing):
    root = make(tmp_path, layout)
    folder = root / "train" / {"bair": "2", "bair64": "traj_0_to_255/9"}[layout.__name__]
    (folder / f"{missing}.png").unlink()
    problem = "frame 3 is missing: later" if missing else r"6 rows for 5 frames, the first.* 1.png"
    with pytest.raises(DataError, match=problem):
        open_dataset(root, num_frames=4)[0]
    assert validate(root).faults
    with pytest.warns(RuntimeWarning, match="skipped"):
        assert open_dataset(root, num_frames=4, on_error="skip").skipped >= 1


def test_frames_may_be_numbered_from_one(tmp_path):
    root = make(tmp_path, bair)
    for t in range(6, 0, -1):
        (root / f"train/2/{t - 1}.png").rename(root / f"train/2/{t}.png")
    item = open_dataset(root, num_frames=4)[0]
    assert levels(item) == [6, 7, 8, 9] and item["action"][:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("layout", "folder", "first"), [
    (bridge, "train/0", "frame_0000.png"), (ogbench, "cube/train/ep0000", "f0000.png"),
    (sketchy, "train/demos/ep9", "image_f0.png"),
])
def test_a_missing_first_frame_does_not_shift_actions(tmp_path, layout, folder, first):
    root = make(tmp_path, layout)
    (root / folder / first).unlink()
    options = {"episode_length": 4} if layout is sketchy else {}
    with pytest.raises(DataError, match=r"would go with .*, but both end with \d+: the first is missing"):
        source = open_dataset(root, num_frames=3, height=8, **options).source
        [source.read(i, 0, 2) for i in range(source.num_episodes)]
    if layout is not sketchy:  # whose short episodes are left out
        assert any("the first is missing" in str(fault) for fault in validate(root).faults)


def test_metadata_may_count_from_another_number(tmp_path):
    root = make(tmp_path, bridge)
    for t in reversed(range(7)):
        (root / f"train/0/frame_{t:04d}.png").rename(root / f"train/0/frame_{t + 1:04d}.png")
    assert open_dataset(root, num_frames=3, max_episodes=1)[0]["action"][:, 0].tolist() == [1, 2, 3]
