"""What G-SWM learns from: single ball and maze, made on the spot and as upstream lays them out, and OBJ3D."""

import hashlib

import numpy as np
import pytest
import torch

from worldkit.cli import main
from worldkit.data import generate_maze, generate_single_ball, open_dataset, open_source
from worldkit.data.formats.maze import make_board, walk, ways
from worldkit.data.formats.single_ball import sides
from worldkit.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))


def test_a_single_ball_falls_and_goes_one_way_or_the_other():
    made = generate_single_ball("train", num_episodes=200)
    assert made.right[:12].tolist() == [True] * 4 + [False, True, False, True, True, False, True, True]  # as upstream
    assert sides("val", 4).tolist() == sides("val", 5).tolist()[:4] != sides("test", 4).tolist()
    assert 0.4 < made.right.mean() < 0.6
    right, left = made.positions[0, :, 0], made.positions[4, :, 0]
    assert right[[0, 1, 4, 5, 8]].tolist() == [[32, 7], [32, 13.25], [32, 32], [38.25, 38.25], [57, 57]]
    assert (left[:5] == right[:5]).all() and left[8].tolist() == [7, 57]
    assert (made.video[0, :5] == made.video[4, :5]).all()
    assert (made.video[0, 5:] != made.video[4, 5:]).any((1, 2, 3)).all()
    assert not made.video[:, :, 1:].any() and made.video[0, 0, 0, 7, 32] == 255
    rows, columns = np.nonzero(made.video[0, 8, 0] > 127)
    assert abs(rows.mean() - 56.5) < 0.5 and abs(columns.mean() - 56.5) < 0.5
    assert 120 < len(rows) < 150


@pytest.mark.parametrize("options, message", [
    ({"num_episodes": 101}, "val has from 1 to 100 episodes, not 101"),
    ({"image_size": 24}, "64, 32, 16 pixels, not 24"),
    ({"split": "dev"}, "no split 'dev': use one of train, val, test"),
])
def test_single_balls_that_cannot_be_made(options, message):
    with pytest.raises(DataError, match=message):
        generate_single_ball(**{"split": "val", "num_episodes": 1, **options})


def test_mazes_have_no_dead_ends_and_hang_together():
    for seed in range(30):
        board = make_board(np.random.default_rng(seed))
        assert board[[0, -1]].all() and board[:, [0, -1]].all() and not board.all()
        cells = [tuple(cell) for cell in np.argwhere(board)]
        assert all(len(ways(board, np.array(cell))) > 1 for cell in cells)
        reached, new = set(), [cells[0]]
        while new:
            cell = new.pop()
            reached.add(cell)
            near = ((cell[0] + dy, cell[1] + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))
            new += [other for other in near if other in cells and other not in reached]
        assert reached == set(cells)


def test_who_walks_never_turns_round_and_takes_every_way():
    board = make_board(np.random.default_rng(0))
    path = walk(np.random.default_rng(1), board, np.array([0, 0]), 3000)
    steps = np.diff(path, axis=0)
    assert (abs(steps).sum(1) == 1).all() and board[path[:, 0], path[:, 1]].all()
    assert (steps[1:] != -steps[:-1]).any(1).all()
    taken = {}
    for before, here, after in zip(path, path[1:], path[2:], strict=False):
        taken.setdefault((*before, *here), []).append(tuple(after))
    for (*_, row, column), after in taken.items():
        possible = len(ways(board, np.array([row, column]))) - 1
        assert len(after) < 20 or len(set(after)) == possible


def test_a_maze_shows_its_discs_where_they_are():
    made = generate_maze("train", num_episodes=6, num_frames=7)
    assert sorted(set(made.present.sum(1).tolist())) == [3, 4]
    assert (made.place[:, 1::2] * 2 == made.place[:, :-1:2] + made.place[:, 2::2]).all()
    for e in range(6):
        frame = made.video[e, 3]
        cell = (np.arange(64) + 0.5) * 7 // 64
        board = made.corridors[e][cell.astype(int)[:, None], cell.astype(int)]
        grey = (frame == frame[:1]).all(0)
        assert (frame[0][grey] == np.where(board, 0, 255)[grey]).mean() > 0.99
        y, x = ((made.place[e, 3, 0] + 0.5) * 64 / 7).astype(int)
        assert (~grey)[y, x]  # coloured
    few, many = generate_maze("val", num_episodes=2, num_frames=5), generate_maze("val", num_episodes=3, num_frames=8)
    assert (few.video == many.video[:2, :5]).all()
    assert hashlib.sha256(few.place.tobytes() + few.corridors.tobytes()).hexdigest()[:16] == "d9c1df8690f01756"
    with pytest.raises(DataError, match="image_size must be at least 14, got 8"):
        generate_maze("val", num_episodes=1, image_size=8)


