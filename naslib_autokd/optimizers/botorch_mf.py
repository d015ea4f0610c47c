"""Multi-fidelity Bayesian optimisation with BoTorch's parts, for comparison.

Model: `SingleTaskMultiFidelityGP` (linear truncated fidelity kernel). Acquisition: multi-fidelity max-value entropy per
cost (Takeno et al. 2020, arXiv:1901.08275; BoTorch's ``qMultiFidelityMaxValueEntropy``, weighed as in its tutorials),
over a pool of points and all budgets. That buys information: of a table whose cheap trainings cost a seventeenth it
wanted no other. So what the tutorials recommend at the end, the point of the best posterior mean at the largest budget,
is trained in full whenever cheaper trainings have cost as much as a full one. An optional dependency: ``pip install
'naslib_autokd[botorch]'``.

BoTorch optimises over boxes and knows neither categories, conditions nor tables, so that the pool is ours: draws from
the space, and points near the best. Proposal ``k`` depends on (seed, k, trials so far and in flight) alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from naslib_autokd.optimizers.base import (
    SearchSpaceLike,
    answers,
    budget_ladder,
    check_budgets,
    check_replayed,
    in_order,
)
from naslib_autokd.optimizers.budget_aware_gp import Array, SpaceVectors
from naslib_autokd.optimizers.full_budget import candidate_of, plain_values
from naslib_autokd.records import Ask, CandidateLike, Proposal, Trial, TrialStore, derive_seed

ETA = 3
"""Ratio of neighbouring budgets, where the evaluator leaves a choice."""

GROWTH = 1.15
"""The kernel's parameters are fitted again when there are so many times as many trials; a fit takes seconds."""

N_BEST, N_NEAR = 5, 40
"""Best points of which neighbours are in the pool, and neighbours of each."""


