"""Models that leave Python: `export` writes what a model computes as a file for other runtimes, and checks that file.

* `graphs`: encode, decode, one step or a whole rollout as plain functions of named tensors.
* `noise`: random draws as inputs of such a function.
* `formats`: ONNX, torch.export and safetensors.
* `checks`: whether a file computes what the model does.
* `specification`: what lies beside the file, for machines and for people.
"""

from .export import Exported, export

__all__ = ["Exported", "export"]