def test_by_name():
    ball = open_dataset("single-ball-32", split="val", num_frames=9, num_episodes=3)
    assert len(ball) == 3 and ball[0]["video"].shape == (9, 3, 32, 32)
    assert torch.allclose(ball[0]["state"]["position"][0], torch.tensor([[7 / 32 - 1, 0.0]]))
    maze = open_dataset("maze", split="val", num_frames=10, num_episodes=2, episode_length=12)[0]
    assert maze["video"].shape == (10, 3, 64, 64) and maze["state"]["corridors"].shape == (10, 7, 7)
    where = (maze["state"]["position"][0, 0] + 1) / 2 * 7 - 0.5
    assert torch.allclose(where, where.round(), atol=1e-5)
    assert open_source("maze-28", split="val", num_episodes=1, episode_length=2).summary["synthetic"]


def upstream(folder, **columns):
    h5py = pytest.importorskip("h5py")
    folder.mkdir()
    for split in ("train", "val", "test"):
        with h5py.File(folder / f"{split}.hdf5", "w") as file:
            for name, array in columns.items():
                file[name] = array
    return folder


def test_upstreams_files_are_read(tmp_path):
    made = generate_single_ball("train", num_episodes=4)
    images = made.video.transpose(0, 1, 3, 4, 2)
    ball = upstream(tmp_path / "SINGLE_BALL", imgs=images, positions=made.positions[:, :, 0], directions=made.right * 1)
    clip, own = (open_dataset(source, num_frames=9, **more)[0] for source, more in (
        (ball, {}), ("single-ball", {"num_episodes": 4})))
    assert torch.equal(clip["video"], own["video"])
    assert torch.allclose(clip["state"]["position"], own["state"]["position"])
    walked = generate_maze("train", num_episodes=2, num_frames=11)
    maze = upstream(
        tmp_path / "MAZE", imgs=walked.video.transpose(0, 1, 3, 4, 2), grids=walked.corridors.astype(np.int8),
        trajs=walked.place[:, ::2].astype(int), pres=np.ones((2, 6, 4)))
    clip = open_dataset(maze, num_frames=10)[0]
    assert torch.equal(clip["video"], torch.from_numpy(walked.video[0, :10]))


def obj3d(root, frames):
    image = pytest.importorskip("PIL.Image")
    for split in ("train", "val", "test"):
        folder = root / split / "0"
        folder.mkdir(parents=True)
        for t in range(frames):
            image.new("RGB", (64, 64), (9 * t, 99, 0)).save(folder / f"test_{t}.png")
    return root


SMALL = ["--steps", "1", "--quiet", "-o", "train.batch_size=1", "-o", "encoder.channels=4", "-o", "train.eval_clips=1",
         "-o", "encoder.background_channels=[4,4,4,4]", "-o", "decoder.background_channels=[4,4,4,4]",
         "-o", "encoder.glimpse_channels=[4,4,4,4]", "-o", "decoder.channels=[4,4,4,4]"]


def test_a_step_on_obj3d_as_it_lies_on_disk(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "g-swm-obj3d", "--data", str(obj3d(tmp_path / "OBJ3D", 21)), "--run", str(run), *SMALL]) == 0
    assert (run / "run.json").exists()


def test_clips_that_are_too_short_and_glimpses_that_are_too_large(tmp_path, capsys):
    assert main(["train", "g-swm-obj3d", "--data", str(obj3d(tmp_path / "OBJ3D", 7)), "--run", str(tmp_path / "r"),
                 *SMALL]) != 0
    told = capsys.readouterr().err
    assert "7 frames" in told or "20" in told, told
    assert main(["train", "g-swm-balls-mini", "--data", "balls-32", "--run", str(tmp_path / "r"),
                 "-o", "encoder.glimpse_size=48", *SMALL]) != 0
    assert "glimpse_size 48 is larger than the picture, 32 x 32 pixels: take glimpses of at most that" in \
        capsys.readouterr().err
