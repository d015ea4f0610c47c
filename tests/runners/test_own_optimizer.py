"""What happens if an optimizer of one's own is wrong: it is told what it did, and nothing that was trained is lost."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faulty import FormulaEvaluator
from synthetic import Synthetic

from naslib_autokd.cli import OWN_FAULT, error_text
from naslib_autokd.imports import place_in_own_code
from naslib_autokd.optimizers.base import OptimizerError, asked
from naslib_autokd.records import Proposal, derive_seed
from naslib_autokd.runners.ablation import run_study
from naslib_autokd.runners.search import search
from naslib_autokd.runners.study import Study, StudyMethod
from naslib_autokd.search_spaces.hnag import HNAGSpace

FULL = 9


class Wrong:
    """Random search that is right twice, and then proposes ``third(proposal)``."""

    def __init__(self, space: Any, *, seed: int, max_budget_epochs: int, third: Any, **_: Any) -> None:
        self.space, self.seed, self.budget, self.third = space, seed, max_budget_epochs, third
        self.number = 0

    def ask(self) -> Any:
        candidate = self.space.sample(np.random.default_rng([self.seed, self.number]))
        proposal = Proposal(candidate, self.budget, derive_seed(self.seed, "trial", self.number), self.number)
        self.number += 1
        return proposal if self.number < 3 else self.third(proposal)

    def tell(self, trial: Any) -> None: ...

    def incumbent(self) -> None: ...


def with_values(**changes: Any) -> Any:
    return lambda p: Proposal(**{"candidate": p.candidate, "budget_epochs": 9, "seed": 1, "number": 2} | changes)


WRONG = {
    "nothing": (lambda _: None, OptimizerError, r"Wrong.ask\(\) returned None, not a Proposal.*raises SpaceExhausted"),
    "a plain dict": (lambda p: {"candidate": p.candidate}, OptimizerError, "returned {'candidate'.*not a Proposal"),
    "no candidate": (with_values(candidate={"top_nodes": 3}), OptimizerError, "of a candidate of the search space"),
    "too long": (with_values(budget_epochs=20), OptimizerError, "of 20 epochs; the most is max_budget_epochs=9"),
    "no time": (with_values(budget_epochs=0), ValueError, "budget_epochs must be at least 1, got 0"),
    "half an epoch": (
        with_values(budget_epochs=2.5),
        ValueError,
        "budget_epochs of a proposal must be an integer, got",
    ),
    "a truth": (
        with_values(budget_epochs=True),
        ValueError,
        "budget_epochs of a proposal must be an integer, got True",
    ),
    "a repeated number": (with_values(number=1), OptimizerError, "the number 1, which is taken"),
    "a runner's number": (with_values(number=-1), OptimizerError, "the number -1, which is negative"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_proposal_is_told_and_costs_no_trial(what: str, tmp_path: Path) -> None:
    third, error, message = WRONG[what]
    task = Synthetic().space  # any space: trials are a formula
    with pytest.raises(error, match=message):
        search(
            "cluttered-digits",
            lambda *a, **k: Wrong(*a, third=third, **k),
            evaluator=FormulaEvaluator(),
            space=task,
            n_trials=5,
            start_with_default=False,
            out=tmp_path,
        )
    numbers = [json.loads(line)["number"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert numbers == [0, 1]
    asks = [json.loads(line)["number"] for line in (tmp_path / "asks.jsonl").read_text().splitlines()]
    assert asks == [0, 1]  # nothing that cannot be read again


def test_numpys_integers_are_integers_in_the_records() -> None:
    candidate = HNAGSpace().default_candidate()
    proposal = Proposal(candidate, np.int64(3), np.int32(7), np.uint8(0))  # type: ignore[arg-type]
    assert [type(value) for value in (proposal.budget_epochs, proposal.seed, proposal.number)] == [int, int, int]


def test_a_right_proposal_passes_as_it_is() -> None:
    optimizer: Any = Wrong(HNAGSpace(), seed=0, max_budget_epochs=FULL, third=None)
    first, second = asked(optimizer, set(), FULL), asked(optimizer, {0}, FULL)
    assert (first.number, second.number) == (0, 1)


def test_a_study_tells_the_line_of_an_own_optimizers_error() -> None:
    methods = (
        StudyMethod("right", "random_search"),
        StudyMethod("wrong", lambda *a, **k: Wrong(*a, third=lambda _: 1 / 0, **k)),
        StudyMethod("none", lambda *a, **k: Wrong(*a, third=lambda _: None, **k)),
    )
    result = run_study(Study("s", "S", "?", Synthetic(), full_trainings=4, seeds=1, methods=methods), workers=0)
    errors = {failure.method: failure.error for failure in result.failures}
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "1 / 0" in text)
    assert errors["wrong"] == f"ZeroDivisionError: division by zero (in {Path(__file__).name}, line {line})"
    assert errors["none"].startswith("OptimizerError: Wrong.ask() returned None")
    assert [run.method for run in result.runs] == ["right"]


def raised(call: Any) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    error: Exception = caught.value
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)  # without this function, which is a user's as well


def test_an_error_names_the_users_own_code_and_only_that(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import numpy as np\ndef ask(x):\n    return np.linalg.inv(x)\n")
    own: dict[str, Any] = {}
    exec(compile((tmp_path / "mine.py").read_text(), str(tmp_path / "mine.py"), "exec"), own)
    singular = raised(lambda: own["ask"](np.zeros((2, 2))))  # raised in numpy, called from mine.py
    assert place_in_own_code(singular) == " (in mine.py, line 3)"
    assert error_text(singular) == "Singular matrix (in mine.py, line 3)"
    missing = raised(lambda: own["ask"](SimpleNamespace()))
    assert OWN_FAULT not in error_text(missing)
    assert error_text(missing).endswith("(in mine.py, line 3)")
    ours = KeyError("x")
    assert place_in_own_code(ours) == ""
    assert error_text(ours).startswith(OWN_FAULT)
