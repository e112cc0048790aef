"""Goals by hindsight: frames of a window's own future."""

import numpy as np
import pytest

from worldkit.data import ArraySource, ClipDataset, open_dataset
from worldkit.data.goals import GoalSource
from worldkit.errors import DataError


def numbered(lengths=(12, 30)):
    """Episodes whose pixels are the numbers of their frames."""
    return ArraySource([{"video": np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1).repeat(3, 1),
                         "action": np.zeros((n, 2), np.float32)} for n in lengths])


def goals_of(source, frames=3):
    clips = ClipDataset(source, num_frames=frames)
    found = [(clips.window(i), clips[i]) for i in range(len(clips))]
    return [(episode, start, int(item["goal_image"][0, 0, 0])) for (episode, start), item in found]


def test_goals_lie_behind_the_window():
    lengths, reach = (12, 30), 4
    seen = set()
    for episode, start, goal in goals_of(GoalSource(numbered(lengths), reach)):
        last, end = lengths[episode] - 1, start + 2
        assert goal == last if end == last else end < goal <= min(last, end + reach)
        seen.add(goal - end)
    assert seen == {0, 1, 2, 3, 4}


def test_goals_stay_and_differ_with_the_seed():
    one, again, other = (goals_of(GoalSource(numbered(), 9, seed=s)) for s in (0, 0, 1))
    assert one == again != other


def test_all_else_stays(tmp_path):
    plain, told = numbered(), GoalSource(numbered(), 5)
    assert told.num_episodes == plain.num_episodes and told.length(1) == plain.length(1)
    assert told.episode_name(1) == plain.episode_name(1) and told.last_start(0, 3) == plain.last_start(0, 3)
    item = told.read(0, 2, 5)
    assert set(item) == {"video", "action", "goal_image"} and item["goal_image"].shape == (3, 1, 1)
    assert told.read_entry(0, "goal_image").shape == (3, 1, 1) and len(told.read_entry(0, "action")) == 12
    assert told.summary == {**plain.summary, "goals": 5}


def test_open_dataset_gives_goals():
    options = dict(num_frames=4, num_episodes=1, episode_length=12)
    clips = open_dataset("balls-32", goals=3, **options)
    assert clips[0]["goal_image"].shape == (3, 32, 32) and "goal_image" not in open_dataset("balls-32", **options)[0]
    for wrong in (0, -1, 2.5, True, "far"):
        with pytest.raises(DataError, match="goals says how many frames ahead"):
            open_dataset("balls-32", goals=wrong, **options)


def test_a_model_trains_on_them(tmp_path):
    from worldkit.training.recipes import make_trainer

    trainer = make_trainer("lpwm-balls-mini", "balls-32", run=tmp_path / "run", show_progress=False, dry_run=True,
                           overrides={"conditioners": {"goal_image": {"name": "goal-image"}}},
                           data_options={"goals": 5, "num_episodes": 2, "episode_length": 12})
    assert next(iter(trainer.loader)).conditions["goal_image"].shape == (4, 3, 32, 32)
