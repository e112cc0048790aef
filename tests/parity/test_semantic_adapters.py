"""semantic-wm's adapters and pixel decoder against recorded outputs of the authors' code, and their full sizes."""

import json
import re
from functools import partial

import pytest
import torch

from worldkit.convert.semantic_wm import names_of
from worldkit.distributions import MEANS, Sampler
from worldkit.nn.adapters import Adapter, AdapterConfig, Narrowed, adapter_terms
from worldkit.nn.pixel_decoder import PixelDecoder

from .semantic_files import ROOT, Fixture, close, close_grads, folders, load

CASES, needs = folders("svae*")
pytestmark = needs
adapter_name, pixel_name = partial(names_of, "adapter"), partial(names_of, "decoder")


class Drawn(Sampler):
    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def normal(self, name, mean, logvar):
        return mean + self.noise * (0.5 * logvar).exp()


@pytest.fixture(params=CASES, ids=lambda path: path.name)
def case(request):
    return Fixture(request.param)


def rows(x):
    return x.flatten(2, 3).flatten(0, 1)


def svae(case):
    c = case.config
    adapter = Adapter.make(AdapterConfig(dim=c["l"], num_layers=c["layers"], num_heads=c["heads"], hidden=c["inter"],
                                         progressive=c["prog"], latent_layers=c["lat"]), c["d"]).double()
    load(adapter, case.weights("svae"), adapter_name)
    return adapter


def test_svae(case):
    adapter, said, features = svae(case), case.tensors, rows(case.inputs["f"])
    assert sum(p.numel() for p in adapter.parameters()) == case.scalars["params"]["svae"]
    assert case.scalars["mid_dim"] in (None, adapter.middle)
    close(adapter.encode_wide[0](features), said["svae_block0"], "first block")
    mean = adapter.narrow(features, MEANS)
    close(mean.tokens, said["svae_z_eval"], "in evaluation")
    close(adapter.widen(mean.tokens), said["svae_dec_eval"], "and back")
    drawn = adapter.narrow(features, Drawn(case.inputs["eps"]))
    close(drawn.tokens, said["svae_z_train"], "in training")
    close(drawn.mean, said["svae_mu"], "mean")
    close(drawn.logvar, said["svae_logvar"], "log-variance")
    again = adapter.widen(drawn.tokens)
    close(again, said["svae_rec"], "reconstruction")
    terms = {name: value.mean() for name, value in adapter_terms(features, again, drawn, spectral=True).items()}
    for ours, theirs in (("features", "mse"), ("cosine", "cos"), ("spectral", "spectral"), ("kl", "kl")):
        close(terms[ours], case.scalars[theirs], theirs)
    loss = (terms["features"] + terms["cosine"] + case.config["spec"] * terms["spectral"]
            + case.config["klw"] * terms["kl"])
    close(loss, case.scalars["loss"], "loss")
    loss.backward()
    norms = case.scalars["grad_norms"]
    close_grads(adapter, {k.removeprefix("svae."): v for k, v in norms.items() if k.startswith("svae.")}, adapter_name)


def test_mlp(case):
    c, said = case.config, case.tensors
    adapter = Adapter.make(AdapterConfig(name="mlp", dim=c["l"]), c["d"]).double()
    load(adapter, case.weights("mlp"), adapter_name)
    assert sum(p.numel() for p in adapter.parameters()) == case.scalars["params"]["mlp"]
    close(adapter.narrow(rows(case.inputs["f"]), MEANS).tokens, said["mlp_z"], "tokens")
    close(adapter.widen(rows(said["mlp_z"])), said["mlp_dec"], "features")


def test_pixel_decoder(case):
    c = case.config
    net = PixelDecoder(c["l"], 3, channels=c["pc"], multipliers=c["pm"], num_blocks=c["pr"], num_heads=c["ph"],
                       doubles_time=c["tup"]).double()
    load(net, case.weights("pixel"), pixel_name)
    assert sum(p.numel() for p in net.parameters()) == case.scalars["params"]["pixel"]
    z = case.tensors["svae_z_train"].movedim(-1, 2)
    drawn = net(z).movedim(2, -1)
    close(drawn[:, :, ::4, ::4], case.tensors["pixel"], "picture")
    loss = (drawn - case.inputs["pix"]).square().mean()
    close(loss, case.scalars["pixel_mse"], "squared error")
    loss.backward()
    close_grads(net, {k.removeprefix("pixel."): v for k, v in case.scalars["pixel_grad_norms"].items()}, pixel_name)


def test_full_sizes():
    counts = json.loads((ROOT / "parameter_counts.json").read_text())
    for key, wanted in counts.items():
        kind, _, sizes = key.partition("/")
        numbers = [int(n) for n in re.findall(r"\d+", sizes)]
        with torch.device("meta"):
            if kind == "svae":
                width, dim, heads, hidden = numbers
                made = Adapter.make(AdapterConfig(dim=dim, num_heads=heads, hidden=hidden), width)
            elif kind == "mlp":
                made = Adapter.make(AdapterConfig(name="mlp", dim=numbers[1]), numbers[0])
            elif kind == "pixel_decoder":
                made = PixelDecoder(numbers[0], 3, channels=128, multipliers=(1, 1, 2, 4, 8), num_blocks=2, num_heads=4)
            else:
                continue
        assert sum(p.numel() for p in made.parameters()) == wanted, key


def test_kl_of_the_standard_normal_is_nothing():
    zero = torch.zeros(2, 3, 4)
    assert adapter_terms(zero, zero, Narrowed(zero, zero, zero))["kl"].abs().max() == 0
