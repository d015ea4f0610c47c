"""``naslib-autokd ablate``: a study of search methods on a benchmark, in minutes."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from naslib_autokd.runners.ablation import StudyProgress
    from naslib_autokd.runners.study import Study


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "ablate",
        help="compare search methods over many seeds on a benchmark",
        description="Run a study on a benchmark: every method with every seed, then tables, figures and tests. The "
        "same command continues an interrupted study; with more --seeds it only adds.",
        epilog="example: naslib-autokd ablate optimizers --task cluttered-digits --seeds 20",
    )
    parser.add_argument("study", nargs="?", metavar="STUDY", help="name of a study (see --list), or your YAML file")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--task", help="the benchmark of this task, instead of the study's")
    where.add_argument("--benchmark", help="another benchmark: a name, a fitted .npz file, or a table's .yaml")
    parser.add_argument("--seeds", type=int, help="runs of each method (default: the study's)")
    parser.add_argument("--methods", help="only these: labels or optimizers, with commas between")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each (default: 2)")
    parser.add_argument("--student-epochs", type=float, help="budget of a run (default: the study's)")
    parser.add_argument("--out", type=Path, help="folder (default: runs/ablations/STUDY-BENCHMARK)")
    parser.add_argument("--print", action="store_true", help="print the study's YAML, to copy and edit")
    parser.add_argument("--list", action="store_true", help="list the studies that come with the package")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from naslib_autokd.runners.study import get_study, study_names

    if options.list:
        for name in study_names():
            print(f"{name:22} {get_study(name).question}")
        return 0
    if options.study is None:
        raise ValueError(f"give a study, one of {', '.join(study_names())}, or a YAML file")
    study = get_study(options.study)
    if options.print:
        print(_yaml(options.study), end="")
        return 0
    return _run(_changed(study, options), options)


def _yaml(study: str) -> str:
    """The file as it stands, comments and all."""
    from naslib_autokd.runners.study import study_text

    return Path(study).read_text(encoding="utf-8") if study.endswith((".yaml", ".yml")) else study_text(study)


def _changed(study: Study, options: argparse.Namespace) -> Study:
    from dataclasses import replace

    changes: dict[str, Any] = {}
    if options.task is not None or options.benchmark is not None:
        changes["benchmark"] = options.benchmark if options.task is None else options.task
    if options.student_epochs is not None:
        changes |= {"student_epochs": options.student_epochs, "full_trainings": None}
    if options.seeds is not None:
        changes["seeds"] = options.seeds
    return replace(study, **changes)


def _run(study: Study, options: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from naslib_autokd.reports.ablation import print_study, summary, write_study_report
    from naslib_autokd.runners.ablation import run_study

    out = options.out
    if out is None:
        out = Path("runs/ablations") / f"{study.name}-{Path(str(study.benchmark)).stem}"
    methods = None if options.methods is None else [name.strip() for name in options.methods.split(",")]
    console = Console(stderr=options.json)
    with LiveStudy(console) as live:
        result = run_study(study, out, workers=options.workers, methods=methods, progress=live.update)
    files = write_study_report(result, out)
    if options.json:
        problems = {"failures": [f"{f.method}, seed {f.seed}: {f.error}" for f in result.failures]}
        content = {**summary(result).to_dict(), **problems, "left_out": list(result.left_out)}
        print(json.dumps({**content, "files": [str(path) for path in files]}))
    else:
        print_study(result, console)
    for text in [
        *(f"left out: {reason}" for reason in result.left_out),
        *(f"failed: {f.method}, seed {f.seed}: {f.error}" for f in result.failures),
        f"report: {files[0]} ({len(files) - 1} more files beside it)",
    ]:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 1 if result.failures else 0  # the same command tries them again


class LiveStudy:
    """A bar in a terminal; in a log file a line now and then (at most twenty in all)."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = console
        self._next_line = 0.0
        columns = (TextColumn("study"), BarColumn(bar_width=30), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("study", total=1.0, text="starting")

    def __enter__(self) -> LiveStudy:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, state: StudyProgress) -> None:
        from naslib_autokd.runners.session import duration

        fraction = state.done / state.of
        text = f"{state.done} of {state.of} runs"
        text += f", about {duration(state.left_s)} to go" if state.done < state.of else ""
        self._progress.update(self._task, completed=fraction, text=text)
        if state.error:
            self.console.print(
                f"{state.method}, seed {state.seed}: {state.error}", markup=False, highlight=False, soft_wrap=True
            )
        if not self.console.is_terminal and fraction >= self._next_line:
            self.console.print(text, markup=False, highlight=False)
            self._next_line = fraction + 0.05
