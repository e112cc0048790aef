"""The game itself: steps, looking back, branches, edits, steering, recordings."""

import re

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.data import ArraySource, ClipDataset, collate
from worldkit.errors import ConfigError, NoDecoderError, WorldkitError
from worldkit.play import moments
from worldkit.play.session import Session
from worldkit.scene import things
from worldkit.testing.examples import example_batch, small_config
from worldkit.testing.report import shake

RANDOM = np.random.default_rng(0)
EPISODES = [{"video": RANDOM.integers(0, 255, (8, 3, 32, 32), np.uint8), "action": RANDOM.random((8, 3), np.float32)}
            for _ in range(3)]
CLIPS = ClipDataset(ArraySource(EPISODES), num_frames=6)
ACTION = {"action": {"name": "action", "dim": 3}}


def made(**parts):
    torch.manual_seed(0)
    return shake(build(small_config(**parts)))


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture
def session(model):
    return Session(model, CLIPS, context_frames=3)


@pytest.fixture(scope="module")
def balls():
    clips = wk.data.open_dataset("balls-32", split="test", num_frames=10, num_episodes=2, episode_length=12)
    return wk.create_model("lpwm-balls-mini", pretrained=True), clips


def picture(session, which=0):
    return session.frames()[which].picture


def test_vectors_are_seen_beside_pictures():
    watching = made(encoder="multi", dynamics="gru", latent_action=None)
    seen = example_batch(watching.config).vectors
    vectors = {name: RANDOM.random((8, *x.shape[2:])).astype(np.float32 if x.is_floating_point() else np.int64)
               for name, x in seen.items()}
    clips = ClipDataset(ArraySource([episode | {"state": vectors} for episode in EPISODES]), num_frames=6,
                        vectors=watching.config.vectors)
    session = Session(watching, clips, context_frames=3, clip=1)
    session.step()
    seen = collate([clips[1]]).context(3)
    expected = watching.rollout(seen, 1, deterministic=True).video[0, -1].clamp(0, 1)
    assert np.abs(picture(session) / 255 - expected.permute(1, 2, 0).numpy()).max() < 0.01


