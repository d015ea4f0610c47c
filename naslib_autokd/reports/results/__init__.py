"""A run folder as plain tables, one for each chart: what the HTML report and the figures for papers both draw.

`read_run` reads the folder of a search, a comparison or a study, whether it is finished, running, stopped, failed or
still empty, and writes nothing. Everything is computed from the records; what is not there is said in
`RunData.missing`. Imports neither torch nor a plotting package.
"""

from __future__ import annotations

from pathlib import Path

from naslib_autokd.reports.results.baselines import baseline_tables
from naslib_autokd.reports.results.comparison import comparison_tables
from naslib_autokd.reports.results.run import Row, RunData
from naslib_autokd.reports.results.search import search_tables
from naslib_autokd.reports.results.study import study_tables
from naslib_autokd.runners import run_folder

__all__ = ["Row", "RunData", "read_run"]


def read_run(folder: str | Path, *, analyse: bool = True) -> RunData:
    """Read a run folder: of a search, a comparison (with its jobs), a study or compare-kd.

    Args:
        analyse: Compute importance and partial dependence from the trials too: some seconds.

    Raises:
        ValueError: If the folder does not exist or holds no run, or a record cannot be read (names the line).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the folder of a run (--out of search, ablate, a comparison)")
    settings, task = run_folder.read_settings(folder), run_folder.read_task(folder)
    environment = settings.pop("environment", {})
    about = RunData("search", folder, "empty", task=task, settings=settings, environment=environment)
    if (folder / run_folder.STUDY).is_file():
        return study_tables(about)
    if "methods" in settings or (folder / run_folder.COMPARISON).is_file():
        return comparison_tables(about, analyse)
    if "baselines" in settings or (folder / run_folder.TRAININGS).is_file():
        return baseline_tables(about)
    if settings or any((folder / name).exists() for name in (run_folder.TRIALS, run_folder.STATUS, run_folder.TASK)):
        return search_tables(about, analyse)
    raise ValueError(
        f"{folder} holds no run: neither run.yaml, trials.jsonl nor study.yaml; give the folder that was --out of "
        "search, ablate or compare-kd, or that of a comparison"
    )
