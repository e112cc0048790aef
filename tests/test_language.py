"""Strings through a frozen T5 encoder: a tiny one with random weights, made here; no network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit import compat, errors
from worldkit.assembly import build
from worldkit.conditioners import text
from worldkit.conditioners.language import encode_text, encode_text_with_mask
from worldkit.data import ArraySource, ClipDataset, make_loader
from worldkit.errors import CheckpointError, ConditionError, ConfigError, MissingExtraError
from worldkit.testing import example_batch
from worldkit.testing.examples import small_config
from worldkit.testing.report import shake

WORDS = ["<pad>", "</s>", "<unk>", "push", "pull", "the", "red", "blue", "block"]
TEXTS = ["push the red block", "pull"]
WIDTH, LENGTH = 16, 6


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A folder with a T5 of a few thousand random weights (encoder and decoder) and a tokenizer of nine words."""
    pytest.importorskip("transformers")
    transformers = compat.import_transformers("language", "the test")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("t5")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.T5Config(
            d_model=WIDTH, d_kv=4, d_ff=32, num_layers=1, num_heads=2, vocab_size=len(WORDS), decoder_start_token_id=0
        )
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_language_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))
    text.text_encoder.cache_clear()


@pytest.fixture
def runs(monkeypatch):
    """Sentences that the network has encoded."""
    seen, compute = [], text.TextEncoder._compute

    def count(self, sentence, *args):
        seen.append(sentence)
        return compute(self, sentence, *args)

    monkeypatch.setattr(text.TextEncoder, "_compute", count)
    return seen


def cached():
    return sorted((Path(os.environ["WORLDKIT_CACHE"]) / "language").iterdir())


def language_model(t5, **options):
    options = {"name": "language", "embed_dim": WIDTH, "max_length": LENGTH, "model": str(t5), **options}
    return shake(build(small_config(conditioners={"language": options})))


# -- the encoder

