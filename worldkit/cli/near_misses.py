"""A parser of arguments that says what was probably meant by one it does not know."""

from __future__ import annotations

import difflib
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any, NoReturn

from ..registry import suggestion


class Parser(ArgumentParser):
    """As `argparse.ArgumentParser`, with a hint behind a command, a choice or an option that is not known.

    Attributes:
        trains: Whether ``-o`` takes options of training and of the model, so that ``--batch-size 4`` is told to be
            ``-o train.batch_size=4``.
    """

    trains: bool = False

    def __init__(self, *args: Any, **kwargs: Any):
        self._names: list[str] = []
        self._has_commands = False
        super().__init__(*args, **kwargs)

    def add_argument(self, *names: str, **options: Any) -> Any:
        """Remembers the name of an option."""
        self._names += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **options)

    def add_subparsers(self, **options: Any) -> Any:
        """Remembers that it has commands, which know their own options."""
        self._has_commands = True
        return super().add_subparsers(**options)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """What is left over is an error of the command that it was given to."""
        found, left = super().parse_known_args(args, namespace)
        if left and not self._has_commands:
            self.error(f"unrecognized arguments: {' '.join(left)}{self._meant(left, found)}")
        return found, left

    def error(self, message: str) -> NoReturn:
        """Ends with the usage, the message and, for a choice that is close to one there is, that one."""
        unknown = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if unknown:
            message += "." + suggestion(unknown[1], re.findall(r"[^\s,']+", unknown[2]))
        super().error(message.removesuffix("."))

    def _meant(self, left: Sequence[str], found: Namespace) -> str:
        """What to type instead of the first option that is not known."""
        number = next((i for i, text in enumerate(left) if text.startswith("--") and len(text) > 2), None)
        if number is None:
            return ""
        name, equals, value = left[number].partition("=")
        following = left[number + 1] if number + 1 < len(left) else "-"
        value = value if equals else "VALUE" if following.startswith("-") else following
        places = self._places(name.lstrip("-"), found) if self.trains else []
        if places:
            return f". Write {' or '.join(f'-o {place}={value}' for place in places[:3])}"
        hint = self._near(name)
        return f". Did you mean '{hint}'?" if hint else ""

    def _near(self, name: str) -> str:
        """The option of the command whose name is close; empty if none is."""
        found = difflib.get_close_matches(name.strip("-"), [known.strip("-") for known in self._names], n=1)
        return f"--{found[0]}" if found else ""

    def _places(self, name: str, found: Namespace) -> list[str]:
        """Paths for ``-o`` that an option's name may mean, those of the preset's parts included."""
        from ..errors import WorldkitError
        from ..training.misplaced import places

        if exact := places(name, close=False):
            return exact
        if self._near(name):
            return []
        try:
            from ..factory import create_config

            return places(name, create_config(found.preset), found.data)
        except (WorldkitError, AttributeError):  # not even the preset is known
            return places(name)
