"""Exported functions compute what the model does; what cannot be exported says why."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.cli import main
from worldkit.errors import ExportError
from worldkit.exporting.checks import difference
from worldkit.exporting.graphs import make_graph
from worldkit.testing.examples import LEARNS, example_latent, small_config

ACTION = {"action": {"name": "action", "dim": 2}}
ANY = {"context": None, "horizon": None, "latent_actions": False, "noise": False}


def small(**options):
    torch.manual_seed(0)
    return build(small_config(**{"encoder": "slot", "dynamics": "gru", "latent_action": None, "conditioners": ACTION,
                                 **options})).eval()


def test_weights_that_a_function_reads(tmp_path):
    """They suffice: all others of a fresh model are NaN when the file is checked."""
    from safetensors.numpy import load_file

    model = small()
    found = wk.export(model, tmp_path, what="decode", format="safetensors")
    names = set(load_file(found.path))
    assert names and all(name.startswith("decoder.") for name in names) and found.checked.difference == 0
    told = json.loads((tmp_path / "decode.safetensors.json").read_text())
    assert told["config"] == model.config.to_dict() and told["operator"]["height"] == 32
    step = set(load_file(wk.export(model, tmp_path, what="step", format="safetensors").path))
    assert any("dynamics." in name for name in step) and any("conditioners." in name for name in step)
    assert not any(name.startswith(("encoder.", "decoder.")) for name in step)
    readme = (tmp_path / "README.md").read_text()
    assert "## decode.safetensors" in readme and "## step.safetensors" in readme and "`latent.slots.features`" in readme


def test_the_step_is_the_step_of_a_rollout():
    model = small()
    graph = make_graph(model, "step", context=3, horizon=None, latent_actions=False, noise=False)
    z, action = graph.example(2, 3)
    video = torch.rand(2, 3, 3, 32, 32)
    seen = model.encode(video)
    out = model.rollout(video, 1, conditions={"action": torch.cat([action, action[:, :1]], 1)}, deterministic=True)
    found = graph(seen.values["slots", "features"], action)
    assert torch.allclose(found[0], out.latents.values["slots", "features"], atol=1e-6)


@pytest.mark.parametrize("parts", [
    {}, {"dynamics": "pint", "latent_action": "gaussian"}, {"dynamics": "diffusion"},
    {"encoder": "conv", "dynamics": "rssm", "objective": "dreamer",
     "conditioners": {"action": {"name": "transition-action", "dim": 2}}}])
def test_a_rollout_is_the_rollout_of_means(parts):
    """From latents as encode gives them: the same latents and frames, and latent actions that the policy chose."""
    model = small(**parts)
    graph = make_graph(model, "rollout", context=1, horizon=3, latent_actions=False, noise=False)
    video, action = torch.rand(2, 1, 3, 32, 32), torch.rand(2, 4, 2)
    told = {} if not model.conditioners else {"conditions": {"action": action}}
    with torch.no_grad():
        seen = model.encode(video, conditions={"action": action[:, :1]}) if model.dynamics.filtering else (
            model.encode(video))
        wanted = model.rollout(seen, 3, deterministic=True, **told)
        given = graph(*seen.values.values(), action[:, :3])
    found = dict(zip([port.name for port in graph.outputs], given, strict=True))
    for (group, name), x in wanted.latents.values.items():
        assert torch.allclose(found[f"next.{group}.{name}"], x, atol=1e-5), name
    assert torch.allclose(found["video"], wanted.video, atol=1e-5) and found["video"].shape[:2] == (2, 3)
    if model.latent_action is not None:
        assert torch.allclose(found["latent_actions"], wanted.latent_actions, atol=1e-5)


def test_noise_is_an_input():
    """Of a diffusion the same noise gives the same frame, other noise another."""
    model = small(dynamics="diffusion")
    graph = make_graph(model, "step", context=2, horizon=None, latent_actions=False, noise=True)
    assert graph.draws and graph.inputs[-1].name.startswith("noise.")
    example = graph.examples(2, 2)
    torch.manual_seed(3)  # which must not matter
    assert torch.equal(graph(*example)[0], graph(*example)[0])
    changed = (*example[: -len(graph.draws)], *(x + 1 for x in example[-len(graph.draws):]))
    assert not torch.equal(graph(*changed)[0], graph(*example)[0])
    with pytest.raises(ExportError, match="draws nothing"):
        make_graph(small(), "decode", context=None, horizon=None, latent_actions=False, noise=True)


@pytest.mark.parametrize("encoder", ["conv", "slot"])
def test_a_state_is_carried_from_frame_to_frame(encoder):
    """Of a dynamics that filters, one frame after the other gives what the whole clip gives; slots remember, too."""
    from worldkit.testing.examples import example_batch

    model = build(small_config(encoder=encoder, dynamics="rssm", latent_action=None, objective="dreamer",
                               conditioners={"action": {"name": "transition-action", "dim": 2}})).eval()
    graph = make_graph(model, "encode", **ANY)
    batch = example_batch(model.config, 3)
    video, action = (batch.video * 255).to(torch.uint8), batch.conditions["action"]
    whole = model.encode(video, conditions={"action": action})
    names = [port.name for port in graph.inputs]
    wanted = [*whole.values.values(), *([] if whole.carry is None else [whole.carry])]
    assert len(wanted) == len(graph.outputs) and (whole.carry is None) == (encoder == "conv")
    state = [torch.zeros_like(x[:, :1]) for x in wanted]
    for t in range(3):
        begins = torch.full((2, 1), t == 0)
        given = action[:, max(t - 1, 0) : max(t, 1)]
        inputs = {"video": video[:, t : t + 1], "begins": begins, "last.action": given}
        inputs |= {name: x for name, x in zip([n for n in names if n.startswith("last.") and n != "last.action"], state,
                                              strict=True)}
        state = list(graph(*(inputs[name] for name in names)))
        for x, y in zip(state, wanted, strict=True):
            assert torch.allclose(x, y[:, t : t + 1], atol=1e-5)


def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch):
    from worldkit.exporting.formats import Safetensors

    monkeypatch.setattr(Safetensors, "load", lambda self, graph, path: lambda inputs: tuple(
        x + 0.1 for x in graph(*inputs)))
    with pytest.raises(ExportError, match=r"another 'video' than the model: it differs by 0\.[01]"):
        wk.export(small(), tmp_path, what="decode", format="safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_cannot_be_left_open_says_why(tmp_path, monkeypatch):
    from worldkit.exporting.formats import Safetensors

    def load(self, graph, path):
        return lambda inputs: tuple(x + 0.1 * (len(x) > 1) for x in graph(*inputs))

    monkeypatch.setattr(Safetensors, "load", load)
    found = wk.export(small(), tmp_path, what="decode", format="safetensors")
    assert found.checked.sizes == [(1, found.checked.sizes[0][1])]
    why = json.loads((tmp_path / "decode.safetensors.json").read_text("utf-8"))["fixed"]["batch"]
    assert "another 'video' than the model: it differs by 0." in why
    assert f"The batch is fixed: {why[:120]}" in (tmp_path / "README.md").read_text("utf-8")
    monkeypatch.undo()
    assert wk.export(small(), tmp_path, what="decode", format="safetensors").specification["fixed"] == {}


def test_a_size_that_a_later_attempt_leaves_open_is_not_fixed(tmp_path, monkeypatch):
    from worldkit.exporting.formats import Safetensors

    real = Safetensors.write

    def write(self, graph, example, path, wanted):
        return real(self, graph, example, path, () if "time" in wanted else wanted)

    monkeypatch.setattr(Safetensors, "write", write)
    found = wk.export(small(), tmp_path, what="decode", format="safetensors")
    assert {batch for batch, _ in found.checked.sizes} == {1, 2, 3} and found.specification["fixed"] == {}


@pytest.mark.parametrize("error", [
    OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file a"),
    ExportError("OSError: [Errno 28] No space left on device")])
def test_a_full_disk_names_the_file(error, tmp_path, monkeypatch):
    """However an exporter tells of it."""
    from worldkit.exporting.formats import Safetensors

    def fail(self, graph, example, path, wanted):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(Safetensors, "write", fail)
    with pytest.raises(OSError, match="No space left") as found:
        wk.export(small(), tmp_path, what="decode", format="safetensors")
    assert found.value.filename == str(tmp_path / "decode.safetensors") and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_torch_export_leaves_the_writing_to_python(tmp_path, monkeypatch):
    """PyTorch's own writer ends the process where the disk is full."""
    def fail(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left") as found:
        wk.export(small(), tmp_path, what="decode", format="torch-export")
    assert found.value.filename == str(tmp_path / "decode.pt2") and list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_says_why(tmp_path):
    with pytest.raises(wk.NoDecoderError, match="has no decoder"):
        wk.export(build(small_config(encoder="jepa-vit", decoder=None, dynamics=None, latent_action=None,
                                     objective="masked-jepa")), tmp_path, what="decode")
    blind = build(small_config(dynamics=None, latent_action=None, objective="reconstruction"))
    for what in ("step", "rollout"):
        with pytest.raises(ExportError, match=f"no dynamics and predicts nothing, so there is no {what} to export"):
            wk.export(blind, tmp_path, what=what)
    with pytest.raises(ExportError, match="has no latent actions"):
        wk.export(small(), tmp_path, what="step", latent_actions=True)
    with pytest.raises(ExportError, match="looks at 1 to 4 frames, got context=9"):
        wk.export(small(), tmp_path, what="step", context=9)
    with pytest.raises(wk.ConfigError, match="what must be 'encode'"):
        wk.export(small(), tmp_path, what="all")
    with pytest.raises(wk.ConfigError, match="format must be 'onnx'"):
        wk.export(small(), tmp_path, format="tflite")
    with pytest.raises(ExportError, match="no world model"):
        wk.export(torch.nn.Linear(2, 2), tmp_path)


def test_without_the_packages_it_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(wk.MissingExtraError, match="export"):
        wk.export(small(), tmp_path, what="decode")
    assert list(tmp_path.iterdir()) == []


def test_the_model_stays_as_it_was(tmp_path):
    model = small().train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    wk.export(model, tmp_path, what="decode", format="safetensors")
    assert model.training and all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_tracing_leaves_nothing_behind_in_the_model():
    """TD-MPC2's bins were kept as they were traced, without numbers, and whatever came next in the process failed."""
    from worldkit.exporting.formats import traced
    from worldkit.nn import symlog

    symlog._kept.cache_clear()
    graph = make_graph(build(small_config(**LEARNS["tdmpc2"], conditioners=ACTION)).eval(), "step", context=None,
                       horizon=None, latent_actions=False, noise=False)
    example = graph.example(2, graph.time())
    traced(graph, example, ("batch",))
    assert all(type(x) is torch.Tensor and x.isfinite().all() for x in graph(*example))


def test_difference():
    assert difference(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])) == 1.0
    assert difference(torch.zeros(2), torch.zeros(3)) == difference(torch.tensor([1]), torch.tensor([2])) == np.inf
    assert difference(torch.tensor([float("nan")]), torch.zeros(1)) == np.inf


def onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


def test_decode_in_onnx_runtime(tmp_path):
    onnx()
    import onnxruntime

    model = small()
    found = wk.export(model, tmp_path, what="decode")
    assert found.checked.difference < 1e-4 and "onnxruntime" in str(found.checked)
    session = onnxruntime.InferenceSession(str(found.path))
    z = model.encode(torch.rand(5, 1, 3, 32, 32))
    (video,) = session.run(None, {"latent.slots.features": z.features.detach().numpy()})
    assert np.allclose(video, model.decode(z).video.detach(), atol=1e-4)
    assert session.get_inputs()[0].shape[:2] == ["batch", "time"]
    assert str(tmp_path.parent).encode() not in found.path.read_bytes() and b"worldkit/" not in found.path.read_bytes()


def test_sorting_keeps_the_order_of_equals(tmp_path):
    """PyTorch's exporter has no translation of a stable sort; ours must be one, ties included."""
    onnx()
    import onnxruntime

    from worldkit.exporting.formats import _translations

    class Sorted(torch.nn.Module):
        def forward(self, x):
            return x.round().argsort(dim=1, stable=True), x.round().argsort(dim=1, stable=True, descending=True)

    x = 2 * torch.randn(2, 40)
    made = torch.onnx.export(Sorted(), (x,), dynamo=True, verbose=False, custom_translation_table=_translations())
    made.save(tmp_path / "sorted.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "sorted.onnx"))
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert all(np.array_equal(a, b) for a, b in zip(found, Sorted()(x), strict=True))


def test_attention_with_a_bias(tmp_path):
    """PyTorch lays out what its kernel gives in one way while it traces, and in another when it translates."""
    onnx()
    import onnxruntime

    from worldkit.nn.attention import Attention

    class Biased(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.bias = Attention(16, 2), torch.nn.Parameter(torch.randn(2, 5, 5))

        def forward(self, x):
            return self.attention.attend(*self.attention.heads(x), bias=self.bias)

    layer, x = Biased().eval(), torch.randn(3, 5, 16)
    with torch.no_grad():
        program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "layer.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / "layer.onnx"))
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], layer(x).numpy(), atol=1e-5)


