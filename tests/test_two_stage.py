"""The two-stage objective: rollouts in the latents of a frozen encoder, and where its weights come from."""

import json

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.conditions import EMPTY
from worldkit.distributions import MEANS
from worldkit.errors import CheckpointError, ConfigError, IncompatibleComponentsError, ShapeError, TrainingError
from worldkit.latents import LatentDist
from worldkit.objectives.two_stage import latent_loss, unroll
from worldkit.storage.hub import load_parts
from worldkit.testing import check_model, check_objective
from worldkit.testing.examples import example_batch, example_latent, small_config
from worldkit.testing.report import shake
from worldkit.training import TrainConfig, Trainer
from worldkit.training.recipes import make_trainer, train

SLOTS = {"encoder": "slot", "dynamics": "slotformer", "latent_action": None}


def two_stage(**options):
    return {"name": "two-stage", "burn_in": 2, **options}


def slot_model(seed=0, **options):
    torch.manual_seed(seed)
    return shake(build(small_config(**SLOTS, objective=two_stage(**options))))


# -- the loss


def by_hand(model, batch, burn_in, decay=1.0):
    """Latents' and images' losses per predicted frame ``[B]``, in a plain loop over whole histories."""
    z = model.encode(batch.video)
    frames, history, latents, images = z.shape[1], z[:, :burn_in], [], []
    weights = [decay**k for k in range(frames - burn_in)]
    for k, t in enumerate(range(burn_in, frames)):
        seen = history[:, max(0, t - model.config.timestep_horizon):]
        new = model.dynamics.prior(seen, EMPTY)[:, -1:].mode()
        history = type(z).cat([history, new])
        share = weights[k] / (sum(weights) / len(weights))
        latents.append(share * (new.features[:, 0] - z.features[:, t]).square().mean((1, 2)))
        picture, truth = 2 * model.decode(new).video[:, 0] - 1, 2 * batch.video[:, t] - 1
        images.append((picture - truth).square().mean((1, 2, 3)))
    return torch.stack(latents, 1), torch.stack(images, 1)


@pytest.mark.parametrize("decay", [1.0, 0.7])
@torch.no_grad()
def test_the_loss_is_that_of_a_plain_rollout_beyond_the_window(decay):
    model = slot_model(num_frames=8, decay=decay, latent_weight=0.5, image_weight=2.0)
    batch = example_batch(model.config)
    assert batch.video.shape[1] == 8 > model.config.timestep_horizon
    latents, images = by_hand(model, batch, 2, decay)
    loss = model.loss(batch)
    torch.testing.assert_close(loss.terms["latent"], latents.mean())
    torch.testing.assert_close(loss.terms["image"], images.mean())
    torch.testing.assert_close(loss.total, 0.5 * latents.mean() + 2.0 * images.mean())
    torch.testing.assert_close(loss.terms["psnr"], -10 * torch.log10(images.mean() / 4))


@torch.no_grad()
def test_frames_outside_the_episode_do_not_count():
    model = slot_model()
    batch = example_batch(model.config)
    done = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    latents, images = by_hand(model, batch, 2)
    loss = model.loss(wk.Batch(batch.video, done_mask=done))
    kept = done[:, 2:].bool()
    torch.testing.assert_close(loss.terms["latent"], latents[kept].mean())
    torch.testing.assert_close(loss.terms["image"], images[kept].mean())


@torch.no_grad()
def test_true_frames_after_the_given_ones_are_never_shown_to_the_dynamics():
    model = slot_model()
    z = example_latent(model.encoder.spec, time=6)
    predicted = unroll(model.dynamics, z, EMPTY, 2)
    other = unroll(model.dynamics, type(z).cat([z[:, :2], z[:, 2:].map(lambda x: x + 1)]), EMPTY, 2)
    assert predicted.shape == (2, 4)
    for key in predicted.params:
        assert torch.equal(predicted.params[key], other.params[key])


def test_gradients_flow_through_the_whole_rollout():
    """The last prediction's window holds predictions only, so the given frames reach it through those."""
    model = slot_model()
    z = example_latent(model.encoder.spec, time=8).map(lambda x: x.requires_grad_())
    last = unroll(model.dynamics, z, EMPTY, 2)[:, -1:]
    last.params["slots", "features"].sum().backward()
    gradient = z.features.grad.abs().sum((0, 2, 3))
    assert (gradient[:2] > 0).all() and (gradient[2:] == 0).all()


