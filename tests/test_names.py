"""Any name will do for fields, groups and conditions, or is refused at once: through a step, a file and a rollout."""

import pytest
import torch
from einops import rearrange
from torch import nn

import worldkit as wk
from worldkit import registry
from worldkit.assembly import build
from worldkit.component import NamedModules, NamedParameters, attribute_name
from worldkit.config import ComponentConfig, WorldModelConfig
from worldkit.data import ArraySource, ClipDataset
from worldkit.decoders import Decoded, Decoder
from worldkit.distributions import Beta
from worldkit.encoders import Encoder, Encoding
from worldkit.latents import Field, LatentDist, LatentSpec, Particles, TokenGroup
from worldkit.names import NOT_CONDITIONS
from worldkit.objectives.base import RESERVED_TERMS, Loss
from worldkit.storage.hub import load_parts
from worldkit.testing.examples import SMALL
from worldkit.training import TrainConfig, Trainer

OWNERS = (nn.Module(), nn.ModuleDict(), nn.ParameterDict(), Particles, LatentDist, wk.Batch, ComponentConfig, {})
TAKEN = {n for owner in OWNERS for n in dir(owner) if not n.startswith("_") and n not in ("transparency", "position")}
NAMES = sorted(TAKEN | {
    "score", "origin", "video", "type_", "type__", "pose-x", "a b", "a/b", "%2E", "0", "class", "None", "μ", "_", ":",
    "action", "name", "encoder", "frame", "token", "language", "state", "total", "reconstruction", "kl", "dynamics",
    "psnr", "__init__", "__dict__", "_modules", "_tensors"})
SIDE = 8


class OddEncoder(Encoder):
    """Mean colour -> a latent of whatever spec."""

    class Config(ComponentConfig):
        name: str = "test-odd"

    described: LatentSpec

    def __init__(self, config, *, obs):
        super().__init__(config, obs=obs)
        self.spec = self.described
        widths = [(k, self.spec.field(k).dist, self.spec.field(k).dim) for k in self.spec.keys()]
        self.sizes = [dist.raw_dim(dim) for _, dist, dim in widths]
        self.project = nn.Linear(3, sum(self.sizes))

    def forward(self, video, *, sampler):
        raw = self.project(video.mean((-1, -2)))[:, :, None]
        params = {}
        for key, part in zip(self.spec.keys(), raw.split(self.sizes, -1), strict=True):
            params[key] = self.spec.field(key).dist.from_raw(part.expand(-1, -1, self.spec.group(key[0]).size, -1))
        posterior = LatentDist(self.spec, params)
        return Encoding(posterior, posterior.sample(sampler))

    def static_prior(self, encoding):
        return LatentDist(self.spec, {k: torch.ones_like(v) for k, v in encoding.posterior.params.items()})


class OddDecoder(Decoder):
    class Config(ComponentConfig):
        name: str = "test-odd"

    def __init__(self, config, *, spec, obs):
        super().__init__(config, spec=spec, obs=obs)
        self.project = nn.Linear(spec.packed_dim, 3)

    def forward(self, z, *, masks=False):
        colour = rearrange(self.project(z.pack()).mean(2), "b t c -> b t c 1 1")
        return Decoded(colour.expand(-1, -1, -1, self.obs.height, self.obs.width))


@pytest.fixture
def configure(monkeypatch):
    """configure(spec, **options) -> configuration of a small model with this latent."""
    for table in (registry.encoders, registry.decoders):
        table.names()
        for attribute in ("_entries", "_aliases"):
            monkeypatch.setattr(table, attribute, dict(getattr(table, attribute)))

    def make(spec, dynamics="pint", latent_action="gaussian", conditioners=None):
        encoder = type("Odd", (OddEncoder,), {"described": spec, "__module__": __name__})
        registry.encoders.register("test-odd", encoder, override=True)
        registry.decoders.register("test-odd", OddDecoder, override=True)
        parts = {"dynamics": dynamics, "latent action": latent_action}
        small = {kind: {**SMALL[kind].get(name, {}), "name": name, "dim": 8} for kind, name in parts.items() if name}
        return WorldModelConfig.parse({
            "obs": {"height": SIDE, "width": SIDE}, "timestep_horizon": 2, "encoder": "test-odd", "decoder": "test-odd",
            "dynamics": small["dynamics"], "latent_action": small.get("latent action"), "objective": "elbo",
            "conditioners": conditioners or {}})

    return make


