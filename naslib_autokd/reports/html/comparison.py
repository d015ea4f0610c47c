"""The sections on several search methods: a comparison, or a study on a benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from naslib_autokd.reports.html._page import (
    Page,
    Spec,
    axis,
    band,
    card,
    count,
    escape,
    interval,
    line_style,
    listed,
    log_axis,
    missing,
    p_value,
    plain_table,
    plot_text,
    section,
    step,
    teacher_line,
    violins,
    why,
)
from naslib_autokd.reports.html.search import answer_section, column, finals_table, pictures
from naslib_autokd.reports.run_data import Row, RunData

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
    traces: list[Spec] = []
    one_shot = False
    for index, method in enumerate(run.methods):
        colour, _ = line_style(index)
        own = [row for row in points if row["method"] == method]
        dash = "dash" if any(row["one_shot"] for row in own) else "solid"
        one_shot |= dash == "dash"
        mean = [row for row in run.table("anytime_mean") if row["method"] == method]
        banded = [row for row in mean if row["low"] is not None and row["high"] is not None]
        if banded:
            traces.append(band(banded, "student_epochs", "low", "high", colour, method))
        for seed in dict.fromkeys(row["seed"] for row in own):
            line = {"color": f"{colour}/0.35", "width": 1, "dash": dash}
            curve = step([row for row in own if row["seed"] == seed], "student_epochs", f"{method}, seed {seed}", line)
            traces.append({**curve, "showlegend": False, "legendgroup": method})
        if mean:
            line = {"color": colour, "width": 2.8, "dash": dash}
            traces.append(step(mean, "student_epochs", method, line, legendgroup=method))
    shapes, notes = teacher_line(run)
    layout = {
        "xaxis": axis("student-epochs spent on the search", rangemode="tozero"),
        "yaxis": axis("accuracy, %"),
        "shapes": shapes,
        "annotations": notes,
    }
    lead = (
        "Validation accuracy of the incumbent: thin lines are seeds, thick ones their mean with a 95% bootstrap band."
    )
    if one_shot:
        lead += (
            " Dashed: a supernet with shared weights on the images that train its architecture, which says little "
            "about the network that is cut out of it."
        )
    return section(prefix, "anytime", "During the searches", lead, builder.chart([("", traces, layout)], height=440))


def comparison_family(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("families")
    title = "What was found"
    if not rows:
        return section(prefix, "family", title, "", why(run, "finals"))
    layout = {"xaxis": {"type": "category", "automargin": True}, "yaxis": axis("test accuracy, %")}
    shapes, notes = teacher_line(run)
    order = [method for method in run.methods if any(row["group"] == method for row in rows)]
    chart = builder.chart([("", violins(rows, order), {**layout, "shapes": shapes, "annotations": notes})], height=380)
    lead = "Final students of all seeds, each trained from scratch under the same protocol and judged once."
    table = finals_table(run.table("finals"), True)
    if len(run.table("finals")) > 12:
        table = f"<details><summary>All {len(run.table('finals'))} final students</summary>{table}</details>"
    return section(prefix, "family", title, lead, chart, table, pictures(run))


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
        parts.append(
            _difference_chart(
                builder, tests, f"{'method minus ' if study else ''}{first}{'' if study else ' minus method'}, points"
            )
        )
        parts.append(plain_table(header, lines, range(1, len(header))))
    else:
        parts.append(missing("There is nothing to pair: it takes two methods with results on the same seed."))
    if ranks:
        parts.append("<h3>Average ranks</h3>" + _rank_chart(builder, ranks))
    else:
        parts.append(why(run, "ranks"))
    return section(prefix, "statistics", "Statistics", "", *parts)


def _difference_chart(builder: Page, tests: Sequence[Row], label: str) -> str:
    known = [row for row in reversed(tests) if row["difference"] is not None]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [100 * row["difference"] for row in known],
        "y": [plot_text(row["method"]) for row in known],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [
                100 * ((row["high"] if row["high"] is not None else row["difference"]) - row["difference"])
                for row in known
            ],
            "arrayminus": [
                100 * (row["difference"] - (row["low"] if row["low"] is not None else row["difference"]))
                for row in known
            ],
            "color": "@c0",
            "thickness": 1.6,
        },
        "marker": {"color": "@c0", "size": 9},
        "hovertemplate": "%{y}: %{x:+.2f} points<extra></extra>",
    }
    zero = {
        "type": "line",
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "x0": 0,
        "x1": 0,
        "line": {"color": "@muted", "dash": "dot", "width": 1.2},
    }
    layout = {"xaxis": axis(label), "yaxis": {"type": "category"}, "shapes": [zero]}
    return builder.chart([("", [trace], layout)], height=110 + 32 * len(known))


def _rank_chart(builder: Page, ranks: Sequence[Row]) -> str:
    ordered = sorted(ranks, key=lambda row: -row["average_rank"])
    best = ordered[-1]["average_rank"]
    difference = ordered[0]["critical_difference"]
    near = [row["average_rank"] - best < difference for row in ordered]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [row["average_rank"] for row in ordered],
        "y": [plot_text(row["method"]) for row in ordered],
        "marker": {"color": ["@c0" if close else "@soft" for close in near]},
        "hovertemplate": "%{y}: %{x:.2f}<extra></extra>",
    }
    layout = {"xaxis": axis("average rank (1 is the best)"), "yaxis": {"type": "category"}, "bargap": 0.35}
    p, n = ordered[0]["p_value"], ordered[0]["n"]
    said = f"Over {n} seeds. " + ("" if p is None else f"Friedman's test: p = {p:.2g}. ")
    said += f"Blue: not told apart from the best (Nemenyi's critical difference {difference:.2f})."
    return builder.chart([("", [trace], layout)], said, height=110 + 26 * len(ordered))


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
    variants = []
    reference = run.answer.get("reference")
    for name, table, x in (("student-epochs", "anytime", "student_epochs"), ("trainings", "anytime_trials", "trials")):
        rows = run.table(table)
        labels = list(dict.fromkeys(row["method"] for row in rows))
        traces: list[Spec] = []
        for index, label in enumerate(labels):
            colour, dash = line_style(index)
            own = [row for row in rows if row["method"] == label]
            banded = [row for row in own if row["low"] is not None and row["high"] is not None]
            if banded and (len(labels) <= 6 or label == reference):
                traces.append(band(banded, x, "low", "high", colour, label))
            points = [{**row, "accuracy": row["regret"]} for row in own]
            line = {"color": colour, "dash": dash, "width": 3.2 if label == reference else 1.6}
            traces.append(step(points, x, label, line, legendgroup=label))
        if traces:
            layout = {
                "xaxis": log_axis(name, [row[x] for row in rows]),
                "yaxis": log_axis("mean regret, points", [100 * row["regret"] for row in rows]),
            }
            variants.append((name, traces, layout))
    rows = run.table("ranks_over_time")
    if rows:
        traces = []
        for index, label in enumerate(dict.fromkeys(row["method"] for row in rows)):
            colour, dash = line_style(index)
            own = [{**row, "accuracy": row["average_rank"] / 100} for row in rows if row["method"] == label]
            line = {"color": colour, "dash": dash, "width": 3.2 if label == reference else 1.6}
            curve = step(own, "student_epochs", label, line)
            curve["hovertemplate"] = f"{plot_text(label)}<br>%{{x:.4g}}: %{{y:.2f}}<extra></extra>"
            traces.append(curve)
        layout = {
            "xaxis": log_axis("student-epochs", [row["student_epochs"] for row in rows]),
            "yaxis": axis("average rank", autorange="reversed"),
        }
        variants.append(("average rank", traces, layout))
    if not variants:
        return section(prefix, "anytime", "During the searches", "", missing("No run has an incumbent yet."))
    lead = "Mean regret of the incumbent over what was spent; click a name to hide its line. The reference is thick."
    return section(prefix, "anytime", "During the searches", lead, builder.chart(variants, height=560))


def study_finals(builder: Page, run: RunData, prefix: str) -> str:
    rows = [row for row in run.table("finals") if row["regret"] is not None]
    if not rows:
        return section(prefix, "family", "Final regrets", "", missing("No run has finished with an incumbent."))
    order = [method for method in run.methods if any(row["method"] == method for row in rows)]
    values = [
        {"group": row["method"], "accuracy": row["regret"], "source": f"seed {row['seed']}", "family": ""}
        for row in rows
    ]
    layout = {"xaxis": {"type": "category", "automargin": True}, "yaxis": axis("final regret, points")}
    chart = builder.chart([("", violins(values, order, bounded=True), layout)], height=460)
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
