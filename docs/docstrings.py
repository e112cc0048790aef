"""Extension of mkdocstrings' reader, for our docstrings.

It wants a blank line above a section and ``Examples:``, and takes the second name of ``height, width: ...`` for a type.
"""

import re

import griffe

SECTION = re.compile(r"\n+(Args|Attributes|Returns|Yields|Raises|Examples?):\n(?=[ ])")
NAMES = re.compile(r"^ +(?:\*{0,2}\w+, )+\*{0,2}\w+:", re.MULTILINE)


class Sections(griffe.Extension):
    def on_object(self, *, obj, **_):
        if obj.docstring:
            value = SECTION.sub(r"\n\n\1:\n", obj.docstring.value)
            value = NAMES.sub(lambda names: names.group().replace(", ", ",\N{NO-BREAK SPACE}"), value)
            obj.docstring.value = value.replace("\nExample:\n", "\nExamples:\n")
