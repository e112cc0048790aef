"""A game in the terminal: pictures as half blocks in colour, and keys."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from ..errors import ConfigError
from .session import Session

Key = Callable[[float], str | None]
"""Waits so many seconds for a key: its name (``"a"``, ``"up"``, ``" "``), or None."""

_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}
_PUSHES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_ROWS = 3  # of the terminal that are not pictures


def play(session: Session, about: Mapping[str, str], *, fps: float, console: Console, key: Key | None = None) -> None:
    """Play until the user quits.

    Args:
        session: The game.
        about: What it is called: ``"model"``, ``"data"``.
        fps: Steps per second; 0: as fast as it goes.
        console: Where it is shown.
        key: Where keys come from; default: the keyboard.
    Raises:
        ConfigError: this is no terminal.
    """
    if key is None and not (sys.stdin.isatty() and console.is_terminal):
        raise ConfigError("this is no terminal with a keyboard: worldkit play MODEL --web plays in a browser")
    with _keyboard() if key is None else contextlib.nullcontext(key) as read, \
            Live(console=console, screen=key is None, auto_refresh=False) as live:
        game = _Game(session, about, fps)
        while game.going:
            live.update(game.view(console.width, console.height), refresh=True)
            game.hear(read(game.wait()))


class _Game:
    """What keys do, and what is shown."""

    def __init__(self, session: Session, about: Mapping[str, str], fps: float):
        self.session, self.about, self.fps = session, about, fps
        self.going, self.playing, self.note = True, False, ""
        self._due = 0.0

    def wait(self) -> float:
        """Seconds until the next step."""
        return max(0.0, self._due - time.monotonic()) if self.playing else 3600.0

    def hear(self, key: str | None) -> None:
        """Do what a key says; None: the time for a step has come."""
        if key is None:
            if self.playing:
                self._step()
            return
        self.note = ""
        session = self.session
        if key == "q":
            self.going = False
        elif key == " ":
            self.playing = not self.playing
        elif key in ("up", "down", "left", "right") and session.steering.dim:
            self._push(key)
        elif key.isdigit() and session.steering.choices:
            self._choose(int(key))
        elif key.isdigit() and session.steering.factors:
            self._aim(int(key))
        elif key in (".", "right"):
            self._step()
        elif key in (",", "left"):
            session.look(session.futures[0].now.t - 1)
        elif key == "n":
            session.begin()
        elif key == "b":
            session.branch()
        elif key == "d":
            session.drop()
        elif key == "m":
            session.follow(session.modes[(session.modes.index(session.mode) + 1) % len(session.modes)])

    def _step(self) -> None:
        self._due = time.monotonic() + (1 / self.fps if self.fps else 0.0)
        self.session.step()
        if self.session.steering.dim:
            self.session.steer(None)  # a terminal does not tell when a key is let go: it holds for one step

    def _push(self, key: str) -> None:
        push = [*_PUSHES[key], *[0] * 99][: self.session.steering.dim]
        self.session.steer(push)
        if not self.playing:
            self._step()

    def _choose(self, choice: int) -> None:
        if choice >= (self.session.steering.choices or 0):
            self.note = f"there are choices 0 to {(self.session.steering.choices or 0) - 1}"
            return
        self.session.steer(choice)

    def _aim(self, factor: int) -> None:
        count = self.session.steering.factors
        if factor >= count:
            self.note = f"there are factors 0 to {count - 1}"
            return
        self.session.aim(factor)
        self.note = f"arrows steer factor {factor}"

    def view(self, width: int, height: int) -> Group:
        """The pictures, and what is known of them, for so many columns and rows."""
        frames, session = self.session.frames(), self.session
        room = (width - 2 * (len(frames) - 1)) // len(frames)
        pictures = [shrink(frame.picture, 2 * (height - _ROWS), room) for frame in frames]
        first = frames[0]
        said = "  ".join(f"{name} {x:.2f}" for name, x in first.predictions.items())
        clip = f"on {self.about['data']}, clip {session.clip + 1} of {len(session.clips)}"
        head = Text.assemble((f"{self.about['model']} ", "bold"), (clip, "dim"),
                             f"   step {first.t}   {session.mode}   {said}", no_wrap=True, overflow="ellipsis")
        steering = session.steering
        steer = "arrows steer  " if steering.dim else "digits steer  " if steering.choices else ""
        if steering.factors:
            steer = f"arrows steer factor {session.factor}  digits another  "
        keys = self.note or (f"space {'pause' if self.playing else 'play'}  . step  , back  {steer}b branch  d drop  "
                             "n another clip  m what is drawn  q quit")
        return Group(head, Segments(list(_blocks(pictures))), Text(keys, "dim", no_wrap=True, overflow="ellipsis"))


def shrink(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture ``[H, W, 3]`` that fits, with an even number of rows; small ones are enlarged by a whole factor."""
    rows, columns = picture.shape[:2]
    factor = min(height // rows, width // columns)
    if factor >= 1:
        picture = picture.repeat(factor, 0).repeat(factor, 1)
    else:
        step = max(rows / max(height, 2), columns / max(width, 1))
        y, x = (np.minimum((np.arange(int(n / step)) * step).astype(int), n - 1) for n in (rows, columns))
        picture = picture[y][:, x]
    return picture if picture.shape[0] % 2 == 0 else np.concatenate([picture, picture[-1:]])


def _blocks(pictures: list[np.ndarray]) -> Iterator[Segment]:
    """Two rows of pixels to a line, as the upper half and the ground of a character."""
    for row in range(0, pictures[0].shape[0], 2):
        for i, picture in enumerate(pictures):
            if i:
                yield Segment("  ")
            for above, below in zip(picture[row], picture[row + 1], strict=True):
                yield Segment("▀", Style(color="#{:02x}{:02x}{:02x}".format(*above),
                                         bgcolor="#{:02x}{:02x}{:02x}".format(*below)))
        yield Segment.line()


@contextlib.contextmanager
def _keyboard() -> Iterator[Key]:
    """Keys one by one, without Enter."""
    if os.name == "nt":
        import msvcrt

        def read(seconds: float) -> str | None:
            end = time.monotonic() + seconds
            while not msvcrt.kbhit():  # type: ignore[attr-defined]
                if time.monotonic() >= end:
                    return None
                time.sleep(0.005)
            key = msvcrt.getwch()  # type: ignore[attr-defined]
            if key in ("\x00", "\xe0"):
                codes = {"H": "up", "P": "down", "M": "right", "K": "left"}
                return codes.get(msvcrt.getwch(), "")  # type: ignore[attr-defined]
            return named(key)

        yield read
        return
    import select
    import termios
    import tty

    line = sys.stdin.fileno()
    before = termios.tcgetattr(line)
    try:
        tty.setcbreak(line)

        def read(seconds: float) -> str | None:
            if not select.select([line], [], [], seconds)[0]:
                return None
            return named(os.read(line, 16).decode(errors="replace"))

        yield read
    finally:
        termios.tcsetattr(line, termios.TCSADRAIN, before)


def named(typed: str) -> str:
    """The name of a key from what a terminal sends; held keys send several, the last counts.

    Example:
        >>> named("\\x1b[A"), named("Q"), named("\\x04")
        ('up', 'q', 'q')
    """
    if not typed or typed in ("\x04", "\x1b"):
        return "q"
    if typed[-3:-1] in ("\x1b[", "\x1bO"):
        return _ARROWS.get(typed[-1], "")
    return typed[-1].lower()
