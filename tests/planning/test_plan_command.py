"""``worldkit plan``: what it prints, writes and refuses."""

import json
from argparse import Namespace

import pytest
import torch
from PIL import Image

import worldkit as wk
from worldkit.assembly import build
from worldkit.cli import main
from worldkit.cli.loading import Loaded
from worldkit.cli.plan import ask as asking
from worldkit.data import ArraySource, ClipDataset, collate
from worldkit.errors import ConfigError
from worldkit.planning import (
    CEM,
    Continuous,
    ObjectDistance,
    PixelDistance,
    Shooting,
    Weighted,
    considered_picture,
    make_cost,
    plan_film,
    plan_strip,
)
from worldkit.testing.examples import example_batch, small_config

QUICK = ["-o", "data.num_episodes=1", "--candidates", "4", "--iterations", "1"]


def plan(out, *arguments, model="lpwm-push-mini"):
    return main(["plan", model, *QUICK, "--horizon", "2", "--out", str(out), *arguments])


def test_a_plan_its_costs_and_pictures(tmp_path, capsys):
    assert plan(tmp_path, "--seed", "3") == 0
    said = capsys.readouterr().out
    assert "goal: frame 6 of the clip, 2 after the last given" in said and "CEM(candidates=4" in said
    assert "actions: from -" in said and "as in the data; --low and --high say otherwise" in " ".join(said.split())
    for name in ("the plan", "actions of 0", "as in the data", "candidates of the first round, mean"):
        assert name in said
    with Image.open(tmp_path / "plan.gif") as film:
        assert film.n_frames == 5 + 2 + 4
    assert (tmp_path / "plan.png").stat().st_size > 1000 and (tmp_path / "considered.png").stat().st_size > 1000


def test_json_and_seeds(tmp_path, capsys):
    found = []
    for seed in (0, 0, 1):
        assert plan(tmp_path, "--seed", str(seed), "--json", "--context", "1") == 0
        found.append(json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""])))
    assert found[0] == found[1] != found[2]
    assert len(found[0]["actions"]) == 2 and len(found[0]["actions"][0]) == 2
    assert found[0]["cost"] == found[0]["costs"]["the plan"]


def test_a_picture_as_goal(tmp_path, capsys):
    """At any size; it is fitted as frames are."""
    wanted = tmp_path / "wanted.png"
    Image.new("RGB", (100, 60), (200, 20, 20)).save(wanted)
    assert plan(tmp_path / "out", "--goal", str(wanted), "--cost", "objects,effort=0.1", "--planner", "icem",
                "-o", "planner.keep=1") == 0
    said = capsys.readouterr().out
    assert f"goal: {wanted}" in said.replace("\n", "") and "keep=1" in said and "as in the data " not in said


@pytest.mark.parametrize("arguments, said", [
    (["--goal", "0"], "--goal 0 must be a file, or how many frames after the last given one: 1 or more"),
    (["--goal", "nothing.png"], "--goal nothing.png is no number of frames, and cannot be read as a picture"),
    (["--clip", "99"], "--clip 99 is out of range: split 'test' of push-32 has"),
    (["--cost", "pixel"], "unknown cost 'pixel'. Did you mean 'pixels'"),
    (["--cost", "effort=much"], "cost 'effort' weighs 'much', which is no number"),
    (["--cost", "reward"], "PredictedReward needs a model with a head 'reward'"),
    (["--cost", "latent"], "ObjectDistance pairs them first"),
    (["--planner", "cme"], "unknown planner 'cme'. Did you mean 'cem'"),
    (["--planner", "categorical-cem"], "CategoricalCEM chooses among a few actions, and these are vectors of 2"),
    (["-o", "planner.elits=3"], "planner 'cem' has no option 'elits'. Did you mean 'elites'"),
    (["-o", "train.lr=3"], "-o of plan takes data.OPTION=VALUE or planner.OPTION=VALUE only, got train"),
    (["--low", "1", "2", "3"], "--low takes one number, or 2, one for each of an action; got 3"),
    (["--low", "1"], "number 0 of the actions lies between 1 and"),
])
def test_what_does_not_fit_is_refused(tmp_path, capsys, arguments, said):
    assert plan(tmp_path, *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "plan.png").exists()


def test_a_model_that_is_told_nothing(tmp_path, capsys):
    assert plan(tmp_path, model="lpwm-balls-mini") == 2
    assert "is told no actions, so there is nothing to plan; it is told: nothing" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--cost", "pixel"), ("--planner", "cme")])
def test_words_are_checked_before_anything_is_loaded(tmp_path, capsys, arguments):
    assert plan(tmp_path, *arguments, model="nowhere") == 2
    assert f"'{arguments[1]}'. Did you mean" in capsys.readouterr().err


