"""What the authors of plugins forget is named, with the part and with what to write."""

import numpy as np
import pytest
import torch
from torch import nn

import worldkit as wk
from worldkit import registry
from worldkit.assembly import build
from worldkit.conditioners import Conditioner
from worldkit.conditioners.base import ConditionerConfig
from worldkit.conditions import Condition
from worldkit.config import ComponentConfig, WorldModelConfig
from worldkit.contract import CONTRACTS, check_class
from worldkit.data import ArraySource, ClipDataset
from worldkit.decoders import Decoded, Decoder
from worldkit.distributions import Delta, Normal
from worldkit.dynamics import Dynamics
from worldkit.encoders import Encoder, Encoding
from worldkit.errors import TrainingError
from worldkit.latent_actions.gaussian import GaussianLatentAction
from worldkit.latents import Field, LatentDist, LatentSpec, TokenGroup
from worldkit.nn.spec import LatentEmbed, LatentHead
from worldkit.objectives import Loss, Objective
from worldkit.testing import check_conditioner, check_decoder, check_dynamics, check_encoder
from worldkit.testing.examples import SIDE, SMALL, example_batch, small_config
from worldkit.training import TrainConfig, Trainer

TABLES = {"encoder": registry.encoders, "decoder": registry.decoders, "dynamics": registry.dynamics,
          "conditioner": registry.conditioners, "objective": registry.objectives}
THINGS = LatentSpec((TokenGroup("things", 3, (Field("features", 4),)),))


def config_of(base=ComponentConfig, **options):
    options = {"name": "test-mine", **options}
    kinds = {name: type(value) for name, value in options.items()}
    return type("Config", (base,), {"__annotations__": kinds, "__module__": __name__, **options})


class MyEncoder(Encoder):
    Config = config_of()
    default_decoder = "test-mine"
    described = THINGS

    def __init__(self, config, *, obs):
        super().__init__(config, obs=obs)
        self.spec = self.described
        field = THINGS.groups[0].fields[0] if not isinstance(self.spec, LatentSpec) else self.spec.groups[0].fields[0]
        self.project = nn.Linear(3, field.dist.raw_dim(field.dim))

    def forward(self, video, *, sampler):
        group = self.spec.groups[0]
        raw = self.project(video.mean((-1, -2)))[:, :, None].expand(-1, -1, group.size, -1)
        posterior = LatentDist(self.spec, {(group.name, group.fields[0].name): group.fields[0].dist.from_raw(raw)})
        return Encoding(posterior, posterior.sample(sampler))


class MyDecoder(Decoder):
    Config = config_of()

    def __init__(self, config, *, spec, obs):
        super().__init__(config, spec=spec, obs=obs)
        self.project = nn.Linear(spec.packed_dim, 3)

    def video(self, z):
        colour = self.project(z.pack()).mean(2)[..., None, None]
        return colour.expand(-1, -1, -1, self.obs.height, self.obs.width)

    def forward(self, z, *, masks=False):
        return Decoded(self.video(z))


class MyDynamics(Dynamics):
    Config = config_of(dim=8)
    takes = frozenset({"frame", "token", "memory"})

    def __init__(self, config, **wiring):
        super().__init__(config, **wiring)
        self.cond_dim = config.dim
        self.embed_latent, self.head = LatentEmbed(self.spec, config.dim), LatentHead(self.spec, config.dim)

    def prior(self, z, cond):
        tokens = self.embed_latent(z) + (0 if cond.adaln() is None else cond.adaln())
        return self.head(tokens + (0 if cond.memory is None else cond.memory.mean(1)[:, None, None]))


class MyConditioner(Conditioner):
    Config = config_of(ConditionerConfig, null_embedding=False)
    per_frame = True

    def __init__(self, config, *, dim, obs):
        super().__init__(config, dim=dim, obs=obs)
        self.project = nn.Linear(2, dim)

    def check(self, raw, *, name):
        if not torch.is_tensor(raw) or raw.ndim != 3:
            raise wk.ShapeError(f"condition '{name}' must be [B, T, 2]")

    def forward(self, raw, mask, *, view):
        return Condition(frame=self.project(raw))


class MyObjective(Objective):
    Config = config_of()

    def forward(self, model, batch, step, *, sampler):
        video = model.decode(model.encoder(batch.video, sampler=sampler).latent).video
        return self.told((video - batch.video).square().mean())

    def told(self, total):
        return Loss(total, {"error": total.detach()})


MINE = {"encoder": MyEncoder, "decoder": MyDecoder, "dynamics": MyDynamics, "conditioner": MyConditioner,
        "objective": MyObjective}


def other(base, **changes):
    return type("Other", (base,), {"__module__": __name__, **changes})


