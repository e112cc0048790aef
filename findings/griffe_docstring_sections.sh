#!/usr/bin/env bash
# griffe (the reader behind mkdocstrings) drops sections of Google-style docstrings that have no blank line above them.
#
# Versions: griffelib 2.4.1 (with mkdocstrings-python 2.0.11), Python 3.11, Linux x86-64.
# Behaviour: "Raises:" right below the entries of "Args:" is no section but running text, as is all that follows, and
#   nothing is said at the default log level. "Example:" never is a section (a box titled "example"); "Examples:" is.
#   mkdocs then shows code as prose, and a strict build fails far away: "Could not find cross-reference target" for
#   data[0]["video"].
# Output seen:
#   without blank lines: ['text', 'parameters', 'text']
#   with blank lines: ['text', 'parameters', 'raises', 'admonition']
#   and "Examples:" for "Example:": ['text', 'parameters', 'raises', 'examples']
# Date: 2026-11-28. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q griffelib==2.4.1
"$work/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from griffe import Docstring

TIGHT = """Summary.

Args:
    a: A number.
Raises:
    ValueError: if it is negative.
Example:
    >>> f(1)
    1
"""
LOOSE = TIGHT.replace("Raises:", "\nRaises:").replace("Example:", "\nExample:")


def kinds(text):
    return [section.kind.value for section in Docstring(text).parse("google", warnings=False)]


print("griffelib", version("griffelib"))
for what, text in (("without blank lines", TIGHT), ("with blank lines", LOOSE),
                   ('and "Examples:" for "Example:"', LOOSE.replace("Example:", "Examples:"))):
    print(f"{what}:", kinds(text))
assert kinds(TIGHT) == ["text", "parameters", "text"]
assert kinds(LOOSE) == ["text", "parameters", "raises", "admonition"]
assert kinds(LOOSE.replace("Example:", "Examples:")) == ["text", "parameters", "raises", "examples"]
PYTHON
