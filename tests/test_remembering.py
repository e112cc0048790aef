"""Dynamics that keep keys and values: frame by frame they say what they say of whole windows, also beyond them."""

from dataclasses import replace

import pytest
import torch

import worldkit as wk
from worldkit.conditions import Condition
from worldkit.dynamics.remembering import Kept, Remembering
from worldkit.nn.prenorm import NormedAttention
from worldkit.registry import dynamics as registered
from worldkit.testing import example_latent, example_spec

D = torch.float64
SIZES = {"adaln-causal": {"num_heads": 2, "head_dim": 4, "hidden": 8, "projector": 8},
         "causal-patches": {"num_heads": 2, "head_dim": 4, "hidden": 8, "action_dim": 5},
         "vjepa2-ac": {"dim": 24, "num_heads": 2, "cond_dim": 5}}


def make(name, window=3):
    spec = example_spec(kind="patches")
    kind = registered.get(name)
    made = kind(kind.Config(num_layers=2, **SIZES[name]), spec=spec, anchors={}, window=window).to(D).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(std=0.3)
    z = example_latent(spec, batch=2, time=7).map(lambda x: x.to(D))
    return made, z, Condition(frame=torch.randn(2, 7, made.cond_dim, dtype=D))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("seen", [1, 2, 4])
@torch.no_grad()
def test_frame_by_frame_is_the_window(name, seen):
    torch.manual_seed(0)
    made, z, cond = make(name)
    assert isinstance(made, Remembering)
    carry = made.start(z[:, :seen], cond.at(slice(0, seen - 1)))
    for t in range(seen - 1, 6):
        told = made.step(carry, cond.at(slice(t, t + 1)))
        window = slice(max(0, t - 2), t + 1)
        wanted = made.prior(z[:, window], cond.at(window))
        for key, value in told.params.items():
            torch.testing.assert_close(value, wanted.params[key][:, -1:], rtol=1e-9, atol=1e-9)
        made.observe(carry, z[:, t + 1 : t + 2])


@pytest.mark.parametrize("name", SIZES)
def test_inside_the_window_a_step_runs_one_frame(name):
    made, z, cond = make(name)
    rows = []
    layer = made.blocks[0] if name != "causal-patches" else made.blocks[0][0]
    layer.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].shape[1]))
    carry = made.start(z[:, :1], Condition())
    with torch.no_grad():
        for t in range(4):
            made.step(carry, cond.at(slice(t, t + 1)))
            made.observe(carry, z[:, t + 1 : t + 2])
    frame = rows[0]
    assert rows == [frame, frame, frame, 3 * frame]


@pytest.mark.parametrize("name", ["adaln-causal", "causal-patches"])
def test_nothing_is_kept_while_dropout_and_batch_norms_are_at_work(name):
    made, z, cond = make(name)
    made.train()
    carry = made.start(z[:, :2], cond.at(slice(0, 1)))
    assert isinstance(carry, Kept) and carry.memory is None
    torch.manual_seed(1)
    told = made.step(carry, cond.at(slice(1, 2)))
    torch.manual_seed(1)
    wanted = made.prior(z[:, :2], cond.at(slice(0, 2)))
    for key, value in told.params.items():
        assert torch.equal(value, wanted.params[key][:, -1:])


def test_gradients_pass_what_is_kept():
    made, z, cond = make("adaln-causal")
    wanted, kept = ([], [])
    for whole in (True, False):
        x = z.map(lambda value: value.clone().requires_grad_())
        if whole:
            out = made.prior(x[:, :3], cond.at(slice(0, 3)))
        else:
            carry = made.start(x[:, :2], cond.at(slice(0, 1)))
            made.step(carry, cond.at(slice(1, 2)))
            made.observe(carry, x[:, 2:3])
            out = made.step(carry, cond.at(slice(2, 3)))
        sum(value[:, -1].square().sum() for value in out.params.values()).backward()
        (wanted if whole else kept).extend(value.grad for value in x.values.values())
    for a, b in zip(kept, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_rows_of_a_batch_of_dreams_begin_anew():
    made, z, cond = make("adaln-causal")
    carry, other = (made.start(z[rows, :2], replace(cond, frame=cond.frame[rows, :1])) for rows in ([0, 1], [1]))
    made.put(carry, torch.tensor([0]), other)
    told = made.step(carry, cond.at(slice(1, 2)))
    again = replace(cond, frame=torch.cat([cond.frame[[1], :1], cond.frame[[0], 1:2]], 1))
    wanted = made.prior(z[[1], :2], again)
    for key, value in told.params.items():
        torch.testing.assert_close(value[:1], wanted.params[key][:, -1:])


def test_few_tokens_ask_for_all():
    attention, x = NormedAttention(8, 2, 4), torch.randn(2, 3, 8)
    torch.testing.assert_close(attention(x, causal=True, last=1), attention(x, causal=True)[:, -1:])


def test_models_say_it():
    assert isinstance(wk.create_model("lewm-mini").dynamics, Remembering)
