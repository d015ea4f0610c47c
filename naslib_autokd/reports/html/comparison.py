"""The sections on several search methods: a comparison, or a study on a benchmark; and on compare-kd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from naslib_autokd.reports.html import _page as ui
from naslib_autokd.reports.html import search
from naslib_autokd.reports.html.search import SMALL, finals_table, pictures, student_cards
from naslib_autokd.reports.results import Row, RunData
from naslib_autokd.reports.tables import interval

_P = {"p (paired t)": ui.shown("p_value", form=".2g"), "p (Holm)": ui.shown("p_holm", form=".2g")}


def _points(row: Row) -> str:
    """The difference of a test with its interval."""
    ends = interval(row["low"], row["high"], 2, signed=True)
    return "not known" if row["difference"] is None else f"{100 * row['difference']:+.2f} {ends}".strip()


@ui.Section("answer", "Answer", "The answer")
def answer(page: ui.Page, run: RunData) -> Iterator[str]:
    yield from search.answer.make(page, run)
    for shown in run.answer.get("tables", ()):
        yield ui.heading("Methods") + ui.lead(shown.title) + ui.texts(shown)


@ui.Section("anytime", "Anytime", "During the searches", "anytime", "No search has an incumbent yet.")
def anytime(page: ui.Page, run: RunData) -> Iterator[str]:
    said = (
        "Validation accuracy of the incumbent: thin lines are seeds, thick ones their mean with a 95% bootstrap band."
    )
    if any(row["one_shot"] for row in run.table("anytime")):
        said += (
            " Dashed: a supernet with shared weights on the images that train its architecture, which says little "
            "about the network that is cut out of it."
        )
    yield ui.lead(said)
    yield page.chart("anytime")


@ui.Section("family", "Found", "What was found", needs="finals")
def family(page: ui.Page, run: RunData) -> Iterator[str]:
    finals = run.table("finals")
    yield ui.lead("Final students of all seeds, each trained from scratch under the same protocol and judged once.")
    students = finals_table(run)
    yield page.chart("finals")
    yield students if len(finals) <= 12 else ui.folded(f"All {len(finals)} final students", students)
    yield from pictures(page, run)


@ui.Section("statistics", "Statistics", "Statistics")
def statistics(page: ui.Page, run: RunData) -> Iterator[str]:
    tests, ranks = run.table("tests"), run.table("ranks")
    first = run.answer.get("reference", run.methods[0] if run.methods else "")
    shown = run.answer.get("tables", [])[1:]  # of a study
    if shown:
        yield ui.heading("Paired differences") + page.chart("tests") + ui.texts(shown[0])
    elif tests and run.kind == "comparison":
        what = (
            f"{first} minus each method on the same seeds, of the mean test accuracy of a seed's final students: "
            f"positive means that {first} is better. Intervals and the t test assume normal differences, Wilcoxon's "
            "signed-rank test does not; Holm's correction is of the t tests, over the methods."
        )
        columns: ui.Columns = {
            "method": "method",
            "pairs": "n",
            "difference, points": _points,
            "it is better in": lambda row: f"{round(row['share_better'] * row['n'])} of {row['n']}",
            **_P,
            "p (Wilcoxon)": ui.shown("p_wilcoxon", form=".2g"),
        }
        yield ui.heading("Paired differences") + ui.lead(what) + page.chart("tests") + ui.table(tests, columns)
    else:
        yield ui.missing("There is nothing to pair: it takes two methods with results on the same seed.")
    if ranks:
        yield ui.heading("Average ranks") + page.chart("critical_difference", caption=_ranks(ranks))
    else:
        yield ui.why(run, "ranks")


def _ranks(ranks: Sequence[Row]) -> str:
    p, n, difference = ranks[0]["p_value"], ranks[0]["n"], ranks[0]["critical_difference"]
    said = f"Over {n} seeds. " + ("" if p is None else f"Friedman's test: p = {p:.2g}. ")
    return f"{said}Methods whose ranks differ by less than {difference:.2f} are not told apart (Nemenyi)."


@ui.Section("answer", "Answer", "The answer", "methods", "No training has finished yet.")
def baselines_answer(page: ui.Page, run: RunData) -> Iterator[str]:
    rows = run.table("methods")
    best = next(row for row in rows if row["method"] == run.answer["best"])
    said = "Students with the losses of the literature, under one protocol. The best of them by validation accuracy: "
    yield ui.lead(f"{said}{best['method']}, means over its seeds.")
    yield student_cards(run, best, f"{best['n']} seeds")
    yield ui.listed(run.conclusions)
    for shown in run.answer["tables"]:
        yield ui.heading("Students and losses") + ui.lead(shown.title) + ui.texts(shown)


@ui.Section("family", "Trainings", "Every training", "finals")
def baselines_found(page: ui.Page, run: RunData) -> Iterator[str]:
    yield ui.lead("Each training was judged once on the test images, after its last epoch.")
    yield page.chart("finals") + finals_table(run)


NO_PAIRS = "Nothing to pair: it takes plain KD and another loss on the same seed."


@ui.Section("statistics", "Statistics", "Against plain KD", "tests", NO_PAIRS)
def baselines_statistics(page: ui.Page, run: RunData) -> Iterator[str]:
    yield ui.lead("Test accuracy of each loss minus that of the same student with plain KD, paired by seed.")
    columns: ui.Columns = {"student, loss": "method", "pairs": "n", "minus plain KD, points": _points, **_P}
    yield page.chart("tests") + ui.table(run.table("tests"), columns)


@ui.Section("answer", "Answer", "The answer")
def study_answer(page: ui.Page, run: RunData) -> Iterator[str]:
    rows, about = run.table("methods"), run.answer
    yield ui.lead(str(about.get("question", "")))
    if not rows:
        yield ui.missing("No run of the study has finished yet.")
        return
    best = min((row for row in rows if row["regret"] is not None), key=lambda row: row["regret"], default=None)
    ranked = min((row for row in rows if row["average_rank"]), key=lambda row: row["average_rank"], default=None)
    if best is not None:
        ends, rank = interval(best["regret_low"], best["regret_high"], 2), None
        if ranked is not None:
            rank = ("best average rank", ranked["method"], f"{ranked['average_rank']:.2f} of {len(rows)} methods")
        runs = ("runs", str(about["n_runs"]), f"{about['seeds']} seeds, benchmark {about['benchmark']}")
        yield ui.cards(("lowest mean regret", best["method"], f"{100 * best['regret']:.2f} points {ends}"), rank, runs)
    yield ui.listed(run.conclusions)
    yield ui.heading("Methods") + ui.texts(about["tables"][0])


@ui.Section("anytime", "Anytime", "During the searches")
def study_anytime(page: ui.Page, run: RunData) -> Iterator[str]:
    unit = str(run.answer.get("unit", "student-epochs"))
    regrets = ((unit, "regret_over_student_epochs"), ("trainings", "regret_over_trials"))
    chart = page.chart(*regrets, ("average rank", "average_rank"))
    said = (
        "Mean regret of the incumbent over what was spent; click a name to see its line alone. The reference is thick."
    )
    yield ui.lead(said) + chart if chart else ui.missing("No run has an incumbent yet.")


RUN = (
    ui.Column("method", "method", more={"filter": True}),
    ui.Column("seed", "seed", 0),
    ui.Column("regret, points", "regret", 3, 100, SMALL),
    ui.Column("test error, %", "test_error", 3, 100, SMALL),
    ui.Column("trained", "n_trials", 0),
    ui.Column("CPU s", "cpu_s", 2, more=SMALL),
)


@ui.Section("family", "Final regrets", "Final regrets")
def study_finals(page: ui.Page, run: RunData) -> Iterator[str]:
    if all(row["regret"] is None for row in run.table("finals")):
        yield ui.missing("No run has finished with an incumbent.")
        return
    yield ui.lead("A point is a run.")
    yield page.chart("final_regret") + page.table("runs", RUN, run.table("finals"), ("regret, points", False))


OF_BASELINES = (
    *(baselines_answer, baselines_found, search.calibration, search.confusion, baselines_statistics, search.reproduce),
)
OF_A_STUDY = (study_answer, study_anytime, study_finals, statistics, search.reproduce)
SECTIONS = (answer, anytime, search.trials, family, *search.OF_TRIALS, statistics, search.reproduce)