@pytest.fixture
def make(monkeypatch):
    """make(dynamics=cls, ...) -> a small model of my parts, some of them others."""
    for table in TABLES.values():
        table.names()
        for attribute in ("_entries", "_aliases"):
            monkeypatch.setattr(table, attribute, dict(getattr(table, attribute)))

    def make(condition=None, **changed):
        for kind, cls in (MINE | changed).items():
            TABLES[kind].register("test-mine", cls, override=True)
        parts = {kind: "test-mine" for kind in ("encoder", "decoder", "dynamics")}
        objective = "test-mine" if "objective" in changed else "elbo"
        conditioners = {} if condition is None else {"speed": {"name": "test-mine", **condition}}
        return build(small_config(**parts, objective=objective, latent_action=None, conditioners=conditioners))

    return make


def run(model, folder):
    frames = model.clip_length + 1
    episode = {"video": np.zeros((frames, 3, SIDE, SIDE), np.uint8), "speed": np.ones((frames - 1, 2), np.float32)}
    data = ClipDataset(ArraySource([episode, episode]), num_frames=model.clip_length)
    options = TrainConfig(steps=1, batch_size=2)
    return Trainer(model, data, data, options, run=folder, show_progress=False).fit()


def test_my_parts_work(make, tmp_path):
    assert run(make(condition={}), tmp_path / "elbo").finished
    assert run(make(objective=MyObjective), tmp_path / "mine").finished


def without_super(self, config, **wiring):
    nn.Module.__init__(self)
    self.cond_dim = 8


def without_width(self, config, **wiring):
    Dynamics.__init__(self, config, **wiring)
    self.embed_latent, self.head = LatentEmbed(self.spec, 8), LatentHead(self.spec, 8)


def without_spec(self, config, *, obs):
    Encoder.__init__(self, config, obs=obs)


@pytest.mark.parametrize("kind, cls, message", [
    ("encoder", other(MyEncoder, __init__=without_spec), r"encoder 'test-mine' \(Other\) does not set self.spec in it"),
    ("encoder", other(MyEncoder, described={"features": 4}), "has a dict as self.spec; it must be a LatentSpec: Laten"),
    ("encoder", other(MyEncoder, forward=lambda self, video: None), r"Other.forward must take \(self, video, \*, samp"),
    ("encoder", other(Encoder, Config=config_of()), r"encoder 'test-mine' \(Other\) lacks methods: forward"),
    ("decoder", other(MyDecoder, forward=lambda self, z: None), r"Other.forward must take \(self, z, \*, masks\), but"),
    ("decoder", MyEncoder, "decoder 'test-mine' is the class MyEncoder, which is no decoder: derive it from worldkit."),
    ("dynamics", other(MyDynamics, __init__=without_super), "does not set self.config and self.spec and self.w"
     "indow and self.memory_length in its __init__: call super"),
    ("dynamics", other(MyDynamics, __init__=lambda self, config, *, spec: None), r"Other.__init__ must take \(self, "
     r"config, \*, spec, anchors, window, memory_length\), but got an unexpected"),
    ("dynamics", other(Dynamics, Config=config_of()), "explicit_prior = True, but does not implement prior"),
    ("dynamics", other(MyDynamics, explicit_prior=False), "explicit_prior = False, but does not implement loss: an"),
    ("dynamics", other(MyDynamics, start=lambda self, z, cond: None), r"Other.start must take \(self, z, cond, \*, wi"),
    ("objective", other(MyObjective, forward=lambda self, model, batch: None), r"must take \(self, model, batch, step"),
    ("objective", nn.Identity, "objective 'test-mine' has no options that can be read: give its class an attribute Co"),
    ("dynamics", other(MyDynamics, Config=object), "dynamics 'test-mine' has no options that can be read"),
    ("dynamics", other(MyDynamics, Config={"name": "test-mine"}), "dynamics 'test-mine' has no options that can be re"),
])
def test_refused_when_the_model_is_built(make, kind, cls, message):
    with pytest.raises(wk.WorldkitError, match=message):
        make(**{kind: cls})


@pytest.mark.parametrize("condition, changed, message", [
    ({}, {"dynamics": other(MyDynamics, __init__=without_width)}, "receives conditions, but does not say in what widt"),
    ({}, {"conditioner": other(MyConditioner, Config=config_of())}, "must derive from worldkit.conditioners.base.Cond"),
    ({"null_embedding": True, "dropout": 0.5}, {}, r"conditioners.speed.dropout hides conditions, but MyConditioner t"),
])
def test_conditions_that_could_not_work(make, condition, changed, message):
    with pytest.raises(wk.IncompatibleComponentsError, match=message):
        make(condition=condition, **changed)


