"""A world model as an environment: Gymnasium's contract, and that its steps are the model's rollout."""

import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv

from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.data import ArraySource, ClipDataset
from worldkit.errors import ConfigError, NoDecoderError, ShapeError, WorldkitError
from worldkit.testing.examples import small_config
from worldkit.testing.report import shake

pytestmark = pytest.mark.filterwarnings("ignore:this model has no head")
RANDOM = np.random.default_rng(0)
EPISODES = [{"video": RANDOM.integers(0, 255, (6, 3, 32, 32), np.uint8), "action": RANDOM.random((6, 3), np.float32)}
            for _ in range(3)]
DATA = ClipDataset(ArraySource(EPISODES), num_frames=2)
CONTINUOUS, DISCRETE = {"name": "action", "dim": 3}, {"name": "action", "num_actions": 4}


def made(action=CONTINUOUS, **parts):
    torch.manual_seed(0)
    conditioners = {"action": action} if action else {}
    return shake(build(small_config(**{"conditioners": conditioners, "latent_action": None, **parts})))


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def latent():
    return made(None, latent_action="gaussian")


def numbered():
    return Batch(torch.from_numpy(np.stack([e["video"][:2] for e in EPISODES])),
                 {"action": torch.randint(4, (3, 2))})


@pytest.mark.parametrize("options", [{}, {"observation": "latent"}, {"actions": "none"}])
@pytest.mark.filterwarnings("ignore:.*A Box.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*The environment.*spec.*:UserWarning")
def test_it_is_a_gymnasium_environment(latent, options):
    data = torch.from_numpy(EPISODES[0]["video"])[None]
    check_env(latent.as_env(data, horizon=5, **options), skip_render_check=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_actions_of_numbers_and_of_choices(model):
    env = model.as_env(DATA, horizon=5)
    assert env.action_space == spaces.Box(-1, 1, (3,), np.float32)
    check_env(env, skip_render_check=True)
    discrete = made(DISCRETE).as_env(numbered(), horizon=5)
    assert discrete.action_space == spaces.Discrete(4)
    check_env(discrete, skip_render_check=True)


def test_stepping_is_the_rollout(model):
    env = model.as_env(DATA, context_frames=2, horizon=8, observation="latent", deterministic=True)
    pictures = model.as_env(DATA, context_frames=2, horizon=8, deterministic=True)
    first, info = env.reset(seed=3)
    assert pictures.reset(seed=3)[1] == info
    clip, random = DATA[info["index"]], np.random.default_rng(1)
    steps = random.uniform(-1, 1, (8, 3)).astype(np.float32)
    actions = torch.cat([clip["action"][:1], torch.from_numpy(steps), torch.zeros(1, 3)])[None]
    out = model.rollout(clip["video"][None], 8, conditions={"action": actions}, deterministic=True)
    np.testing.assert_allclose(first, out.context_latents.pack()[0, -1], atol=1e-6)
    wanted = (out.video[0].clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    for k, action in enumerate(steps):
        seen, reward, terminated, truncated, _ = env.step(action)
        np.testing.assert_allclose(seen, out.latents.pack()[0, k], atol=1e-5)
        assert np.abs(pictures.step(action)[0] - wanted[k].numpy()).max() <= 1
        assert (reward, terminated, truncated) == (0.0, False, k == 7)
    assert np.array_equal(pictures.render(), pictures.step(action)[0]) is False  # it goes on, if one steps on


def test_latent_actions_are_those_of_the_rollout(latent):
    data = torch.from_numpy(np.stack([e["video"] for e in EPISODES]))
    env = latent.as_env(data, context_frames=2, observation="latent")
    shape = env.action_space.shape
    _, info = env.reset(seed=0)
    actions = torch.randn(1, 5, *shape, generator=torch.Generator().manual_seed(0))
    actions[:, :1] = latent.infer_latent_actions(data[info["index"]][None, :2])
    out = latent.rollout(data[info["index"]][None, :2], 4, latent_actions=actions)
    for k in range(4):
        np.testing.assert_allclose(env.step(actions[0, 1 + k].numpy())[0], out.latents.pack()[0, k], atol=1e-5)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_batch_dreams_what_single_ones_do(latent, mode):
    """Also after episodes end at different times, which splits the batch; and whoever else is in it."""
    data = torch.from_numpy(np.stack([e["video"] for e in EPISODES]))
    options = {"context_frames": 2, "horizon": 4, "actions": "none", "observation": "latent"}
    batch = latent.as_env(data, num_envs=3, autoreset_mode=mode, **options)
    assert isinstance(batch, VectorEnv) and batch.metadata["autoreset_mode"] is mode
    singles = [latent.as_env(data, **options) for _ in range(3)]
    seen, info = batch.reset(seed=5)
    alone = [env.reset(seed=5 + i) for i, env in enumerate(singles)]
    np.testing.assert_allclose(seen, np.stack([o for o, _ in alone]), atol=1e-5)
    assert info["index"].tolist() == [i["index"] for _, i in alone]
    batch.step(np.zeros(3, int))
    first = [env.step(0) for env in singles]
    mask = np.array([False, True, False])
    seen, info = batch.reset(options={"reset_mask": mask})
    again, _ = singles[1].reset()
    np.testing.assert_allclose(seen, np.stack([first[0][0], again, first[2][0]]), atol=1e-5)
    assert info["_index"].tolist() == mask.tolist() and mask.tolist() == [False, True, False]
    assert len(batch.imagination.cohorts) == 2
    for _ in range(3):
        seen, reward, terminated, truncated, info = batch.step(np.zeros(3, int))
        alone = [env.step(0) for env in singles]
    lasts = np.stack([x[0] for x in alone])
    assert truncated.tolist() == [x[3] for x in alone] == [True, False, True]
    assert reward.dtype == np.float64 and not terminated.any() and terminated.dtype == bool
    if mode is AutoresetMode.SAME_STEP:
        np.testing.assert_allclose(info["final_obs"][0], lasts[0], atol=1e-5)
        assert info["final_obs"][1] is None and info["_final_obs"].tolist() == [True, False, True]
        lasts[[0, 2]] = [singles[0].reset()[0], singles[2].reset()[0]]
    np.testing.assert_allclose(seen, lasts, atol=1e-5)
    if mode is AutoresetMode.DISABLED:
        with pytest.raises(ResetNeeded, match=r"episodes \[0, 2\] are over"):
            batch.step(np.zeros(3, int))
        return
    seen, *_, truncated, info = batch.step(np.zeros(3, int))
    second = singles[1].step(0)
    fresh = [env.reset()[0] if mode is AutoresetMode.NEXT_STEP else env.step(0)[0] for env in (singles[0], singles[2])]
    last = info["final_obs"][1] if mode is AutoresetMode.SAME_STEP else seen[1]
    np.testing.assert_allclose(np.stack([seen[0], last, seen[2]]), np.stack([fresh[0], second[0], fresh[1]]), atol=1e-5)
    assert truncated.tolist() == [False, True, False] and second[3]


def test_cohorts_that_nobody_is_in_are_forgotten(model):
    batch = model.as_env(DATA, num_envs=4, horizon=3)
    batch.reset(seed=0)
    for _ in range(10):
        batch.step(batch.action_space.sample())
    assert len(batch.imagination.cohorts) == 1
    assert len(batch.render()) == 4 and batch.render()[3].shape == (32, 32, 3)


def test_observations_are_not_written_over(model):
    batch = model.as_env(DATA, num_envs=2, horizon=9)
    first, _ = batch.reset(seed=0)
    before = first.copy()
    second = batch.step(batch.action_space.sample())[0]
    kept = second.copy()
    batch.step(batch.action_space.sample())
    assert np.array_equal(first, before) and np.array_equal(second, kept)


def test_the_space_of_the_real_environment(model):
    space = spaces.Box(-2, 2, (3,), np.float32)
    assert model.as_env(DATA, action_space=space).action_space is space
    with pytest.raises(ConfigError, match="trained on vectors of 3 numbers"):
        model.as_env(DATA, action_space=spaces.Discrete(3))
    with pytest.raises(ConfigError, match="trained on vectors of 3 numbers"):
        model.as_env(DATA, action_space=spaces.Box(-1, 1, (2,)))
    with pytest.raises(ConfigError, match="trained on 4 discrete actions"):
        made(DISCRETE).as_env(numbered(), action_space=spaces.Discrete(6))


@pytest.mark.parametrize("wrong", [5, "left", [0.0, 0.0], [float("nan"), 0, 0], [float("inf"), 0, 0]])
def test_actions_that_are_none_are_refused(model, wrong):
    env = model.as_env(DATA)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="action"):
        env.step(wrong)
    with pytest.raises(ConfigError, match="action"):
        choices = made(DISCRETE).as_env(numbered())
        choices.reset(seed=0)
        choices.step(4)


def test_what_cannot_be_is_refused(model, latent):
    with pytest.raises(ConfigError, match="can be steered by 'none', 'action'"):
        model.as_env(DATA, actions="latent")
    with pytest.raises(ConfigError, match="leave it out"):
        latent.as_env(DATA, action_space=spaces.Discrete(2))
    without = made()
    without.decoder = None
    with pytest.raises(NoDecoderError, match="observation='latent'"):
        without.as_env(DATA)
    assert without.as_env(DATA, observation="latent").reset(seed=0)[0].ndim == 2
    with pytest.raises(WorldkitError, match="has no dynamics"):
        made(None, dynamics=None, objective="reconstruction").as_env(DATA)
    with pytest.raises(ConfigError, match="context_frames=1"):
        model.as_env(torch.rand(2, 4, 3, 32, 32), context_frames=2)
    with pytest.raises(ConfigError, match="begin with 9 frames, but the data give 2"):
        model.as_env(DATA, context_frames=9)
    with pytest.raises(ShapeError, match="got int"):
        model.as_env(7)
    for wrong in ({"horizon": 0}, {"num_envs": 0}, {"observation": "state"}, {"context_frames": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            model.as_env(DATA, **wrong)
    with pytest.raises(ResetNeeded):
        model.as_env(DATA).step(np.zeros(3))
    with pytest.raises(ConfigError, match="there are 15 beginnings"):
        model.as_env(DATA).reset(options={"index": 99})


def test_rewards_and_ends_are_those_of_the_heads():
    """Each environment's own, also where some of a batch have begun anew."""
    known = made(heads={"reward": {"name": "gaussian"}, "terminated": {"name": "bernoulli"}})
    clip, still = DATA[0], torch.zeros(3, 3)
    with torch.no_grad():
        out = known.rollout(clip["video"][None], 2, deterministic=True,
                            conditions={"action": torch.cat([clip["action"][:1], still])[None]})
    rewards = out.predictions["reward"][0].tolist()
    ends = (out.predictions["terminated"][0] > 0.5).tolist()
    options = {"context_frames": 2, "deterministic": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env, batch = known.as_env(DATA, **options), known.as_env(DATA, num_envs=2, **options)
    env.reset(seed=0, options={"index": 0}), batch.reset(seed=0, options={"index": 0})
    nothing = np.zeros((2, 3), np.float32)
    for reward, end in zip(rewards, ends, strict=True):
        assert env.step(nothing[0])[1:3] == (pytest.approx(reward, abs=1e-4), end)
    one = batch.step(nothing)
    assert one[1].tolist() == pytest.approx([rewards[0]] * 2, abs=1e-4) and one[2].tolist() == [ends[0]] * 2
    batch.reset(options={"index": 0, "reset_mask": np.array([True, False])})
    two = batch.step(nothing)
    assert two[1].tolist() == pytest.approx(rewards, abs=1e-4)


def test_what_a_model_does_not_know_is_said(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="no head 'reward' and no head 'terminated': rewards are 0"):
            model.as_env(DATA)