@pytest.mark.parametrize("attend_padding", [True, False])
def test_embeddings_are_those_of_transformers(t5, attend_padding):
    from transformers import AutoTokenizer, T5EncoderModel

    tokens = AutoTokenizer.from_pretrained(t5)(TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt")
    seen = torch.ones_like(tokens["attention_mask"]) if attend_padding else tokens["attention_mask"]
    with torch.no_grad():
        want = T5EncoderModel.from_pretrained(t5)(tokens["input_ids"], attention_mask=seen).last_hidden_state
    found, mask = encode_text_with_mask(TEXTS, str(t5), LENGTH, attend_padding=attend_padding)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
    assert found.shape == (2, LENGTH, WIDTH) and found.dtype == torch.float32 and not found.requires_grad
    assert mask.tolist() == [[True] * 5 + [False], [True] * 2 + [False] * 4]
    assert torch.equal(encode_text(TEXTS, str(t5), LENGTH, attend_padding=attend_padding), found)


def test_masked_embeddings_do_not_depend_on_the_padding(t5):
    short, long = (encode_text(["pull"], str(t5), n, attend_padding=False)[:, :2] for n in (2, 6))
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(*(encode_text(["pull"], str(t5), n)[:, :2] for n in (2, 6)), atol=1e-3)


def test_a_long_sentence_is_cut_with_a_warning(t5):
    with pytest.warns(RuntimeWarning, match="a sentence of 5 tokens is cut to max_length=3: 'push the red block'"):
        assert encode_text(TEXTS[:1], str(t5), 3).shape == (1, 3, WIDTH)


def test_encoding_leaves_the_random_numbers_alone(t5):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    encode_text(TEXTS, str(t5), LENGTH)
    assert torch.equal(before, torch.get_rng_state())


def test_autocast_does_not_reach_the_encoder(t5):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encode_text(TEXTS, str(t5), LENGTH)
    shutil.rmtree(os.environ["WORLDKIT_CACHE"])
    assert torch.equal(found, encode_text(TEXTS, str(t5), LENGTH))


# -- the cache

def test_every_sentence_is_encoded_once(t5, runs):
    first = encode_text([*TEXTS, "pull"], str(t5), LENGTH)
    assert runs == TEXTS and len(cached()) == 2 and all(f.suffix == ".safetensors" for f in cached())
    text.text_encoder.cache_clear()  # as in a new process
    assert torch.equal(encode_text(["pull", *TEXTS], str(t5), LENGTH), first[[1, 0, 1]])
    assert runs == TEXTS


def test_a_cached_sentence_needs_no_transformers(t5, runs, monkeypatch):
    first = encode_text(TEXTS, str(t5), LENGTH)
    text.text_encoder.cache_clear()
    monkeypatch.setattr(text, "import_transformers", lambda *_: pytest.fail("transformers was imported"))
    assert torch.equal(encode_text(TEXTS, str(t5), LENGTH), first)


def test_the_cache_tells_lengths_paddings_and_encoders_apart(t5, runs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(t5, other)
    for model, length, padding in ((t5, 6, True), (t5, 5, True), (t5, 6, False), (other, 6, True)):
        encode_text(["pull"], str(model), length, attend_padding=padding)
    assert runs == ["pull"] * 4
    weights = other / "model.safetensors"
    os.utime(weights, ns=(1, 1))  # as if they had been written anew
    text.text_encoder.cache_clear()
    encode_text(["pull"], str(other), 6)
    assert runs == ["pull"] * 5


@pytest.mark.parametrize("damage", [b"", b"no safetensors", None])
def test_a_damaged_file_is_computed_again(t5, runs, damage):
    first = encode_text(["pull"], str(t5), LENGTH)
    (file,) = cached()
    file.write_bytes(file.read_bytes()[:-7] if damage is None else damage)
    assert torch.equal(encode_text(["pull"], str(t5), LENGTH), first) and runs == ["pull"] * 2
    assert torch.equal(encode_text(["pull"], str(t5), LENGTH), first) and runs == ["pull"] * 2
    assert cached() == [file]  # no temporary file stays


def test_a_cache_that_cannot_be_written_is_told(t5, runs, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("WORLDKIT_CACHE", str(blocked))
    with pytest.warns(RuntimeWarning, match="cannot keep text embeddings in .*set WORLDKIT_CACHE to a folder"):
        assert encode_text(["pull"], str(t5), LENGTH).shape == (1, LENGTH, WIDTH)


# -- the conditioner

def test_strings_and_their_embeddings_give_the_same(t5):
    model, video = language_model(t5), torch.rand(2, 2, 3, 32, 32)
    embeddings = encode_text(TEXTS, str(t5), LENGTH)
    by_text, by_embedding, other = (
        model.rollout(video, 2, conditions={"language": value}, deterministic=True).latent_actions
        for value in (TEXTS, embeddings, tuple(TEXTS[::-1]))
    )
    assert torch.equal(by_text, by_embedding) and not torch.equal(by_text, other)
    loss = model.train().loss(wk.Batch(example_batch(model.config).video, {"language": TEXTS})).total
    loss.backward()
    assert torch.isfinite(loss) and model.conditioners["language"].project.weight.grad.abs().max() > 0


def test_padding_is_masked_behind_a_null_embedding(t5):
    module = language_model(t5, null_embedding=True).conditioners["language"]
    embeddings, tokens = encode_text_with_mask(TEXTS, str(t5), LENGTH)
    null = module.project(module.null) + module.kind
    memory = module(TEXTS, None, view=None).memory
    assert torch.equal(memory, module(embeddings, tokens, view=None).memory)
    assert torch.allclose(memory[1, 2:], null.expand(4, -1)) and not torch.allclose(memory[1, 1], null)
    given = torch.tensor([True, False])
    module.check_mask(given, TEXTS, name="language")
    memory = module(TEXTS, given, view=None).memory
    assert torch.allclose(memory[1], null.expand(LENGTH, -1)) and torch.equal(memory[0, 0], module(
        embeddings, tokens, view=None).memory[0, 0])


def test_the_encoder_is_no_part_of_the_model(t5, tmp_path):
    model = language_model(t5)
    model.rollout(torch.rand(2, 1, 3, 32, 32), 1, conditions={"language": TEXTS})
    names = {name for name in model.state_dict() if name.startswith("conditioners.")}
    assert names == {f"conditioners.language.{name}" for name in ("project.weight", "project.bias", "kind")}
    assert sum(1 for _ in model.conditioners["language"].modules()) == 2
    model.save_pretrained(tmp_path / "saved")
    again = wk.WorldModel.from_pretrained(tmp_path / "saved")
    assert again.config.conditioners["language"].model == str(t5)


def test_strings_travel_from_the_data_to_the_model(t5):
    clips = [{"video": np.full((5, 3, 32, 32), 40 * i, np.uint8), "language": text} for i, text in enumerate(TEXTS)]
    batch = next(iter(make_loader(ClipDataset(ArraySource(clips), num_frames=5), 2, shuffle=False)))
    assert batch.conditions["language"] == TEXTS and batch.to("cpu").conditions["language"] == TEXTS
    assert torch.isfinite(language_model(t5).loss(batch).total)


# -- refusals

def refuse(error, message, call):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value), str(caught.value)


@pytest.mark.parametrize(("value", "message"), [
    ("push the block", "condition 'language' must be a list of strings, one per clip: [\"push the block\", ...]; got"),
    (["push", None], "got a list with NoneType"),
    ([], "got none"),
])
def test_what_is_no_list_of_strings(t5, value, message):
    model, video = language_model(t5), torch.rand(2, 2, 3, 32, 32)
    refuse(ConditionError, message, lambda: model.rollout(video, 1, conditions={"language": value}))


def test_strings_without_an_encoder():
    model = build(small_config(conditioners={"language": {"name": "language", "embed_dim": 5, "max_length": 2}}))
    refuse(ConditionError, "condition 'language' was given strings, but its conditioner has no text encoder; set "
           "conditioners.language.model='google-t5/t5-large' (or a local folder), or pass embeddings [B, 2, 5]",
           lambda: model.rollout(torch.rand(2, 2, 3, 32, 32), 1, conditions={"language": TEXTS}))


def test_the_wrong_width(t5):
    model = language_model(t5, embed_dim=1024)
    refuse(ConfigError, f"conditioners.language.embed_dim is 1024, but '{t5}' gives embeddings of width 16; set "
           "conditioners.language.embed_dim=16",
           lambda: model.rollout(torch.rand(2, 2, 3, 32, 32), 1, conditions={"language": TEXTS}))


def test_without_transformers(t5, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(errors.importlib, "import_module", missing)
    monkeypatch.setattr(compat, "import_torchvision", lambda: None)
    refuse(MissingExtraError, "conditioner 'language' with a T5 encoder needs transformers, which is not installed. "
           + errors.install_hint("language"), lambda: encode_text(TEXTS, str(t5), LENGTH))


def test_offline_names_what_would_do(monkeypatch):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("outgoing traffic has been disabled")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    refuse(CheckpointError, "cannot get the T5 encoder 'google-t5/t5-large' from the hub: LocalEntryNotFoundError: ",
           lambda: encode_text(TEXTS, "google-t5/t5-large", LENGTH))
    refuse(CheckpointError, "give its folder, which must hold config.json, model.safetensors and tokenizer.json: "
           "conditioners.language.model=/path/to/folder", lambda: encode_text(TEXTS, "google-t5/t5-large", LENGTH))


def test_a_hub_id_may_name_its_revision(t5, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        assert not any(pattern.endswith((".bin", ".py")) for pattern in allow_patterns)
        return str(t5)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert encode_text(TEXTS, "some/t5@abc", LENGTH).shape == encode_text(TEXTS, "some/t5", LENGTH).shape
    assert asked == [("some/t5", "abc"), ("some/t5", None)]


def test_folders_that_hold_no_encoder(t5, tmp_path):
    refuse(CheckpointError, "no T5 encoder at /no/such/folder: no such folder. Give one that holds config.json, model",
           lambda: encode_text(TEXTS, "/no/such/folder", LENGTH))
    empty = tmp_path / "empty"
    empty.mkdir()
    refuse(CheckpointError, "and holds: nothing", lambda: encode_text(TEXTS, str(empty), LENGTH))
    (empty / "config.json").write_text(json.dumps({"model_type": "bert"}))
    refuse(CheckpointError, "holds a model of type 'bert', not a T5 encoder",
           lambda: encode_text(TEXTS, str(empty), LENGTH))
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(t5 / file, empty)
    refuse(CheckpointError, "no file named model.safetensors", lambda: encode_text(TEXTS, str(empty), LENGTH))


def test_weights_that_are_not_all_there(t5, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(t5, broken)
    weights = load_file(broken / "model.safetensors")
    gone = next(name for name in weights if name.startswith("encoder.block") and name.endswith("q.weight"))
    save_file({name: value for name, value in weights.items() if name != gone}, broken / "model.safetensors",
              metadata={"format": "pt"})
    refuse(CheckpointError, f"lacks weights of a T5 encoder: {gone}", lambda: encode_text(TEXTS, str(broken), LENGTH))


def test_looking_the_conditioner_up_loads_nothing():
    code = (
        "import sys, torch, worldkit as wk; from worldkit.testing.examples import small_config, example_batch;"
        "model = wk.create_model(config=small_config(conditioners={'language': {'name': 'language', 'embed_dim': 5,"
        "'max_length': 2, 'model': 'google-t5/t5-large'}})); model.loss(example_batch(model.config));"
        "print('language' in wk.list_conditioners(), 'transformers' in sys.modules, 'torchvision' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.split() == ["True", "False", "False"]