def test_a_dynamics_without_conditions_needs_no_width(make, tmp_path):
    run(make(dynamics=other(MyDynamics, __init__=without_width)), tmp_path)


@pytest.mark.parametrize("kind, cls, message", [
    ("encoder", other(MyEncoder, forward=lambda self, video, *, sampler: video), "Other.forward must give Encoding, g"),
    ("decoder", other(MyDecoder, forward=lambda self, z, *, masks=False: self.video(z)), "must give Decoded, got Tens"),
    ("decoder", other(MyDecoder, video=lambda self, z: MyDecoder.video(self, z)[..., :8]), r"must draw \[..., 3, 32, "),
    ("dynamics", other(MyDynamics, prior=lambda self, z, cond: MyDynamics.prior(self, z, cond)[:, 1:]),
     r"Other.prior must give LatentDist \[2, 4\], got LatentDist \[2, 3\]"),
    ("dynamics", other(MyDynamics, prior=lambda self, z, cond: MyDynamics.prior(self, z, cond).mode()),
     r"Other.prior must give LatentDist \[2, 4\], got Latent \[2, 4\]"),
    ("dynamics", other(MyDynamics, prior=lambda self, z, cond: {}), r"Other.prior must give LatentDist \[2, 4\], got "),
    ("conditioner", other(MyConditioner, forward=lambda self, raw, mask, *, view: raw), "must give Condition, got Ten"),
    ("conditioner", other(MyConditioner, forward=lambda self, raw, mask, *, view: Condition(self.project(raw)[:, :2])),
     r"condition 'speed': Other gave Condition.frame \[2, 2, 8\], expected \[2, 5, 8\]"),
    ("conditioner", other(MyConditioner, forward=lambda self, raw, mask, *, view: Condition(memory=self.project(raw))),
     r"gave Condition.memory \[2, 5, 8\], expected \[2, 0, 8\]; memory_tokens.config. says how many"),
    ("objective", other(MyObjective, told=lambda self, total: total), "Other.forward must give Loss, got Tensor"),
    ("objective", other(MyObjective, told=lambda self, total: Loss(total[None], {})), r"'total' of a loss must be .* "),
    ("objective", other(MyObjective, told=lambda self, total: Loss(total, {"error": 1.0})), "'error' of a loss .* a f"),
    ("objective", other(MyObjective, told=lambda self, total: Loss(total, {"step": total})), "cannot be called 'step'"),
])
def test_refused_where_it_is_given(make, kind, cls, message):
    model = make(condition={} if kind == "conditioner" else None, **{kind: cls})
    conditions = {"speed": torch.ones(2, 5, 2)} if kind == "conditioner" else {}
    with pytest.raises(wk.WorldkitError, match=message):
        model.loss(wk.Batch(torch.rand(2, 5, 3, SIDE, SIDE), conditions))


@pytest.mark.parametrize("check, cls, message", [
    (check_encoder, other(MyEncoder, forward=lambda self, video: None), "Other.forward must take"),
    (check_decoder, other(MyDecoder, forward=lambda self, z: None), "Other.forward must take"),
    (check_dynamics, other(MyDynamics, explicit_prior=False), "does not implement loss: an explicit one"),
    (check_dynamics, other(MyDynamics, takes=None, prior=lambda self, z, cond: MyDynamics.prior(self, z, cond).mode()),
     "types: prior is Particles, expected LatentDist"),
    (check_conditioner, nn.Identity, "is the class Identity, which is no conditioner"),
])
def test_the_checks_say_the_same(check, cls, message):
    with pytest.raises((AssertionError, wk.WorldkitError), match=message):
        check(cls)


def keeps(self, model, batch, step, *, sampler):
    self.model = model
    return MyObjective.forward(self, model, batch, step, sampler=sampler)


@pytest.mark.parametrize("cls, message", [
    (other(MyObjective, forward=keeps), "Other.model would hold a module that holds this Other, without end. Keep wha"),
    (other(MyObjective, frozen={"encoder", "decoder", "dynamics"}), "nothing in this model learns, and objec"
     "tive 'test-mine' freezes decoder, dynamics, encoder"),
    (other(MyObjective, told=lambda self, total: Loss(total.detach(), {})), "the loss does not depend on anything tha"),
])
def test_objectives_that_cannot_train(make, tmp_path, cls, message):
    with pytest.raises(wk.WorldkitError, match=message):
        run(make(objective=cls), tmp_path)


def test_a_family_of_its_own_needs_an_objective_for_the_trainer(tmp_path, tiny_model, balls):
    model = tiny_model()
    del model.objective
    with pytest.raises(TrainingError, match="ComposedWorldModel has no objective, so this trainer cannot train it"):
        Trainer(model, balls(4), balls(4), TrainConfig(batch_size=2, steps=1), run=tmp_path, show_progress=False)