def test_fields_with_a_density_count_by_likelihood_and_presence():
    """Particles: nats of every field, weighted by the transparency (which itself always counts)."""
    model = build(small_config(latent_action=None))
    z, other = (example_latent(model.encoder.spec, seed=s) for s in (0, 1))
    prior = model.dynamics.prior(other, EMPTY)
    nats = prior.nll(z)
    presence = z.transparency[..., 0]
    expected = nats["background", "features"].sum(-1) + nats["particles", "transparency"].sum(-1)
    for field in ("position", "scale", "depth", "features"):
        expected = expected + (presence * nats["particles", field]).sum(-1)
    numbers = 16 * (2 + 2 + 1 + 1 + 3) + 2
    torch.testing.assert_close(latent_loss(prior, z), expected / numbers)


def test_points_count_by_squared_error():
    model = slot_model()
    z, other = (example_latent(model.encoder.spec, seed=s) for s in (0, 1))
    prior = LatentDist(z.spec, other.values)
    torch.testing.assert_close(latent_loss(prior, z), (z.features - other.features).square().mean((2, 3)))


@torch.no_grad()
def test_latent_actions_drive_the_rollout_and_pay_their_kl():
    model = shake(build(small_config(encoder="patch", dynamics="slotformer", objective=two_stage(kl_weight=0.3))))
    batch = example_batch(model.config)
    loss = model.loss(batch, sampler=MEANS)
    steering = model.condition(model.encode(batch.video), batch, sampler=MEANS)
    torch.testing.assert_close(loss.terms["kl_latent_action"], steering.posterior.kl(steering.prior).mean())
    parts = loss.terms
    torch.testing.assert_close(loss.total, parts["latent"] + parts["image"] + 0.3 * parts["kl_latent_action"])


def test_an_implicit_dynamics_learns_by_its_own_loss_and_says_so():
    config = small_config(encoder="patch", dynamics="diffusion", latent_action=None, objective=two_stage())
    model, batch = build(config).eval(), example_batch(config)
    loss = model.loss(batch, sampler=MEANS)
    z = model.encode(batch.video)
    expected = sum(v.mean() for v in model.dynamics.loss(z, EMPTY, MEANS).values())
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.terms["dynamics"], expected.detach())
    (note,) = model.objective.notes(model)
    assert note.startswith("dynamics 'diffusion' has no explicit prior: it learns by its own loss on the frozen")
    assert slot_model().objective.notes(slot_model()) == []


def test_conformance():
    check_objective("two-stage", decay=0.9)
    check_objective("two-stage", model=SLOTS)
    check_model(small_config(**SLOTS, objective=two_stage(num_frames=8)))


# -- lengths


def test_an_objective_may_ask_for_longer_clips():
    assert small_config(**SLOTS, objective=two_stage()).clip_length == 5
    config = small_config(**SLOTS, objective=two_stage(num_frames=9))
    assert (config.clip_length, build(config).clip_length, config.timestep_horizon) == (9, 9, 4)


def test_half_of_a_clip_is_given_unless_told():
    model = slot_model(burn_in=None)
    assert model.objective._burn_in(5) == 2 and model.objective._burn_in(2) == 1


def test_lengths_that_leave_nothing_to_predict_are_refused():
    with pytest.raises(ConfigError, match="num_frames 6 leaves nothing to predict after burn_in 6"):
        small_config(**SLOTS, objective=two_stage(burn_in=6, num_frames=6))
    model = slot_model(burn_in=5)
    with pytest.raises(ShapeError, match=r"a clip of 5 frames .* after 5 given ones; set objective.burn_in below 5"):
        model.loss(example_batch(model.config))


@pytest.mark.parametrize(("parts", "who"), [
    ({"encoder": "patch", "dynamics": "slotformer"}, "latent actions read"),
    ({"encoder": "patch", "dynamics": "diffusion", "latent_action": None}, "an implicit dynamics learns from"),
])
def test_clips_too_long_for_a_part_are_refused(parts, who):
    with pytest.raises(IncompatibleComponentsError, match=f"clips of 9 frames, but {who} at most 5"):
        build(small_config(**parts, objective=two_stage(num_frames=9)))


# -- frozen parts


def test_frozen_parts_have_no_gradients_and_stay_in_evaluation_mode():
    model = build(small_config(encoder={"name": "slot", "dropout": 0.5}, dynamics="slotformer", latent_action=None,
                               objective=two_stage())).train()
    assert model.training and model.dynamics.training
    for part in (model.encoder, model.decoder):
        assert not any(p.requires_grad for p in part.parameters()) and not any(m.training for m in part.modules())
    assert all(p.requires_grad for p in model.dynamics.parameters())
    model.eval().train()
    assert not model.encoder.training and model.dynamics.training


def fit(model, balls, folder, **options):
    defaults = {"batch_size": 4, "lr": 1e-3, "eval_every": 100, "save_every": 2, "eval_clips": 4, "log_every": 1}
    trainer = Trainer(model, balls(6), balls(6, "val"), TrainConfig(**(defaults | options)), run=folder,
                      show_progress=False)
    return trainer, trainer.fit()


