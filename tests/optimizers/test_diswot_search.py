"""DisWOT's evolution by scores, and how the runners pay for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from naslib_autokd.evaluators.base import Score
from naslib_autokd.optimizers.diswot import SCORING_SHARE, DisWOT
from naslib_autokd.records import Proposal, Trial, derive_seed
from naslib_autokd.runners.engine import InProcessEngine
from naslib_autokd.runners.results import SearchProgress, SearchResult
from naslib_autokd.runners.search import search
from naslib_autokd.runners.session import read_status
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.tasks import get_task

PRICE = 0.05
SPACE = HNAGSpace("hnag-small")


class Scorer:
    """The score is highest at growth 1 and for many top nodes; ``noise`` differs between students."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.scored: list[tuple[Any, int]] = []

    def value(self, candidate: Any, seed: int) -> float:
        generator = candidate.generator
        drawn = derive_seed(candidate.digest, seed) / 2**31 - 0.5
        return generator.top.n_nodes / 10 - abs(generator.channel_growth - 1) + self.noise * drawn

    def training_free_score(self, candidate: Any, seed: int) -> Score:
        self.scored.append((candidate, seed))
        return Score(self.value(candidate, seed), PRICE)


def build(scorer: Any = None, *, total: float | None = 9 * 60, **options: Any) -> DisWOT:
    optimizer = DisWOT(
        SPACE, max_budget_epochs=9, min_budget_epochs=3, total_budget_epochs=total, **({"n_scored": 150} | options)
    )
    optimizer.attach(scorer or Scorer())
    return optimizer


def test_the_best_scoring_families_are_trained_first() -> None:
    scorer = Scorer()
    optimizer = build(scorer)
    proposals = [optimizer.ask() for _ in range(40)]
    assert len(scorer.scored) == 150
    values = [scorer.value(proposal.candidate, 0) for proposal in proposals]
    best = sorted({scorer.value(candidate, 0) for candidate, _ in scorer.scored}, reverse=True)
    assert values == best[:40]
    assert {proposal.budget_epochs for proposal in proposals} == {9}


def test_the_evolution_climbs_where_random_draws_do_not() -> None:
    def mean_of_the_last(population: int) -> float:
        scorer = Scorer()
        build(scorer, population=population, tournament=4).ask()
        return sum(scorer.value(candidate, 0) for candidate, _ in scorer.scored[-30:]) / 30

    assert mean_of_the_last(20) > mean_of_the_last(150) + 0.2  # of 150 the population is never full: draws alone


def test_the_score_of_a_family_is_the_mean_over_its_students() -> None:
    scorer = Scorer(noise=2.0)
    optimizer = build(scorer, n_wirings=3, seed=7)
    first = optimizer.ask().candidate
    seeds = [derive_seed(7, "score", index) for index in range(3)]
    assert [seed for _, seed in scorer.scored[:6]] == [*seeds, *seeds]
    assert len(scorer.scored) == 150
    families = {candidate.digest: candidate for candidate, _ in scorer.scored}
    assert len(families) == 50
    means = {digest: sum(scorer.value(c, seed) for seed in seeds) for digest, c in families.items()}
    assert first.digest == max(means, key=means.__getitem__)


def test_what_the_score_cannot_see_keeps_its_default() -> None:
    optimizer = build()
    assert {optimizer.ask().candidate.kd for _ in range(30)} == {SPACE.default_candidate().kd}


def test_students_that_score_the_same_wait_behind_the_others() -> None:
    class Coarse(Scorer):
        def value(self, candidate: Any, seed: int) -> float:
            return candidate.generator.top.n_nodes

    optimizer = build(Coarse())
    nodes = [optimizer.ask().candidate.generator.top.n_nodes for _ in range(14)]
    assert nodes == [9, 8, 7, 6, 5, 4, 3] * 2


def test_the_evolution_goes_on_when_all_are_proposed() -> None:
    scorer = Scorer()
    optimizer = build(scorer, n_scored=20)
    digests = [optimizer.ask().candidate.digest for _ in range(45)]
    assert len(scorer.scored) == 60
    assert optimizer.extra_student_epochs == pytest.approx(60 * PRICE)
    assert len(set(digests)) == 45


def test_scores_take_a_bounded_share_of_the_budget() -> None:
    scorer = Scorer()
    optimizer = build(scorer, total=18.1)
    seen = [0.0]
    for _ in range(130):
        optimizer.ask()
        seen.append(optimizer.extra_student_epochs)
    assert seen == sorted(seen)
    assert 18.1 * SCORING_SHARE - PRICE < seen[-1] <= 18.1 * SCORING_SHARE
    assert len(scorer.scored) == 120  # the last ten are drawn
    assert build(total=None).ask() == build(total=9000.0).ask()


