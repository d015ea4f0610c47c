"""REINFORCE: a policy over the hyperparameters learns from the accuracy of what it samples.

The agent of the paper's rival, AKD (Liu et al. 2020, "Search to Distill", CVPR, arXiv:1911.09074): architecture search
by reinforcement learning as in MnasNet (Tan et al. 2019, arXiv:1807.11626), with a reward that is measured after
training *with the teacher* ("KD-guided"). Every trial here is such a training, so the reward is the validation accuracy
of the distilled student.

From the papers: one agent samples, trains and is rewarded for one student after the other; the reward is MnasNet's
``accuracy * (latency / target) ** -0.07`` without its second factor, since no trial here has a latency; what is
reported in the end is the best student sampled, not the policy.

Ours, since the settings of AKD's agent could not be found: MnasNet's recurrent controller (PPO) is replaced by
independent categorical distributions with a moving-average baseline, the REINFORCE of NAS-Bench-101 (Ying et al. 2019,
arXiv:1902.09635, section 4), which has an order of magnitude fewer parameters to learn from a few hundred samples. Adam
instead of plain gradient ascent, because accuracies of students differ by a few percent and the step must not depend
on that. Its learning rate is the best of seven from 0.01 to 0.4 on functions A, B and hnag of
``benchmarks/optimizers.py``, after 60 trainings (20 seeds: 0.1 gave 0.081, 0.100, 0.125; 0.2 gave 0.078, 0.092, 0.120;
0.4 gave 0.078, 0.104, 0.122) and after 500 (5 to 10 seeds); after 5,000 it makes no difference that 3 seeds could show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naslib_autokd.optimizers.base import SearchSpaceLike
from naslib_autokd.optimizers.full_budget import Evaluated, FullBudgetOptimizer
from naslib_autokd.optimizers.moves import ATTEMPTS, Choice, Moves, Number, Values

Array = NDArray[np.float64]

ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8


class Reinforce(FullBudgetOptimizer):
    """Policy gradient at the full budget.

    The policy has one categorical distribution per hyperparameter: over its values, or over ``n_bins`` equal parts of
    its range, in which the value is drawn uniformly. Only active hyperparameters are sampled and learned about; a
    forbidden point is sampled anew.

    Its options, besides the arguments of every `FullBudgetOptimizer`:

    Args:
        learning_rate: Of Adam, per trial.
        baseline_momentum: Of the moving average of rewards that is subtracted from a reward, in [0, 1).
        n_bins: Parts of the range of a float, and of an integer with more values than that.

    Raises:
        ValueError: If a budget is not possible or an option outside its range.
    """

    def __init__(
        self,
        space: SearchSpaceLike,
        *,
        learning_rate: float = 0.2,
        baseline_momentum: float = 0.9,
        n_bins: int = 10,
        **common: Any,
    ) -> None:
        super().__init__(space, **common)
        if not learning_rate > 0.0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        if not 0.0 <= baseline_momentum < 1.0:
            raise ValueError(f"baseline_momentum must be in [0, 1), got {baseline_momentum}")
        if n_bins != int(n_bins) or n_bins < 2:
            raise ValueError(f"n_bins must be a whole number of at least 2, got {n_bins}")
        self.learning_rate, self.baseline_momentum = learning_rate, baseline_momentum
        self._moves = Moves(self._configurations)
        self._options = [_Options(each, int(n_bins)) for each in self._moves.dimensions.values()]
        self._names = list(self._moves.dimensions)
        n_options = np.array([options.n for options in self._options])
        self.logits: Array = np.where(np.arange(n_options.max()) < n_options[:, None], 0.0, -np.inf)
        """``(hyperparameters, most options)``; minus infinity where a hyperparameter has fewer."""
        self._exists = np.isfinite(self.logits)
        self._moments = np.zeros((2, *self.logits.shape))
        self._updates = 0
        self._baseline = 0.0, 0.0  # weighted sum of rewards, sum of weights

    def probabilities(self) -> Array:
        """``(hyperparameters, most options)``: the policy; rows sum to 1."""
        return _softmax(self.logits)

    def _next(self, number: int) -> Values:
        rng = self._rng(number)
        for _ in range(ATTEMPTS):
            chosen = np.argmax(self.logits + rng.gumbel(size=self.logits.shape), axis=1)
            point: Values = {}
            for name, options, index in zip(self._names, self._options, chosen.tolist(), strict=True):
                if self._moves.is_active(name, point):
                    point[name] = options.value(index, rng)
            if not self._moves.is_forbidden(point):
                return point
        return self._moves.draw(rng)

    def _learn(self, result: Evaluated, number: int | None) -> None:
        reward = 1.0 - result.cost if math.isfinite(result.cost) else 0.0
        momentum = self.baseline_momentum
        total, weight = self._baseline
        self._baseline = momentum * total + (1 - momentum) * reward, momentum * weight + (1 - momentum)
        advantage = reward - self._baseline[0] / self._baseline[1]
        self._ascend(advantage * self.score(result.values))

    def score(self, values: Mapping[str, Any]) -> Array:
        """Gradient of the log-probability of a point with respect to the logits: one-hot minus probabilities."""
        rows = [i for i, name in enumerate(self._names) if name in values]
        chosen = [self._options[i].index(values[self._names[i]]) for i in rows]
        gradient = np.zeros_like(self.logits)
        gradient[rows] = -self.probabilities()[rows]
        gradient[rows, chosen] += 1.0
        return gradient

    def _ascend(self, gradient: Array) -> None:
        """One step of Adam (Kingma and Ba 2015, Algorithm 1), upwards."""
        self._updates += 1
        scaled = []
        for moment, beta, new in zip(self._moments, ADAM_BETAS, (gradient, gradient**2), strict=True):
            moment += (1 - beta) * (new - moment)
            scaled.append(moment / (1 - beta**self._updates))
        self.logits[self._exists] += (
            self.learning_rate * scaled[0][self._exists] / (np.sqrt(scaled[1][self._exists]) + ADAM_EPSILON)
        )


class _Options:
    """What the policy chooses from in one dimension: single values, or parts of a range."""

    def __init__(self, dimension: Choice | Number, n_bins: int) -> None:
        self._items: tuple[Any, ...] | None = None
        if isinstance(dimension, Choice):
            self._items = dimension.items
        elif dimension.n_values <= n_bins:
            self._items = tuple(range(int(dimension.lower), int(dimension.upper) + 1))
        else:
            self._number = dimension
        self.n = n_bins if self._items is None else len(self._items)

    def value(self, index: int, rng: np.random.Generator) -> Any:
        return self._number.at((index + rng.random()) / self.n) if self._items is None else self._items[index]

    def index(self, value: Any) -> int:
        if self._items is not None:
            return self._items.index(value)
        return min(max(int(self._number.position(value) * self.n), 0), self.n - 1)


def _softmax(logits: Array) -> Array:
    exponentials: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