def clips(**conditions):
    torch.manual_seed(0)
    episode = {"video": (255 * torch.rand(4, 3, SIDE, SIDE)).byte(), **{k: torch.rand(4, 2) for k in conditions}}
    return ClipDataset(ArraySource([episode, episode]), num_frames=3)


def lives(config, folder, data):
    """Train one step with checkpoints, load the best model, and predict with it."""
    torch.manual_seed(0)
    model = build(config)
    options = TrainConfig(steps=1, batch_size=2, max_grad_norm=None, ema=0.9)
    Trainer(model, data, data, options, run=folder / "run", show_progress=False).fit()
    again = wk.WorldModel.from_pretrained(folder / "run")
    batch = wk.data.collate([data[0], data[1]])
    conditions = {name: value for name, value in batch.conditions.items() if name in config.conditioners}
    for m in (model, again):
        m.save_pretrained(folder / "saved")
    copy = wk.WorldModel.from_pretrained(folder / "saved")
    outs = [m.rollout(batch.video[:, :1], 2, conditions=conditions, deterministic=True).video for m in (again, copy)]
    assert torch.equal(*outs) and outs[0].isfinite().all()
    return again


@pytest.mark.parametrize("dynamics, latent_action, part", [
    ("pint", "gaussian", slice(0, None, 12)), ("gru", None, slice(1, None, 4)), ("slotformer", None, slice(2, None, 4)),
    ("diffusion", None, slice(3, None, 4))])
def test_fields_of_any_name(configure, tmp_path, dynamics, latent_action, part):
    names = sorted({*NAMES[part], "score", "origin", "type", "keys", "pop"})
    fields = [Field("position", 2), Field("transparency", 1, Beta()), *(Field(name, 1) for name in names)]
    spec = LatentSpec((TokenGroup("things", 2, tuple(fields)),))
    model = lives(configure(spec, dynamics, latent_action), tmp_path, clips())
    assert {f for _, f in model.encode(clips()[0]["video"][None]).values} == {f.name for f in fields}


@pytest.mark.parametrize("dynamics, part", [("gru", slice(0, None, 2)), ("slotformer", slice(1, None, 2))])
def test_groups_of_any_name(configure, tmp_path, dynamics, part):
    spec = LatentSpec(tuple(TokenGroup(name, 1, (Field(name, 1),)) for name in NAMES[part]))
    lives(configure(spec, dynamics, None), tmp_path, clips())


def test_conditions_of_any_name(configure, tmp_path):
    names = [name for name in NAMES if name not in NOT_CONDITIONS][::2]
    conditioners = {name: {"name": "action", "dim": 2, "null_embedding": True} for name in [*names, "type", "keys"]}
    spec = LatentSpec((TokenGroup("things", 2, (Field("features", 2),)),))
    model = lives(configure(spec, "gru", None, conditioners), tmp_path, clips(**conditioners))
    assert list(model.conditioners) == list(conditioners)


def test_a_part_with_an_odd_name_is_taken_over(configure):
    spec = LatentSpec((TokenGroup("things", 2, (Field("features", 2),)),))
    config = configure(spec, "gru", None, {"type": {"name": "action", "dim": 2}})
    one, two = build(config), build(config)
    assert load_parts(two, one, ["conditioners.type"]) == ["conditioners.type"]
    assert torch.equal(one.conditioners["type"].project[0].weight, two.conditioners["type"].project[0].weight)


def test_named_modules_are_a_module_dict():
    names = sorted({*NAMES, *dir(nn.ModuleDict())})
    named = NamedModules({name: nn.Linear(1, 1) for name in names})
    assert list(named) == list(named.keys()) == [n for n, _ in named.items()] == names and len(named) == len(names)
    assert all(named[name] is module and name in named for name, module in named.items())
    assert len({attribute_name(name) for name in names}) == len(names)
    for name, _ in named.named_modules():
        named.get_submodule(name)  # what finds modules by their attributes finds these
    gone = named.pop("type")
    assert "type" not in named and isinstance(gone, nn.Linear)


def test_names_of_tensors_stay_as_they_were():
    ordinary = ["position", "scale", "depth", "transparency", "features", "origin", "action", "language", "goal_image",
                "particles", "background", "patches", "slots", "score"]
    assert [attribute_name(name) for name in ordinary] == ordinary
    stand_ins = NamedParameters({name: torch.zeros(1) for name in ordinary})
    assert [name for name, _ in stand_ins.named_parameters()] == sorted(ordinary)  # optimisers count on the order


