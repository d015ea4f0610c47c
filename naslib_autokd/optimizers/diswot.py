"""DisWOT: families are evolved by a score of untrained students, and the best-scoring ones are trained.

Source: Dong, Li and Wei, CVPR 2023, arXiv:2303.15678 (the score is `distillation.diswot`). The evolution is that of the
authors' search script (``searcher/evo_search_nb201.py`` in lliai/DisWOT-CVPR2023), regularized evolution (Real et al.
2019, arXiv:1802.01548, algorithm 1): a population of 36, tournaments of 8, 1,000 scores, the oldest dies. Departures:
the winner of a tournament is its best member (the script draws from the five worst of the eight, which does not look
meant); a family's score is the mean over ``n_wirings`` drawn students (they have no families); and the families are
trained one after the other in order of their score (they train the best five).
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from naslib_autokd.evaluators.base import HasTeacher, Score, ScoresUntrained
from naslib_autokd.optimizers.base import SearchSpaceLike
from naslib_autokd.optimizers.full_budget import FullBudgetOptimizer, plain_values
from naslib_autokd.optimizers.moves import Moves
from naslib_autokd.records import derive_seed

SCORING_SHARE = 1 / 3
"""At most so much of ``total_budget_epochs`` is spent on scores: what is not trained cannot be chosen."""


UNSEEN = ("temperature", "kd_weight")
"""Hyperparameters that the score does not depend on."""

ATTEMPTS = 50
"""Offspring in a row that are known already before one of them is scored again: the space may be that small."""


class _Family(NamedTuple):
    score: float
    values: Mapping[str, Any]


class DisWOT(FullBudgetOptimizer):
    """Scores families without training at the first ask, then proposes them for full trainings, the best one first.

    Proposals depend on the seed and the scores alone, not on what trainings said; that decides only `incumbent`, the
    best observed. When all scored families are proposed the evolution goes on for ``n_scored`` more, and when scores
    have cost `SCORING_SHARE` of the total budget, what is proposed from then on is drawn at random. The score does
    not see the KD settings, so those of all families are the space's defaults.

    Args:
        space: Search space.
        seed: Seed of the run.
        max_budget_epochs: Epochs of every trial.
        min_budget_epochs: Accepted for uniformity: there is one budget.
        total_budget_epochs: Limits what scores may cost; None: no limit.
        n_scored: Scores of one evolution, of students: ``n_scored / n_wirings`` families.
        n_wirings: Students whose mean score is a family's; all families are scored with the same seeds.
        population: Families that the evolution keeps.
        tournament: Families that are drawn from the population to find a parent.

    Raises:
        ValueError: If a number is not possible, or at the first `ask` without `attach`.
    """

    def __init__(
        self,
        space: SearchSpaceLike,
        *,
        seed: int = 0,
        max_budget_epochs: int,
        min_budget_epochs: int = 1,
        total_budget_epochs: float | None = None,
        n_scored: int = 1000,
        n_wirings: int = 1,
        population: int = 36,
        tournament: int = 8,
    ) -> None:
        super().__init__(
            space,
            seed=seed,
            max_budget_epochs=max_budget_epochs,
            min_budget_epochs=min_budget_epochs,
            total_budget_epochs=total_budget_epochs,
        )
        for name, value in (("n_wirings", n_wirings), ("population", population), ("tournament", tournament)):
            if value != int(value) or value < 1:
                raise ValueError(f"{name} must be a whole number, at least 1, got {value}")
        if n_scored != int(n_scored) or n_scored < n_wirings:
            raise ValueError(f"n_scored must be a whole number, at least n_wirings={n_wirings}, got {n_scored}")
        self.n_scored, self.n_wirings = int(n_scored), int(n_wirings)
        self.population, self.tournament = int(population), int(tournament)
        self._limit = math.inf if total_budget_epochs is None else SCORING_SHARE * total_budget_epochs
        self._score: Callable[[Any, int], Score] | None = None
        self._moves = Moves(self._configurations)
        defaults = plain_values(self._configurations.get_default_configuration())
        self._unseen = {name: value for name, value in defaults.items() if name in UNSEEN}
        self._alive: deque[_Family] = deque(maxlen=self.population)
        self._known: set[tuple[Any, ...]] = set()
        self._waiting: deque[_Family] = deque()
        """Scored and not yet proposed, the best first."""
        self._price = 0.0
        """Of the last score."""
        self._spent = 0.0

    def attach(self, evaluator: Any) -> None:
        """Give what scores students: ``training_free_score(candidate, seed) -> Score``. Before the first ask.

        Raises:
            ValueError: If the evaluator cannot score; also (`TeacherError`) if its teacher shows no layers.
        """
        if not isinstance(evaluator, ScoresUntrained):
            raise ValueError(
                f"DisWOT scores untrained students, which {type(evaluator).__name__} cannot; it needs a method "
                "training_free_score(candidate, seed), as KDEvaluator and the benchmark of its trainings have"
            )
        if isinstance(evaluator, HasTeacher):
            from naslib_autokd.teachers.onnx import require_layers

            require_layers(evaluator.teacher, "DisWOT")
        self._score = evaluator.training_free_score

    @property
    def extra_student_epochs(self) -> float:
        """Student-epochs spent on scores so far, beside what trials are charged."""
        return self._spent

    def _next(self, number: int) -> Mapping[str, Any]:
        if not self._waiting:
            self._evolve(np.random.default_rng(derive_seed(self.seed, "evolution", number)))
        return self._waiting.popleft().values if self._waiting else self._moves.draw(self._rng(number))

    def _evolve(self, rng: np.random.Generator) -> None:
        if self._score is None:
            raise ValueError(
                "DisWOT has nothing to score students with: call attach(evaluator) before the first ask (the runners "
                "do), with an evaluator that has training_free_score"
            )
        scored: list[_Family] = []
        while (
            len(scored) < self.n_scored // self.n_wirings and self._spent + self.n_wirings * self._price <= self._limit
        ):
            values = self._offspring(rng)
            family = _Family(self._mean_score(self.space.candidate(values)), values)
            self._known.add(self._moves.key(values))
            self._alive.append(family)  # of a full population the oldest leaves
            scored.append(family)
        # Equal scores are the same student, of families that differ in what it does not show: one of each comes first.
        times = Counter[float]()
        order: list[tuple[int, float, int]] = []
        for index, family in enumerate(scored):
            order.append((times[family.score], -family.score, index))
            times[family.score] += 1
        self._waiting.extend(scored[index] for *_, index in sorted(order))

    def _mean_score(self, candidate: Any) -> float:
        assert self._score is not None
        total = 0.0
        for index in range(self.n_wirings):
            score = self._score(candidate, derive_seed(self.seed, "score", index))
            total += score.value
            self._price = score.student_epochs
            self._spent += self._price
        return total / self.n_wirings

    def _offspring(self, rng: np.random.Generator) -> dict[str, Any]:
        """A draw while the population is not full, then a mutation of the best of a tournament; a new point if any."""
        values: dict[str, Any] = {}
        for _ in range(ATTEMPTS):
            if len(self._alive) < self.population:
                values = self._moves.draw(rng)
            else:
                drawn = rng.integers(len(self._alive), size=self.tournament)
                parent = max((self._alive[int(index)] for index in drawn), key=lambda family: family.score)
                values = self._moves.mutated(parent.values, rng)
            values.update({name: value for name, value in self._unseen.items() if name in values})
            if self._moves.key(values) not in self._known:
                break
        return values