def test_built_in_parts_keep_their_contracts():
    for kind, table in TABLES.items():
        for name in table.names():
            check_class(kind, name, table.get(name))
    assert CONTRACTS.keys() >= TABLES.keys()


def test_a_definition_that_is_run_again(make):
    make()
    source = "@register('test-cell')\nclass Cell(Base): pass\n"
    space = {"register": registry.dynamics.register, "Base": MyDynamics, "__name__": "__main__"}
    exec(source, space)
    first = registry.dynamics.get("test-cell")
    exec(source, space)  # a cell of a notebook, run once more
    assert registry.dynamics.get("test-cell") is not first
    with pytest.raises(wk.DuplicateComponentError):
        registry.dynamics.register("test-cell", MyDynamics)


@pytest.mark.parametrize("kind", ["particles", "patches", "slots"])
def test_kinds_hold_what_their_classes_say(kind):
    with pytest.raises(wk.ConfigError, match=f"a latent of kind '{kind}' needs a group '{kind}'"):
        LatentSpec(THINGS.groups, kind=kind)
    assert LatentSpec(THINGS.groups, kind="mine").kind == "mine"


def test_an_unknown_identity():
    with pytest.raises(wk.ConfigError, match="identity must be 'tracked' or 'exchangeable', got 'track'"):
        LatentSpec(THINGS.groups, identity="track")


@pytest.mark.parametrize("dist", [Delta(), Normal()])
def test_a_transparency_of_another_distribution_trains(make, dist, tmp_path):
    spec = LatentSpec((TokenGroup("things", 3, (Field("transparency", 1, dist),)),))
    run(make(encoder=other(MyEncoder, described=spec)), tmp_path)


def test_options_without_a_word_in_json(make):
    class Options(ComponentConfig):
        name: str = "test-mine"
        dim: int = 8
        kind: object = torch.float32

    model = make(dynamics=other(MyDynamics, Config=Options))
    with pytest.raises(wk.ConfigError, match="WorldModelConfig cannot be stored: .*torch.dtype.*Options are numbers"):
        model.config.to_dict()


def test_an_option_that_is_none_comes_back_as_none(make, tmp_path):
    class Options(ComponentConfig):
        name: str = "test-mine"
        dim: int = 8
        limit: int | None = 3
        must: int | None
        absent: int | None = None

    make()
    registry.dynamics.register("test-mine", other(MyDynamics, Config=Options), override=True)
    parts = {kind: "test-mine" for kind in ("encoder", "decoder")}
    config = small_config(**parts, latent_action=None)
    model = build(config.model_copy(update={"dynamics": Options(limit=None, must=None)}))
    stored = model.config.to_dict()["dynamics"]
    assert stored["limit"] is stored["must"] is None and "absent" not in stored
    assert wk.WorldModel.from_pretrained(model.save_pretrained(tmp_path / "m")).config == model.config


def test_the_example_batch_fits(make):
    model = make()
    assert model.loss(example_batch(model.config)).total.isfinite()
    assert isinstance(model.config, WorldModelConfig)


def given(method, change):
    def changed(self, *args, **kwargs):
        return change(getattr(GaussianLatentAction, method)(self, *args, **kwargs))

    return other(GaussianLatentAction, gives=None, **{method: changed})


@pytest.mark.parametrize("cls, message", [
    (given("forward", lambda both: both[0]), "Other.forward must give tuple, got ActionDist"),
    (given("forward", lambda both: (both[0].params, both[1])), "must give ActionDist for 4 transitions as its posteri"),
    (given("forward", lambda both: (both[0], both[0])), "must give ActionDist for 5 frames as its prior"),
    (given("condition", lambda cond: cond.token), "Other.condition must give Condition, got Tensor"),
    (given("condition", lambda cond: Condition(token=cond.token[..., :3])), r"gave Condition.token \[2, 4, \d+, 3\], "),
    (given("condition", lambda cond: Condition(memory=cond.token[:, 0])), r"gave Condition.memory \[2, \d+, 16\], exp"),
])
def test_latent_actions(monkeypatch, cls, message):
    for attribute in ("_entries", "_aliases"):
        monkeypatch.setattr(registry.latent_actions, attribute, dict(getattr(registry.latent_actions, attribute)))
    registry.latent_actions.register("test-action", cls)
    options = {"name": "test-action", **SMALL["latent action"]["gaussian"]}
    model = build(small_config(encoder="patch", latent_action=options))
    with pytest.raises(wk.ShapeError, match=message):
        model.loss(example_batch(model.config))
