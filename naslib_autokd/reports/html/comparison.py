"""The sections on several search methods: a comparison, or a study on a benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from naslib_autokd.reports.html._page import (
    Page,
    card,
    count,
    escape,
    interval,
    listed,
    missing,
    p_value,
    percent,
    plain_table,
    section,
    why,
)
from naslib_autokd.reports.html.search import answer_section, column, finals_table, pictures
from naslib_autokd.reports.results import Row, RunData

# ---- several methods -----------------------------------------------------------------------------------------------


def comparison_answer(builder: Page, run: RunData, prefix: str) -> str:
    text = answer_section(builder, run, prefix)
    rows = run.table("methods")
    if not rows:
        return text
    return text.removesuffix("</section>") + "<h3>Methods</h3>" + _methods_table(run) + "</section>"


def _methods_table(run: RunData) -> str:
    tests = {row["method"]: row for row in run.table("tests")}
    first = run.table("methods")[0]["method"]
    several = any(row["test_accuracy"] != row["mean_test_accuracy"] for row in run.table("methods"))
    header = ["method", "n", "kept student, %", *(["mean student, %"] if several else []), f"{first} minus it"]
    header += ["agrees, %", "parameters", "MMACs", "train MiB", "search CPU s", "trained"]
    lines = []
    for row in run.table("methods"):
        test = tests.get(row["method"])
        minus = ""
        if test is not None:
            minus = f"{100 * test['difference']:+.1f} {interval(test['low'], test['high'], signed=True)}".strip()
        lines.append(
            [
                row["method"],
                str(row["n"]),
                f"{100 * row['test_accuracy']:.1f} {interval(row['test_accuracy_low'], row['test_accuracy_high'])}",
                *(
                    [f"{100 * row['mean_test_accuracy']:.1f} "
                     f"{interval(row['mean_test_accuracy_low'], row['mean_test_accuracy_high'])}"]
                    if several
                    else []
                ),
                minus,
                f"{100 * row['teacher_agreement']:.1f}",
                count(row["n_params"]),
                f"{row['macs'] / 1e6:.2f}",
                f"{row['train_memory_bytes'] / 2**20:.1f}",
                f"{row['search_cpu_s']:.0f}",
                f"{row['n_students']:.0f}",
            ]
        )  # fmt: skip
    teacher = run.teacher
    if teacher is not None and teacher["n_params"] is not None:
        cells = [""] * len(header)
        cells[0], cells[2] = "teacher", f"{100 * teacher['test_accuracy']:.1f}"
        cells[-5:-2] = [
            count(teacher["n_params"]),
            f"{teacher['macs'] / 1e6:.2f}",
            f"{teacher['train_memory_bytes'] / 2**20:.1f}",
        ]
        lines.append(cells)
    note = "Means over seeds with 95% t intervals; the difference is paired by seed, of the mean of a seed's students."
    return plain_table(header, lines, range(1, len(header))) + f"<p class='lead'>{escape(note)}</p>"


def comparison_anytime(builder: Page, run: RunData, prefix: str) -> str:
    points = run.table("anytime")
    if not points:
        return section(prefix, "anytime", "During the searches", "", missing("No search has an incumbent yet."))
    lead = (
        "Validation accuracy of the incumbent: thin lines are seeds, thick ones their mean with a 95% bootstrap band."
    )
    if any(row["one_shot"] for row in points):
        lead += (
            " Dashed: a supernet with shared weights on the images that train its architecture, which says little "
            "about the network that is cut out of it."
        )
    return section(prefix, "anytime", "During the searches", lead, builder.chart(("", "anytime")))


def comparison_family(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("finals")
    title = "What was found"
    if not rows:
        return section(prefix, "family", title, "", why(run, "finals"))
    lead = "Final students of all seeds, each trained from scratch under the same protocol and judged once."
    table = finals_table(rows, True)
    if len(rows) > 12:
        table = f"<details><summary>All {len(rows)} final students</summary>{table}</details>"
    return section(prefix, "family", title, lead, builder.chart(("", "finals")), table, pictures(run))


def statistics(builder: Page, run: RunData, prefix: str) -> str:
    tests, ranks = run.table("tests"), run.table("ranks")
    parts = []
    study = run.kind == "study"
    if tests:
        first = run.answer.get("reference", run.methods[0] if run.methods else "")
        header = ["method", "pairs", "difference, points", "it is better in"]
        header += [*([] if study else ["p (paired t)"]), "p (Wilcoxon)", "p (Holm)"]
        lines = [
            [
                row["method"],
                str(row["n"]),
                "not known"
                if row["difference"] is None
                else f"{100 * row['difference']:+.2f} {interval(row['low'], row['high'], 2, signed=True)}".strip(),
                f"{round(row['share_better'] * row['n'])} of {row['n']}",
                *([] if study else [p_value(row["p_value"])]),
                p_value(row["p_wilcoxon"]),
                p_value(row.get("p_holm")),
            ]
            for row in tests
        ]
        what = (
            f"Final regret of each method minus that of {first} on the same seeds (Hodges and Lehmann's shift with its "
            "95% interval): positive means that the method is worse."
            if study
            else f"{first} minus each method on the same seeds, of the mean test accuracy of a seed's final students: "
            f"positive means that {first} is better. Intervals and the t test assume normal differences, Wilcoxon's "
            "signed-rank test does not; Holm's correction is over the methods."
        )
        parts.append(f"<h3>Paired differences</h3><p class='lead'>{escape(what)}</p>")
        parts.append(builder.chart(("", "tests")))
        parts.append(plain_table(header, lines, range(1, len(header))))
    else:
        parts.append(missing("There is nothing to pair: it takes two methods with results on the same seed."))
    if ranks:
        parts.append("<h3>Average ranks</h3>" + builder.chart(("", "critical_difference"), caption=_ranks(ranks)))
    else:
        parts.append(why(run, "ranks"))
    return section(prefix, "statistics", "Statistics", "", *parts)


def _ranks(ranks: Sequence[Row]) -> str:
    p, n, difference = ranks[0]["p_value"], ranks[0]["n"], ranks[0]["critical_difference"]
    said = f"Over {n} seeds. " + ("" if p is None else f"Friedman's test: p = {p:.2g}. ")
    return f"{said}Methods under one grey bar are not told apart (Nemenyi's critical difference {difference:.2f})."


# ---- compare-kd ----------------------------------------------------------------------------------------------------


def baselines_answer(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("methods")
    if not rows:
        return section(prefix, "answer", "The answer", "", missing("No training has finished yet."))
    best = next(row for row in rows if row["method"] == run.answer["best"])
    ends = interval(best["test_accuracy_low"], best["test_accuracy_high"])
    cards = card("test accuracy", percent(best["test_accuracy"]), f"{best['method']} {ends}".strip(), main=True)
    if run.teacher is not None and run.teacher["test_accuracy"] is not None:
        cards += card("teacher", percent(run.teacher["test_accuracy"]))
    cards += card("parameters", count(best["n_params"])) + card("multiply-adds per image", count(best["macs"]))
    header = ["student, loss", "n", "test, %", "validation, %", "agrees, %", "parameters", "MMACs", "train MiB", "s"]
    lines = [
        [
            row["method"],
            str(row["n"]),
            f"{100 * row['test_accuracy']:.1f} {interval(row['test_accuracy_low'], row['test_accuracy_high'])}".strip(),
            f"{100 * row['val_accuracy']:.1f}",
            f"{100 * row['test_agreement']:.1f}",
            count(row["n_params"]),
            f"{row['macs'] / 1e6:.2f}",
            f"{row['train_memory_bytes'] / 2**20:.1f}",
            f"{row['seconds']:.0f}",
        ]
        for row in rows
    ]
    lead = "Students with the losses of the literature, under one protocol; above, what is best by validation accuracy."
    note = "Means over seeds with 95% t intervals; s: seconds of a training."
    parts = [f'<div class="cards">{cards}</div>', listed(run.conclusions), "<h3>Students and losses</h3>"]
    parts += [plain_table(header, lines, range(1, len(header))), f"<p class='lead'>{escape(note)}</p>"]
    return section(prefix, "answer", "The answer", lead, *parts)


def baselines_found(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("finals")
    if not rows:
        return section(prefix, "family", "Every training", "", why(run, "finals"))
    lead = "Each training was judged once on the test images, after its last epoch."
    return section(prefix, "family", "Every training", lead, builder.chart(("", "finals")), finals_table(rows, True))


def baselines_statistics(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("tests")
    if not rows:
        return section(
            prefix,
            "statistics",
            "Against plain KD",
            "",
            missing("Nothing to pair: it takes plain KD and another loss on the same seed."),
        )
    header = ["student, loss", "pairs", "minus plain KD, points", "p (paired t)", "p (Holm)"]
    lines = [
        [
            row["method"],
            str(row["n"]),
            f"{100 * row['difference']:+.2f} {interval(row['low'], row['high'], 2, signed=True)}".strip(),
            p_value(row["p_value"]),
            p_value(row.get("p_holm")),
        ]
        for row in rows
    ]
    lead = "Test accuracy of each loss minus that of the same student with plain KD, paired by seed."
    table = plain_table(header, lines, range(1, len(header)))
    return section(prefix, "statistics", "Against plain KD", lead, builder.chart(("", "tests")), table)


# ---- a study -------------------------------------------------------------------------------------------------------


def study_answer(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("methods")
    lead = str(run.answer.get("question", ""))
    if not rows:
        return section(prefix, "answer", "The answer", lead, missing("No run of the study has finished yet."))
    best = min((row for row in rows if row["regret"] is not None), key=lambda row: row["regret"], default=None)
    parts = []
    if best is not None:
        ends = interval(best["regret_low"], best["regret_high"], 2)
        cards = card("lowest mean regret", best["method"], f"{100 * best['regret']:.2f} points {ends}", main=True)
        ranked = min((row for row in rows if row["average_rank"]), key=lambda row: row["average_rank"], default=None)
        if ranked is not None:
            cards += card("best average rank", ranked["method"], f"{ranked['average_rank']:.2f} of {len(rows)} methods")
        cards += card(
            "runs", str(run.answer["n_runs"]), f"{run.answer['seeds']} seeds, benchmark {run.answer['benchmark']}"
        )
        parts.append(f'<div class="cards">{cards}</div>')
    parts.append(listed(run.conclusions))
    header = [
        "method",
        "n",
        "regret, points",
        "median",
        "rank",
        "full trainings",
        "trained",
        "CPU s",
        "reference's speed-up",
    ]
    lines = [
        [
            row["method"],
            str(row["n"] - row["n_without"])
            if not row["n_without"]
            else f"{row['n'] - row['n_without']} of {row['n']}",
            "none"
            if row["regret"] is None
            else f"{100 * row['regret']:.2f} {interval(row['regret_low'], row['regret_high'], 2)}",
            "" if row["median_regret"] is None else f"{100 * row['median_regret']:.2f}",
            "" if row["average_rank"] is None else f"{row['average_rank']:.2f}",
            f"{row['full_trainings']:.4g}",
            f"{row['n_trials']:.4g}",
            f"{row['cpu_s']:.1f}",
            row["speed_up_epochs"],
        ]
        for row in rows
    ]
    parts.append("<h3>Methods</h3>" + plain_table(header, lines, range(1, len(header))))
    note = (
        f"Regret: true test error of the chosen family above {100 * run.answer['best_test_error']:.2f}%, the lowest "
        "known in the benchmark; mean with a 95% bootstrap interval over runs."
    )
    parts.append(f"<p class='lead'>{escape(note)}</p>")
    return section(prefix, "answer", "The answer", lead, *parts)


def study_anytime(builder: Page, run: RunData, prefix: str) -> str:
    views = [("student-epochs", "anytime"), ("trainings", "anytime_trials"), ("average rank", "ranks_over_time")]
    chart = builder.chart(*views)
    if not chart:
        return section(prefix, "anytime", "During the searches", "", missing("No run has an incumbent yet."))
    lead = (
        "Mean regret of the incumbent over what was spent; click a name to see its line alone. The reference is thick."
    )
    return section(prefix, "anytime", "During the searches", lead, chart)


def study_finals(builder: Page, run: RunData, prefix: str) -> str:
    rows = [row for row in run.table("finals") if row["regret"] is not None]
    if not rows:
        return section(prefix, "family", "Final regrets", "", missing("No run has finished with an incumbent."))
    chart = builder.chart(("", "finals"))
    table = builder.table(
        "runs",
        [
            column("method", filter=True),
            column("seed", 0),
            column("regret, points", 3, best="low"),
            column("test error, %", 3, best="low"),
            column("trained", 0),
            column("CPU s", 2, best="low"),
        ],
        [
            [
                r["method"],
                r["seed"],
                None if r["regret"] is None else round(100 * r["regret"], 5),
                None if r["test_error"] is None else round(100 * r["test_error"], 5),
                r["n_trials"],
                round(r["cpu_s"], 3),
            ]
            for r in run.table("finals")
        ],
        sort=(2, False),
    )
    return section(prefix, "family", "Final regrets", "A point is a run.", chart, table)