def test_training_moves_the_dynamics_alone_and_a_stopped_run_goes_on_to_the_same_numbers(balls, tmp_path):
    model, before = slot_model(num_frames=6), slot_model(num_frames=6).state_dict()
    trainer, _ = fit(model, balls, tmp_path / "whole", steps=4)
    assert len(trainer.optimizer.param_groups[0]["params"]) == len(list(model.dynamics.parameters()))
    for name, value in model.state_dict().items():
        assert name.startswith("dynamics.") or torch.equal(value, before[name]), name
    moved = [n for n, p in model.dynamics.named_parameters() if not torch.equal(p, before[f"dynamics.{n}"])]
    assert len(moved) == len(list(model.dynamics.parameters()))
    fit(slot_model(num_frames=6), balls, tmp_path / "parts", steps=2)
    again = slot_model(seed=9, num_frames=6)
    fit(again, balls, tmp_path / "parts", steps=4)
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


# -- weights of the first stage

TINY_SLOTS = {
    "encoder": {"num_slots": 3, "slot_dim": 8, "hidden_dim": 16, "channels": [8, 8], "max_map": 16, "num_heads": 2},
    "decoder": {"channels": [8, 8, 8]},
}
TINY = TINY_SLOTS | {"dynamics": {"dim": 8, "num_layers": 1, "num_heads": 2}, "objective": {"num_frames": 9}}
RUN = {"steps": 2, "batch_size": 2, "eval_clips": 2}
DATA = {"num_episodes": 2, "episode_length": 18}


def run(preset, folder, overrides, **options):
    return train(preset, "balls-32", run=folder, overrides=overrides, train_overrides=RUN | options, data_options=DATA,
                 show_progress=False)[0]


@pytest.fixture(scope="module")
def savi(tmp_path_factory):
    """Run folder of a tiny SAVi after two steps."""
    folder = tmp_path_factory.mktemp("savi") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run("savi-balls-mini", folder, TINY_SLOTS)
    return folder


def test_two_commands_train_a_slotformer(savi, tmp_path):
    first = wk.WorldModel.from_pretrained(savi)
    model = run("slotformer-balls-mini", tmp_path / "run", TINY, init_from=str(savi))
    for part in ("encoder", "decoder"):
        ours, theirs = getattr(model, part).state_dict(), getattr(first, part).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["facts"]["weights from"] == f"{savi} (encoder, decoder)"
    assert described["train"]["init_from"] == str(savi)
    # a run that goes on needs the first stage no more
    again = run("slotformer-balls-mini", tmp_path / "run", TINY, steps=3)
    assert all(torch.equal(a, b) for a, b in zip(again.encoder.parameters(), first.encoder.parameters(), strict=True))


def test_only_the_named_parts_are_taken(savi, tmp_path):
    first = wk.WorldModel.from_pretrained(savi)
    model = run("savi-balls-mini", tmp_path / "run", TINY_SLOTS, init_from=str(savi), init_parts=["encoder"], lr=1e-12,
                steps=1, seed=7)
    same = {part: all(torch.allclose(a, b, atol=1e-9) for a, b in zip(
        getattr(model, part).parameters(), getattr(first, part).parameters(), strict=True))
        for part in ("encoder", "decoder")}
    assert same == {"encoder": True, "decoder": False}
    with pytest.raises(TrainingError, match="trains nothing in decoder, which must come trained"):
        run("slotformer-balls-mini", tmp_path / "half", TINY, init_from=str(savi), init_parts=["encoder"])
    with pytest.raises(ConfigError, match="train.init_from, which was not given"):
        run("savi-balls-mini", tmp_path / "none", TINY_SLOTS, init_parts=["encoder"])


def test_a_preset_with_weights_gives_them(tmp_path):
    model = wk.create_model("lpwm-balls-mini", dynamics=None, latent_action=None)
    published = wk.create_model("lpwm-balls-mini", pretrained=True)
    assert load_parts(model, published) == ["encoder", "decoder"]
    assert all(torch.equal(a, b) for a, b in zip(
        model.encoder.parameters(), published.encoder.parameters(), strict=True))
    trainer = make_trainer("lpwm-balls-mini", "balls-32", run=tmp_path, data_options=DATA, show_progress=False,
                           train_overrides={"init_from": "lpwm-balls-mini", "init_parts": ["encoder", "decoder"]})
    assert trainer.facts["weights from"] == "lpwm-balls-mini (encoder, decoder)"
    assert all(torch.equal(a, b) for a, b in zip(
        trainer.model.encoder.parameters(), published.encoder.parameters(), strict=True))