def test_it_is_the_rollout(model, session):
    session.follow("mean")
    clip = CLIPS[0]["video"][None]
    out = model.rollout(clip[:, :3], 4, deterministic=True)
    first = (out.context_video[0, -1].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(picture(session).astype(int) - first).max() <= 1
    assert np.array_equal(session.truth(), clip[0, 2].permute(1, 2, 0).numpy())
    for k in range(4):
        session.step()
        wanted = (out.video[0, k].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
        assert np.abs(picture(session).astype(int) - wanted).max() <= 1
    assert session.truth() is None and session.frames()[0].span == (0, 4)


def test_what_really_happened_is_followed_as_long_as_it_is_known(model, session):
    session.follow("inferred")
    clip = CLIPS[0]["video"][None]
    out = model.rollout(clip[:, :3], 3, latent_actions=model.infer_latent_actions(clip))
    for k in range(3):
        session.step()
        wanted = (out.video[0, k].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
        assert np.abs(picture(session).astype(int) - wanted).max() <= 1
    session.step()
    assert session.frames()[0].t == 4


def test_looking_back_leads_to_the_same_future_again(session):
    seen = []
    for _ in range(5):
        session.step()
        seen.append(picture(session))
    session.look(2)
    assert np.array_equal(picture(session), seen[1]) and session.frames()[0].span == (0, 5)
    session.step()
    assert np.array_equal(picture(session), seen[2]) and session.frames()[0].span == (0, 3)
    session.look(-7)
    assert session.frames()[0].t == 0


def test_a_branch_is_drawn_anew_and_the_first_future_stays(session):
    session.step()
    lone = Session(session.model, CLIPS, context_frames=3)
    lone.step()
    session.branch()
    for _ in range(3):
        session.step(), lone.step()
    first, second = session.frames()
    assert np.array_equal(first.picture, picture(lone))
    assert not np.array_equal(first.picture, second.picture)
    session.look(0)
    assert np.array_equal(picture(session, 0), picture(session, 1))
    session.look(4)
    assert session.film_frame().shape == (32, 65, 3)
    session.drop()
    assert len(session.futures) == 1 and np.array_equal(picture(session), first.picture)


def test_keeping_the_second_future(session):
    session.branch()
    session.step()
    second = picture(session, 1)
    session.drop(0)
    assert np.array_equal(picture(session), second)


def test_dragging_a_thing_asks_what_if(balls):
    model, clips = balls
    session = Session(model, clips, context_frames=5)
    session.follow("mean")
    session.step()
    thing = things(session.futures[0].now.scene())[0]
    y, x = thing.place
    by = (-0.5 if y > 0 else 0.5, -0.5 if x > 0 else 0.5)
    box = session.outline(0, thing.place)
    assert box[0] < y < box[2] and box[1] < x < box[3]
    assert session.move(0, thing.place, by)
    before, after = session.frames()
    row, column = (int((p + 1) * 16) for p in thing.place)
    to = tuple(int((p + d + 1) * 16) for p, d in zip(thing.place, by, strict=True))
    assert before.picture[row, column].max() > 100 and after.picture[row, column].max() < 60
    assert after.picture[to].max() > 100
    for _ in range(2):
        session.step()
    assert [f.t for f in session.frames()] == [3, 3]


def test_what_is_picked_is_what_was_painted_there(balls):
    """Where the box of another particle is nearer, too."""
    model, clips = balls
    session = Session(model, clips, context_frames=5, clip=1)
    session.show_owners = True
    seen = session.frames()[0]
    rows, columns = np.nonzero((seen.picture.max(-1) > 150) & (seen.owners < 255))
    assert len(rows) > 60
    for row, column in list(zip(rows, columns, strict=True))[::6]:
        found = session.pick(0, ((row + 0.5) / 16 - 1, (column + 0.5) / 16 - 1))
        assert seen.owners[row, column] in found, (row, column)


def test_removing_and_freezing(balls):
    model, clips = balls
    session = Session(model, clips, context_frames=5)
    session.follow("mean")
    thing = things(session.futures[0].now.scene())[0]
    row, column = (int((p + 1) * 16) for p in thing.place)
    session.remove(0, thing.place)
    assert picture(session, 1)[row, column].max() < 60 < picture(session, 0)[row, column].max()
    session.drop()
    session.freeze(0, thing.place)
    still = picture(session, 1)[row, column]
    tokens = session.futures[1].now.held[0].tokens
    where = session.futures[1].now.recent.position[0, -1, list(tokens)]
    for _ in range(4):
        session.step()
    assert session.frames()[1].frozen and not session.frames()[0].frozen
    assert torch.equal(session.futures[1].now.recent.position[0, -1, list(tokens)], where)
    assert np.abs(picture(session, 1)[row, column].astype(int) - still).max() < 60
    session.freeze(1, thing.place)
    assert not session.frames()[1].frozen


@pytest.mark.parametrize("action, wrong", [({"dim": 3}, [1, 2]), ({"num_actions": 4}, 4)])
def test_steering(action, wrong):
    episodes = EPISODES if "dim" in action else [
        {**e, "action": np.arange(8) % 4} for e in EPISODES]
    clips = ClipDataset(ArraySource(episodes), num_frames=6)
    model = made(conditioners={"action": {"name": "action", **action}}, latent_action=None)
    session = Session(model, clips, context_frames=3)
    session.follow("mean")
    session.branch()
    session.step()
    session.look(0)
    plain = picture(session)
    session.step()
    told = picture(session)
    session.look(0)
    session.steer([9.0, -9.0, 0.5] if "dim" in action else 3)
    assert session.action == ([1.0, -1.0, 0.5] if "dim" in action else 3)
    session.step()
    assert not np.array_equal(picture(session), told) and not np.array_equal(plain, told)
    with pytest.raises(ConfigError, match="an action of this model is 3 numbers, got 2|run from 0 to 3, got 4"):
        session.steer(wrong)
    with pytest.raises(ConfigError, match="follows one of sample, mean, got 'inferred'"):
        session.follow("inferred")


def test_models_without_actions_are_not_steered(session):
    with pytest.raises(ConfigError, match="not steered by actions"):
        session.steer([0.0])
    session.steer(None)


def test_recordings(session):
    pytest.importorskip("PIL")
    with pytest.raises(ConfigError, match="nothing was recorded"):
        session.gif()
    session.record(True)
    session.step()
    session.branch()
    session.step()
    session.record(False)
    from io import BytesIO

    from PIL import Image

    film = Image.open(BytesIO(session.gif(side=64)))
    assert film.n_frames == 3 and film.size == (130, 64)


def test_memory_is_bounded(session, monkeypatch):
    for _ in range(8):  # the windows are full then
        session.step()
    size = session.futures[0].now.dream.nbytes
    assert size > 0
    monkeypatch.setattr(moments, "KEEP_BYTES", 5 * size)
    for _ in range(12):
        session.step()
    first, last = session.frames()[0].span
    assert last == 20 and 3 <= last - first <= 5
    session.look(0)
    assert session.frames()[0].t == first


def test_masks_are_drawn_when_asked_for(session):
    assert session.frames()[0].owners is None
    session.show_owners = True
    assert session.frames()[0].owners.shape == (32, 32)


@pytest.mark.parametrize("encoder, dynamics", [
    ("particle", "pint"), ("particle-tracking", "pint"), ("patch", "pint"), ("slot", "pint"), ("particle", "rssm"),
    ("slot", "rssm"),
])
def test_every_kind_of_latent_can_be_played(encoder, dynamics):
    """What a latent does not have is refused in words; the game goes on."""
    told = {"conditioners": ACTION} if dynamics == "rssm" else {}
    session = Session(made(encoder=encoder, dynamics=dynamics, latent_action=None, **told), CLIPS, context_frames=3)
    session.step()
    for change in (lambda: session.move(0, (0.1, 0.1), (0.2, 0.2)), lambda: session.remove(0, (0.1, 0.1)),
                   lambda: session.freeze(0, (0.1, 0.1))):
        try:
            change()
        except WorldkitError as error:
            assert "transparency" in str(error) or "position" in str(error) or "stand-in" in str(error), error
        session.step()
    assert session.frames()[0].t == 4
    if encoder == "patch":  # which stand for no things
        assert session.pick(0, (0.1, 0.1)) == [] and not session.remove(0, (0.1, 0.1)) and len(session.futures) == 1


SMALL = [name for name in wk.list_models() if re.search(r"-mini(-|$)", name) or name.startswith("modular-rssm")]


@pytest.mark.slow  # a second each
@pytest.mark.parametrize("preset", SMALL)
def test_every_small_preset_that_predicts_pictures_can_be_played(preset):
    """Steered, looked back, branched and, of latents that stand for things, picked from; the others say why not."""
    torch.manual_seed(0)
    model = shake(wk.create_model(preset))
    if not model.config.obs.height or model.dynamics is None or model.decoder is None:
        with pytest.raises(WorldkitError, match="nothing to see|predicts nothing"):
            Session(model, CLIPS, context_frames=4)
        return
    batch = example_batch(model.config, 10, batch=1)
    told = {model.config.columns[name]: x[0].numpy() for name, x in batch.conditions.items()}
    clips = ClipDataset(ArraySource([{"video": (batch.video[0] * 255).byte().numpy(), **told}]), num_frames=10,
                        conditions=model.config.columns)
    for latent in (False, True)[: 1 + (model.latent_action is not None)]:
        session = Session(model, clips, context_frames=4, latent=latent)
        steering = session.steering
        if steering.dim or steering.choices:
            session.steer([0.5] * steering.dim if steering.dim else 0)
        for mode in session.modes:
            session.follow(mode)
            session.step()
        session.look(1)
        session.branch()
        session.step()
        assert [frame.t for frame in session.frames()] == [2, 2]
        assert session.frames()[0].picture.shape == (model.config.obs.height, model.config.obs.width, 3)
    assert session.futures[0].now.scene().tells_apart == (model.spec.kind in ("particles", "slots"))


def test_several_cameras_are_seen_side_by_side():
    obs = {"height": 32, "width": 32, "views": 2}
    video = RANDOM.integers(0, 255, (2, 8, 3, 32, 32), np.uint8)
    session = Session(made(obs=obs), ClipDataset(ArraySource([{"video": video}]), num_frames=6), context_frames=3)
    session.step()
    assert picture(session).shape == (32, 64, 3) == session.truth().shape
    with pytest.raises(ConfigError, match="pictures of one camera"):
        session.pick(0, (0, 0))


def test_what_cannot_be_played(model):
    with pytest.raises(WorldkitError, match="has no dynamics"):
        Session(made(dynamics=None, latent_action=None, objective="reconstruction"), CLIPS, context_frames=3)
    blind = made()
    blind.decoder = None
    with pytest.raises(NoDecoderError, match="nothing to see"):
        Session(blind, CLIPS, context_frames=3)
    with pytest.raises(ConfigError, match="the data have 9 clips"):
        Session(model, CLIPS, context_frames=3, clip=77)
    plain = ClipDataset(ArraySource([{"video": e["video"]} for e in EPISODES]), num_frames=6)
    with pytest.raises(ConfigError, match="is told 'action', and the data have no such entry"):
        Session(made(conditioners=ACTION, latent_action=None), plain, context_frames=3)
