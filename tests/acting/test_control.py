"""Evaluations of control: the same episodes for everybody, stored, gone on with, and told."""

import json

import numpy as np
import pytest
import torch

from worldkit.agents import ActionSpec, RandomPolicy, create_agent
from worldkit.agents.base import Policy
from worldkit.cli import main
from worldkit.control import ControlProtocol, evaluate_control, report
from worldkit.control.report import difference_table, html, markdown, write
from worldkit.errors import ConfigError, DataError

REACH = ControlProtocol(env="dot", size=32, goals="reach", goal_steps=4, budget=6, episodes=3, seeds=(0, 1), together=2)
OWN = ControlProtocol(env="dot", size=32, budget=6, episodes=3, seeds=(0, 1), together=2)


class Homing(Policy):
    """Goes to the brightest place of the goal's picture."""

    wants_goal = True
    action = ActionSpec(low=(-1, -1), high=(1, 1))

    def start(self, batch_size, *, goal=None):
        return goal

    @staticmethod
    def _place(pictures):
        ways = torch.linspace(-1, 1, pictures.shape[-1])
        lit = pictures[:, 0].float()
        total = lit.sum((1, 2))
        return torch.stack([(lit.sum(2) * ways).sum(1) / total, (lit.sum(1) * ways).sum(1) / total], 1)

    def act(self, frame, carry, *, first, sampler):
        return ((self._place(carry) - self._place(frame)) / 0.4).clamp(-1, 1), carry


def evaluate(policies, protocol, make_dot, **options):
    return evaluate_control(policies, protocol, make=make_dot, **options)


@pytest.mark.parametrize("protocol", [REACH, OWN])
def test_what_aims_arrives(protocol, make_dot):
    found = evaluate({"random": "random", "homing": Homing()}, protocol, make_dot)
    assert found.names == ["random", "homing"] and len(found.episodes) == 12
    assert found.interval("homing", "success").mean == 1 and found.interval("random", "success").mean < 1
    assert found.interval("homing", "distance").mean < 0.2 < found.interval("random", "distance").mean
    gain = found.difference("homing", "random", "distance")
    assert gain.high < 0 and gain.n == 6
    if protocol is OWN:
        assert found.scores == ["success", "return", "distance"]
        assert all(e["steps"] == 6 for e in found.episodes)  # returns count to the end
    else:
        assert found.scores == ["success", "distance", "picture distance"]
        assert all(e["steps"] < 6 for e in found.episodes if e["success"] and e["policy"] == "homing")


def test_few_episodes_mark_no_difference(make_dot, monkeypatch):
    found = evaluate({"random": "random", "homing": Homing()}, REACH, make_dot)
    assert found.difference("homing", "random", "distance").n == report.TELLING == 6
    assert " *" in difference_table(found)[1][0][2]
    monkeypatch.setattr(report, "TELLING", 7)
    assert not any("*" in cell for row in difference_table(found)[1] for cell in row)


def test_the_script_that_made_the_goal_reaches_it(make_dot):
    found = evaluate({"scripted": "scripted"}, REACH, make_dot)
    assert found.interval("scripted", "success").mean == 1


def test_everybody_meets_the_same_episodes(make_dot):
    found = evaluate({"random": "random", "homing": Homing()}, REACH, make_dot)
    starts = {name: [(e["seed"], e["episode"], e["start"]) for e in found.episodes if e["policy"] == name]
              for name in found.names}
    assert starts["random"] == starts["homing"] and len({json.dumps(s[2]) for s in starts["homing"]}) == 6


@pytest.mark.parametrize("cut", [20, -1])
def test_repeated_and_gone_on_with(make_dot, tmp_path, cut):
    whole = evaluate({"random": "random"}, REACH, make_dot).episodes
    out = tmp_path / "c"
    evaluate({"random": "random"}, REACH, make_dot, out=out)
    lines = (out / "episodes.jsonl").read_text().splitlines(keepends=True)
    (out / "episodes.jsonl").write_text("".join(lines[:3]) + lines[3][:cut])  # a kill, or a full disk, in a line
    again = evaluate({"random": "random"}, REACH, make_dot, out=out)

    def by_number(episodes):
        return sorted(episodes, key=lambda e: (e["seed"], e["episode"]))

    assert by_number(again.episodes) == by_number(whole)
    before = (out / "episodes.jsonl").read_bytes()
    more = evaluate({"random": "random", "homing": Homing()}, REACH, make_dot, out=out)
    assert (out / "episodes.jsonl").read_bytes().startswith(before) and len(more.episodes) == 12


