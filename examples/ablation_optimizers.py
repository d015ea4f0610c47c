"""A small study of optimizers on the benchmark of cluttered digits: 4 methods, 10 seeds, 30 full trainings each.

Takes about 20 seconds on two cores and prints two tables and what may be concluded from them. Expect AutoKD ahead of
the others in most of the paired seeds, with intervals that are still wide: 10 seeds and 30 trainings separate few
methods. ``naslib-autokd ablate optimizers`` runs all of them with 20 seeds and 60 trainings, and draws the figures.
"""

from __future__ import annotations

from rich.console import Console

from naslib_autokd.reports.ablation import print_study
from naslib_autokd.runners.ablation import run_study
from naslib_autokd.runners.study import Study, StudyMethod

STUDY = Study(
    name="first-study",
    title="Optimizers",
    question="Which one finds the best family for the price of 30 full trainings?",
    benchmark="cluttered-digits",
    full_trainings=30,
    seeds=10,
    methods=(
        StudyMethod("AutoKD", "autokd"),
        StudyMethod("Random search", "random_search"),
        StudyMethod("Regularized evolution", "regularized_evolution"),
        StudyMethod("AutoKD, KD fixed", "autokd", space={"search_kd": False}),
    ),
)


def main(study: Study = STUDY, workers: int = 2) -> int:
    result = run_study(study, workers=workers)
    print_study(result, Console())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
