"""Tables and progress in a terminal, a log file and a notebook."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from naslib_autokd.reports.search import LiveSearch
from naslib_autokd.reports.tables import Shown, print_shown
from naslib_autokd.reports.terminal import QUIET_S, WIDE, Live, console_for

CELLS = [
    ["AutoKD of families", "91.3 [90.1, 92.5]", "", "23.6k"],
    ["DARTS with KD", "90.3 [89.1, 91.5]", "+1.0 [0.2, 1.8]", "21.6k"],
]
TABLE = Shown(["method", "kept student", "AutoKD minus it", "params"], CELLS, "", "Test accuracy")


def printed(width: int, **settings: bool) -> str:
    file = io.StringIO()
    print_shown(TABLE, Console(width=width, file=file, **settings))
    return file.getvalue()


@pytest.mark.parametrize("width", [200, 120, 80, 60, 50, 40])
def test_no_table_is_cut_off_or_breaks_a_number(width: int) -> None:
    text = printed(width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for row in CELLS:
        for cell in row[1:]:
            assert cell in text
    assert ("\n  kept student " in text) == (width < 55), "narrow: one below the other"


def test_a_wide_console_has_every_row_in_a_line() -> None:
    lines = [line.split() for line in printed(200).splitlines()]
    assert ["DARTS", "with", "KD", "90.3", "[89.1,", "91.5]", "+1.0", "[0.2,", "1.8]", "21.6k"] in lines


class Clock:
    """Ten seconds a look."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


def work(console: Console, n: int = 200, **settings: float) -> None:
    with Live("work", console, clock=Clock(), **settings) as live:
        for done in range(n + 1):
            live.show(done / n, f"{done} of {n} [red]")


def test_a_file_gets_a_line_now_and_then_without_codes() -> None:
    file = io.StringIO()
    work(Console(file=file))
    lines = file.getvalue().splitlines()
    assert 15 <= len(lines) <= 21
    assert "\x1b" not in file.getvalue()
    assert lines[0] == "0 of 200 [red]"
    assert lines[1].endswith(" of 200 [red], about 32 min to go")
    assert lines[-1] == "200 of 200 [red]"


def test_what_is_to_come_is_not_judged_by_what_an_earlier_session_did() -> None:
    """Nine of twenty jobs are there and told within a tenth of a second; the others take 100 s each."""
    now, file = iter([0.01 * i for i in range(10)] + [100.0 * i for i in range(1, 12)]), io.StringIO()
    with Live("work", Console(file=file), step=0, clock=lambda: next(now)) as live:
        for done in range(1, 21):
            live.show(done / 20, f"job {done}")
    lines = file.getvalue().splitlines()
    assert lines[8:12] == ["job 9", "job 10", "job 11, about 15 min to go", "job 12, about 13 min to go"]
    assert not any("to go" in line for line in lines[:10])


def test_a_file_gets_every_line_if_asked() -> None:
    file = io.StringIO()
    work(Console(file=file), n=50, step=0)
    assert len(file.getvalue().splitlines()) == 51


