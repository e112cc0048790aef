"""Windows of collected episodes: uniform, right at borders, exactly resumable."""

import time

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.collecting import EpisodeFolder, make_policy, play_episode
from worldkit.envs import make_env
from worldkit.errors import DataError
from worldkit.online import Replay


def episode(number, rows, *, terminated=True, side=8):
    """Frame t of episode n is filled with 10 n + t; action t is n, reward t is n + t / 100."""
    frames = np.arange(rows, dtype=np.uint8) + 10 * number
    video = np.broadcast_to(frames[:, None, None, None], (rows, 3, side, side)).copy()
    reward = (number + np.arange(rows) / 100).astype(np.float32)
    reward[-1] = 0
    ends = np.zeros(rows, bool)
    ends[-2:] = True
    state = {"reward": reward, "terminated": ends & terminated, "truncated": ends & (not terminated)}
    return {"video": video, "action": np.full(rows, number, np.int64), "state": state}


def part(entries, first, last):
    """Rows first .. last - 1 of an episode that goes on, as a recording gives them."""
    cut = {"video": entries["video"][first:last], "action": entries["action"][first:last].copy(),
           "state": {name: x[first:last].copy() for name, x in entries["state"].items()}}
    cut["action"][-1] = 0
    cut["state"]["reward"][-1] = 0
    cut["state"]["truncated"][-2:] = True
    return cut


def test_windows_are_drawn_evenly_and_never_cross_unless_asked():
    replay = Replay(4, cross=False)
    for number, rows in enumerate((6, 3, 5)):
        replay.add(0, number, episode(number, rows), over=True)
    assert replay.windows == 3 + 0 + 2
    batch = replay.draw(3000, np.random.default_rng(0))
    starts, counts = np.unique(batch.video[:, 0, 0, 0, 0].numpy(), return_counts=True)
    assert starts.tolist() == [0, 1, 2, 20, 21] and counts.min() > 500
    assert not batch.first[:, 1:].any()
    assert torch.equal(batch.first[:, 0], (batch.video[:, 0, 0, 0, 0] % 10) == 0)


@pytest.mark.parametrize("by", ["episodes", "ends"])
def test_episodes_may_be_drawn_first_and_their_ends_more_often(by):
    replay = Replay(4, cross=False, by=by)
    for number, (rows, over) in enumerate(((6, True), (3, True), (4, True), (7, False))):
        replay.add(number % 2, number, episode(number, rows), over=over)
    batch = replay.draw(6000, np.random.default_rng(0))
    starts, counts = np.unique(batch.video[:, 0, 0, 0, 0].numpy(), return_counts=True)
    assert starts.tolist() == [0, 1, 2, 20, 30, 31, 32, 33]  # three episodes are long enough, and a third of all each
    ends = [1 / 7, 1 / 7, 5 / 7] if by == "ends" else [1 / 3] * 3
    assert counts / 2000 == pytest.approx([*ends, 1, *[1 / 4] * 4], abs=0.06)


def test_a_window_over_a_border_says_so_and_leaks_nothing():
    replay = Replay(4)
    for number, rows in enumerate((3, 4)):
        replay.add(0, number, episode(number, rows), over=True)
    batch = replay.draw(500, np.random.default_rng(0))
    crossing = batch.video[:, 0, 0, 0, 0] == 1
    window = [name for name in range(500) if crossing[name]][0]
    assert batch.video[window, :, 0, 0, 0].tolist() == [1, 2, 10, 11]
    assert batch.first[window].tolist() == [False, False, True, False]
    assert batch.conditions["action"][window].tolist() == [0, 0, 1, 1]
    assert batch.targets["reward"][window].tolist() == pytest.approx([0.01, 0, 1.0, 1.01])  # 0 at the border
    assert batch.targets["terminated"][window].tolist() == [True, False, False, False]


def test_streams_of_two_environments_are_not_mixed():
    replay = Replay(4)
    for number in range(4):
        replay.add(number % 2, number, episode(number, 3), over=True)
    seen = replay.draw(500, np.random.default_rng(0)).video[:, :, 0, 0, 0] // 10
    assert {tuple(sorted(set(row.tolist()))) for row in seen} == {(0, 2), (1, 3)}


def test_an_episode_that_goes_on_is_there_already_and_becomes_what_it_is():
    whole, replay, at_once = episode(1, 9), Replay(3, cross=False), Replay(3, cross=False)
    for last in range(2, 10):
        replay.add(0, 1, part(whole, max(0, last - 2), last) if last < 9 else part(whole, 0, 9) | {
            "state": {k: v[7:] for k, v in whole["state"].items()}, "action": whole["action"][7:],
            "video": whole["video"][7:]}, over=last == 9)
        assert replay.rows == last
        if 3 <= last < 9:
            batch = replay.draw(20, np.random.default_rng(0))
            assert not batch.targets["terminated"].any() and not batch.targets["truncated"].any()
    at_once.add(0, 1, whole, over=True)
    for replayed in (replay, at_once):
        batch = replayed.draw(50, np.random.default_rng(3))
        assert batch.targets["terminated"].any()
    one, two = (r.draw(50, np.random.default_rng(3)) for r in (replay, at_once))
    assert torch.equal(one.video, two.video) and torch.equal(one.targets["reward"], two.targets["reward"])
    assert torch.equal(one.conditions["action"], two.conditions["action"])


