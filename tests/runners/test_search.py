"""The search loop: budgets, records before tells, resume by replay, refusal of foreign folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from naslib_autokd.optimizers.random_search import RandomSearch
from naslib_autokd.records import AskLog, Proposal, Trial, TrialStore, derive_seed, with_digest
from naslib_autokd.reports.results import read_run
from naslib_autokd.runners.results import SearchResult
from naslib_autokd.runners.run_folder import ReplayError, RunFolderError, open_run
from naslib_autokd.runners.search import search
from naslib_autokd.runners.session import read_status
from naslib_autokd.runners.setup import optimizer_name
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.tasks import get_task

TASK = get_task("cluttered-digits")


class FormulaEvaluator:
    """Answers at once: the error falls with the budget, with growth near 1 and with a high KD weight, plus noise."""

    def __init__(self, die_after: int | None = None) -> None:
        self.proposals: list[Proposal] = []
        self.die_after = die_after

    def evaluate(self, proposal: Proposal) -> Trial:
        if self.die_after is not None and len(self.proposals) >= self.die_after:
            raise KeyboardInterrupt  # what a kill looks like from inside
        self.proposals.append(proposal)
        candidate: Any = proposal.candidate
        noise = 0.02 * (derive_seed(proposal.seed, "noise") / 2**31 - 0.5)
        error = 0.1 + 0.1 * abs(candidate.generator.channel_growth - 1) + 0.1 * (1 - candidate.kd.kd_weight)
        cost = min(1.0, error + 0.3 / proposal.budget_epochs + noise)
        return Trial.of(
            proposal,
            cost=cost,
            val_accuracy=1 - cost,
            student_epochs=float(proposal.budget_epochs),
        )


def run(out: Path | None = None, evaluator: FormulaEvaluator | None = None, **settings: Any) -> SearchResult:
    defaults: dict[str, Any] = {"optimizer": "autokd", "n_trials": 14, "seed": 3}
    return search(TASK, evaluator=evaluator or FormulaEvaluator(), out=out, **{**defaults, **settings})


@pytest.mark.parametrize("optimizer", ["autokd", "random_search"])
def test_same_seed_gives_the_same_trials(optimizer: str) -> None:
    first, second = run(optimizer=optimizer), run(optimizer=optimizer)
    assert [t.outcome() for t in first.trials] == [t.outcome() for t in second.trials]
    assert first.candidate == second.candidate
    other = run(optimizer=optimizer, seed=4)
    assert [t.candidate for t in other.trials] != [t.candidate for t in first.trials]


def test_search_stops_at_the_number_of_trials() -> None:
    assert len(run(n_trials=7, optimizer="random_search").trials) == 7


@pytest.mark.parametrize("optimizer", ["autokd", "random_search"])
@pytest.mark.parametrize("budget", [9, 40, 108])
def test_search_never_spends_more_than_its_student_epochs(optimizer: str, budget: int) -> None:
    result = run(optimizer=optimizer, n_trials=None, student_epochs=budget)
    assert budget - TASK.max_budget_epochs < result.student_epochs <= budget
    assert result.student_epochs == sum(t.student_epochs for t in result.trials)


class PricedEvaluator(FormulaEvaluator):
    """Families with more top nodes cost more; the records say so, or leave it to the search."""

    def __init__(self, die_after: int | None = None, says: bool = True) -> None:
        super().__init__(die_after)
        self.says = says

    def training_seconds(self, proposal: Proposal) -> float:
        candidate: Any = proposal.candidate
        return 0.01 * candidate.generator.top.n_nodes * proposal.budget_epochs

    def evaluate(self, proposal: Proposal) -> Trial:
        trial = super().evaluate(proposal)
        return replace(trial, training_seconds=self.training_seconds(proposal)) if self.says else trial


@pytest.mark.parametrize("optimizer", ["autokd", "random_search"])
@pytest.mark.parametrize("says", [True, False])
def test_search_never_spends_more_than_its_training_seconds(optimizer: str, says: bool) -> None:
    result = run(optimizer=optimizer, n_trials=None, training_seconds=6.0, evaluator=PricedEvaluator(says=says))
    spent = [trial.training_seconds or 0.0 for trial in result.trials]
    dearest = 0.01 * 9 * TASK.max_budget_epochs
    assert 6.0 - dearest < sum(spent) <= 6.0
    assert result.training_seconds == pytest.approx(sum(spent))
    assert result.stop_reason == "training_seconds"
    assert spent[0] == PricedEvaluator().training_seconds(Proposal(HNAGSpace().default_candidate(), 9, 0, 0))


def test_a_search_in_seconds_continues_and_may_be_made_longer(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", PricedEvaluator(), n_trials=None, training_seconds=5.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", PricedEvaluator(die_after=6), n_trials=None, training_seconds=5.0)
    again = run(tmp_path / "cut", PricedEvaluator(), n_trials=None, training_seconds=5.0)
    assert [t.outcome() for t in again.trials] == [t.outcome() for t in whole.trials]
    status = read_status(tmp_path / "cut")
    spent = f"{status.training_seconds:.3g} modelled s of training"
    assert status.training_seconds == pytest.approx(again.training_seconds)
    assert f"student-epochs, {spent}; budget: training_seconds 5" in " ".join(status.lines())
    assert f", {spent}" in " ".join(read_run(tmp_path / "cut").conclusions)
    longer = run(tmp_path / "cut", PricedEvaluator(), n_trials=None, training_seconds=8.0)
    assert 5.0 < longer.training_seconds <= 8.0
    assert longer.trials[: len(whole.trials)] == again.trials


def test_seconds_need_an_evaluator_and_records_that_tell_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not tell what trainings cost"):
        run(n_trials=None, training_seconds=5.0)
    with pytest.raises(ValueError, match="at least one full training"):
        run(n_trials=None, training_seconds=0.1, evaluator=PricedEvaluator())
    run(tmp_path, n_trials=4)  # as older versions wrote it: nothing says what a trial costs
    with pytest.raises(ValueError, match="do not say what they cost"):
        run(tmp_path, PricedEvaluator(), n_trials=None, training_seconds=5.0)


def test_interrupted_run_continues_with_the_same_trials(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    for cut in (1, 5, 9):
        folder = tmp_path / f"cut-{cut}"
        with pytest.raises(KeyboardInterrupt):
            run(folder, FormulaEvaluator(die_after=cut))
        assert len(TrialStore(folder / "trials.jsonl")) == cut
        evaluator = FormulaEvaluator()
        continued = run(folder, evaluator)
        assert [t.outcome() for t in continued.trials] == [t.outcome() for t in whole.trials]
        assert len(evaluator.proposals) == 14 - cut, "nothing on disk is trained again"
        assert continued.candidate == whole.candidate


def test_a_run_can_be_made_longer(tmp_path: Path) -> None:
    first = run(tmp_path, n_trials=4, optimizer="random_search")
    longer = run(tmp_path, n_trials=6, optimizer="random_search")
    assert len(longer.trials) == 6
    again = run(tmp_path, n_trials=6, optimizer="random_search")
    assert 0 < first.search_s < longer.search_s < again.search_s, "of all sessions"


def test_folder_of_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    run(tmp_path, n_trials=2, optimizer="random_search")
    with pytest.raises(RunFolderError, match="seed: 3 there, 5 asked for"):
        run(tmp_path, n_trials=2, optimizer="random_search", seed=5)
    with pytest.raises(RunFolderError, match="max_params: 24000 there, 20000 asked for"):
        open_run(tmp_path, get_task(TASK, max_params=20000), {})
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        run(file)


def test_replay_that_differs_is_told(tmp_path: Path) -> None:
    run(tmp_path, n_trials=3, optimizer="random_search")
    path = tmp_path / "asks.jsonl"
    lines = path.read_text().splitlines()
    ask = AskLog(path)[1]
    lines[1] = with_digest(replace(ask, seed=ask.seed + 1).to_json()).decode().strip()
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(ReplayError, match="proposal 1 is not proposed again"):
        run(tmp_path, n_trials=3, optimizer="random_search")


def test_records_without_digests_are_believed_and_said_to_be(tmp_path: Path) -> None:
    run(tmp_path, n_trials=2, optimizer="random_search")
    path = tmp_path / "trials.jsonl"
    path.write_text("".join(trial.to_json() + "\n" for trial in TrialStore(path)))
    with pytest.warns(RuntimeWarning, match="2 records of .* carry no digests"):
        assert len(run(tmp_path, n_trials=3, optimizer="random_search").trials) == 3


@pytest.mark.parametrize("n_kept", [0, 2])
def test_a_run_without_asks_is_continued_and_has_them_then(tmp_path: Path, n_kept: int) -> None:
    """Also if it was killed while they were written."""
    whole = run(tmp_path / "whole")
    run(tmp_path / "old", n_trials=14)
    path = tmp_path / "old" / "trials.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))
    asks = tmp_path / "old" / "asks.jsonl"
    asks.write_text("".join(asks.read_text().splitlines(keepends=True)[:n_kept]))
    again = run(tmp_path / "old")
    assert [t.outcome() for t in again.trials] == [t.outcome() for t in whole.trials]
    assert [ask.number for ask in AskLog(asks)] == list(range(13))


def test_run_folder_says_what_was_run(tmp_path: Path) -> None:
    run(tmp_path, n_trials=2, optimizer="random_search")
    stored = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert (stored["optimizer"], stored["seed"], stored["n_trials"]) == ("random_search", 3, 2)
    assert {"torch", "smac", "python"} <= set(stored["environment"])
    assert get_task(str(tmp_path / "task.yaml")) == TASK


def test_the_folder_of_a_class_or_object_has_its_name() -> None:
    assert optimizer_name("autokd") == "autokd"
    assert optimizer_name(RandomSearch) == "RandomSearch"
    assert optimizer_name(RandomSearch(HNAGSpace("hnag-small"), max_budget_epochs=9)) == "RandomSearch"


class FailingEvaluator(FormulaEvaluator):
    def evaluate(self, proposal: Proposal) -> Trial:
        good = super().evaluate(proposal)
        values = {**good.to_dict(), "status": "diverged", "cost": 1.0, "val_accuracy": None, "message": "loss is NaN"}
        return Trial.from_dict(values)


def test_a_search_in_which_everything_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"none of 14 trials succeeded.*loss is NaN"):
        run(evaluator=FailingEvaluator(), max_failures=None)


class FlakyEvaluator(FormulaEvaluator):
    def evaluate(self, proposal: Proposal) -> Trial:
        if proposal.number % 3 == 1:
            return FailingEvaluator().evaluate(proposal)
        return super().evaluate(proposal)


@pytest.mark.parametrize("optimizer", ["autokd", "random_search"])
def test_failures_do_not_stop_a_search_and_are_never_chosen(optimizer: str) -> None:
    result = run(evaluator=FlakyEvaluator(), optimizer=optimizer, n_trials=24)
    failed = {t.candidate_digest for t in result.trials if not t.succeeded}
    good = {t.candidate_digest for t in result.trials if t.succeeded}
    assert failed
    assert result.candidate.digest in good


def test_bad_settings_are_refused_before_any_work() -> None:
    evaluator = FormulaEvaluator()
    with pytest.raises(ValueError, match="give a budget"):
        run(evaluator=evaluator, n_trials=None)
    with pytest.raises(ValueError, match="n_trials must be at least 1"):
        run(evaluator=evaluator, n_trials=0)
    with pytest.raises(ValueError, match="at least one full training"):
        run(evaluator=evaluator, n_trials=None, student_epochs=2)
    with pytest.raises(ValueError, match=r"unknown optimizer 'autokdd'.*autokd"):
        run(evaluator=evaluator, optimizer="autokdd")
    assert evaluator.proposals == []


def test_an_object_is_accepted_where_a_name_is() -> None:
    from naslib_autokd.optimizers.random_search import RandomSearch
    from naslib_autokd.search_spaces.hnag import HNAGSpace

    by_class = run(optimizer=RandomSearch, n_trials=3)
    by_name = run(optimizer="random_search", n_trials=3)
    instance = RandomSearch(
        HNAGSpace(TASK.preset),
        seed=3,
        max_budget_epochs=TASK.max_budget_epochs,
        min_budget_epochs=TASK.min_budget_epochs,
        total_budget_epochs=18,
    )
    by_instance = run(optimizer=instance, n_trials=3)
    assert [t.candidate for t in by_class.trials] == [t.candidate for t in by_name.trials]
    assert [t.candidate for t in by_instance.trials] == [t.candidate for t in by_name.trials]


def test_the_default_family_comes_first_and_can_be_left_out() -> None:
    from naslib_autokd.search_spaces.hnag import HNAGSpace

    default = HNAGSpace(TASK.preset).default_candidate()
    first = run(n_trials=5, optimizer="random_search").trials[0]
    assert first.candidate_digest == default.digest
    assert (first.number, first.budget_epochs) == (-1, TASK.max_budget_epochs)
    without = run(n_trials=4, optimizer="random_search", start_with_default=False).trials
    assert [t.candidate for t in without] == [
        t.candidate for t in run(n_trials=5, optimizer="random_search").trials[1:]
    ]


class DefaultIsBest(FormulaEvaluator):
    def evaluate(self, proposal: Proposal) -> Trial:
        trial = super().evaluate(proposal)
        return Trial.from_dict({**trial.to_dict(), "cost": 0.05}) if proposal.number == -1 else trial


@pytest.mark.parametrize("optimizer", ["autokd", "random_search"])
def test_what_the_default_family_showed_is_known_to_the_optimizer(optimizer: str) -> None:
    result = run(evaluator=DefaultIsBest(), optimizer=optimizer, n_trials=8)
    assert result.candidate.digest == result.trials[0].candidate_digest


def test_a_search_on_labels_alone_has_no_kd_dimensions(tmp_path: Path) -> None:
    class OnLabels(FormulaEvaluator):
        objective = "ce"

    found = run(tmp_path / "new", OnLabels(), optimizer="random_search", n_trials=6)
    space = yaml.safe_load((tmp_path / "new" / "run.yaml").read_text())["space"]
    assert space["search_kd"] is False
    assert len({json.dumps(trial.candidate["kd"]) for trial in found.trials}) == 1
    # a folder from before this rule was begun with them, and continues so
    old = run(tmp_path / "old", optimizer="random_search", n_trials=4)
    longer = run(tmp_path / "old", OnLabels(), optimizer="random_search", n_trials=6)
    assert [trial.outcome() for trial in longer.trials[:4]] == [trial.outcome() for trial in old.trials]
    assert len({json.dumps(trial.candidate["kd"]) for trial in longer.trials}) == 6
