"""The operator: raw frames and actions as training saw them, saved with the model, and the same pixels everywhere."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import worldkit as wk
from worldkit.agents import create_agent, load_agent, save_agent, train_agent
from worldkit.agents.training import AgentTraining
from worldkit.assembly import build
from worldkit.cli import main
from worldkit.cli.commands.control import _resize
from worldkit.collecting.folder import resize_of
from worldkit.data import open_dataset
from worldkit.envs import make_env
from worldkit.envs.dreams import _starts
from worldkit.operators import ActionRule, Operator, OperatorSpec
from worldkit.pictures import RESIZE, fit_pictures
from worldkit.testing.examples import small_config
from worldkit.training.recipes import make_trainer, open_clips

RAW = np.random.default_rng(0).integers(0, 256, (3, 48, 72, 3), dtype=np.uint8)


def small(**options):
    return build(small_config(latent_action=None, conditioners={"action": {"name": "action", "dim": 2}}, **options))


def test_a_frame_becomes_a_batch_that_the_model_takes():
    model = small()
    operator = wk.get_operator(model)
    batch = operator(RAW[0], action=[0.5, -0.5])
    assert batch.video.dtype == torch.uint8 and tuple(batch.video.shape) == (1, 1, 3, 32, 32)
    assert batch.conditions["action"].tolist() == [[[0.5, -0.5]]]
    out = model.rollout(batch.context(1), 1, conditions=operator(RAW[:2], action=np.zeros((2, 2))).conditions)
    assert out.video.shape[1] == 1
    assert tuple(operator(RAW).video.shape) == (1, 3, 3, 32, 32)
    assert torch.equal(operator(RAW).video[:, :1], operator(RAW[0]).video)


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("shape", [(48, 72), (20, 24), (32, 32), (64, 64)])
def test_training_and_robot_see_the_same_pixels(tmp_path, shape, resize):
    """Of arrays, images, environments and goals: one code path; shrunk by fractions, enlarged, as it is, by halves."""
    raw = np.random.default_rng(1).integers(0, 256, (4, *shape, 3), dtype=np.uint8)
    operator = Operator(OperatorSpec(height=32, width=32, resize=resize))
    seen = operator(raw).video[0].numpy()
    np.savez(tmp_path / "a.npz", video=raw)
    clips = open_dataset(str(tmp_path / "a.npz"), split="all", num_frames=4, height=32, width=32, resize=resize)
    assert np.array_equal(clips[0]["video"].numpy(), seen)
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "pictures").mkdir()
    for number, frame in enumerate(raw):
        image.fromarray(frame).save(tmp_path / "pictures" / f"{number}.png")
    clips = open_dataset(str(tmp_path / "pictures"), split="all", num_frames=4, height=32, width=32, resize=resize)
    assert np.array_equal(clips[0]["video"].numpy(), seen)
    if resize == "stretch":
        from worldkit.envs.resize import resize as of_environments

        assert np.array_equal(of_environments(raw[0], 32, 32).transpose(2, 0, 1), seen[0])


@pytest.mark.parametrize("shape", [(48, 72), (64, 64), (20, 24)])
def test_films_go_the_same_way(tmp_path, shape):
    """What a film shows, given to the operator as a camera would give it, is what training sees of the film."""
    pytest.importorskip("av")
    from worldkit.data import write_video
    from worldkit.data.decode import decode_video

    y, x = np.mgrid[: shape[0], : shape[1]]
    raw = np.stack([np.stack([100 + 80 * np.sin(x / 9 + t), 100 + 80 * np.cos(y / 7), 0 * x + 90], -1)
                    for t in range(12)]).astype(np.uint8)
    write_video(tmp_path / "a.mp4", raw)
    shown = np.stack(list(decode_video(tmp_path / "a.mp4", *shape)))
    clips = open_dataset(str(tmp_path / "a.mp4"), split="all", num_frames=12, height=32, width=32)
    operator = Operator(OperatorSpec(height=32, width=32))
    assert np.array_equal(operator(shown).video[0].numpy(), clips[0]["video"].numpy())


def test_actions_and_their_reverse():
    spec = OperatorSpec(height=0, width=0, vectors={"pose": 2}, actions={
        "action": {"dim": 2, "low": (-1, 0), "high": (1, 2), "mean": (0, 1), "std": (0.5, 0.5)}})
    operator = Operator(spec)
    batch = operator(vectors={"pose": [1.0, 2.0]}, action=torch.tensor([0.3, 1.5]))
    assert tuple(batch.video.shape) == (1, 1, 3, 0, 0) and batch.vectors["pose"].tolist() == [[[1.0, 2.0]]]
    assert np.allclose(operator.action(batch.conditions["action"]), [0.3, 1.5])
    assert operator.action([5.0, -5.0]).tolist() == [1.0, 0.0]  # no further than training saw
    choices = Operator(OperatorSpec(height=0, width=0, vectors={"pose": 2}, actions={"action": {"num_actions": 4}}))
    assert choices(vectors={"pose": [0, 0]}, action=3).conditions["action"].tolist() == [[3]]
    assert choices.action(torch.tensor([[2]])) == 2 and choices.action([0.1, 0.2, 0.6, 0.1]) == 2
    with pytest.raises(wk.ShapeError, match="from 0 to 3"):
        choices.action(4)
    with pytest.raises(wk.ShapeError, match="2 finite numbers"):
        operator.action([1.0, float("nan")])


def test_cameras_come_in_the_order_of_training():
    operator = Operator(OperatorSpec(height=16, width=16, views=2, cameras=("front", "wrist")))
    frames = {"wrist": np.full((16, 16, 3), 9, np.uint8), "front": np.zeros((16, 16, 3), np.uint8)}
    video = operator(frames).video
    assert tuple(video.shape) == (1, 2, 1, 3, 16, 16) and video[0, 0].max() == 0 and video[0, 1].min() == 9
    with pytest.raises(wk.ShapeError, match="has the cameras front, side, the model front, wrist"):
        operator({"front": frames["front"], "side": frames["wrist"]})
    with pytest.raises(wk.ShapeError, match="one picture per camera"):
        operator([frames["front"]])


def test_grey_frames_and_grey_models():
    grey = Operator(OperatorSpec(height=8, width=8, channels=1))
    assert grey(np.full((8, 8, 3), 200, np.uint8)).video.unique().tolist() == [200]
    assert tuple(Operator(OperatorSpec(height=8, width=8))(np.zeros((8, 8, 1), np.uint8)).video.shape[2:]) == (3, 8, 8)


@pytest.mark.parametrize("frame, told", [
    (np.zeros((3, 8, 8), np.uint8), "channels come last"), (np.zeros((8, 8, 3)), "got float64"),
    (np.zeros((8, 8, 4), np.uint8), "uint8 RGB"), (None, "sees pictures"),
])
def test_wrong_frames_are_refused(frame, told):
    with pytest.raises(wk.ShapeError, match=told):
        Operator(OperatorSpec(height=8, width=8))(frame)


def test_rates():
    operator = Operator(OperatorSpec(height=8, width=8, frame_rate=10))
    assert operator.every(30) == 3 and operator.every(10) == 1
    with pytest.raises(wk.ConfigError, match="no whole step"):
        operator.every(25)


@pytest.mark.parametrize("wrong, told", [
    ({"resize": "zoom"}, "resize"), ({"views": 2, "cameras": ("a",)}, "1 camera"), ({"format_version": 2}, "update"),
    ({"actions": {"action": {"dim": 2, "low": (0,), "high": (1,)}}}, "low has 1"), ({"colour": "bgr"}, "colour"),
    ({"actions": {"action": {}}}, "either dim"),
])
def test_the_specification_is_checked(wrong, told):
    with pytest.raises(wk.ConfigError, match=told):
        OperatorSpec.parse({"height": 8, "width": 8, **wrong})


def test_it_is_saved_with_the_model_and_belongs_to_it(tmp_path):
    model = small()
    assert not wk.get_operator(model).spec.recorded and "not recorded" in repr(wk.get_operator(model))
    model.operator = OperatorSpec.of_config(model.config, resize="crop", frame_rate=5.0, recorded=True, statistics={
        "action": {"min": [-1, -1], "max": [1, 1], "mean": [0, 0], "std": [0.5, 0.5], "count": 3}})
    model.save_pretrained(tmp_path / "m")
    again = wk.WorldModel.from_pretrained(tmp_path / "m")
    assert again.operator == model.operator and wk.get_operator(again).spec.actions["action"] == ActionRule(
        dim=2, low=(-1, -1), high=(1, 1), mean=(0, 0), std=(0.5, 0.5))
    told = json.loads((tmp_path / "m/config.json").read_text())
    told["operator"]["height"] = 64
    (tmp_path / "m/config.json").write_text(json.dumps(told))
    with pytest.raises(wk.CheckpointError, match="operator's height is 64, the model's 32"):
        wk.WorldModel.from_pretrained(tmp_path / "m")
    told["operator"] = {"resize": 3}
    (tmp_path / "m/config.json").write_text(json.dumps(told))
    with pytest.raises(wk.CheckpointError, match="operator"):
        wk.WorldModel.from_pretrained(tmp_path / "m")


def test_training_records_it(tmp_path):
    """A run's model knows how its frames were made, and what its actions were."""
    rng = np.random.default_rng(0)
    for name in ("train", "val"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            np.savez(tmp_path / "data" / name / f"{number}.npz", video=rng.integers(0, 256, (8, 40, 60, 3), np.uint8),
                     action=rng.uniform(-1, 1, (8, 2)).astype(np.float32))
    trainer = make_trainer("rssm-push-mini", str(tmp_path / "data"), run=tmp_path / "run", dry_run=True,
                                   data_options={"resize": "crop"}, show_progress=False)
    spec = trainer.model.operator
    assert spec.recorded and spec.resize == "crop" and spec.actions["action"].dim == 2
    assert -1 <= spec.actions["action"].low[0] < spec.actions["action"].high[0] <= 1
    told = Operator(spec)(np.zeros((40, 60, 3), np.uint8), action=[0, 0])
    assert tuple(told.video.shape[-2:]) == (32, 32)


def test_what_is_no_world_model_has_none():
    with pytest.raises(wk.ConfigError, match="takes a world model"):
        wk.get_operator("lpwm-mini")


RECORDED = np.random.default_rng(2).integers(0, 256, (16, 40, 60, 3), np.uint8)


def recorded(folder):
    """Recordings of another shape than the model's."""
    for name in ("train", "val", "test"):
        (folder / name).mkdir(parents=True)
        np.savez(folder / name / "0.npz", video=RECORDED, action=np.zeros((16, 2), np.float32))
    return str(folder)


def test_predictions_begin_with_frames_as_training_saw_them(tmp_path):
    """Of eval, play, whatif, rollout, plan and probe, which open their clips here, and of dreams of `as_env`."""
    data, model = recorded(tmp_path / "data"), build(small_config(latent_action=None))
    model.operator = OperatorSpec.of_config(model.config, resize="crop", frame_skip=2, recorded=True)
    seen = wk.get_operator(model)(RECORDED[::2]).video[0]
    clips = open_clips(model, data, split="test", num_frames=4)
    assert torch.equal(clips[0]["video"], seen[:4])
    asked = open_clips(model, data, split="test", num_frames=4, resize="pad", frame_skip=1)
    assert asked.source.fitting.resize == "pad" and asked.frame_skip == 1
    assert open_clips(small(), data, split="test", num_frames=4).source.fitting.resize == "pad"  # nothing is known
    model.save_pretrained(tmp_path / "model")
    main(["eval", str(tmp_path / "model"), "--data", data, "--metrics", "psnr", "--pictures", "0", "--context", "2",
          "--horizon", "2", "--out", str(tmp_path / "out")])
    (written,) = (tmp_path / "out").glob("*.md")
    assert "frame skip 2" in written.read_text() and "cropped" in written.read_text()


def test_dreams_begin_with_frames_as_training_saw_them(tmp_path):
    data, model = recorded(tmp_path), small()
    model.operator = OperatorSpec.of_config(model.config, resize="crop", recorded=True)
    began = _starts(model, data, 2)[[0]].video
    assert torch.equal(began, wk.get_operator(model)(RECORDED[:2]).video)


class Screen(gymnasium.Env):
    """Renders pictures of 40 x 60."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Box(-1, 1, (2,), np.float32)
    render_mode, metadata = "rgb_array", {"render_modes": ["rgb_array"]}

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def render(self):
        return RECORDED[0]


class Drawn(Screen):
    """Draws at any size, as a world does that knows what is in it."""

    draw_size = (40, 60)

    def draw(self, height, width):
        return fit_pictures(RECORDED[0], (height, width), "stretch")


@pytest.mark.parametrize("env", [Screen, Drawn])
@pytest.mark.parametrize("resize", RESIZE)
def test_agents_act_on_frames_as_the_operator_makes_them(env, resize):
    seen = make_env(env(), size=32, resize=resize).reset(seed=0)[0]["pixels"]
    operator = Operator(OperatorSpec(height=32, width=32, resize=resize))
    assert np.array_equal(operator(RECORDED[0]).video[0, 0].permute(1, 2, 0).numpy(), seen)


def test_agents_without_a_world_model_remember_the_rule_of_their_recordings(tmp_path):
    data = recorded(tmp_path / "data")
    agent = create_agent("cloning", env=make_env(Screen(), size=32), hidden_dim=8)
    config = AgentTraining(steps=1, batch_size=2, goals=3)
    trained = train_agent(agent, data, config=config, data_options={"resize": "crop"})
    save_agent(agent, tmp_path / "agent", facts={"resize": trained.resize})
    assert trained.resize == "crop" == _resize({"random": "random", "it": load_agent(tmp_path / "agent")})


def test_control_resizes_as_the_first_model_knows_it():
    model = small()
    agent = create_agent("planner", env=make_env(Screen(), size=32), model=model)
    assert _resize({"random": "random", "planner": agent}) is None
    model.operator = OperatorSpec.of_config(model.config, resize="crop", recorded=True)
    assert _resize({"random": "random", "planner": agent}) == "crop"


def test_what_an_environment_did_is_the_rule_of_its_recordings(tmp_path):
    """They have the model's shape, but the environment's own picture may be of another one."""
    from worldkit.collecting import collect

    with make_env("games/catch", size=32) as env:
        collect(env, tmp_path / "data", policy="random", episodes=4)
    data = str(tmp_path / "data")
    trainer = make_trainer("lpwm-balls-mini", data, run=tmp_path / "run", dry_run=True, show_progress=False)
    assert trainer.model.operator.resize == "stretch" == resize_of(data)
    assert resize_of(str(tmp_path)) is None