def test_an_untrained_first_stage_is_refused_with_the_two_commands(tmp_path):
    with pytest.raises(TrainingError) as refused:
        run("slotformer-balls-mini", tmp_path / "run", TINY)
    assert str(refused.value).splitlines() == [
        "objective 'two-stage' trains nothing in decoder and encoder, which must come trained. Train them first, with "
        "the same options for both:",
        "  worldkit train savi-balls-mini --data balls-32",
        "  worldkit train slotformer-balls-mini --data balls-32 -o train.init_from=runs/savi-balls-mini",
    ]
    with pytest.raises(TrainingError) as refused:
        run("lpwm-balls-mini", tmp_path / "run", {"objective": "two-stage"})
    assert str(refused.value).splitlines()[1:] == [
        "  worldkit train lpwm-balls-mini --data balls-32",
        "  worldkit train lpwm-balls-mini --data balls-32 --run runs/lpwm-balls-mini-two-stage -o objective=two-stage "
        "-o train.init_from=runs/lpwm-balls-mini",
    ]
    assert not (tmp_path / "run").exists()


def test_a_first_stage_with_other_options_is_refused_by_name(savi, tmp_path):
    other = TINY | {"encoder": TINY_SLOTS["encoder"] | {"num_slots": 5}}
    with pytest.raises(CheckpointError) as refused:
        run("slotformer-balls-mini", tmp_path / "run", other, init_from=str(savi))
    message = str(refused.value)
    assert "cannot give this model its encoder." in message and "encoder.num_slots is 3 there, 5 here" in message
    with pytest.raises(CheckpointError, match="nowhere is no model: no such folder"):
        run("slotformer-balls-mini", tmp_path / "run", TINY, init_from=str(tmp_path / "nowhere"))


def test_parts_are_taken_where_options_and_sizes_agree(tmp_path):
    torch.manual_seed(0)
    first = build(small_config())
    first.save_pretrained(tmp_path / "first")
    other = build(small_config(dynamics="slotformer"))
    assert load_parts(other, tmp_path / "first") == ["encoder", "decoder", "latent_action"]
    for part in ("encoder", "decoder", "latent_action"):
        ours, theirs = getattr(other, part).state_dict(), getattr(first, part).state_dict()
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    longer = build(small_config(timestep_horizon=6))  # the same options, but longer tables of time embeddings
    before = {k: v.clone() for k, v in longer.state_dict().items()}
    assert load_parts(longer, tmp_path / "first", ["decoder"]) == ["decoder"]
    changed = {k.split(".")[0] for k, v in longer.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"decoder"}
    with pytest.raises(CheckpointError, match=r"its dynamics.\n  dynamics.*time_embedding has size \[4, 16\] there"):
        load_parts(longer, tmp_path / "first", ["dynamics"])
    with pytest.raises(CheckpointError, match="this model has no part 'dynamic'; it has encoder, decoder, dynamics"):
        load_parts(longer, tmp_path / "first", ["dynamic"])
    slots = build(small_config(**SLOTS))
    with pytest.raises(CheckpointError, match="(?s)no part fits.*encoder is 'particle' there, 'slot' here"):
        load_parts(slots, tmp_path / "first")


# -- presets


@pytest.mark.parametrize("data", ["obj3d", "clevrer", "balls-mini"])
def test_a_slotformer_preset_stands_on_the_slots_of_its_savi(data):
    second, first = wk.create_config(f"slotformer-{data}"), wk.create_config(f"savi-{data}")
    assert (second.encoder, second.decoder, second.obs) == (first.encoder, first.decoder, first.obs)
    assert (second.dynamics.name, second.objective.name) == ("slotformer", "two-stage")
    assert second.timestep_horizon == 6 == second.objective.burn_in


@pytest.mark.parametrize(("data", "dim", "slots", "epochs", "horizon"), [
    ("obj3d", 128, 6, 200, 44), ("clevrer", 256, 7, 80, 42)])
def test_official_numbers(data, dim, slots, epochs, horizon):
    spec, config = wk.get_model_spec(f"slotformer-{data}"), wk.create_config(f"slotformer-{data}")
    dynamics = config.dynamics
    assert (dynamics.dim, dynamics.num_layers, dynamics.num_heads, config.encoder.num_slots) == (dim, 4, 8, slots)
    assert (config.clip_length, config.objective.burn_in) == (16, 6)
    assert (spec.train["lr"], spec.train["batch_size"], spec.train["num_epochs"]) == (2e-4, 128, epochs)
    assert (spec.eval["context_frames"], spec.eval["horizon"]) == (6, horizon)
    assert "10a6d9b" in spec.source and f"slotformer_{data}" in spec.source