def with_vectors(monkeypatch, encoder):
    """A model that reads vectors, and options and data of a plan with it."""
    model = build(small_config(encoder=encoder, dynamics="gru", latent_action=None,
                               conditioners={"action": {"name": "action", "dim": 2}}))
    batch = example_batch(model.config, 6, batch=1)
    seen = {name: x[0].numpy() for name, x in batch.vectors.items()}
    episode = {"video": (255 * batch.video[0]).to(torch.uint8).numpy(), "state": seen,
               "action": batch.conditions["action"][0].numpy()}
    clips = ClipDataset(ArraySource([episode]), num_frames=6, conditions={"action": "action"},
                        vectors=model.config.vectors)
    monkeypatch.setattr(asking, "open_clips", lambda *_, **__: clips)
    options = Namespace(context=2, horizon=3, goal=None, clip=0, split="all", device="cpu", model="m", low=None,
                        high=None, cost="pixels", planner=None, candidates=4, iterations=1, override=[])
    return Loaded(model.eval(), "here", None, {}), options, collate([clips[0]])


def test_vectors_are_seen_beside_pictures(monkeypatch):
    loaded, options, batch = with_vectors(monkeypatch, "multi")
    asked = asking.ask(loaded, "data", options, {})
    seen = loaded.model.encode(batch.context(5))
    torch.testing.assert_close(asked.task.start.pack(), seen[:, :2].pack())
    torch.testing.assert_close(asked.task.goal.latent.pack(), seen[:, 4:].pack())
    options.goal = "goal.png"
    with pytest.raises(ConfigError, match=r"goal.png is a picture, and this model reads vectors.*--goal 5"):
        asking.ask(loaded, "data", options, {})


def test_a_model_of_vectors_alone(monkeypatch):
    loaded, options, _ = with_vectors(monkeypatch, "mlp")
    with pytest.raises(ConfigError, match="shows pictures, and this model reads vectors alone .*planning.Shooting"):
        asking.ask(loaded, "data", options, {})


def test_costs_by_name():
    assert make_cost("objects") == ObjectDistance()
    assert make_cost("pixels, objects=0.5") == Weighted(((1.0, PixelDistance()), (0.5, ObjectDistance())))


def test_pictures_of_several_problems():
    torch.manual_seed(0)
    model = wk.create_model("lpwm-push-mini", conditioners={"action": {"name": "action", "dim": 2}})
    frames, goals, rounds = torch.rand(2, 1, 3, 32, 32), torch.rand(2, 3, 32, 32), []
    task = Shooting(model, frames, PixelDistance(), goal=goals, space=Continuous((-1, -1), (1, 1)))
    CEM(candidates=6, iterations=3, elites=2).solve(task, 2, watch=rounds.append)
    one, two = (considered_picture(task, rounds, problem=i, shown=2) for i in range(2))
    assert one.shape == two.shape and one.dtype == torch.uint8 and not torch.equal(one, two)
    future = {"the plan": torch.rand(2, 3, 32, 32)}
    with_goal, without = (plan_strip(frames[0, 0], future, goal) for goal in (goals[0], None))
    assert with_goal.shape[-1] > without.shape[-1]
    assert len(plan_film(frames[0], future, goals[0])) == 3


def test_choices_and_rewards_of_a_game(tmp_path, capsys):
    """A model that was never trained, of a game with three actions, and its reward head."""
    from worldkit.collecting import collect

    env = wk.make_env("games/catch", size=32)
    collect(env, tmp_path / "catch", episodes=2, seed=0, enabled=False)
    env.close()
    model = wk.create_model("lpwm-balls-mini", latent_action=None, heads={"reward": {"name": "two-hot"}},
                            conditioners={"action": {"name": "action", "num_actions": 3}})
    model.save_pretrained(tmp_path / "model")
    quick = ["plan", str(tmp_path / "model"), "--data", str(tmp_path / "catch"), "--split", "all", "--candidates", "4",
             "--iterations", "1", "--horizon", "2", "--context", "2", "--out", str(tmp_path / "out"), "--json"]
    for cost in ("pixels", "reward"):
        assert main([*quick, "--cost", cost]) == 0
        found = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
        assert len(found["actions"]) == 2 and all(step[0] in (0, 1, 2) for step in found["actions"])
        assert ("as in the data" in found["costs"]) == (cost == "pixels") and "actions of 0" not in found["costs"]
    assert main([*quick, "--planner", "icem"]) == 2
    assert "these actions are 3 choices: take CategoricalCEM" in capsys.readouterr().err
    assert main([*quick, "--low", "0"]) == 2
    assert "--low and --high are bounds of numbers" in capsys.readouterr().err