def test_what_a_decoder_is_tried_with_are_latents_that_there_can_be():
    """G-SWM's transparencies are plain numbers to their distribution; below 0 they make its picture a division by 0."""
    model = wk.create_model("g-swm-balls-mini", pretrained=True).eval()
    z = example_latent(model.spec, 4, 3)
    assert 0 <= z.transparency.min() and z.transparency.max() <= 1
    with torch.no_grad():
        wanted, found = (m.decode(x).video for m, x in (
            (copy.deepcopy(model).double(), z.to(torch.float64)), (model, z)))
    assert (found - wanted).abs().max() < 1e-5  # before: 9e-3


@pytest.mark.slow
@pytest.mark.parametrize("what", ["encode", "decode", "step", "rollout"])
@pytest.mark.parametrize("preset", ["lpwm-mini", "dreamer-v3-mini", "iris-mini", "diamond-mini", "lewm-mini"])
def test_families_in_onnx_runtime(tmp_path, preset, what):
    onnx()
    model = wk.create_model(preset)
    if what == "decode" and model.decoder is None:
        pytest.skip("it has no decoder")
    found = wk.export(model, tmp_path, what=what, horizon=2 if what == "rollout" else None)
    assert found.checked.difference < 1e-4


def test_torch_export_leaves_the_batch_of_particles_open(tmp_path):
    """Their latents are parts of wider tensors; traced with such strides, PyTorch refused one clip."""
    model = build(small_config(encoder="particle", dynamics="gru", latent_action=None)).eval()
    found = wk.export(model, tmp_path, what="decode", format="torch-export")
    assert {batch for batch, _ in found.checked.sizes} == {1, 2, 3} and found.checked.difference < 1e-4
    for what in ("decode", "step"):
        assert all(x.is_contiguous() for x in make_graph(model, what, **ANY).examples(2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["lpwm-push-mini", "ddlp-balls-mini", "genie-mini"])
def test_torch_export_of_families(tmp_path, preset):
    found = wk.export(wk.create_model(preset), tmp_path, what="step", format="torch-export")
    assert {batch for batch, _ in found.checked.sizes} == {1, 2, 3} and found.checked.difference < 1e-4


@pytest.mark.slow
def test_torch_export(tmp_path):
    found = wk.export(small(), tmp_path, what="step", format="torch-export")
    assert found.path.suffix == ".pt2" and found.checked.difference < 1e-4


def test_command(tmp_path, capsys):
    small(objective="elbo").save_pretrained(tmp_path / "m")
    status = main(["export", str(tmp_path / "m"), "--format", "safetensors", "--out", str(tmp_path / "out"), "--what",
                   "decode", "step"])
    out = capsys.readouterr().out
    assert status == 0 and "largest difference from the model 0.0e+00" in out.replace("\n", " ")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "README.md", *(f"{what}.safetensors{end}" for what in ("decode", "step") for end in ("", ".json"))}