class BoTorchMF:
    """See the module.

    Args:
        space: Search space.
        seed: Seed of the run.
        max_budget_epochs: Full training.
        min_budget_epochs: Smallest budget that may be used.
        total_budget_epochs: Accepted for uniformity: the caller counts.
        evaluator_budgets: All that the evaluator answers for. None: any number of epochs.
        n_initial: Draws at the lowest budget before there is a model; the first three are trained in full, too.
        n_pool: Draws among which the next point is chosen.

    Raises:
        ImportError: If BoTorch is not installed.
        ValueError: If a budget or an option is not possible.
    """

    def __init__(
        self,
        space: SearchSpaceLike,
        *,
        seed: int = 0,
        max_budget_epochs: int,
        min_budget_epochs: int = 1,
        total_budget_epochs: float | None = None,
        evaluator_budgets: Iterable[int] | None = None,
        n_initial: int = 8,
        n_pool: int = 500,
    ) -> None:
        check_budgets(max_budget_epochs, min_budget_epochs, total_budget_epochs)
        for name, value in (("n_initial", n_initial), ("n_pool", n_pool)):
            if value != int(value) or value < 3:
                raise ValueError(f"{name} must be a whole number of at least 3, got {value}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its packages use what torch deprecates
                import botorch  # noqa: F401
        except ImportError as error:
            raise ImportError("BoTorch is missing: pip install 'naslib_autokd[botorch]'") from error
        self.space, self.seed, self.max_budget_epochs = space, int(seed), int(max_budget_epochs)
        self.n_initial, self.n_pool = int(n_initial), int(n_pool)
        self.ladder = budget_ladder(self.max_budget_epochs, int(min_budget_epochs), ETA, 64, evaluator_budgets)
        """Budgets that are used, ascending."""
        self._configurations = space.configuration_space()
        self._vectors = SpaceVectors(self._configurations)
        self._asked = 0
        self._cheap_epochs = 0  # asked for below the largest budget since the last full training
        self._in_flight: dict[int, Proposal] = {}
        self._candidates: dict[str, CandidateLike] = {}
        self._points: dict[str, Array] = {}  # digest -> vector
        self._done: set[tuple[str, int]] = set()  # digest and budget of all that was asked or told
        self._told: set[tuple[int, str, int, int]] = set()
        self._trials = TrialStore()
        self._fitted: tuple[int, dict[str, Any]] = (0, {})  # number of rows, state of the model

    # --- ask and tell

    def ask(self) -> Proposal:
        rng = np.random.default_rng(derive_seed(self.seed, "candidate", self._asked))
        candidate, budget = self._initial(rng) or self._recommended(rng) or self._best_of_pool(rng)
        proposal = Proposal(candidate, budget, derive_seed(self.seed, "trial", self._asked), self._asked)
        self._note(proposal)
        return proposal

    def _note(self, proposal: Proposal) -> None:
        self._asked = proposal.number + 1
        self._in_flight[proposal.number] = proposal
        in_full = proposal.budget_epochs == self.max_budget_epochs
        self._cheap_epochs = 0 if in_full else self._cheap_epochs + proposal.budget_epochs
        self._know(proposal.candidate)
        self._done.add((proposal.candidate.digest, proposal.budget_epochs))

    def _know(self, candidate: CandidateLike) -> None:
        if candidate.digest not in self._candidates:
            self._candidates[candidate.digest] = candidate
            values = self.space.values(candidate)
            self._points[candidate.digest] = type(self._configurations.get_default_configuration())(
                self._configurations, values=values
            ).get_array()

    def tell(self, trial: Trial) -> None:
        """Learn from a trial, its own or a foreign one; one that was told before changes nothing.

        Raises:
            ValueError: If the trial's candidate does not belong to this space.
        """
        key = (trial.number, trial.candidate_digest, trial.budget_epochs, trial.seed)
        if key in self._told:
            return
        if trial.candidate_digest not in self._candidates:
            self._know(candidate_of(self.space, trial, self._configurations))
        self._told.add(key)
        self._trials.append(trial)
        self._done.add((trial.candidate_digest, trial.budget_epochs))
        own = self._in_flight.get(trial.number)
        if own is not None and answers(trial, own):
            del self._in_flight[trial.number]

    def incumbent(self) -> CandidateLike | None:
        """The lowest observed cost among those trained at the largest budget; None before a success."""
        best = self._trials.incumbent()
        return None if best is None else self._candidates[best.candidate_digest]

    def fast_forward(self, asks: Sequence[Ask], trials: Sequence[Trial]) -> list[Proposal]:
        """Go through a run's files without a fit, see `base.replay`."""
        for event in in_order(asks, trials):
            if isinstance(event, Ask):
                try:
                    candidate = candidate_of(self.space, event, self._configurations)
                except ValueError:
                    check_replayed(event, self.ask())
                    raise
                number = self._asked
                proposal = Proposal(candidate, event.budget_epochs, derive_seed(self.seed, "trial", number), number)
                self._note(check_replayed(event, proposal))
            else:
                self.tell(event)
        return list(self._in_flight.values())

    # --- what is next

    def _initial(self, rng: np.random.Generator) -> tuple[CandidateLike, int] | None:
        """A draw at the lowest budget, the first three of them in full; None once there is enough for a model."""
        number = self._asked
        if number < self.n_initial:
            return self._fresh_draw(rng), self.ladder[0]
        in_full = number - self.n_initial
        if in_full < 3 and len(self.ladder) > 1:
            return list(self._candidates.values())[in_full], self.ladder[-1]
        enough = sum(trial.succeeded for trial in self._trials) >= 3
        return None if enough else (self._fresh_draw(rng), self.ladder[-1])

    def _fresh_draw(self, rng: np.random.Generator) -> CandidateLike:
        for vector in self._vectors.sample(20, rng):
            candidate = self._candidate(vector)
            if candidate.digest not in self._candidates:
                break
        return candidate

    def _candidate(self, vector: Array) -> CandidateLike:
        found: CandidateLike = self.space.candidate(plain_values(self._vectors.configuration(vector)))
        return found

    def _recommended(self, rng: np.random.Generator) -> tuple[CandidateLike, int] | None:
        """The best posterior mean at the largest budget, where its turn has come."""
        if self._cheap_epochs < self.max_budget_epochs:
            return None
        import torch

        pool = self._pool(rng)
        with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            features = torch.tensor(self._vectors.features(pool))
            rows = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
            with torch.enable_grad():
                model = self._model(features.shape[1])
            means = model.posterior(rows).mean[:, 0].numpy()
        for index in np.argsort(-means, kind="stable"):
            candidate = self._candidate(pool[index])
            if (candidate.digest, self.max_budget_epochs) not in self._done:
                return candidate, self.max_budget_epochs
        return None

    def _best_of_pool(self, rng: np.random.Generator) -> tuple[CandidateLike, int]:
        import torch

        pool = self._pool(rng)
        features = torch.tensor(self._vectors.features(pool))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that end early, and of inputs that are not standardised
            torch.manual_seed(int(rng.integers(2**31)))
            scores = self._scores(features)  # (points, budgets)
        for index in np.argsort(-scores, axis=None, kind="stable"):
            point, rung = divmod(int(index), len(self.ladder))
            candidate = self._candidate(pool[point])
            if (candidate.digest, self.ladder[rung]) not in self._done:
                return candidate, self.ladder[rung]
        return candidate, self.ladder[-1]  # everything was trained: a repeat

    def _pool(self, rng: np.random.Generator) -> Array:
        """Draws, neighbours of the best at each budget, and what was trained at a lower budget only."""
        good = [trial for trial in self._trials if trial.succeeded]
        best: dict[str, Array] = {}
        for budget in self.ladder:
            ordered = sorted((t for t in good if t.budget_epochs == budget), key=lambda trial: trial.cost)
            best |= {t.candidate_digest: self._points[t.candidate_digest] for t in ordered[:N_BEST]}
        near = self._vectors.perturb(np.repeat(list(best.values()), N_NEAR, axis=0), 0.1, rng)
        low = [point for digest, point in self._points.items() if (digest, self.ladder[-1]) not in self._done]
        return np.concatenate([self._vectors.sample(self.n_pool, rng), near, *([np.array(low)] if low else [])])

    # --- BoTorch

    def _scores(self, features: Any) -> Array:
        """Acquisition value of each point at each budget."""
        import torch
        from botorch.acquisition.cost_aware import InverseCostWeightedUtility
        from botorch.acquisition.max_value_entropy_search import qMultiFidelityMaxValueEntropy
        from botorch.models.cost import AffineFidelityCostModel

        d = features.shape[1]
        utility = InverseCostWeightedUtility(AffineFidelityCostModel({d: 1.0}, fixed_cost=0.0))
        acquisition = qMultiFidelityMaxValueEntropy(
            self._model(d),
            candidate_set=torch.cat([features, torch.ones_like(features[:, :1])], dim=1),
            cost_aware_utility=utility,
            project=lambda x: torch.cat([x[..., :-1], torch.ones_like(x[..., -1:])], dim=-1),
        )
        columns = []
        with torch.no_grad():
            for budget in self.ladder:
                points = torch.cat([features, torch.full_like(features[:, :1], self._share(budget))], dim=1)
                columns.append(torch.cat([acquisition(part[:, None]) for part in points.split(256)]))
        return torch.stack(columns, dim=1).numpy()

    def _share(self, budget: int) -> float:
        return budget / self.max_budget_epochs

    def _model(self, d: int) -> Any:
        """Fitted to the trials; those in flight are imagined at its mean."""
        import torch
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskMultiFidelityGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        trials = list(self._trials)
        worst = max(trial.cost for trial in trials if trial.succeeded)
        x = self._rows([(trial.candidate_digest, trial.budget_epochs) for trial in trials])
        y = torch.tensor([[-(trial.cost if trial.succeeded else worst)] for trial in trials], dtype=x.dtype)

        def model(n: int) -> Any:
            return SingleTaskMultiFidelityGP(x[:n], y[:n], data_fidelities=[d])

        n = _fitted_on(len(trials))
        if self._fitted[0] != n:
            learned = model(n)
            fit_gpytorch_mll(ExactMarginalLogLikelihood(learned.likelihood, learned))
            state = learned.state_dict()
            self._fitted = (n, {name: value for name, value in state.items() if "outcome_transform" not in name})
        current = model(len(trials))
        current.load_state_dict({**current.state_dict(), **self._fitted[1]})
        current.eval()
        if self._in_flight:
            pending = self._rows([(p.candidate.digest, p.budget_epochs) for p in self._in_flight.values()])
            with torch.no_grad():
                means = current.posterior(pending).mean
            x, y = torch.cat([x, pending]), torch.cat([y, means])
            current = model(len(x))
            current.load_state_dict({**current.state_dict(), **self._fitted[1]})
            current.eval()
        return current

    def _rows(self, keys: Sequence[tuple[str, int]]) -> Any:
        import torch

        features = self._vectors.features(np.array([self._points[digest] for digest, _ in keys]))
        shares = np.array([[self._share(budget)] for _, budget in keys])
        return torch.tensor(np.concatenate([features, shares], axis=1))


def _fitted_on(n: int) -> int:
    """How many of ``n`` trials the kernel's parameters are fitted to: a function of ``n`` alone, for replays."""
    last = 3
    while (following := max(last + 1, int(last * GROWTH))) <= n:
        last = following
    return last
