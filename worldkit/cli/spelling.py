"""Messages of the library as the command line types: ``on_error='skip'`` is ``-o data.on_error=skip`` there."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PARTS = "encoder|decoder|dynamics|latent_action|prior|objective"
_VALUE = r"(?:'([^']*)'|\"([^\"]*)\"|(None|True|False|\.\.\.|[\w./-]*[\w/])|)"
_FIXED = (
    (r"overwrite=True", "--overwrite"),
    (r"append=True", "--append"),
    (r"height= and width=", "--size"),
    (r"create it with decoder=\.\.\.", "train one with -o decoder=NAME"),
    (rf"create_model\(\.\.\., ((?:{_PARTS})='[\w-]+')\)", r"train with \1"),
    (r"\bselect_by='(\w+)'", r"-o train.select_by=\1"),
    (r"\bto='(\w+)'", r"-o conditioners.NAME.to=\1"),
)
"""Words of messages -> what is typed."""
_WORDS = {"None": "none", "True": "true", "False": "false", "...": "VALUE", "": "VALUE"}


def as_typed(message: str, command: str) -> str:
    """A message with the options of Python replaced by those of the command line.

    Args:
        message: Of an error or a warning.
        command: Whose: options of the data are typed without ``data.`` in ``worldkit data``.
    Example:
        >>> as_typed("a.mp4 is damaged: pass on_error='skip' to leave it out", "train")
        'a.mp4 is damaged: pass -o data.on_error=skip to leave it out'
    """
    if command == "demo":
        message = message.replace("--run", "--out")
    for pattern, typed in _FIXED:
        message = re.sub(pattern, typed, message)
    message = _options(message, _PARTS.split("|"), "", after=r"(?:(?<=set )|(?<=or )|(?<=and )|(?<=with ))")
    if not re.search(r"\w=", message):
        return message
    from ..data.registry import find_format, list_formats

    names = {option for name in list_formats() for option in find_format("", name).options()}
    return _options(message, names, "" if command == "data" else "data.")


def _options(message: str, names: Iterable[str], prefix: str, after: str = r"(?<![\w./,-])(?<!-o )") -> str:
    """``NAME='VALUE'`` -> ``-o PREFIXNAME=VALUE``, where it is not typed like that already."""
    def typed(found: re.Match[str]) -> str:
        value = next((text for text in found.groups()[1:] if text is not None), "")
        return f"-o {prefix}{found[1]}={_WORDS.get(value, value)}"

    return re.sub(rf"{after}({'|'.join(sorted(names))})={_VALUE}", typed, message)