def test_the_oldest_episodes_are_forgotten():
    replay = Replay(2, capacity=12)
    for number in range(5):
        replay.add(0, number, episode(number, 5), over=True)
    assert replay.rows == 10
    assert set((replay.draw(200, np.random.default_rng(0)).video[:, 0, 0, 0, 0] // 10).tolist()) == {3, 4}


def test_fresh_windows_come_first_and_once():
    replay = Replay(4, queue=True)
    replay.add(0, 0, episode(0, 9), over=True)
    replay.add(0, 1, episode(1, 4), over=True)
    batch = replay.draw(5, np.random.default_rng(0))
    assert batch.video[:3, :, 0, 0, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 10, 11, 12]]
    state = replay.state_dict()
    assert state["fresh"] == [] and replay.streams[0].fresh == 12
    replay.add(0, 2, episode(2, 4), over=True)
    assert replay.draw(1, np.random.default_rng(0)).video[0, :, 0, 0, 0].tolist() == [13, 20, 21, 22]


def test_too_short_episodes_say_what_to_do():
    replay = Replay(12, cross=False)
    with pytest.raises(DataError, match="longest has 0 frames"):
        replay.draw(1, np.random.default_rng(0))
    replay.add(0, 0, episode(0, 9), over=True)
    with pytest.raises(DataError, match=r"longest has 9 frames, a clip 12.*online.length=8.*online.cross=true"):
        replay.draw(1, np.random.default_rng(0))
    crossing = Replay(12)
    crossing.add(0, 0, episode(0, 9), over=True)
    with pytest.raises(DataError, match=r"9 frames of one environment, fewer than a clip of 12.*online.prefill"):
        crossing.draw(1, np.random.default_rng(0))


def test_the_same_windows_again_from_the_files(tmp_path):
    env = make_env("games/catch", size=16)
    folder, replay = EpisodeFolder(tmp_path / "data", about={}), Replay(40, queue=True)
    for number in range(3):
        entries = play_episode(env, make_policy("random", env), seed=number, max_steps=70)
        folder.add(entries, number)
        replay.add(number % 2, number, entries, over=True)
    replay.draw(2, np.random.default_rng(1))
    again = Replay(40, queue=True)
    again.load_state_dict(replay.state_dict(), tmp_path / "data")
    for _ in range(2):
        one, two = (r.draw(4, np.random.default_rng(2)) for r in (replay, again))
        assert torch.equal(one.video, two.video) and torch.equal(one.first, two.first)
        assert all(torch.equal(one.targets[name], two.targets[name]) for name in one.targets)
    clips = wk.data.open_dataset(str(tmp_path / "data"), split="all", num_frames=20)  # an ordinary data set
    assert clips[0]["action"].dtype == torch.int64 and "reward" in clips[0]["targets"]
    (tmp_path / "data" / "episode_000001.npz").unlink()
    with pytest.raises(DataError, match="lacks episode 1"):
        Replay(40).load_state_dict(replay.state_dict(), tmp_path / "data")


def test_drawing_takes_milliseconds():
    replay, random = Replay(65), np.random.default_rng(0)
    for number in range(20):
        replay.add(0, number, episode(number % 10, 101, side=64), over=True)
    replay.draw(16, random)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        replay.draw(16, random)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.05


def test_states_of_drawn_windows_are_noted_and_begin_later_ones():
    replay = Replay(4)
    for number, rows in enumerate((3, 5)):
        replay.add(0, number, episode(number, rows), over=True)
    replay.note_state(0, 2, torch.full((1, 2), 7.0))  # of the newest episode
    batch = replay.draw(1, np.random.default_rng(1))
    assert batch.video[0, :, 0, 0, 0].tolist() == [2, 10, 11, 12] and not replay.states((1, 2)).any()
    replay.note_states(torch.arange(3.0)[None, :, None, None].expand(1, 3, 1, 2) + 1)
    one, two = replay.streams[0].tracks
    assert one.states is None and two.states[:3, 0, 0].tolist() == [1, 2, 3]
    state = replay.state_dict()["states"]
    again = Replay(4)
    for number, rows in enumerate((3, 5)):
        again.add(0, number, episode(number, rows), over=True)
    again.load_states(state)
    assert again.streams[0].tracks[1].states[:3, 0, 1].tolist() == [1, 2, 3]
