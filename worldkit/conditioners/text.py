"""Sentences -> T5 embeddings: a frozen encoder of transformers, and a cache on disk so that each is encoded once.

The encoder is no part of any model: it is loaded when the first unknown sentence comes, runs on the CPU in float32 (so
that what is cached depends on no training option), and is neither saved nor moved with a model. LPWM's language data
was made like this with ``google-t5/t5-large`` and 32 tokens; T5 attended to the padding, which is the default here.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compat import import_transformers
from ..errors import CheckpointError, ConditionError

_NEEDED = "config.json, model.safetensors and tokenizer.json"
_FILES = ["config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer*", "special_tokens_map.json",
          "added_tokens.json", "spiece.model"]


def encode_text(texts: Sequence[str], model: str, max_length: int, *, attend_padding: bool = True) -> Tensor:
    """Last hidden states of a T5 encoder, from the cache where it has them.

    Args:
        texts: One or more sentences; what is beyond ``max_length`` tokens is cut off with a warning.
        model: A folder that holds ``config.json``, ``model.safetensors`` and ``tokenizer.json``, or a hub id
            ``"google-t5/t5-large"`` or ``"google-t5/t5-large@revision"``.
        max_length: Tokens per sentence, padding included.
        attend_padding: Let T5 attend to padding tokens, as LPWM did. Switch it off to use the embeddings with a mask.
    Returns:
        ``[B, L, E]``, float32 on the CPU.
    Raises:
        ConditionError: ``texts`` is no list of strings.
        CheckpointError: there is no such encoder; says which folder would do.
        MissingExtraError: transformers is not installed.
    Example: ``encode_text(["push the red block"], "google-t5/t5-small", 32).shape  # [1, 32, 512]``
    """
    return encode_text_with_mask(texts, model, max_length, attend_padding=attend_padding)[0]


def encode_text_with_mask(
    texts: Sequence[str], model: str, max_length: int, *, attend_padding: bool = False
) -> tuple[Tensor, Tensor]:
    """`encode_text`, and the mask ``[B, L]`` that is True for tokens of the sentence and False for padding."""
    check_texts(texts, "texts")
    encoder = text_encoder(model)
    known = {text: encoder.encode(text, max_length, attend_padding) for text in dict.fromkeys(texts)}
    return torch.stack([known[text][0] for text in texts]), torch.stack([known[text][1] for text in texts])


def check_texts(texts: Any, name: str) -> None:
    """Raise `ConditionError` unless ``texts`` is a list or tuple of strings that is not empty."""
    if isinstance(texts, (list, tuple)) and texts and all(isinstance(text, str) for text in texts):
        return
    got = repr(texts) if isinstance(texts, str) else type(texts).__name__
    if isinstance(texts, (list, tuple)):
        got = "none" if not texts else f"a {got} with {next(type(t).__name__ for t in texts if not isinstance(t, str))}"
    raise ConditionError(f'{name} must be a list of strings, one per clip: ["push the block", ...]; got {got}')


@functools.lru_cache(maxsize=8)
def text_encoder(model: str) -> TextEncoder:
    """The encoder behind a folder or a hub id; it is looked for once per process.

    Raises:
        CheckpointError: if there is none.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        found = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir() if f.is_file())
        version = hashlib.sha256(json.dumps(found).encode()).hexdigest()
    else:
        folder = _download(model)
        version = folder.name  # the commit
    return TextEncoder(folder, version, _width(folder))