def test_folders_of_something_else(make_dot, tmp_path):
    out = tmp_path / "c"
    evaluate({"random": "random"}, REACH, make_dot, out=out, about={"random": {"weights": "1"}})
    with pytest.raises(ConfigError, match="holds episodes with budget 6, not 7"):
        evaluate({"random": "random"}, REACH.replace("budget", 7), make_dot, out=out)
    with pytest.raises(ConfigError, match="episodes of another 'random'.*NAME=FOLDER"):
        evaluate({"random": "random"}, REACH, make_dot, out=out, about={"random": {"weights": "2"}})
    (out / "episodes.jsonl").write_text("{\n{}\n")
    with pytest.raises(DataError, match="episodes.jsonl, line 1, is damaged"):
        evaluate({"random": "random"}, REACH, make_dot, out=out, about={"random": {"weights": "1"}})
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter").write_text("")
    with pytest.raises(ConfigError, match="thesis holds other things"):
        evaluate({"random": "random"}, REACH, make_dot, out=tmp_path / "thesis")


def test_an_agent_for_each_seed(make_dot):
    class Constant(Homing):
        wants_goal = False

        def __init__(self, way):
            self.way = way

        def act(self, frame, carry, *, first, sampler):
            return torch.full((len(frame), 2), self.way), None

    found = evaluate({"each": [Constant(-1.0), Constant(1.0)]}, OWN, make_dot)
    alone = [evaluate({"each": Constant(way)}, OWN, make_dot) for way in (-1.0, 1.0)]
    for i, seed in enumerate(OWN.seeds):
        assert found.of("each", "return")[seed] == alone[i].of("each", "return")[seed]
    with pytest.raises(ConfigError, match="3 agents for 2 seeds"):
        evaluate({"each": [Constant(0.0)] * 3}, OWN, make_dot)


def test_who_cannot_act(make_dot):
    with pytest.raises(ConfigError, match="no baseline 'randon'. Did you mean 'random'"):
        evaluate({"x": "randon"}, OWN, make_dot)
    with pytest.raises(ConfigError, match="it gives 3 choices, the environment takes 2 numbers"):
        evaluate({"x": RandomPolicy(ActionSpec(num_actions=3))}, OWN, make_dot)
    agent = create_agent("cloning", action=Homing.action, frame_shape=(3, 16, 16), channels=[4])
    with pytest.raises(ConfigError, match="make the environment with size=16"):
        evaluate({"x": agent}, OWN, make_dot)