def test_without_a_scorer_it_says_what_is_missing() -> None:
    optimizer = DisWOT(SPACE, max_budget_epochs=9)
    with pytest.raises(ValueError, match=r"call attach\(evaluator\) before the first ask"):
        optimizer.ask()
    with pytest.raises(ValueError, match="which object cannot; it needs a method training_free_score"):
        optimizer.attach(object())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 0}, "population must be a whole number, at least 1, got 0"),
        ({"tournament": 1.5}, "tournament must be"),
        ({"n_wirings": 0}, "n_wirings must be"),
        ({"n_scored": 2, "n_wirings": 3}, "n_scored must be a whole number, at least n_wirings=3, got 2"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DisWOT(SPACE, max_budget_epochs=9, **options)


# --- in a search ----------------------------------------------------------------------------------------------------


class Evaluator(Scorer):
    def __init__(self, die_after: int | None = None) -> None:
        super().__init__(noise=0.5)
        self.die_after, self.n = die_after, 0

    def evaluate(self, proposal: Proposal) -> Trial:
        if self.n == self.die_after:
            raise KeyboardInterrupt
        self.n += 1
        cost = 0.2 + derive_seed(proposal.seed, "cost") / 2**33
        return Trial.of(proposal, cost=cost, val_accuracy=1 - cost, student_epochs=float(proposal.budget_epochs))


def run(evaluator: Any, out: Path | None = None, **settings: Any) -> SearchResult:
    defaults: dict[str, Any] = {"options": {"n_scored": 60}, "student_epochs": 90, "seed": 3}
    return search(
        get_task("cluttered-digits"), "diswot", evaluator=evaluator, out=out, space=SPACE, **(defaults | settings)
    )


def test_a_search_pays_for_the_scores(tmp_path: Path) -> None:
    states: list[SearchProgress] = []
    result = run(Evaluator(), tmp_path, progress=states.append)
    assert len(result.trials) == 9  # 81 epochs, 3 of scores, and no room for a tenth
    assert result.student_epochs == pytest.approx(84)
    assert [state.student_epochs for state in states[:3]] == pytest.approx([9, 21, 30])  # the default family's is first
    assert states[-1].fraction == pytest.approx(84 / 90)
    status = read_status(tmp_path)
    assert (status.student_epochs, status.fraction) == pytest.approx((84, 84 / 90))
    assert result.candidate.digest in {trial.candidate_digest for trial in result.trials}


@pytest.mark.parametrize("cut", [0, 1, 2, 5])
def test_a_killed_search_continues_and_pays_once(tmp_path: Path, cut: int) -> None:
    whole = run(Evaluator(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Evaluator(die_after=cut), tmp_path / "cut")
    again = run(Evaluator(), tmp_path / "cut")
    assert [trial.outcome() for trial in again.trials] == [trial.outcome() for trial in whole.trials]
    assert again.student_epochs == pytest.approx(whole.student_epochs)
    assert again.candidate == whole.candidate


def test_an_engine_of_workers_needs_a_scorer_beside_it() -> None:
    class Workers(InProcessEngine):
        """Hides its evaluator, as workers do."""

        def __init__(self, evaluator: Evaluator) -> None:
            super().__init__(evaluator)
            self.there, self.evaluator = evaluator, None  # type: ignore[assignment]

        def submit(self, proposal: Proposal) -> None:
            self._done = proposal, self.there.evaluate(proposal)

        def next_finished(self, timeout_s: float | None = None) -> tuple[Proposal, Trial] | None:
            return self._done

    alone = run(Evaluator())
    assert run(None, engine=InProcessEngine(Evaluator())).trials == alone.trials
    with pytest.raises(ValueError, match="'diswot' scores students in this process; with an engine give a scorer"):
        run(None, engine=Workers(Evaluator()))
    with_scorer = run(None, engine=Workers(Evaluator()), scorer=Evaluator(), n_trials=4)
    assert with_scorer.trials == alone.trials[:4]


def test_an_evaluator_that_cannot_score_is_refused_before_any_work(tmp_path: Path) -> None:
    class Table:
        def evaluate(self, proposal: Proposal) -> Trial:
            raise AssertionError

    with pytest.raises(ValueError, match="which Table cannot"):
        run(Table(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
