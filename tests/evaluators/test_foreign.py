"""Foreign tables: a small made one whose rank correlations are counted by hand, and everything that can be wrong."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from naslib_autokd.commands import bench
from naslib_autokd.evaluators.base import Benchmark
from naslib_autokd.evaluators.benchmark import get_benchmark
from naslib_autokd.evaluators.foreign import (
    ForeignBenchmark,
    TableError,
    correlation_notes,
    correlation_table,
    fidelity_correlations,
)
from naslib_autokd.records import Proposal
from naslib_autokd.search_spaces.table import RowCandidate

EXAMPLE = Path(__file__).parents[2] / "examples" / "foreign_table.yaml"
DOCS = Path(__file__).parents[2] / "docs" / "foreign_tables.md"

DESCRIPTION = """\
name: made
csv: made.csv
architecture: [width, operation]
kd: [method]
fidelity: {column: share}
validation_accuracy: valid
test_accuracy: test
cost: {column: minutes, unit: min}
reference: {method: none, share: 1}
"""

# Four architectures. Test accuracy of full training without KD: 0.60, 0.70, 0.65, 0.80.
CSV = """\
width,operation,method,share,valid,test,minutes
8,conv,none,1/9,0.30,0.31,1
16,conv,none,1/9,0.20,0.21,1
24,pool,none,1/9,0.25,0.26,1
32,conv,none,1/9,0.40,0.41,1
8,conv,none,1/3,0.40,0.41,3
16,conv,none,1/3,0.60,0.61,3
24,pool,none,1/3,0.50,0.51,3
32,conv,none,1/3,0.70,0.71,3
8,conv,none,1,0.80,0.60,9
16,conv,none,1,0.60,0.70,9
24,pool,none,1,0.70,0.65,9
32,conv,none,1,0.50,0.80,9
8,conv,kd,1/9,0.35,0.36,1.5
16,conv,kd,1/9,0.40,0.41,1.5
24,pool,kd,1/9,0.45,0.46,1.5
32,conv,kd,1/9,0.50,0.51,1.5
8,conv,kd,1/3,0.50,0.51,4.5
16,conv,kd,1/3,0.60,0.61,4.5
24,pool,kd,1/3,0.60,0.59,4.5
32,conv,kd,1/3,0.70,0.75,4.5
"""


def make(folder: Path, text: str = DESCRIPTION, table: str = CSV) -> Path:
    (folder / "made.csv").write_text(table)
    path = folder / "made.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def made(tmp_path: Path) -> ForeignBenchmark:
    return ForeignBenchmark(make(tmp_path))


def candidate(width: int, method: str, operation: str = "conv") -> RowCandidate:
    return RowCandidate.of({"width": width, "operation": operation}, {"method": method})


def test_a_csv_and_a_yaml_are_a_benchmark(made: ForeignBenchmark) -> None:
    assert isinstance(made, Benchmark)
    assert (made.name, len(made.space.rows)) == ("made", 8)
    # nobody trained with KD at 1, so it is no budget; 1/9 and 1/3 are 1 and 3 ninths
    assert made.budgets == (1, 3)
    assert made.fidelity_of(3) == "1/3"
    trial = made.evaluate(Proposal(candidate(24, "kd", "pool"), 3, seed=0, number=7))
    assert (trial.number, trial.status, trial.budget_epochs, trial.student_epochs) == (7, "success", 3, 3.0)
    assert (trial.cost, trial.val_accuracy) == (pytest.approx(0.4), pytest.approx(0.6))
    assert trial.train_s == pytest.approx(270.0)
    assert RowCandidate.from_dict(trial.candidate) == candidate(24, "kd", "pool")
    assert "test" not in trial.to_json(), "test results are not for optimizers"
    assert made.true_cost(candidate(32, "kd")) == pytest.approx(0.3)
    assert made.true_test_error(candidate(32, "kd")) == pytest.approx(0.25)
    assert (made.best_candidate, made.best_test_error) == (candidate(32, "kd"), pytest.approx(0.25))


def test_a_path_is_enough_for_get_benchmark(tmp_path: Path) -> None:
    assert get_benchmark(str(make(tmp_path))).name == "made"


def test_rank_correlations_are_those_counted_by_hand(made: ForeignBenchmark) -> None:
    # Reference order of the widths: 8 < 24 < 16 < 32; six pairs.
    expected = {
        ("none", "1/9"): 0.0,  # 8 is above 16 and 24, 16 below 24: three pairs of six are wrong
        ("none", "1/3"): 1.0,
        ("none", "1"): -1.0,  # validation at full training, made to be upside down
        ("kd", "1/9"): 4 / 6,  # 16 below 24: one pair wrong
        ("kd", "1/3"): 5 / math.sqrt(6 * 5),  # 16 and 24 are equal: tau-b has one pair less on that side
    }
    correlations = [c for c in fidelity_correlations(made) if not c.baseline]
    assert {(c.kd[0][1], f"{c.fidelity:.3f}") for c in correlations} == {
        (method, f"{eval(share):.3f}") for method, share in expected
    }
    for correlation, tau in zip(correlations, expected.values(), strict=True):
        assert correlation.n == 4
        assert correlation.kendall_tau == pytest.approx(tau)
    assert correlation_table(made, correlations) == [
        ["method", "1/9", "1/3", "1"],
        ["none", "0.000", "1.000", "-1.000"],
        ["kd", "0.667", "0.913", ""],
    ]


def test_the_command_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench.add(parser.add_subparsers())
    options = parser.parse_args(["bench", "correlations", str(make(tmp_path))])
    assert options.run(options) == 0
    assert capsys.readouterr().out.splitlines() == [
        "made: Kendall's tau with method=none, share=1 (test)",
        "method             1/9    1/3       1",
        "none             0.000  1.000  -1.000",
        "kd               0.667  0.913",
        "(minutes alone)      -      -       -",
        "Regret of what each would pick, in points of the same test error",
        "method             1/9    1/3      1",
        "none              0.00   0.00  20.00",  # at 1 it takes the first for its 0.80: 0.60 in truth, the best 0.80
        "kd                0.00   0.00",
        "(minutes alone)  11.25  11.25  11.25",  # all cost the same: the mean of the four
        "n = 4 architectures",
    ]


WIDE = """\
name: wide
csv: made.csv
architecture: [width]
kd: [method]
fidelity: {column: epochs}
validation_accuracy: valid
test_accuracy: test
baselines: [params]
reference: {method: none, epochs: 9}
"""


def test_what_taus_hide_is_said(tmp_path: Path) -> None:
    """Three methods that all pick the widest of 20, one of them with collapsed trainings, and parameters that know."""
    rows = ["width,method,epochs,valid,test,params"]
    for i in range(20):
        right = 0.5 + i / 100
        shuffled = 0.3 + (7 * i % 19) / 100 if i < 19 else 0.6
        rows += [f"{i},none,9,{right},{right},{10 + i}", f"{i},none,1,{shuffled},{right},{10 + i}"]
        rows += [f"{i},kd,1,{shuffled},{right},{10 + i}", f"{i},kd,9,{right},{right},{10 + i}"]
        vid = 0.02 if i < 6 else 0.2 + i / 100
        rows += [f"{i},vid,1,{vid},{right},{10 + i}", f"{i},vid,9,{right},{right},{10 + i}"]
    table = "\n".join(rows) + "\n"
    found = ForeignBenchmark(make(tmp_path, WIDE, table))
    correlations = fidelity_correlations(found)
    free = [c for c in correlations if c.baseline]
    assert [(c.baseline, c.kendall_tau, c.regret) for c in free] == [("params", 1.0, 0.0)] * 2
    collapsed = {(c.kd[0][1], c.fidelity): c.n_collapsed for c in correlations if c.n_collapsed}
    assert collapsed == {}  # chance is not known
    told = ForeignBenchmark(make(tmp_path, WIDE + "classes: 50\n", table))
    correlations = fidelity_correlations(told)
    assert {(c.kd[0][1], c.fidelity): c.n_collapsed for c in correlations if c.n_collapsed} == {("vid", 1.0): 6}
    assert correlation_table(told, correlations)[3][1].endswith("!")
    notes = correlation_notes(told, correlations)
    assert notes[0] == ("! vid at 1: 6 of 20 trainings collapsed (hardly above chance), so this column says little.")
    assert "At 1, params alone orders better than 3 of 3 columns (tau 1.00)." in notes
    assert any(
        note.startswith("At 1, 3 of 3 columns pick the very same architecture, with taus from") for note in notes
    )


def test_another_reference_can_be_asked_for(made: ForeignBenchmark) -> None:
    wanted = {"method": "kd", "share": "1/9"}
    found = {(c.kd[0][1], c.fidelity): c for c in fidelity_correlations(made, wanted) if not c.baseline}
    assert found["none", 1 / 3].kendall_tau == pytest.approx(4 / 6)  # there 16 is below 24
    assert found["kd", 1 / 9].kendall_tau == pytest.approx(1.0)
    with pytest.raises(TableError, match=r"no rows with method=kd, share=1$"):
        fidelity_correlations(made, {"method": "kd", "share": "1"})


def test_correlations_need_a_reference(tmp_path: Path) -> None:
    made = ForeignBenchmark(make(tmp_path, re.sub("reference.*\n", "", DESCRIPTION)))
    with pytest.raises(TableError, match="made names no reference trainings"):
        fidelity_correlations(made)


def test_repeats_are_drawn_by_the_seed_and_their_mean_is_the_truth(tmp_path: Path) -> None:
    repeats = "32,conv,kd,1/3,0.60,0.65,4\n32,conv,kd,1/3,0.80,0.70,4\n"
    made = ForeignBenchmark(make(tmp_path, table=CSV + repeats))
    best = candidate(32, "kd")
    answers = [made.evaluate(Proposal(best, 3, seed, number=0)).cost for seed in range(300)]
    assert answers == [made.evaluate(Proposal(best, 3, seed, number=5)).cost for seed in range(300)]
    counts = Counter(round(answer, 3) for answer in answers)
    assert set(counts) == {0.2, 0.3, 0.4}
    assert min(counts.values()) > 70  # of 300 in thirds: 3.7 standard deviations
    assert made.true_cost(best) == pytest.approx(0.3)
    assert made.true_test_error(best) == pytest.approx((0.25 + 0.35 + 0.30) / 3)
    # 0.3 on average as before, so the ranks are as before
    learned = [c for c in fidelity_correlations(made) if not c.baseline]
    assert learned[-1].kendall_tau == pytest.approx(5 / math.sqrt(30))


def test_percent_errors_and_accuracies_say_the_same(tmp_path: Path, made: ForeignBenchmark) -> None:
    lines = CSV.splitlines()
    for i, line in enumerate(lines[1:], 1):
        cells = line.split(",")
        cells[4:6] = [f"{100 * (1 - float(cell)):.3f}" for cell in cells[4:6]]
        lines[i] = ",".join(cells)
    text = DESCRIPTION.replace("validation_accuracy", "validation_error").replace("test_accuracy", "test_error")
    folder = tmp_path / "errors"
    folder.mkdir()
    other = ForeignBenchmark(make(folder, text + "scale: percent\n", "\n".join(lines)))
    for row in made.space.rows:
        assert other.true_cost(row) == pytest.approx(made.true_cost(row))
        assert other.true_test_error(row) == pytest.approx(made.true_test_error(row))


@pytest.mark.parametrize(
    ("cells", "budgets"),
    [
        ({"1/9": "10", "1/3": "30", "1": "90"}, (10, 30)),  # whole already: epochs
        ({"1/9": "0.1111", "1/3": "0.3333", "1": "1.0"}, (1, 3)),  # rounded shares
        ({"1/9": "0.25", "1/3": "0.5", "1": "1"}, (1, 2)),
    ],
)
def test_fidelities_become_whole_units(tmp_path: Path, cells: dict[str, str], budgets: tuple[int, ...]) -> None:
    table = re.sub(r"(none|kd),([0-9/]+)", lambda m: f"{m[1]},{cells[m[2]]}", CSV)
    text = DESCRIPTION.replace("share: 1", f"share: {cells['1']}")
    made = ForeignBenchmark(make(tmp_path, text, table))
    assert made.budgets == budgets
    assert fidelity_correlations(made)[3].kendall_tau == pytest.approx(4 / 6)


def test_words_are_fidelities_if_the_yaml_says_what_they_are_worth(tmp_path: Path) -> None:
    table = re.sub(r",(1/9|1/3|1),", lambda m: {"1/9": ",short,", "1/3": ",long,", "1": ",full,"}[m[1]], CSV)
    table = table.replace("1.5", "1.6")  # a cost is no fidelity
    text = DESCRIPTION.replace("share: 1}", "share: full}")
    with pytest.raises(TableError, match=r"line 5: fidelities short, long are not all positive numbers"):
        ForeignBenchmark(make(tmp_path, text, table))
    text = text.replace("{column: share}", "{column: share, values: {short: 2, long: 5}}")
    made = ForeignBenchmark(make(tmp_path, text, table))
    assert made.budgets == (2, 5)
    assert [c.kendall_tau for c in fidelity_correlations(made)][3] == pytest.approx(4 / 6)


def test_without_a_fidelity_column_there_is_one_budget(tmp_path: Path) -> None:
    text = re.sub("(fidelity|reference|cost).*\n", "", DESCRIPTION)
    table = "\n".join(line for line in CSV.splitlines() if ",1/3," in line or "width" in line)
    made = ForeignBenchmark(make(tmp_path, text, table))
    assert made.budgets == (1,)
    assert made.evaluate(Proposal(candidate(8, "kd"), 1, 0, 0)).train_s == 0.0


def test_a_benchmark_may_have_no_kd_columns(tmp_path: Path) -> None:
    text = re.sub("(kd|reference):.*\n", "", DESCRIPTION)
    table = "\n".join(line for line in CSV.splitlines() if ",none," not in line)
    made = ForeignBenchmark(make(tmp_path, text, table))
    assert made.true_cost(RowCandidate.of({"width": 8, "operation": "conv"})) == pytest.approx(0.5)
    assert correlation_table(made, fidelity_correlations(made, {"share": "1/3"}))[0] == ["KD", "1/9", "1/3"]


def test_foreign_proposals_are_refused(made: ForeignBenchmark) -> None:
    with pytest.raises(ValueError, match="made has no results at budget 2, only at 1, 3"):
        made.evaluate(Proposal(candidate(8, "kd"), 2, 0, 0))
    for ask in (made.true_cost, made.true_test_error, lambda c: made.evaluate(Proposal(c, 3, 0, 0))):
        with pytest.raises(ValueError, match="has no row"):
            ask(candidate(9, "kd"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kd: [method]", "kdd: [method]", r"made\.yaml, line 4: unknown key 'kdd'; did you mean 'kd'"),
        (
            "[width, operation]",
            "[widht, operation]",
            r"line 3: .*made\.csv has no column 'widht'; did you mean 'width'",
        ),
        ("column: minutes", "column: minute", r"line 8: .* no column 'minute'; did you mean 'minutes'"),
        ("test_accuracy: test", "test_accuracy: tests", r"line 7: .* no column 'tests'; did you mean 'test'"),
        ("unit: min", "unit: mins", r"line 8: unknown unit 'mins'; did you mean 'min'"),
        ("column: share", "colum: share", r"line 5: fidelity must be a column or a mapping with 'column'"),
        ("share: 1}", "share: 1, x: 2}", r"line 9: reference names 'x'"),
        (", share: 1}", "}", r"line 9: reference lacks share"),
        ("csv: made.csv", "csv: gone.csv", r"line 2: .*gone\.csv does not exist"),
        ("name: made\n", "", r"made\.yaml: key 'name' is missing"),
        ("kd: [method]", "kd: method", r"line 4: kd must be a list of columns"),
        ("kd: [method]", "kd: [width]", r"line 4: column 'width' is named under architecture and under kd"),
        ("test_accuracy: test", "test_accuracy: test\ntest_error: test", r"line 8: give one of test_accuracy and"),
        ("test_accuracy: test\n", "", r"give one of test_accuracy and test_error, got none"),
        ("kd: [method]", "kd: [method]\nscale: percents", r"line 5: unknown scale 'percents'; did you mean 'percent'"),
        ("kd: [method]", "kd: [method]\nkd: [method]", r"line 5: key 'kd' appears twice"),
        ("kd: [method]", "kd: [method]\ncategorical: [valid]", r"line 5: 'valid' is not among the columns of"),
        ("column: share", "column: share, values: {1/9: 1.5}", r"line 5: a budget is a whole number of at least 1"),
        ("column: share", "column: share, values: {1/9: 1, 1/3: 1}", r"line 5: two fidelities have the budget 1"),
        ("column: share", "column: share, values: {1/8: 1}", r"line 5: column 'share' never says 0\.125"),
    ],
)
def test_what_is_wrong_in_the_yaml_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in DESCRIPTION
    with pytest.raises(TableError, match=message):
        ForeignBenchmark(make(tmp_path, DESCRIPTION.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("8,conv,none,1/9,0.30", "8,conv,none,1/9,oops", r"made\.csv, line 2: valid must be a number, got 'oops'"),
        ("8,conv,none,1/9,0.30", "8,conv,none,1/9,", r"line 2: valid must be a number, got ''"),
        ("8,conv,none,1/9,0.30", "8,conv,none,1/9,nan", r"line 2: valid must be a number, got 'nan'"),
        (
            "16,conv,none,1/9,0.20",
            "16,conv,none,1/9,20",
            r"line 3: valid must be in \[0, 1\] \(if .* percent.*\), got 20",
        ),
        ("24,pool,none", "24,,none", r"line 4: operation is empty; line 8: "),
        ("32,conv,none,1/9", "wide,conv,none,1/9", r"line 5: width is a number elsewhere, got 'wide'; if both"),
        ("8,conv,kd,1/9,", "8,conv,kd,,", r"line 14: share is empty"),
        ("8,conv,kd,1/9,0.35,0.36,1.5", "8,conv,kd,1/9,0.35,0.36", r"line 14: 6 cells, but the header names 7"),
        ("8,conv,kd,1/9,0.35,0.36,1.5\n", "", r"1 trainings are missing, the first at fidelity 1/9 for .*'width': 8"),
        ("test,minutes", "test,test", r"line 1: column 'test' appears twice"),
        (CSV.partition("\n")[2], "", r"made\.csv has no rows"),
        ("1/3,0.50,0.51,4.5", "1/3,0.50,0.51,-4.5", r"line 18: minutes must be in \[0, inf\], got -4\.5"),
    ],
)
def test_what_is_wrong_in_the_csv_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CSV
    with pytest.raises(TableError, match=message):
        ForeignBenchmark(make(tmp_path, table=CSV.replace(old, new)))


def test_of_many_problems_the_first_are_shown(tmp_path: Path) -> None:
    table = re.sub(r",(0\.\d\d),(0\.\d\d),", r",\1?,\2,", CSV)
    with pytest.raises(TableError, match=r"line 2: valid must .*; line 6: valid must .*; and 15 more") as caught:
        ForeignBenchmark(make(tmp_path, table=table))
    assert str(caught.value).count("must be a number") == 5


def test_numbers_may_be_names(tmp_path: Path) -> None:
    text = DESCRIPTION + "categorical: [width]\n"
    made = ForeignBenchmark(make(tmp_path, text))
    assert made.space.choices["width"] == ("16", "24", "32", "8")


def test_an_unknown_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"table file .*none\.yaml does not exist"):
        ForeignBenchmark(tmp_path / "none.yaml")


def test_a_table_of_text_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert ForeignBenchmark(DESCRIPTION).budgets == (1, 3)
    with pytest.raises(TableError, match=r"^table, line 4: unknown key 'kdd'"):
        ForeignBenchmark(DESCRIPTION.replace("kd:", "kdd:"))


def test_the_search_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)[0]
    make(tmp_path).rename(tmp_path / "table.yaml")
    monkeypatch.chdir(tmp_path)
    exec(
        code.replace('get_optimizer("autokd")', 'get_optimizer("two-stage-random")'), {}
    )  # the made table has fewer points than AutoKD would ask for
    assert "'kd': {'method': 'kd'}} 0.25 best known: 0.25" in capsys.readouterr().out


def columns_of(text: str) -> dict[str, Any]:
    import yaml

    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@pytest.mark.parametrize("source", ["example", "docs"])
def test_the_shipped_descriptions_are_read(source: str, tmp_path: Path) -> None:
    """With a table of two rows a cell: every key that they show is one that we know."""
    text = EXAMPLE.read_text() if source == "example" else described_in(DOCS.read_text())
    keys = columns_of(text)
    fidelity = keys["fidelity"]["column"]
    shares = list(keys["fidelity"].get("values", {"1/27": 1, "1/9": 3, "1/3": 9}))
    header = [*keys["architecture"], *keys["kd"], fidelity]
    measured = [keys["validation_accuracy"], keys["test_accuracy"], keys["cost"]["column"]]
    n_reference = [str(keys["reference"][column]) for column in [*keys["kd"], fidelity]]
    rows = [",".join(header + measured)]
    for size in (1, 2, 3):
        architecture = [str(size)] * len(keys["architecture"])
        settings = [[str(keys["reference"][column]) for column in keys["kd"]]]
        settings.append(["7" if value.isdecimal() else "another" for value in settings[0]])
        rows += [",".join([*architecture, *s, str(share), "0.5", "0.5", "1"]) for s in settings for share in shares]
        rows.append(",".join([*architecture, *n_reference, "0.5", f"0.{size}", "1"]))
    (tmp_path / keys["csv"]).write_text("\n".join(rows))
    (tmp_path / "table.yaml").write_text(text)
    made = ForeignBenchmark(tmp_path / "table.yaml")
    assert len(made.space.rows) == 6
    assert len(made.budgets) == len(shares)
    assert {c.n for c in fidelity_correlations(made)} == {3}


def described_in(page: str) -> str:
    """The last YAML block of a page."""
    return re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)[-1]


class FakeAPI:
    """What the page asks of ``nas_201_api``: two cells, better after 200 epochs."""

    cells = (
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
        "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
    )

    def __init__(self, path: str) -> None:
        assert path.endswith(".pth")

    def __len__(self) -> int:
        return len(self.cells)

    def arch(self, index: int) -> str:
        return self.cells[index]

    def get_cost_info(self, index: int, dataset: str) -> dict[str, float]:
        return {"params": 0.1 + index}

    def get_more_info(self, index: int, dataset: str, iepoch: None, hp: str, is_random: bool) -> dict[str, float]:
        assert (dataset, iepoch, is_random) == ("cifar100", None, False)
        return {"valid-accuracy": 1.0 + index * int(hp) / 4, "test-accuracy": 1.5 + index * int(hp) / 4}


def test_nas_bench_201_of_the_page_becomes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = DOCS.read_text()
    code = next(code for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "nas_201_api" in code)
    text = next(text for text in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL) if "space:" in text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "nas_201_api", SimpleNamespace(NASBench201API=FakeAPI))
    exec(code, {})
    table = ForeignBenchmark(text)
    assert (table.budgets, len(table.space.rows), table.space.cells) == ((12, 200), 2, "nasbench201")
    assert table.best_test_error == pytest.approx(1 - 0.515)
    assert {c.baseline for c in fidelity_correlations(table)} == {"", "params"}


CELLS_YAML = """\
name: cells
csv: made.csv
space: nasbench201
architecture: [cell]
fidelity: {column: epochs}
validation_accuracy: valid
test_accuracy: test
scale: percent
"""


def cell(*operations: str) -> str:
    a, b, c, d, e, f = operations
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def cells_csv() -> tuple[str, str]:
    """Seven twins (node 1 is idle, so what leaves it does not matter) and a poor cell; as strings, as six columns."""
    twins = [
        ("none", "nor_conv_3x3", a, "skip_connect", b, "nor_conv_1x1")
        for a in ("none", "skip_connect", "avg_pool_3x3")
        for b in ("none", "skip_connect", "avg_pool_3x3")
    ][:7]
    rows = [(each, 90 + i) for i, each in enumerate(twins)] + [(("skip_connect",) * 6, 20)] * 1
    rows += [(("skip_connect",) * 5 + ("avg_pool_3x3",), 10)]
    strings = ["cell,epochs,valid,test"] + [f"{cell(*each)},200,{right},{right}" for each, right in rows]
    columns = ["a,b,c,d,e,f,epochs,valid,test"] + [f"{','.join(each)},200,{right},{right}" for each, right in rows]
    return "\n".join(strings) + "\n", "\n".join(columns) + "\n"


def test_cells_of_nas_bench_201_are_read_from_strings_or_columns(tmp_path: Path) -> None:
    strings, columns = cells_csv()
    found = ForeignBenchmark(make(tmp_path, CELLS_YAML, strings))
    same = ForeignBenchmark(make(tmp_path, CELLS_YAML.replace("[cell]", "[a, b, c, d, e, f]"), columns))
    assert found.space.rows == same.space.rows
    assert found.space.columns == ("e01", "e02", "e03", "e12", "e13", "e23")
    assert found.space.cells == "nasbench201"
    assert found.space.frozen({"e01": "none"}).cells == "nasbench201"


def test_equivalent_cells_and_repeats_show_one_trainings_noise(tmp_path: Path, made: ForeignBenchmark) -> None:
    strings, _ = cells_csv()
    noise = ForeignBenchmark(make(tmp_path, CELLS_YAML, strings)).training_noise
    assert noise is not None
    assert noise.sd == pytest.approx(math.sqrt(28 / 6) / 100)  # of 90 to 96; the poor cells have no twin
    assert noise[1:3] == (7, 1)
    assert noise.text() == "2.16 points, the standard deviation within 1 groups of cells that compute the same function"
    assert made.training_noise is None  # no training of it is repeated
    cells = "".join(f"{w},conv,none,1,{v},{v},1\n" for w in (8, 16) for v in (0.5, 0.6, 0.7, 0.8))
    repeats = "width,operation,method,share,valid,test,minutes\n" + cells
    noise = ForeignBenchmark(make(tmp_path, DESCRIPTION, repeats)).training_noise
    assert noise is not None
    assert (noise.sd, noise.n, noise.groups) == (pytest.approx(math.sqrt(0.1 / 6)), 8, 2)


@pytest.mark.parametrize(
    ("text", "replaced", "message"),
    [
        ("nasbench201\n", "nasbench21\n", r"line 3: unknown space 'nasbench21'.*did you mean 'nasbench201'"),
        (
            "[cell]",
            "[cell, epochs2, x]",
            r"line 4: architecture of cells of nasbench201 is one column .* got 3 columns",
        ),
    ],
)
def test_what_is_wrong_in_a_table_of_cells_is_told_with_its_line(
    tmp_path: Path, text: str, replaced: str, message: str
) -> None:
    with pytest.raises(TableError, match=message):
        ForeignBenchmark(make(tmp_path, CELLS_YAML.replace(text, replaced), cells_csv()[0]))


def test_a_cell_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    strings, columns = cells_csv()
    with pytest.raises(TableError, match=r"line 2: unknown operation 'nor_conv_3'.*did you mean"):
        ForeignBenchmark(make(tmp_path, CELLS_YAML, strings.replace("nor_conv_3x3", "nor_conv_3")))
    six = CELLS_YAML.replace("[cell]", "[a, b, c, d, e, f]")
    with pytest.raises(TableError, match=r"line 6: unknown operation 'skip'"):
        ForeignBenchmark(
            make(tmp_path, six, columns.replace("skip_connect,skip_connect,skip_connect", "skip,skip,skip", 1))
        )


def test_benchmarks_of_other_packages_are_found_by_name(
    made: ForeignBenchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = EntryPoints([EntryPoint("elsewhere", f"{__name__}:of_an_entry_point", "naslib_autokd.benchmarks")])
    monkeypatch.setattr("naslib_autokd.evaluators.benchmark.entry_points", lambda **keys: points.select(**keys))
    assert get_benchmark("elsewhere") == "found"
    with pytest.raises(ValueError, match="there is no benchmark of 'elsewher'"):
        get_benchmark("elsewher")


def of_an_entry_point() -> str:
    return "found"
