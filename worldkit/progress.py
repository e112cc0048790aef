"""How far long work has come: one line on a terminal of any width, plain lines with an ETA where output goes to a file.

`Meter` is what training, ablations and the demo show; `track` wraps anything that is worked through.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")

EVERY = 30.0
"""Seconds between two plain lines."""
_BAR = (6, 24)  # least and most letters of the bar


class Meter:
    """A line that says what is being done, how much of it, and how long it will take.

    On a terminal it is redrawn in place; bar, step and ETA are there at every width, the rest as far as there is room.
    Elsewhere (a file, a pipe) a line is printed every `EVERY` seconds, even if nothing moves. While one meter is shown,
    those of the work inside it keep quiet.

    Args:
        what: What is being done.
        total: How much there is to do; None: not known.
        done: How much was done before.
        noun: What is counted.
        unit: Behind the numbers, for example ``" s"``; with a unit `update` should say the step, too.
        enabled: False shows nothing.
        console: A rich console; default: standard output.
        keep: Leave the last state on the screen, and print a last line elsewhere.
        every: Seconds between plain lines.
    Example:
        >>> meter = Meter("training", total=8, enabled=False)
        >>> with meter:
        ...     meter.update(2)
        >>> meter.line(35)
        'training ━━━━━━━━━ step 2/8 ETA 0 s'
    """

    _shown: ClassVar[Meter | None] = None

    def __init__(
        self, what: str, *, total: float | None = None, done: float = 0, noun: str = "step", unit: str = "",
        enabled: bool = True, console: Any = None, keep: bool = True, every: float = EVERY,
    ):
        self.what, self.total, self.done, self.every = what, total, done, every
        self.noun, self.unit = noun, unit
        self.step, self.terms = "", ()  # type: tuple[str, Sequence[str]]
        self.enabled, self.keep, self._console = enabled, keep, console
        self._first, self._started, self._idle, self._idle_since = done, time.monotonic(), 0.0, None
        self._moved = self._started
        self._live: Any = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    @property
    def console(self) -> Any:
        """Where it is shown."""
        if self._console is None:
            from rich.console import Console

            self._console = Console()
        return self._console

    def __enter__(self) -> Meter:
        self._started = time.monotonic()
        if not self.enabled or Meter._shown is not None:
            return self
        Meter._shown = self
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            from rich.live import Live

            self._live = Live(self, console=self.console, transient=not self.keep, refresh_per_second=4)
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._print_now_and_then, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        if Meter._shown is self:
            Meter._shown = None
        if self._live is not None:
            self._live.stop()
        elif self._thread is not None:
            self._thread.join()
            if self.keep:
                self._print(self.plain(ended=True))

    def update(self, done: float, *, total: float | None = None, step: str = "", terms: Sequence[str] = ()) -> None:
        """Say how much is done.

        Args:
            done: In the unit of ``total``.
            total: If it is only known now.
            step: Which step that is, where ``done`` counts something else.
            terms: More to show, the most important first; with rich's markup.
        """
        self._moved = self._working_time()
        self.done, self.total = done, self.total if total is None else total
        self.step, self.terms = step, terms

    def say(self, text: Any) -> None:
        """Print something without disturbing the line."""
        if self.enabled:
            self.console.print(text)

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Say that something else is going on; its time does not enter the ETA."""
        before, self.what, self._idle_since = self.what, what, time.monotonic()
        try:
            yield
        finally:
            self._idle += time.monotonic() - self._idle_since
            self.what, self._idle_since = before, None

    # -- what is shown

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the pace up to the last `update`, counted down since; None before anything was done."""
        moved = self.done - self._first
        if self.total is None or moved <= 0:
            return None
        left = (self._moved - self._started) / moved * max(0.0, self.total - self.done)
        return max(0.0, left - (self._working_time() - self._moved))

    def _working_time(self) -> float:
        """A clock that stands still during pauses."""
        return (time.monotonic() if self._idle_since is None else self._idle_since) - self._idle

    def line(self, width: int, *, ascii_only: bool = False) -> str:
        """The line for a terminal of ``width`` letters, without colours."""
        return self._text(width, ascii_only).plain

    def plain(self, *, ended: bool = False) -> str:
        """A line for a file."""
        from rich.text import Text

        share = f" ({min(100.0, 100 * self.done / self.total):.0f} %)" if self.total else ""
        count = f"{self._step}, {self._count}" if self.step else self._step
        parts = [f"{self.what}: {count}{share}", self._spent]
        parts += [] if ended else [self._eta]
        return ", ".join([*parts, *(Text.from_markup(term).plain for term in self.terms)])

    @property
    def _count(self) -> str:
        total = "" if self.total is None else f"/{self.total:.0f}"
        return f"{self.done:.0f}{total}{self.unit}"

    @property
    def _spent(self) -> str:
        return f"after {duration(time.monotonic() - self._started)}"

    @property
    def _step(self) -> str:
        return f"{self.noun} {self.step or self._count}".lstrip()

    @property
    def _eta(self) -> str:
        left = self.seconds_left
        return "ETA ?" if left is None else f"ETA {duration(left)}"

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield self._text(options.max_width, options.ascii_only)

    def _text(self, width: int, ascii_only: bool) -> Any:
        """Bar, step and ETA first; then, while there is room, what is done, the count, the time spent and the terms."""
        from rich.text import Text

        step, eta = Text(self._step), Text(self._eta, "cyan")
        room = width - len(step) - len(eta) - _BAR[0] - 2
        optional = [Text(self.what, "bold"), Text(self._count if self.step else "", "dim"),
                    Text(self._spent if self.unit != " s" else "", "dim"), *map(Text.from_markup, self.terms)]
        fits = []
        for i, piece in enumerate(optional):
            if i == 0 and len(piece) + 1 > room:
                piece.truncate(max(0, room - 1), overflow="ellipsis")
            fits.append(bool(piece) and len(piece) + 1 <= room and (i < 3 or all(fits[3:])))
            room -= len(piece) + 1 if fits[-1] else 0
        what, count, spent = (piece if ok else Text() for piece, ok in zip(optional[:3], fits[:3], strict=True))
        terms = [piece for piece, ok in zip(optional[3:], fits[3:], strict=True) if ok]
        bar = self._bar(min(_BAR[1], _BAR[0] + max(0, room)), ascii_only) if room >= 0 else Text()
        line = Text(" ").join(piece for piece in (what, bar, step, count, spent, eta, *terms) if piece)
        line.truncate(width)
        line.no_wrap = True
        return line

    def _bar(self, size: int, ascii_only: bool) -> Any:
        from rich.text import Text

        full, empty = ("#", "-") if ascii_only else ("━", "━")
        filled = 0 if not self.total else round(size * min(1.0, self.done / self.total))
        return Text.assemble((full * filled, "green"), (empty * (size - filled), "bright_black"))

    def _print_now_and_then(self) -> None:
        while not self._over.wait(self.every):
            self._print(self.plain())

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items, with a `Meter` on standard error that disappears at the end.

    Args:
        items: What is worked through.
        what: What is being done with them.
        total: Number of items, if they have no length.
    Example:
        >>> list(track("ab", "reading"))
        ['a', 'b']
    """
    from rich.console import Console

    if total is None and hasattr(items, "__len__"):
        total = len(items)
    with Meter(what, total=total, noun="", console=Console(stderr=True), keep=False) as meter:
        for number, item in enumerate(items, 1):
            yield item
            meter.update(number)


def duration(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> [duration(s) for s in (8.2, 600, 9000, 400_000)]
        ['8 s', '10 min', '2.5 h', '4.6 d']
    """
    for limit, unit, name, digits in ((90, 1, "s", 0), (5400, 60, "min", 0), (172_800, 3600, "h", 1)):
        if seconds < limit:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 86_400:.1f} d"
