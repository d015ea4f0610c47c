"""How long commands show that they work: in a terminal, a log file and a notebook.

Results go to stdout, progress and remarks to stderr. A file gets no escape codes (rich looks), ``NO_COLOR`` no colours.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from naslib_autokd.runners.session import duration

WIDE = 200
"""Columns of what is no terminal: a file has no edge."""
QUIET_S = 5.0
"""No command is silent for longer."""
AT_ONCE_S = 1.0
"""What is done within this time of the first call is taken for work of an earlier session."""
WIDTH_OF_BAR = 110
"""Columns that a bar with its text takes; below, a percentage stands for it."""


def console_for(*, stderr: bool = False) -> Console:
    """The console of a command: of stdout for results, of stderr for what is said besides."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and not console.is_jupyter and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console


def n_parameters(n: float) -> str:
    """``23.7k``, ``11.18M``."""
    return f"{n / 1e3:.1f}k" if n < 1e6 else f"{n / 1e6:.2f}M"


def say(console: Console, text: str) -> None:
    """One line as it is: no markup, and no line breaks that would cut a path or a command."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class Live:
    """How far a long command is: a bar or percentage in a terminal, elsewhere (a file, a notebook) a line now and then.

    Use as a context manager and call `show`. Inside it nothing is silent for longer than `QUIET_S` seconds: a line then
    says what goes on (`note`), or that the work does.

    Args:
        what: The word before the bar.
        console: That of stderr by default.
        step: Share of the work between two lines where there is no bar: some twenty lines by default; 0: a line
            for every call.
        clock: Seconds; for tests.
    """

    def __init__(
        self,
        what: str,
        console: Console | None = None,
        *,
        step: float = 0.05,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console_for(stderr=True) if console is None else console
        # a dumb terminal (Emacs, some CI) cannot go back in a line
        self.has_bar = self.console.is_terminal and not self.console.is_dumb_terminal
        self._step, self._next_line, self._last = step, 0.0, 0.0
        self._clock = clock
        self._first: tuple[float, float] | None = None
        self._text, self._to_go, self._note, self._stands = "starting", "", "", False
        self._begun = self._said = time.monotonic()
        """When the text became this one, and when something was last told. ``_stands``: the text is in the log, so that
        lines that follow need not repeat it."""
        self._end = threading.Event()
        text, in_a_line = "{task.fields[text]}", Column(no_wrap=True)
        whole = (TextColumn(what), BarColumn(bar_width=20), TextColumn(text, markup=False), TimeElapsedColumn())
        # where there is little room, what is cut off is the end of the text
        narrow = (TextColumn("{task.percentage:>3.0f}% " + text, markup=False, table_column=in_a_line),)
        columns = whole if self.console.width >= WIDTH_OF_BAR else narrow
        self._progress = Progress(*columns, console=self.console, disable=not self.has_bar)
        self._task = self._progress.add_task(what, total=1.0, text="starting")

    def __enter__(self) -> Live:
        self._progress.start()
        self._begun = self._said = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._progress.stop()

    def _watch(self) -> None:
        while not self._end.wait(1.0):
            self.beat(time.monotonic())

    def beat(self, now: float) -> None:
        """Tell what goes on if that was not done for a while (``now``: of `time.monotonic`); in a bar at once."""
        if self.has_bar:
            text = f"{self._text}{self._to_go}{self._note and f', {self._note}'}"
            self._progress.update(self._task, text=text)
        elif now - self._said >= QUIET_S - 1:  # the next look is in a second
            going = f"{self._note or 'still at work'} ({duration(now - self._begun)})"
            begun = now - self._begun < QUIET_S - 1 and not self._note
            self._tell(going if self._stands else self._text if begun else f"{self._text}, {going}")
            self._stands = True

    def note(self, text: str) -> None:
        """What goes on within a step, such as the epoch of a training; told when nothing else is."""
        self._note = text

    def _tell(self, text: str) -> None:
        self._said = time.monotonic()
        say(self.console, text)

    def _now(self, text: str) -> None:
        self._text, self._to_go, self._note, self._stands, self._begun = text, "", "", False, time.monotonic()

    def show(self, fraction: float, text: str, left_s: float | None = None) -> None:
        """Show where the work stands.

        Args:
            fraction: Share that is done, in [0, 1].
            text: In words.
            left_s: Seconds that it will still take; by default what was done since the first call says it.
        """
        left_s = self._left(fraction) if left_s is None else left_s
        self._now(text)
        if left_s is not None and fraction < 1:  # of this moment: lines that come later leave it out
            self._to_go = f", about {duration(left_s)} to go"
        text += self._to_go
        self._progress.update(self._task, completed=fraction, text=text)
        if not self.has_bar and (fraction >= self._next_line or fraction >= 1 > self._last):
            self._tell(text)
            self._stands = True
            self._next_line, self._last = fraction + self._step, fraction

    def say(self, text: str) -> None:
        """A line that stays, above the bar, and is what goes on from now on."""
        self._now(text)
        self._stands = True
        self._tell(text)

    def _left(self, fraction: float) -> float | None:
        now = self._clock()
        if self._first is None:
            self._first = (fraction, now)
        if now - self._first[1] < AT_ONCE_S:  # done before, and how long that took is not known
            self._first = (fraction, self._first[1])
            return None
        done = fraction - self._first[0]
        return (now - self._first[1]) * (1 - fraction) / done if done > 0 else None