def _download(model: str) -> Path:
    name, _, revision = model.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise CheckpointError(f"no T5 encoder at {model}: no such folder. Give one that holds {_NEEDED}, or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_FILES))
    except Exception as error:  # many kinds: offline, private, misspelt; all mean that there is no encoder
        raise CheckpointError(
            f"cannot get the T5 encoder '{model}' from the hub: {type(error).__name__}: {error}\n"
            f"Offline? Download the repository elsewhere and give its folder, which must hold {_NEEDED}: "
            "conditioners.language.model=/path/to/folder"
        ) from error


def _width(folder: Path) -> int:
    """Width of the embeddings, from ``config.json``."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, width = config.get("model_type"), config["d_model"] if config.get("model_type") == "t5" else 0
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(_no_encoder(folder, error)) from error
    if kind != "t5":
        raise CheckpointError(f"{folder} holds a model of type {kind!r}, not a T5 encoder (model_type 't5')")
    return int(width)


def _no_encoder(folder: Path, why: object) -> str:
    return (
        f"{folder} holds no T5 encoder that can be loaded ({type(why).__name__}: {why}); it must hold {_NEEDED}, and "
        f"holds: {', '.join(sorted(f.name for f in folder.iterdir())) or 'nothing'}"
    )


@dataclass(frozen=True)
class TextEncoder:
    """A frozen T5 encoder in a folder; its network is loaded by the first sentence that the cache does not know.

    Attributes:
        folder: Where it is.
        version: Commit, or a fingerprint of the files; part of the cache's keys.
        width: Width of the embeddings.
    """

    folder: Path
    version: str
    width: int

    def encode(self, text: str, max_length: int, attend_padding: bool) -> tuple[Tensor, Tensor]:
        """Embedding ``[L, E]`` and mask ``[L]`` of one sentence (one by one, so that companions change nothing)."""
        key = json.dumps([str(self.folder), self.version, text, max_length, attend_padding])
        path = _cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
        result = _read(path, (max_length, self.width))
        if result is None:
            result = self._compute(text, max_length, attend_padding)
            _write(path, *result)
        return result

    @functools.cached_property
    def _network(self) -> tuple[Any, Any]:
        """Tokenizer and network."""
        transformers = import_transformers("language", "conditioner 'language' with a T5 encoder")
        load_tokenizer, load = transformers.AutoTokenizer.from_pretrained, transformers.T5EncoderModel.from_pretrained
        options = {"local_files_only": True, "trust_remote_code": False}
        try:
            with torch.random.fork_rng(devices=[]):  # a text must not shift anyone's random numbers
                tokenizer = load_tokenizer(self.folder, **options)
                network, info = load(self.folder, use_safetensors=True, output_loading_info=True, **options)
        except Exception as error:  # transformers, tokenizers and safetensors raise errors of many kinds
            raise CheckpointError(_no_encoder(self.folder, error)) from error
        if info["missing_keys"]:
            missing = ", ".join(sorted(info["missing_keys"]))
            raise CheckpointError(f"{self.folder} lacks weights of a T5 encoder: {missing}")
        return tokenizer, network.float().eval().requires_grad_(False)

    def _compute(self, text: str, max_length: int, attend_padding: bool) -> tuple[Tensor, Tensor]:
        tokenizer, network = self._network
        length = len(tokenizer(text)["input_ids"])
        if length > max_length:
            warnings.warn(
                f"a sentence of {length} tokens is cut to max_length={max_length}: {text!r}", RuntimeWarning,
                stacklevel=2,
            )
        tokens = tokenizer([text], padding="max_length", truncation=True, max_length=max_length, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            seen = torch.ones_like(mask) if attend_padding else mask
            hidden = network(input_ids=ids, attention_mask=seen).last_hidden_state
        return hidden[0].contiguous(), mask[0].bool()


def _cache_folder() -> Path:
    root = os.environ.get("WORLDKIT_CACHE") or Path.home() / ".cache" / "worldkit"
    return Path(root).expanduser() / "language"


def _read(path: Path, shape: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
    """What is cached; None if that is nothing, or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load(path.read_bytes())
        embedding, mask = found["embedding"], found["mask"]
    except (OSError, SafetensorError, KeyError):
        return None
    return (embedding, mask) if embedding.shape == shape and mask.shape == shape[:1] else None


def _write(path: Path, embedding: Tensor, mask: Tensor) -> None:
    """Keep a result: whole or not at all, also with several processes at work."""
    from safetensors.torch import save

    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save({"embedding": embedding, "mask": mask}))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        warnings.warn(
            f"cannot keep text embeddings in {path.parent} ({error}); free some space there, or set WORLDKIT_CACHE to "
            "a folder that can be written", RuntimeWarning, stacklevel=2,
        )