GROUP = TokenGroup("things", 4, (Field("x", 1),))


@pytest.mark.parametrize("make, message", [
    (lambda: Field("pose.x", 1), "'pose.x' cannot name a field of a latent: dots separate names; write 'pose_x'"),
    (lambda: Field("", 1), "'' cannot name a field of a latent: give it at least one letter"),
    (lambda: Field(" x", 1), "no blanks around it"),
    (lambda: Field("a\nb", 1), "cannot name a field"),
    (lambda: Field(3, 1), "a field of a latent is named by a text, not by int 3"),
    (lambda: Field("x", 0), "dim of field 'x' must be a whole number of at least 1, got 0"),
    (lambda: Field("x", 2.0), "dim of field 'x' must be a whole number of at least 1, got 2.0"),
    (lambda: Field("position", 3), r"field 'position' has 2 number.s., .y, x. in the image; got 3. Call it otherwise"),
    (lambda: Field("transparency", 2), "field 'transparency' has 1 number.s., how much of the token is there; got 2"),
    (lambda: TokenGroup("a.b", 1, GROUP.fields), "'a.b' cannot name a group of tokens"),
    (lambda: TokenGroup("things", 0, GROUP.fields), "size of group 'things' must be a whole number"),
    (lambda: TokenGroup("things", 1, ()), "group 'things' needs at least one field"),
    (lambda: TokenGroup("things", 1, (Field("x", 1), Field("x", 2))), "there are several called 'x'"),
    (lambda: LatentSpec(()), "a latent needs at least one group"),
    (lambda: LatentSpec((GROUP, GROUP)), "groups of tokens must have different names; there are several called 'thin"),
    (lambda: LatentSpec((GROUP,), views=3), "group 'things' has 4 tokens, which is no multiple of 3 views"),
    (lambda: LatentSpec((GROUP,), grid=(2, 3)), "group 'things' has 4 tokens per view, but its grid is 2 x 3"),
    (lambda: LatentSpec((GROUP,), grid=(2, 2), views=2), "has 2 tokens per view, but its grid is 2 x 2"),
    (lambda: Loss(torch.zeros(()), {"step": torch.zeros(())}), "a term of a loss cannot be called 'step'"),
])
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(wk.ConfigError, match=message):
        make()


def test_lists_of_fields_and_groups_are_taken():
    spec = LatentSpec([TokenGroup("things", 2, [Field("x", 1)])])
    assert spec == LatentSpec((TokenGroup("things", 2, (Field("x", 1),)),)) and hash(spec)


@pytest.mark.parametrize("name", NOT_CONDITIONS)
def test_conditions_called_like_other_entries_of_a_clip(name):
    with pytest.raises(wk.ConfigError, match=f"a condition cannot be called '{name}': clips have something else under"):
        wk.create_config("lpwm-mini", conditioners={name: {"name": "action", "dim": 2}})


def test_conditions_with_a_dot():
    message = "'pose.x' cannot name a condition: dots separate names; write 'pose_x'"
    action = {"name": "action", "dim": 2}
    with pytest.raises(wk.ConfigError, match=message):
        wk.create_config("lpwm-mini", conditioners={"pose.x": action})
    with pytest.raises(wk.ConfigError, match=message):
        WorldModelConfig.parse(wk.create_config("lpwm-mini").to_dict() | {"conditioners": {"pose.x": action}})


def test_terms_keep_out_of_what_logs_say():
    assert {"loss", "step", "lr", "grad_norm"} <= set(RESERVED_TERMS)


def test_what_other_packages_hang_on_modules_is_no_obstacle(monkeypatch):
    """transformers gives `torch.nn.Module` an attribute when it is imported."""
    monkeypatch.setattr(nn.Module, "hung_on", 1, raising=False)
    modules = NamedModules({"hung_on": nn.Linear(1, 1)})
    parameters = NamedParameters({"hung_on": torch.zeros(1)})
    assert list(modules) == ["hung_on"] and list(modules.state_dict()) == ["hung_on.weight", "hung_on.bias"]
    assert list(parameters.state_dict()) == ["hung_on"] and "hung_on" in parameters