@pytest.mark.parametrize("width", [120, 80, 40])
def test_a_terminal_gets_a_bar_or_what_it_has_room_for(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    file = io.StringIO()
    work(Console(file=file, force_terminal=True, width=width, color_system=None))
    last = file.getvalue().rstrip("\n").split("\r")[-1].splitlines()[0]
    assert "200 of 200 [red]" in last
    assert ("━" if width == 120 else "100%") in last
    assert len(last.replace("\x1b[2K", "").rstrip()) <= width


def test_no_color_takes_the_colours_and_leaves_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    work(Console(file=file, force_terminal=True, width=120))
    assert "━" in file.getvalue()
    assert "\x1b[3" not in file.getvalue()  # no colour is chosen
    assert "\x1b[38;" not in file.getvalue()


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    file = io.StringIO()
    work(Console(file=file, force_terminal=True, width=120))
    assert 15 <= len(file.getvalue().splitlines()) <= 21
    assert "━" not in file.getvalue()


def test_a_notebook_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    module = ModuleType("IPython.display")
    module.display = lambda found: shown.append(found._repr_mimebundle_([], [])["text/plain"])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    with LiveSearch(Console(force_jupyter=True), {"n_trials": 40}) as live:
        for n in range(1, 41):
            live.update(state(n, n / 40))
    assert 10 <= len(shown) <= 21
    assert shown[-1].strip() == "trial 40 of 40, best validation 91.0%, 2 running, 1 failed"


def state(n: int, fraction: float) -> SimpleNamespace:
    return SimpleNamespace(
        n_trials=n,
        best_val_accuracy=0.91,
        n_in_flight=2,
        n_failures=1,
        n_refused=0,
        elapsed_s=60.0 * n,
        fraction=fraction,
    )


def lines_of(live: Callable[[Console], LiveSearch]) -> list[str]:
    file = io.StringIO()
    with live(Console(file=file)) as shown:
        shown.update(state(10, 0.25))
    return file.getvalue().splitlines()


def test_a_search_says_how_much_there_is() -> None:
    end = ", best validation 91.0%, 2 running, 1 failed, about 30 min to go"
    assert lines_of(lambda console: LiveSearch(console, {"n_trials": 40})) == [f"trial 10 of 40{end}"]
    both = {"n_trials": 40, "wall_s": 60.0, "student_epochs": None}
    assert lines_of(lambda console: LiveSearch(console, both)) == [f"trial 10 (at most 40 trials or 60 s){end}"]
    assert lines_of(LiveSearch) == [f"trial 10{end}"]


def test_a_file_is_wide_unless_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console_for().width == WIDE
    monkeypatch.setenv("COLUMNS", "72")
    assert console_for().width == 72
    console_for(stderr=True).print("a remark")
    console_for().print("a result")
    assert capsys.readouterr() == ("a result\n", "a remark\n")


def test_nothing_is_silent_for_more_than_five_seconds() -> None:
    file = io.StringIO()
    with Live("work", Console(file=file, width=120)) as live:
        start = time.monotonic()
        live.show(0.1, "trial 3 of 24")
        live.beat(start + 3.5)
        live.note("trial 4: 2 of 9 epochs, training loss 0.5")
        live.beat(start + 4.5)
        live.say("training the teacher")
        live.beat(time.monotonic() + QUIET_S)
        live.note("the default family: epoch 1 of 9")
        live.beat(time.monotonic() + QUIET_S)
        live.show(0.12, "trial 4 of 24")  # too little for a line of its own
        live.beat(time.monotonic() + QUIET_S)
        live.beat(time.monotonic() + QUIET_S)
        live.show(0.13, "trial 5 of 24")
        live._said -= QUIET_S  # the line before was told long ago
        live.beat(time.monotonic())
    assert file.getvalue().splitlines() == [
        "trial 3 of 24",
        "trial 4: 2 of 9 epochs, training loss 0.5 (4 s)",
        "training the teacher",
        "still at work (5 s)",
        "the default family: epoch 1 of 9 (5 s)",
        "trial 4 of 24, still at work (5 s)",
        "still at work (5 s)",
        "trial 5 of 24",
    ]


def test_an_estimate_is_told_once() -> None:
    file = io.StringIO()
    with Live("work", Console(file=file, width=120)) as live:
        live.show(0.1, "final trainings", left_s=104)
        live.beat(time.monotonic() + QUIET_S)
        live.beat(time.monotonic() + 2 * QUIET_S)
    assert [line.count("to go") for line in file.getvalue().splitlines()] == [1, 0, 0]


@pytest.mark.slow  # it waits for the line
def test_a_step_that_takes_long_is_told_by_itself() -> None:
    file = io.StringIO()
    with Live("work", Console(file=file, width=120)) as live:
        live.show(0.0, "trial 1")
        time.sleep(QUIET_S + 0.5)
        assert len(file.getvalue().splitlines()) == 2
