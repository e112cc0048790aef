"""Masks of I-JEPA and V-JEPA against what the official collators drew: sizes exactly, examples exactly, statistics."""

import json
import math

import pytest
import torch

from worldkit.distributions import Sampler
from worldkit.objectives.masks import (
    ClipMaskConfig,
    ImageMaskConfig,
    clip_masks,
    clip_size,
    image_masks,
    image_sizes,
    picks,
)

from .jepa_files import ROOT, D, close, read

IMAGES, CLIPS = (sorted(ROOT.glob(f"{name}/*.json")) for name in ("ijepa_masks", "vjepa_masks"))
pytestmark = pytest.mark.skipif(not IMAGES, reason=f"golden files not found at {ROOT}; set WORLDKIT_PARITY")


def official(n):
    """Choices as the official collators make them, from the global generator."""
    return int(torch.randint(0, n, (1,)))


def image_config(said):
    options = said["collator"]
    return ImageMaskConfig(
        context_scale=options["enc_mask_scale"], target_scale=options["pred_mask_scale"],
        target_aspect=options["aspect_ratio"], num_contexts=options["nenc"], num_targets=options["npred"],
        min_keep=options["min_keep"], overlap=options["allow_overlap"])


def clip_configs(said):
    return [ClipMaskConfig(
        num_blocks=m["num_blocks"], spatial_scale=m["spatial_scale"], temporal_scale=m["temporal_scale"],
        aspect=m["aspect_ratio"], context_share=m["max_temporal_keep"], max_keep=m["max_keep"],
    ) for m in said["masks"]]


def clip_grid(said):
    side = said["img"] // said["patch"]
    return said["frames"] // said["tubelet"], side, side


def same_statistics(numbers, said, what):
    x = torch.tensor(numbers, dtype=D)
    found = {"mean": x.mean(), "std": x.std(unbiased=False), "min": x.min(), "max": x.max()}
    found |= {key: x.quantile(int(key[1:]) / 100) for key in said if key.startswith("q")}
    for key, value in said.items():
        close(found[key], value, f"{what}, {key}")


def test_image_masks():
    for path in IMAGES:
        said = json.loads(path.read_text())
        config, grid = image_config(said), (said["grid"], said["grid"])
        sizes = [[*target, *context] for target, context in (image_sizes(config, grid, i) for i in range(256))]
        assert sizes == said["sizes"], path.stem
        examples = read(path.with_name(f"{path.stem}_examples.npz"))
        torch.manual_seed(said["global_seed_examples"])
        for number in range(4):
            masks = image_masks(config, grid, number, [official] * examples["enc_0"].shape[1])
            assert torch.equal(masks.context, examples[f"enc_{number}"]), path.stem
            assert torch.equal(masks.targets, examples[f"pred_{number}"]), path.stem
        drawn, seen = 300, torch.zeros(grid).flatten()
        sampler, lengths = Sampler(generator=torch.Generator().manual_seed(0)), []
        for number in range(drawn):  # one picture a batch, as the statistics were made
            masks = image_masks(config, grid, number, picks(sampler, torch.zeros(1)))
            lengths.append(masks.context.shape[-1])
            seen[masks.context.flatten()] += 1
        expected = said["context_len"]
        error = abs(sum(lengths) / drawn - expected["mean"])
        assert error < 4 * expected["std"] / math.sqrt(drawn) + 4 * expected["std"] / math.sqrt(256)  # few sizes
        assert not seen.reshape(grid)[-1].any() and not seen.reshape(grid)[:, -1].any()


def test_clip_masks():
    for path in CLIPS:
        said = json.loads(path.read_text())
        configs, grid = clip_configs(said), clip_grid(said)
        for config, sizes in zip(configs, said["sizes_thw_per_generator"], strict=True):
            assert [list(clip_size(config, grid, number)) for number in range(len(sizes))] == sizes
        examples = read(path.with_name(f"{path.stem}_examples.npz"))
        torch.manual_seed(said["global_seed_examples"])
        for number in range(1 + max(int(name.split("_")[1]) for name in examples)):
            for kind, config in enumerate(configs):
                context = examples[f"enc_{number}_{kind}"]
                masks = clip_masks(config, grid, number, [official] * len(context))
                assert torch.equal(masks.context[0], context)
                assert torch.equal(masks.targets[0], examples[f"pred_{number}_{kind}"])
        sampler = Sampler(generator=torch.Generator().manual_seed(0))
        for config, expected in zip(configs, said["context_len"], strict=True):
            lengths = [clip_masks(config, grid, n, picks(sampler, torch.zeros(1))).context.shape[-1]
                       for n in range(200)]
            assert abs(sum(lengths) / len(lengths) - expected["mean"]) < 8 * expected["std"] / math.sqrt(len(lengths))


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_statistics_of_image_masks(path):
    """All the pictures that upstream's statistics were made of, drawn again: they are equal."""
    said = json.loads(path.read_text())
    config, grid = image_config(said), (said["grid"], said["grid"])
    contexts, targets, unions = [], [], []
    shown, hidden = torch.zeros(2, math.prod(grid), dtype=D)
    torch.manual_seed(said["global_seed_stats"])
    for number in range(said["draws"]):
        masks = image_masks(config, grid, number, [official])
        contexts.append(masks.context.shape[-1])
        targets.append(masks.targets.shape[-1])
        unions.append(len(masks.targets.unique()))
        shown[masks.context[0, 0]] += 1  # of the first context block
        hidden += masks.targets.flatten().bincount(minlength=len(hidden))
    for name, numbers in (("context_len", contexts), ("pred_len", targets), ("pred_union", unions)):
        same_statistics(numbers, said[name], name)
    assert {str(n): targets.count(n) for n in set(targets)} == said["pred_len_hist"]
    for name, count in (("context_coverage", shown), ("pred_coverage_sum_over_blocks", hidden)):
        assert (count.view(grid) / said["draws"] - torch.tensor(said[name])).abs().max() < 0.51e-4, name  # 4 digits
    torch.manual_seed(said["global_seed_stats"] + 1)
    many = max(200, 2500 // said["batch"])  # so many batches; the records do not say it
    drawn = [image_masks(config, grid, number, [official] * said["batch"]) for number in range(many)]
    same_statistics([m.context.shape[-1] for m in drawn], said["batch_context_len"], "contexts of batches")
    same_statistics([m.targets.shape[-1] for m in drawn], said["batch_pred_len"], "targets of batches")


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_statistics_of_clip_masks(path):
    said = json.loads(path.read_text())
    configs, grid = clip_configs(said), clip_grid(said)
    torch.manual_seed(said["global_seed_examples"] + 1)
    drawn = [[clip_masks(config, grid, number, [official]) for config in configs] for number in range(said["draws"])]
    for name, part in (("context_len", "context"), ("pred_len", "targets")):
        for kind, numbers in enumerate(said[name]):
            same_statistics([getattr(masks[kind], part).shape[-1] for masks in drawn], numbers, f"{name} {kind}")
