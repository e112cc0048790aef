"""Described latents: packing, slicing, joining, editing, views."""

import pytest
import torch

from worldkit.distributions import MEANS, Beta, Delta, Normal, Sampler
from worldkit.errors import ShapeError, WorldkitError
from worldkit.latents import Field, Latent, LatentDist, LatentSpec, Particles, TokenGroup, particle_spec

SPEC = particle_spec(num_particles=4, num_drawn=2, feature_dim=3, background_dim=5)
PLAIN = LatentSpec((TokenGroup("state", 1, (Field("features", 7, Delta()),)),))
TWO_VIEWS = particle_spec(num_particles=3, feature_dim=2, background_dim=2, views=2)
SPECS = {"particles": SPEC, "vector": PLAIN, "views": TWO_VIEWS}


def latent(spec=SPEC, batch=2, time=3, score=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    values = {
        (group.name, f.name): torch.rand(batch, time, group.size, f.dim, generator=g)
        for group in spec.groups for f in group.fields
    }
    uncertainty = torch.rand(batch, time, spec.groups[0].size, generator=g)
    return Latent.build(spec, values, score=uncertainty if score else None)


def equal(a, b):
    return all(torch.equal(a.values[k], b.values[k]) for k in a.spec.keys()) and (a.score is None) == (b.score is None)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_unpack_is_the_exact_inverse_of_pack(spec):
    z = latent(spec)
    packed = z.pack()
    assert packed.shape == (2, 3, spec.num_tokens, spec.packed_dim)
    again = Latent.unpack(spec, packed)
    assert type(again) is type(z) and equal(again, z)
    assert torch.equal(again.pack(), packed)


def test_packing_pads_narrow_groups_with_zeros():
    packed = latent().pack()
    assert SPEC.packed_dim == 9  # position 2, scale 2, depth 1, transparency 1, features 3
    assert (packed[:, :, 4, 5:] == 0).all() and (packed[:, :, 4, :5] != 0).all()


def test_particles_have_named_fields():
    z = latent()
    assert isinstance(z, Particles) and z.shape == (2, 3)
    assert z.position.shape == (2, 3, 4, 2) and z.background.shape == (2, 3, 1, 5) and z.features.shape[-1] == 3
    assert torch.equal(z.position_xy, z.position[..., [1, 0]]) and z.positions is z.position
    assert torch.equal(z.size, torch.sigmoid(z.scale))
    assert z.get("depth") is z.depth and z.get("nothing") is None
    assert "particles.position[2, 3, 4, 2]" in repr(z)


def test_slicing_time_and_batch():
    z = latent(score=True)
    part = z[:, 1:]
    assert part.shape == (2, 2) and torch.equal(part.depth, z.depth[:, 1:]) and torch.equal(part.score, z.score[:, 1:])
    assert z[:1].shape == (1, 3)
    assert type(part) is Particles and part.spec is SPEC


def test_slices_join_again():
    z = latent(score=True)
    assert equal(Latent.cat([z[:, :1], z[:, 1:]]), z) and equal(Latent.cat([z[:1], z[1:]], dim=0), z)
    assert torch.equal(Latent.cat([z[:, :1], z[:, 1:]]).score, z.score)
    assert Latent.cat([z, latent()]).score is None  # predicted frames have no score


def test_map_detach_to():
    z = latent().map(lambda x: x.requires_grad_())
    assert z.position.requires_grad and not z.detach().position.requires_grad
    assert z.to(torch.float64).background.dtype == torch.float64


def test_fields_must_match_the_spec():
    values = dict(latent().values)
    values.pop(("background", "features"))
    with pytest.raises(ShapeError, match="do not match the spec"):
        Latent.build(SPEC, values)


def test_presence_is_transparency_where_there_is_one():
    z = latent()
    assert torch.equal(z.presence[..., :4], z.transparency[..., 0]) and (z.presence[..., 4] == 1).all()
    assert (latent(PLAIN).presence == 1).all() and latent(PLAIN).positions is None


# -- views

def test_sum_views_and_spread_views_agree_on_the_order_of_tokens():
    views = torch.tensor([1.0, 10.0]).expand(2, 3, 2).permute(0, 2, 1)[..., None]  # [B, V, T, 1]
    spread = TWO_VIEWS.spread_views(views)
    assert spread.shape == (2, 3, 8, 1)
    assert spread[0, 0, :, 0].tolist() == [1, 1, 1, 10, 10, 10, 1, 10]  # particles of both views, then backgrounds
    assert TWO_VIEWS.sum_views(spread[..., 0])[0, :, 0].tolist() == [4, 40]


def test_sum_views_of_one_view_sums_all_tokens():
    x = torch.rand(2, 3, SPEC.num_tokens)
    assert torch.allclose(SPEC.sum_views(x), x.sum(-1)[:, None])


def test_spec_look_ups():
    assert SPEC.find("position") == ("particles", "position") and SPEC.find("features") == ("particles", "features")
    assert SPEC.find("velocity") is None and SPEC.num_tokens == 5 and SPEC.group("particles").drawn == 2


# -- edits

def test_edit_changes_only_what_it_names():
    z = latent(score=True)
    before = {k: v.clone() for k, v in z.values.items()}
    edited = z.edit([1], position=(0.25, -0.5))
    assert torch.equal(edited.position[:, :, 1], torch.tensor([0.25, -0.5]).expand(2, 3, 2))
    assert torch.equal(edited.position[:, :, [0, 2, 3]], z.position[:, :, [0, 2, 3]])
    assert torch.equal(edited.depth, z.depth) and edited.score is z.score and type(edited) is Particles
    assert all(torch.equal(z.values[k], before[k]) for k in before)


def test_edit_options():
    z = latent()
    moved = z.edit([0, 2], delta_position=(0.1, -0.2))
    assert torch.allclose(moved.position[:, :, [0, 2]] - z.position[:, :, [0, 2]], torch.tensor([0.1, -0.2]))
    assert torch.equal(moved.position[:, :, [1, 3]], z.position[:, :, [1, 3]])
    assert torch.allclose(z.edit([3], scale=0.3).size[:, :, 3], torch.tensor(0.3))
    assert torch.allclose(z.edit([3], scale=(0.3, 0.6)).size[:, :, 3], torch.tensor([0.3, 0.6]))
    gone = z.edit([-1], transparency=0.0)
    assert (gone.transparency[:, :, 3] == 0).all() and (gone.transparency[:, :, :3] != 0).all()
    painted = z.edit([0, 1], features_from=2)
    assert torch.equal(painted.features[:, :, [0, 1]], z.features[:, :, [2, 2]])
    assert torch.equal(painted.background, z.background)
    both = z.edit([1], position=(0.0, 0.0), delta_position=(0.5, 0.5), transparency=1.0)
    assert (both.position[:, :, 1] == 0.5).all() and (both.transparency[:, :, 1] == 1).all()
    assert equal(z.edit([0]), z)


@pytest.mark.parametrize("tokens, options, message", [
    ([4], {"transparency": 0.0}, r"tokens \[4\] are out of range: group 'particles' has 4 tokens \(0\.\.3\)"),
    ([-5], {"position": (0, 0)}, "out of range"),
    ([0], {"features_from": 9}, r"tokens \[0, 9\] are out of range"),
    ([0], {"scale": 1.5}, r"scale is box side over image side and must lie inside \(0, 1\), got 1\.5"),
    ([0], {"scale": (0.5, 0.0)}, "must lie inside"),
    ([0], {"transparency": 2.0}, r"transparency must lie in \[0, 1\], got 2\.0"),
])
def test_edits_out_of_range(tokens, options, message):
    with pytest.raises(ShapeError, match=message):
        latent().edit(tokens, **options)


def test_edit_of_a_field_that_is_not_there():
    with pytest.raises(WorldkitError, match="this latent has no 'position' to edit; its fields are: features"):
        latent(PLAIN).edit([0], position=(0, 0))


def test_edits_pass_gradients():
    position = torch.zeros(2, requires_grad=True)
    latent().edit([0, 1], position=position).position.sum().backward()
    assert position.grad.tolist() == [12, 12]  # 2 clips x 3 times x 2 tokens


# -- distributions over latents

def dist(spec=SPEC, seed=0):
    g = torch.Generator().manual_seed(seed)
    return LatentDist(spec, {
        key: torch.rand(2, 3, spec.group(key[0]).size, spec.field(key).dist.param_dim(spec.field(key).dim), generator=g)
        for key in spec.keys()
    })


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_kl_is_per_token_and_zero_to_itself(spec):
    p, q = dist(spec, 0), dist(spec, 1)
    for key, value in p.kl(q).items():
        assert value.shape == (2, 3, spec.group(key[0]).size) and (value > 0).all(), key
    assert all(v.abs().max() < 1e-5 for v in p.kl(p).values())
    assert all(v.shape == (2, 3, spec.group(k[0]).size) for k, v in p.nll(p.mode()).items())


def test_mode_is_the_mean_and_samples_follow_the_generator():
    p = dist()
    mean, logvar = Normal.split(p.params["particles", "position"])
    a, b = Beta.split(p.params["particles", "transparency"])
    assert torch.equal(p.mode().position, mean) and torch.equal(p.mean("particles", "position"), mean)
    assert torch.allclose(p.mode().transparency, a / (a + b)) and equal(p.sample(MEANS), p.mode())
    draws = [p.sample(Sampler(generator=torch.Generator().manual_seed(s))) for s in (1, 1, 2)]
    assert equal(draws[0], draws[1]) and not torch.equal(draws[0].position, draws[2].position)
    assert ((draws[0].transparency >= 0) & (draws[0].transparency <= 1)).all()


def test_hidden_fields_are_for_the_dynamics_alone():
    fields = (Field("deterministic", 2, Delta()), Field("stochastic", 3), Field("memory", 4, Delta(), hidden=True))
    spec = LatentSpec((TokenGroup("state", 2, fields),))
    z = latent(spec)
    assert spec.flat_dim("state") == 5 and z.flat("state").shape == (2, 3, 2, 5)
    again = Latent.unpack(spec, z.pack())
    assert equal(again, z) and spec.packed_dim == 9
