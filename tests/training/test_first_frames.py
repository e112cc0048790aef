"""A prior over first frames, trained by the trainer on a model that is trained already."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import worldkit as wk
from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.data import ArraySource, ClipDataset
from worldkit.errors import DataError
from worldkit.storage.hub import load_parts
from worldkit.training.ema import EMA
from worldkit.training.recipes import make_trainer

SMALL = {"latent_action": None, "dynamics__dim": 16, "dynamics__num_layers": 1, "dynamics__num_heads": 2}
PRIOR = {"prior": {"name": "diffusion", "dim": 16, "num_layers": 1, "num_heads": 2, "frames": 2, "steps": 20},
         "objective": "first-frames"}
DATA = {"num_episodes": 12}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("first") / "trained"
    wk.create_model("lpwm-balls-mini", **SMALL).save_pretrained(folder)
    return folder


def trainer(run, trained, **options):
    options = {"steps": 3, "batch_size": 2, "eval_clips": 2, "init_from": str(trained), "device": "cpu",
               "clips": "first", "log_every": 1, **options}
    return make_trainer("lpwm-balls-mini", "balls-32", run=run, overrides={**SMALL, **PRIOR}, train_overrides=options,
                        data_options=DATA, show_progress=False)


def test_a_run(tmp_path, trained):
    run = trainer(tmp_path / "run", trained, steps=2, eval_every=1, ema=0.9, ema_every=2, ema_after=1,
                  ema_warmup="power")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    clips = run.loader.dataset
    assert all(clips.window(i)[1] == 0 for i in range(len(clips))) and run.rollouts is None
    result = run.fit()
    after = run.model.state_dict()
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"prior"}
    scale, seen = run.model.prior.scale, run.model.encode(torch.stack([torch.as_tensor(c["video"]) for c in clips]))
    assert scale.settled and scale.count.tolist() == [2 * len(clips) * g.size for g in run.model.encoder.spec.groups]
    torch.testing.assert_close(scale.low[0, :2], seen.position.amin((0, 1, 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(scale.mean[0, 2:4], seen.scale.mean((0, 1, 2)), atol=1e-5, rtol=1e-5)
    assert {"denoising", "loss"} <= result.log[0].keys()
    figures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {f"step-0000000{n}-samples.{kind}" for n in (1, 2) for kind in ("gif", "png")}
    losses = [line["valid_loss"] for line in result.log if "valid_loss" in line]
    assert len(losses) == 2 and run.progress.best == -min(losses)  # predictions do not change
    best = wk.create_model(f"dir:{tmp_path / 'run' / 'best'}")
    assert best.sample(2, horizon=2).video.shape[:2] == (2, 2)


def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, trained):
    options = {"ema": 0.9, "ema_every": 2, "ema_after": 3, "save_every": 2, "eval_every": 100}
    whole = trainer(tmp_path / "whole", trained, steps=4, **options)
    whole.fit()
    trainer(tmp_path / "parts", trained, steps=2, **options).fit()
    rest = trainer(tmp_path / "parts", trained, steps=4, **options)
    rest.fit()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name]), name
    assert all(torch.equal(value, rest.ema.average[name]) for name, value in whole.ema.average.items())


def test_clips_are_encoded_once(trained):
    model = wk.create_model("lpwm-balls-mini", **SMALL, **PRIOR).eval()
    load_parts(model, trained)
    calls, batch = [], Batch(torch.randint(0, 256, (3, 2, 3, 32, 32), dtype=torch.uint8))
    hook = model.encoder.register_forward_hook(lambda *args: calls.append(1))

    def loss(batch, model=model):
        return model.loss(batch, generator=torch.Generator().manual_seed(0)).total

    before = loss(batch)
    model.objective.study(model, [Batch(batch.video[:2]), Batch(batch.video[2:])])
    assert len(calls) == 3 and model.prior.scale.settled
    first, second = loss(batch), loss(batch)
    assert len(calls) == 3 and torch.equal(first, second) and not torch.equal(first, before)
    assert loss(Batch(batch.video[1:2])).isfinite() and len(calls) == 3
    assert loss(Batch(batch.video.flip(-1))).isfinite() and len(calls) == 4  # which are not known
    hook.remove()
    forgetful = build(model.config.replace("objective.remember", 0)).eval()
    forgetful.load_state_dict(model.state_dict())
    torch.testing.assert_close(loss(batch, forgetful), first)
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.mul_(1.1)
    changed = build(model.config).eval()
    changed.load_state_dict(model.state_dict())
    assert torch.equal(loss(batch), loss(batch, changed))  # not what was remembered
    model.objective.study(model, [batch])
    torch.testing.assert_close(loss(batch), loss(batch, changed))


def test_dry_run(tmp_path, trained):
    from worldkit.training.plan import plan

    run = make_trainer("lpwm-balls-mini", "balls-32", run=tmp_path / "run", overrides={**SMALL, **PRIOR},
                       train_overrides={"init_from": str(trained), "device": "cpu"}, data_options=DATA, dry_run=True)
    assert "parameters: prior" in plan(run) and not (tmp_path / "run").exists()


def test_first_clips():
    source = ArraySource([{"video": torch.zeros(n, 3, 8, 8, dtype=torch.uint8).numpy()} for n in (5, 2, 9)])
    clips = ClipDataset(source, num_frames=3, mode="first")
    assert [clips.window(i) for i in range(len(clips))] == [(0, 0), (2, 0)] and clips.skipped == 1
    with pytest.raises(DataError, match="mode must be 'slide', 'tile' or 'first', got 'last'"):
        ClipDataset(source, num_frames=3, mode="last")


def test_moving_average_with_a_late_start():
    """Copies up to call 4, and at the next one that counts; then 1 - (1 + n - 4)^(-2/3), at most 0.7."""
    model, want, found = torch.nn.Linear(1, 1, bias=False), None, []
    ema = EMA(model, 0.7, every=3, after=4, warmup="power")
    for n in range(1, 20):
        model.weight.data.fill_(float(n * n))
        ema.update(model)
        found.append(ema.average["weight"].item())
        if n in (1, 4, 7):  # calls 1, 4, 7, ... count; 7 is the first after 4
            want = float(n * n)
        elif n % 3 == 1:
            decay = min(0.7, 1 - (1 + n - 4) ** (-2 / 3))
            want = decay * want + (1 - decay) * n * n
        assert found[-1] == pytest.approx(want)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes(tmp_path, trained, strategy):
    """They begin with the same statistics, and take the same steps as one; sharded ones encode as they go."""
    def run(name, processes, *more):
        options = ["latent_action=none", "dynamics.dim=16", "dynamics.num_layers=1", "dynamics.num_heads=2",
                   *(f"prior.{key}={value}" for key, value in PRIOR["prior"].items()), "prior.dropout=0",
                   "objective=first-frames", f"train.init_from={trained}", "train.clips=first", "data.num_episodes=8",
                   "data.episode_length=12", "train.eval_clips=2", "train.lr=1e-3", *more]
        program = [sys.executable, "-m"]
        if processes > 1:
            program += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
        words = [*program, "worldkit", "train", "lpwm-balls-mini", "--data", "balls-32", "--out", str(tmp_path / name),
                 "--steps", "3", "--quiet", *(word for option in options for word in ("-o", option))]
        done = subprocess.run(words, capture_output=True, text=True,
                              env=os.environ | {"OMP_NUM_THREADS": "1", "WORLDKIT_CACHE": str(tmp_path / "cache")})
        assert done.returncode == 0, done.stderr[-3000:]
        return load_file(tmp_path / name / "checkpoints" / "step-00000003" / "model.safetensors")

    one = run("one", 1, "train.batch_size=4")
    two = run("two", 2, "train.batch_size=2", f"train.strategy={strategy}")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-4, msg=name)
