"""What lies in the data and what a model takes: notes, widths that come from the data, columns that feed conditions."""

import numpy as np
import pytest

from worldkit import create_config
from worldkit.config import parse_assignments
from worldkit.data import ArraySource, ClipDataset, collate, open_dataset, write_dataset
from worldkit.errors import ConditionError, ConfigError, DataError
from worldkit.training import TrainConfig, Trainer
from worldkit.training.plan import plan
from worldkit.training.recipes import make_trainer, open_clips


def episodes(count=3, frames=9, discrete=False, **more):
    rng = np.random.default_rng(0)

    def episode():
        action = rng.integers(0, 6, frames) if discrete else rng.normal(size=(frames, 3)).astype(np.float32)
        state = {"state": rng.normal(size=(frames, 4)), "pose": rng.normal(size=(frames, 2)).astype(np.float32)}
        return {"video": rng.integers(0, 255, (frames, 3, 32, 32), np.uint8), "action": action, "state": state, **more}

    return ArraySource([episode() for _ in range(count)])


@pytest.fixture
def data(tmp_path):
    return str(write_dataset({split: episodes() for split in ("train", "val")}, tmp_path / "data", "npz"))


@pytest.fixture
def trainer(tiny_overrides):
    def make(data, run, conditioners=None):
        given = {"conditioners": conditioners} if conditioners else {}
        return make_trainer("lpwm-balls-mini", data, run=run, overrides=tiny_overrides | given, show_progress=False,
                            train_overrides={"batch_size": 2, "steps": 1, "num_workers": 0})

    return make


def test_actions_that_nobody_takes_are_told_with_the_option(trainer, data, tmp_path):
    made = trainer(data, tmp_path / "run")
    told = [note for note in made.notes if note.startswith("NOT TRAINED ON")]
    assert len(told) == 1 and "'action' (float32 [1, 3])" in told[0] and "-o conditioners.action=action" in told[0]
    lines = plan(made)
    assert told[0] in lines.values() and not [name for name in lines if "condition" in name]
    assert not next(iter(made.loader)).conditions
    assert told[0] in made.describe()["notes"]


def test_the_width_of_actions_comes_from_the_data(trainer, data, tmp_path):
    made = trainer(data, tmp_path / "run", {"action": "action"})
    assert made.model.config.conditioners["action"].dim == 3 and not any("NOT TRAINED" in note for note in made.notes)
    record = made.describe()
    assert record["model"]["conditioners"]["action"]["dim"] == 3
    assert len(record["facts"]["statistics of action"]["mean"]) == 3


def test_so_does_the_number_of_choices(trainer, tmp_path):
    data = str(write_dataset({s: episodes(discrete=True) for s in ("train", "val")}, tmp_path / "data", "npz"))
    config = trainer(data, tmp_path / "run", {"action": "action"}).model.config.conditioners["action"]
    highest = max(int(open_dataset(data, num_frames=9)[i]["action"].max()) for i in range(3))
    assert config.num_actions == highest + 1 and config.dim is None


@pytest.mark.parametrize(("column", "width", "key"), [
    ("state", 4, "state"), ("pose", 2, "pose"), ("state.pose", 2, "pose"),
])
def test_a_column_feeds_a_condition(trainer, data, tmp_path, column, width, key):
    made = trainer(data, tmp_path / "run", {"proprio": {"name": "action", "from": column}})
    assert made.model.config.conditioners["proprio"].dim == width
    batch = next(iter(made.loader))
    assert set(batch.conditions) == {"proprio"} and batch.conditions["proprio"].dtype.is_floating_point
    clips = open_clips(made.model, data, split="train", num_frames=5)
    raw = open_dataset(data, num_frames=5)[0]
    assert np.allclose(clips[0]["proprio"], raw["state"][key]) and set(raw["state"]) == set(clips[0]["state"])
    assert any("'action'" in note for note in made.notes)
    if column == "pose":
        made.fit()


def test_options_of_the_command_line_feed_a_condition():
    given = parse_assignments(["conditioners.proprio=action", "conditioners.proprio.from=state"])
    config = create_config("lpwm-mini", **given)
    assert config.columns == {"proprio": "state"} and config.conditioners["proprio"].dim is None


def test_missing_columns_are_named(trainer, data, tmp_path):
    with pytest.raises(DataError, match=r"proprio.from=gripper: .*no 'gripper'; .*has: action, state, pose"):
        trainer(data, tmp_path / "run", {"proprio": {"name": "action", "from": "gripper"}})
    with pytest.raises(DataError, match=r"no entry or column 'gripper' for the condition 'proprio' .*it has: action, "
                                        r"state, pose. Feed it .*conditioners.proprio.from=COLUMN"):
        trainer(data, tmp_path / "run", {"proprio": {"name": "action", "dim": 2, "from": "gripper"}})
    with pytest.raises(ConfigError, match="give either dim"):
        trainer(data, tmp_path / "run", {"action": {"name": "action", "dim": 2, "num_actions": 3}})


def test_clips_with_chosen_conditions():
    masks = {"masks": {"action": np.ones(9, bool), "pose": np.zeros(9, bool)}}
    source = episodes(language="push", **masks)
    clips = ClipDataset(source, 4, conditions={"now": "action", "pose": "pose"})
    item = clips[1]
    assert {"now", "pose", "video", "state", "masks"} <= set(item) and not {"action", "language"} & set(item)
    assert item["masks"]["now"].all() and not item["masks"]["pose"].any() and set(item["masks"]) == {"now", "pose"}
    assert set(collate([item]).conditions) == {"now", "pose"}
    assert set(clips.feeding({})[0]) == {"video", "state", "episode", "start"}
    assert ClipDataset(source, 4, frame_skip=2, conditions={"pose": "pose"})[0]["pose"].shape == (4, 2)
    with pytest.raises(DataError, match="frame_skip above 1 would drop actions"):
        ClipDataset(source, 4, frame_skip=2, conditions={"now": "action"})[0]
    reward = np.array([0, 1, np.nan, 0, 0])
    nan = ArraySource([{"video": np.zeros((5, 3, 8, 8), np.uint8), "state": {"reward": reward}}])
    with pytest.raises(DataError, match="column 'reward', which feeds the condition 'r', is not finite"):
        ClipDataset(nan, 4, conditions={"r": "reward"})[0]


def test_chosen_conditions_stay(tiny_model, tmp_path):
    model = tiny_model(conditioners={"proprio": {"name": "action", "dim": 2}})
    clips = ClipDataset(episodes(), 4, conditions={"proprio": "pose"})
    made = Trainer(model, clips, clips, TrainConfig(batch_size=2, steps=1, num_workers=0), run=tmp_path / "run")
    assert set(next(iter(made.loader)).conditions) == {"proprio"} and "'action'" in made.notes[-1]
    with pytest.raises(DataError, match="no entry or column 'proprio'"):
        Trainer(model, ClipDataset(episodes(), 4), clips, TrainConfig(batch_size=2, steps=1), run=tmp_path / "run")


def test_loss_refuses_conditions_the_model_does_not_take(tiny_model):
    model = tiny_model()
    batch = collate([ClipDataset(episodes(), 4)[0]])
    with pytest.raises(ConditionError, match="takes no condition 'action'; it takes: none.*config.columns"):
        model.loss(batch)
    assert model.loss(collate([ClipDataset(episodes(), 4, conditions=model.config.columns)[0]])).total > 0