def test_goals_are_looked_for_before_anybody_acts(tmp_path):
    import worldkit as wk

    env = ControlProtocol(env="games/catch", size=16, episodes=1, seeds=(0,))
    policy = create_agent("cloning", env=wk.make_env("games/catch", size=16), channels=[4])
    with pytest.raises(ConfigError, match="no picture of its goal"):
        evaluate_control({"random": "random", "cloning": policy}, env, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_environment_without_pixels():
    import worldkit as wk

    with pytest.raises(ConfigError, match="gives no pixels, which agents act on"):
        evaluate_control({"random": "random"}, OWN, make=lambda: wk.make_env("games/catch", observation="state"))


@pytest.mark.parametrize("wrong, message", [
    ({"seeds": (1, 1)}, "seeds are different numbers"), ({"goals": "none"}, "goals"), ({"budgte": 3}, "budget"),
])
def test_protocols_that_are_none(wrong, message):
    with pytest.raises(ConfigError, match=message):
        ControlProtocol.parse({"env": "dot", **wrong})


def test_what_is_written(make_dot, tmp_path):
    out = tmp_path / "c"
    found = evaluate({"random": "random", "homing": Homing()}, REACH, make_dot, out=out)
    paths = write(found, out)
    assert {p.name for p in paths} == {"control.json", "control.md", "report.html"}
    stored = json.loads(paths[0].read_text())
    assert stored["protocol"] == json.loads(json.dumps(REACH.to_dict()))
    assert stored["results"]["homing"]["success"]["mean"] == 1 and stored["results"]["homing"]["success"]["n"] == 6
    assert stored["results"]["homing"]["differences"]["random"]["distance"]["high"] < 0
    text = markdown(found)
    assert "| homing | 6 | 100% [61%, 100%] |" in text and "(at the start)" in text and "homing - random" in text
    assert "6 altogether" in text and "4 steps" in text
    page = html(found).to_html()
    assert page.count("data:image/gif") == 2 and (out / "homing.gif").read_bytes()[:3] == b"GIF"


def test_the_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main("collect games/catch --out data --episodes 6 --policy scripted --size 16 --max-steps 30 --quiet"
                .split()) == 0
    assert main("imitate cloning --data data --goals 5 --out agents/bc --steps 20 --batch 8 --quiet "
                "-o channels=[4,4] -o hidden_dim=8".split()) == 0
    assert "agents/bc: agent 'cloning' after 20 steps" in capsys.readouterr().out
    again = "control games/catch --agent agents/bc --baselines random,scripted --goals reach --goal-steps 3 " \
            "--budget 4 --episodes 2 --seeds 0,1 --quiet".split()
    assert main(again) == 0
    shown = capsys.readouterr().out
    assert "bc - random" in shown.replace("\n", " ") or "bc" in shown
    stored = json.loads((tmp_path / "control/control.json").read_text())
    assert stored["policies"]["bc"]["folder"] == "agents/bc" and stored["protocol"]["size"] == 16
    assert main(again) == 0  # nothing is played again
    assert len((tmp_path / "control/episodes.jsonl").read_text().splitlines()) == 12
    capsys.readouterr()
    for wrong, message in (
        ("control games/breakout --agent agents/bc --out other", "trained to act in 'games/catch'"),
        ("control games/catch --agent agents/bc --size 32 --out other", "make the environment with size=16"),
        ("control games/catch --baselines none --out other", "nobody is to act"),
        ("control games/catch --agent agents/nothing --out other", "is no agent: there is no such folder"),
        ("control games/catch --agent random=agents/bc --out other", "two policies are called 'random'"),
        ("control games/catch --seeds a --out other", "--seeds are whole numbers"),
        ("imitate cloning --data balls-32 --out agents/x", "does not say which environment its actions are of"),
        ("imitate imitation --data data --goals 5 --out agents/x", "'imitation' needs a world model"),
        ("imitate clone --data data --out agents/x", "Did you mean 'cloning'"),
    ):
        assert main([*wrong.split(), "--quiet"]) == 2
        assert message in capsys.readouterr().err.replace("\n", " "), wrong
    assert not (tmp_path / "other").exists() and not (tmp_path / "agents/x").exists()


def test_the_command_plans(tmp_path, capsys, monkeypatch):
    from worldkit.assembly import build
    from worldkit.testing.examples import small_config

    monkeypatch.chdir(tmp_path)
    conditioners = {"action": {"name": "action", "num_actions": 3}}
    build(small_config(conditioners=conditioners, latent_action=None)).save_pretrained("told")
    run = ("control games/catch --plan p=told/. -o plan.horizon=2 -o plan.planner_options.candidates=4 -o plan.planner_"
           "options.iterations=1 -o plan.planner_options.elites=2 --goals reach --goal-steps 2 --budget 2 --episodes 1 "
           "--seeds 0 --quiet").split()
    assert main(run) == 0
    stored = json.loads((tmp_path / "control/control.json").read_text())
    assert stored["policies"]["p"]["horizon"] == 2 and stored["policies"]["p"]["weights"]
    assert stored["protocol"]["size"] == 32
    capsys.readouterr()
    assert main([*run, "--plan", "p=told/.", "--out", "other"]) == 2
    assert "two policies are called 'p'" in capsys.readouterr().err
    assert main([*run, "-o", "plan=5", "--out", "other"]) == 2
    assert "an option has a name, -o plan.horizon=5" in capsys.readouterr().err.replace("\n", " ")


def test_pusht_says_how_far_it_is():
    pytest.importorskip("pymunk")
    import worldkit as wk

    env = wk.make_env("pusht", size=32)
    env.reset(seed=0, options={"state": [100, 100, 256, 256, np.pi / 4]})
    measures, picture = env.get_wrapper_attr("goal_measures"), env.get_wrapper_attr("draw_goal")
    here = measures(np.array([100, 100, 256, 256, np.pi / 4 + 2 * np.pi]))
    assert here["success"] and here["T coverage"] == 1 and here["T angle"] < 1e-6
    away = measures(np.array([100, 100, 256, 277, np.pi / 4]))
    assert not away["success"] and away["T distance"] == pytest.approx(21) and 0 < away["T coverage"] < 1
    assert not measures(np.array([100, 100, 256, 256, np.pi / 4 + 0.36]))["success"]
    frame = env.reset(seed=0, options={"state": [100, 100, 350, 400, 1.0]})[0]["pixels"]
    goal = picture(32, 32)
    assert not np.array_equal(frame, goal) and np.array_equal(env.get_wrapper_attr("draw")(32, 32), frame)
