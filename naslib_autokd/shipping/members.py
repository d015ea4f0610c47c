"""Any family that a search has tried, trained in full as its answer was: the smaller ones of a front, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from naslib_autokd.data.splits import check_splits
from naslib_autokd.distillation.runtime import Runtime
from naslib_autokd.distillation.training import TrainingSettings
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.evaluators.student_limits import StudentLimits
from naslib_autokd.records import TrialStore
from naslib_autokd.runners.finals import kept_final, train_family
from naslib_autokd.runners.run_folder import TRIALS, read_settings, read_task
from naslib_autokd.search_spaces.hnag import Candidate
from naslib_autokd.shipping.student_file import ExportError
from naslib_autokd.tasks import Task

FAMILIES = "families"
"""Folder of a run with a folder for each such family, named by its digest: ``finals.jsonl``, ``students/``."""
SHORTEST = 4
"""Digits of a digest that have to be given."""
SHOWN = 3
"""Families that an error names."""


def find_family(run: str | Path, digest: str) -> Candidate:
    """The family of a run's trial whose digest begins so.

    Raises:
        ExportError: If none does, several do, or it is of a space whose students cannot be shipped.
    """
    run = Path(run)
    if not (run / TRIALS).is_file():
        raise ExportError(f"{run} is no run folder of a search: it has no {TRIALS}")
    trials = {trial.candidate_digest: trial for trial in TrialStore(run / TRIALS)}
    found = [known for known in trials if known.startswith(digest)]
    if len(digest) < SHORTEST or len(found) != 1:
        several = f"{len(found)} families begin so" if found else "no family begins so"
        reason = several if len(digest) >= SHORTEST else f"give at least {SHORTEST} digits"
        which = [trials[one] for one in found] or [trial for trial in trials.values() if trial.succeeded]
        some = sorted(which, key=lambda trial: (not trial.succeeded, trial.cost))[:SHOWN]
        names = ", ".join(trial.candidate_digest for trial in some) or "none yet"
        more = f" and {len(which) - len(some)} more" if len(which) > len(some) else ""
        raise ExportError(
            f"{run}: --family {digest}: {reason}; {'such are' if found else 'the best are'} {names}{more} "
            f"(candidate_digest in {run / TRIALS}; the report shows them, too)"
        )
    try:
        return Candidate.from_dict(trials[found[0]].candidate)
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{run}: students of another search space than HNAG's cannot be exported: {error}") from error


def train_member(
    run: str | Path,
    digest: str,
    *,
    n_students: int = 1,
    device: str = "cpu",
    threads: int = 1,
    report: Callable[[str], None] | None = None,
) -> Path:
    """A folder with students of a family of a run, trained in full by the run's own settings and judged once.

    The run itself if it is the family that it kept; else ``RUN/families/DIGEST``. Students that are there are not
    trained again.

    Args:
        run: Run folder of a search, finished or not.
        digest: Of the family, or how it begins: in the front's table, ``trials.jsonl`` and the report.

    Raises:
        ExportError: If there is no such family.
        TaskError, TeacherError: If data or teacher are not what they were.
    """
    run = Path(run)
    family = find_family(run, digest)
    kept = kept_final(run)
    if kept is not None and kept.result.name.endswith(f"/{family.digest}"):
        return run
    evaluator = evaluator_of(run, device=device, threads=threads, report=report)
    evaluator.watch = report
    folder = run / FAMILIES / family.digest
    train_family(evaluator, family, n_students=n_students, seed=int(read_settings(run).get("seed") or 0), out=folder)
    return folder


def evaluator_of(
    run: str | Path, *, device: str = "cpu", threads: int = 1, report: Callable[[str], None] | None = None
) -> KDEvaluator:
    """What trained the students of a run, by its own settings.

    Raises:
        TaskError, TeacherError: If data or teacher are not what they were.
    """
    asked: dict[str, Any] = read_settings(run).get("evaluation") or {}
    evaluator = KDEvaluator(
        Task.from_dict(read_task(run)),
        device=device,
        threads=threads,
        objective=asked.get("objective") or "kd",
        teacher=asked.get("teacher"),
        settings=TrainingSettings(
            precision=asked.get("precision") or "float32", cuda_graph=asked.get("cuda_graph", True)
        ),
        limits=StudentLimits(**(asked.get("limits") or {})),
        runtime=Runtime(**(asked.get("runtime") or {})),
        report=report,
    )
    check_splits(evaluator.data, run, evaluator.given_teacher)
    return evaluator
