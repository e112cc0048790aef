"""semantic-wm's probes, point and picture scores against recorded outputs of the authors' code."""

import json

import pytest

from worldkit.metrics.points import coverage, flat_ssim, level_psnr, point_pck, query_grid
from worldkit.nn.probes import InverseDynamics, LinearProbe, ProgressProbe, SpaceTimeProbe, TemporalProbe, TextProbe

from .jepa_files import read
from .semantic_files import ROOT, Fixture, close, close_grads, folders, load, renamed

CASES, needs = folders("probes*")
pytestmark = needs
CLASS, LAYERS = (r"^cls_token", "token"), (r"^transformer\.", "layers.")
NAMES = {
    "linear": ((r"^classifier", "linear"),),
    "temporal": (CLASS, LAYERS, (r"^pos_embed", "places"), (r"^spatial_proj", "frames")),
    "spatiotemporal": (CLASS, LAYERS, (r"^temporal_embed", "time"), (r"^spatial_embed", "space")),
    "progress": (),
    "idm": ((r"^temporal_pos_emb", "time"), (r"^spatial_pos_emb", "space"), (r"^cls_queries", "queries"),
            (r"^input_proj", "inputs"), (r"^transformer\.", "blocks."), (r"attn\.qkv_proj", "attention.qkv"),
            (r"attn\.out_proj", "attention.proj"), (r"^final_norm", "norm")),
    "probe2": (CLASS, (r"^temporal_embed", "time"), (r"^spatial_embed", "space"), (r"^input_proj", "inputs"),
               (r"^text_proj", "text"), (r"spatial_attn", "space"), (r"temporal_attn", "time"),
               (r"cross_attn", "text"), (r"\.([qkv])_proj", r".\1"), (r"out_proj", "out"), (r"ffn\.w12", "inputs"),
               (r"ffn\.w3", "outputs")),
}


@pytest.fixture(params=CASES, ids=lambda path: path.name)
def case(request):
    return Fixture(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_probes(case, name):
    c, x = case.config, case.inputs["x"]
    made = {
        "linear": lambda: LinearProbe(c["d"], c["T"]),
        "temporal": lambda: TemporalProbe(c["d"], c["T"], num_heads=c["heads"]),
        "spatiotemporal": lambda: SpaceTimeProbe(c["d"], c["T"], num_heads=c["heads"]),
        "progress": lambda: ProgressProbe(c["d"]),
        "idm": lambda: InverseDynamics(c["d"], (c["grid"] // c["ps"]) ** 2, 7, steps=c["k"], patch_size=c["ps"],
                                       dim=c["mdim"], num_layers=c["mlayers"], num_heads=c["mheads"]),
        "probe2": lambda: TextProbe(c["d"], c["T"], text_width=c["tdim"], dim=c["mdim"], num_heads=c["mheads"],
                                    num_layers=c["mlayers"]),
    }[name]().double().eval()
    load(made, case.weights(name), lambda key: renamed(key, NAMES[name]))
    if name == "probe2":
        text, mask = case.inputs["text"], case.inputs["text_mask"]
        close(made(x), case.tensors["probe2_no_text"], "without text")
        close(made(x, text), case.tensors["probe2_text_no_mask"], "without mask")
        out = made(x, text, mask)
    else:
        out = made(x[:, : c["k"] + 1] if name == "idm" else x)
    close(out, case.tensors[name], name)
    out.square().sum().backward()
    norms = {key.removeprefix(f"{name}."): norm for key, norm in case.scalars[f"{name}_grad_norms"].items()}
    close_grads(made, norms, lambda key: renamed(key, NAMES[name]))


def test_scores():
    folder = ROOT / "units"
    if not folder.exists():
        pytest.skip("not recorded")
    said, scalars = read(folder / "tensors.npz"), json.loads((folder / "scalars.json").read_text())
    scalars = scalars.get("f64", scalars)
    made, truth = (said[f"mse_psnr_{name}"].movedim(-1, -3)[:, 1:].float() for name in ("gen", "gt"))
    psnr = level_psnr(made.double(), truth.double())
    close(psnr[0], scalars["eval_psnr_ssim_skip1"]["psnr"], "PSNR")
    close(flat_ssim(made.double(), truth.double())[0], scalars["eval_psnr_ssim_skip1"]["ssim"], "SSIM")
    close(psnr.mean(), scalars["train_val_psnr_ssim_skip1"]["psnr"], "mean PSNR")
    grey = flat_ssim(made.double(), truth.double(), grey=True).mean()
    close(grey, scalars["train_val_psnr_ssim_skip1"]["ssim"], "SSIM of grey pictures")
    tracks, visible = said["pck_tracks"], said["pck_vis"]
    seen = (visible[::2] & visible[1::2])[:, 1:]
    for name, wanted in scalars["pck"].items():
        if name.startswith("pck@"):
            found = point_pck(tracks[::2, 1:], tracks[1::2, 1:], seen, float(name[4:].split("_")[0]))
        else:
            found = coverage(seen)
        steps = found.nanmean(0)
        close(steps.nanmean() if name.endswith("mean") else steps, wanted, name)
    for name in (n for n in said if n.startswith("pck_grid")):
        side, rows = map(int, name.split("_")[2:])
        queries = said[name][0]
        assert not queries[:, 0].any()
        close(query_grid(side, side, rows), queries[:, 1:], name, 1e-6)
