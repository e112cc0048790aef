"""MultiGrid: the rules of the board, and that every machine makes the same."""

import hashlib

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.data.formats.multigrid import COLORS, MOVES, draw, generate_multigrid, move, simulate


def test_agents_do_what_they_choose_unless_something_is_in_the_way():
    made = simulate("train", 20, 30, 4)
    cell, choice, walls = made["cell"], made["choice"], made["walls"]
    step = cell[:, 1:] - cell[:, :-1]
    wanted = MOVES[choice[:, :-1]]
    went = (step == wanted).all(-1)
    assert ((step == 0).all(-1) | went).all() and 0.6 < went.mean() < 1
    assert cell.min() == 0 and cell.max() == 7
    e = np.arange(20)[:, None, None]
    assert not walls[e, cell[..., 0], cell[..., 1]].any()
    places = cell[..., 0] * 8 + cell[..., 1]
    assert all(len(set(row)) == 4 for row in places.reshape(-1, 4))
    assert (walls.sum((1, 2)) == 4).all()


def test_blocked_by_border_wall_and_agent():
    walls = np.zeros((1, 8, 8), bool)
    walls[0, 3, 4] = True
    cell = np.array([[[3, 3], [0, 0], [5, 5], [5, 6]]])
    choice = np.array([[4, 1, 4, 0]])  # right, up, right, stay
    assert np.array_equal(move(cell, choice, walls), cell)
    assert move(cell, np.array([[1, 2, 4, 4]]), walls).tolist() == [[[2, 3], [1, 0], [5, 5], [5, 7]]]
    followed = np.array([[[5, 6], [5, 5]]])  # the one in front goes first, and makes room
    assert move(followed, np.array([[4, 4]]), walls).tolist() == [[[5, 7], [5, 6]]]


def test_frames_show_cells_and_nothing_else():
    cell, walls = np.array([[[[1, 2], [7, 7]]]]), np.zeros((1, 8, 8), bool)
    frame = draw(cell, walls, 32)[0, 0]
    assert frame.shape == (3, 32, 32) and (frame[:, 4:8, 8:12] == COLORS[0][:, None, None]).all()
    assert (frame[:, 28:, 28:] == COLORS[1][:, None, None]).all()
    assert len(np.unique(frame.reshape(3, -1).T, axis=0)) == 3


def test_episodes_are_the_same_however_many_and_on_every_machine():
    few = generate_multigrid("val", num_episodes=2, num_frames=5, num_agents=4)
    many = generate_multigrid("val", num_episodes=3, num_frames=9, num_agents=4)
    assert np.array_equal(few.video, many.video[:2, :5]) and np.array_equal(few.choice, many.choice[:2, :5])
    two = generate_multigrid("val", num_episodes=2, num_frames=5, num_agents=2)
    assert np.array_equal(two.walls, few.walls) and np.array_equal(two.cell[:, 0], few.cell[:, 0, :2])
    assert hashlib.sha256(few.cell.tobytes()).hexdigest()[:16] == "69271df10ac33f29"


def test_a_clip():
    clips = wk.data.open_dataset("multigrid-32", split="test", num_frames=6, num_episodes=2, num_agents=4)
    clip = clips[0]
    assert clip["video"].shape == (6, 3, 32, 32) and clip["action"].shape == (6, 20)
    assert torch.equal(clip["action"].reshape(6, 4, 5).argmax(-1), clip["state"]["choice"])
    assert clip["state"]["position"].shape == (6, 4, 2) and clip["state"]["position"].abs().max() <= 0.875


def test_a_smaller_board():
    made = generate_multigrid("val", num_episodes=3, num_frames=9, image_size=20, num_agents=4, cells=5)
    assert made.walls.shape == (3, 5, 5) and (made.walls.sum((1, 2)) == 1).all() and made.cell.max() == 4
    clip = wk.data.open_dataset("multigrid-20", split="val", num_frames=9, episode_length=9, num_episodes=3,
                                num_agents=4, cells=5)[1]
    cell = ((clip["state"]["position"] + 1) * 5 / 2 - 0.5).round().long()
    assert np.array_equal(cell, made.cell[1]) and np.array_equal(clip["video"], made.video[1])


@pytest.mark.parametrize("options, message", [
    ({"image_size": 30}, "multiples of 8, as 32 or 64, not 30"), ({"num_agents": 9}, "from 1 to 8, got 9"),
    ({"cells": 3}, "at least 4 along a side, got 3"), ({"cells": 5}, "multiples of 5, as 20 or 40, not 32"),
    ({"num_agents": 0}, "from 1 to 8, got 0"), ({"num_frames": 0}, "num_frames must be at least 1"),
])
def test_what_cannot_be_made(options, message):
    with pytest.raises(wk.DataError, match=message):
        generate_multigrid("val", **{"num_episodes": 1, **options})
