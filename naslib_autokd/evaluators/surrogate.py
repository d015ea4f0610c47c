"""The surrogate of a benchmark: what training a student of any family of the space would give, learned from a table.

In the spirit of NAS-Bench-301 (Siems et al. 2020, arXiv:2008.09777), with two differences: it answers for families
(distributions over wirings) with their KD settings, and its noise depends on the family and tells wirings from weight
seeds. Each budget has a model of its own, since each has its own learning-rate schedule.

* Mean: a Gaussian process (Matern 5/2, a length scale for each feature, fitted by scikit-learn) on the logarithm of
  the average of validation and test error, the target with the least noise; the two errors are straight lines in the
  average, since what else tells them apart is the sampling of images. In cross-validation grouped by family it beat
  the same on the error itself and extra trees, and equalled gradient boosting (docs/benchmark.md has the figures).
* Noise: the log of its variance is linear in the mean and in the features. Nested trainings (wirings crossed with
  weight seeds) split it into wirings and weight seeds, and the difference of the two errors tells what each split of
  images adds of its own. The shape is that of the standardised residuals, whose tails are heavy.
* Everything else (learning curves, agreement, seconds, memory) is predicted by the same kernel.

A query is numpy on arrays: a row of the kernel times a matrix. scikit-learn is needed for fitting only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from naslib_autokd.search_spaces.hnag.generator import Generator
from naslib_autokd.search_spaces.hnag.parameters import Candidate, HNAGSpace, KDSettings
from naslib_autokd.tasks import Task

Array = NDArray[np.float64]

INACTIVE = 0.5
"""Code of a hyperparameter that has no effect in a family."""

_GETTERS: dict[str, Callable[[Generator, KDSettings], Any]] = {
    "top_nodes": lambda g, kd: g.top.n_nodes,
    "top_k": lambda g, kd: g.top.k if g.top.n_nodes >= 5 else None,
    "top_p": lambda g, kd: g.top.p if g.top.n_nodes >= 4 else None,
    "bottom_nodes": lambda g, kd: g.bottom.n_nodes,
    "bottom_k": lambda g, kd: g.bottom.k if g.bottom.n_nodes >= 5 else None,
    "bottom_p": lambda g, kd: g.bottom.p if g.bottom.n_nodes >= 4 else None,
    "channel_growth": lambda g, kd: g.channel_growth,
    "downsampling": lambda g, kd: g.downsampling,
    "temperature": lambda g, kd: kd.temperature,
    "kd_weight": lambda g, kd: kd.kd_weight,
}
_LOGARITHMIC = ("channel_growth", "temperature")


class FamilyEncoding:
    """Families of a preset as rows of a table and as features, without ConfigSpace: a tenth of its time.

    Args:
        space: Of one mid node, one operation and one way of merging (``hnag-small``), KD settings searched.
        task: Its images and parameter limit tell the width of a family's students.

    Raises:
        ValueError: If the space has other hyperparameters than those that are known here.
    """

    def __init__(self, space: HNAGSpace, task: Task) -> None:
        self.space, self.task = space, task
        preset = space.preset
        self.names: tuple[str, ...] = tuple(space._space)
        if unknown := [name for name in self.names if name not in _GETTERS]:
            raise ValueError(f"a surrogate cannot encode the hyperparameters {', '.join(unknown)} of {space!r}")
        self._codes: list[tuple[tuple[Any, ...] | None, float, float, bool]] = []
        for name in self.names:
            if name.endswith("_k"):
                self._codes.append(((2, 4), 0.0, 1.0, False))
            elif name == "downsampling":
                self._codes.append((preset.downsampling, 0.0, 1.0, False))
            else:
                low, high = preset.p if name.endswith("_p") else getattr(preset, name)
                log = name in _LOGARITHMIC
                self._codes.append((None, math.log(low) if log else low, math.log(high) if log else high, log))
        self.feature_names: tuple[str, ...] = (*self.names, "log_width", "log_macs", "log_operations")
        reference = space.default_candidate().generator
        self._fixed = (
            reference.mid,
            reference.stage_ratios,
            reference.operations,
            reference.top_merges,
            reference.mid_merges,
            reference.bottom_merges,
            reference.head_ratio,
        )
        last = task.image_size
        self._areas = (last * last, (last // 2) ** 2, (last // 4) ** 2)

    def values(self, candidate: Any) -> list[Any]:
        """The hyperparameters of a candidate's family, in the order of ``names``; None where one has no effect.

        Raises:
            ValueError: If the candidate is not in the space.
        """
        generator, kd = candidate.generator, candidate.kd
        values = [_GETTERS[name](generator, kd) for name in self.names]
        if not self._contains(generator, values):
            known = self.space.values(Candidate(generator, kd))
            values = [known.get(name) for name in self.names]
        return values

    def _contains(self, generator: Generator, values: Sequence[Any]) -> bool:
        g, preset = generator, self.space.preset
        fixed = (g.mid, g.stage_ratios, g.operations, g.top_merges, g.mid_merges, g.bottom_merges, g.head_ratio)
        if fixed != self._fixed:
            return False
        for level in (g.top, g.bottom):
            if (level.n_nodes < 4 and level.p != 0.0) or (level.n_nodes < 5 and level.k > 2):
                return False
        if preset.max_operations is not None and g.top.n_nodes * g.bottom.n_nodes > preset.max_operations:
            return False
        for value, (choices, low, high, log) in zip(values, self._codes, strict=True):
            if value is None:
                continue
            if choices is not None:
                if value not in choices:
                    return False
            elif not low <= (math.log(value) if log else value) <= high:
                return False
        return True

    def features(self, values: Sequence[Any]) -> Array:
        """Shape (n_features,): each hyperparameter in [0, 1] on its own scale, then what follows from them.

        ``log_width``: channels of the first stage that use the task's parameters up, were there only convolutions;
        ``log_macs``: the multiply-adds of such a student; ``log_operations``: the number of its convolutions.
        """
        codes = []
        for value, (choices, low, high, log) in zip(values, self._codes, strict=True):
            if value is None:
                codes.append(INACTIVE)
            elif choices is not None:
                codes.append(choices.index(value) / (len(choices) - 1))
            else:
                codes.append(((math.log(value) if log else value) - low) / (high - low))
        known = dict(zip(self.names, values, strict=True))
        n_top, n_bottom, growth = known["top_nodes"], known["bottom_nodes"], known["channel_growth"]
        first, second = -(-n_top // 3), -(-2 * n_top // 3)
        weights = (first, (second - first) * growth**2, (n_top - second) * growth**4)
        total = sum(weights)
        area = sum([weight * size for weight, size in zip(weights, self._areas, strict=True)]) / total
        width = math.sqrt(self.task.max_params / (9 * n_bottom * total))
        codes += [math.log(width / 10), math.log(area / 50), math.log(n_top * n_bottom / 10)]
        return np.array(codes)

    def generator_key(self, values: Sequence[Any]) -> str:
        """Tells generators apart, whatever the KD settings."""
        named = zip(self.names, values, strict=True)
        return repr([value for name, value in named if name not in ("temperature", "kd_weight")])

    def sample(self, rng: np.random.Generator) -> list[Any]:
        """A uniform family as `values` (log-uniform where the scale is logarithmic)."""
        while True:
            values = self._decoded(rng.random(len(self.names)))
            if values is not None:
                return values

    def perturb(self, values: Sequence[Any], sd: float, rng: np.random.Generator) -> list[Any]:
        """A neighbour: each hyperparameter moves, with probability 1/2, by a normal step of ``sd`` of its range."""
        codes = self.features(values)[: len(self.names)]
        while True:
            steps = rng.normal(0.0, sd, len(codes)) * (rng.random(len(codes)) < 0.5)
            moved = self._decoded(np.clip(codes + steps, 0.0, 1.0))
            if moved is not None:
                return moved

    def _decoded(self, codes: Array) -> list[Any] | None:
        """The family at a point of the unit cube; None where ``max_operations`` forbids it."""
        known: dict[str, Any] = {}
        for name, code, (choices, low, high, log) in zip(self.names, codes.tolist(), self._codes, strict=True):
            if choices is not None:
                known[name] = choices[min(int(code * len(choices)), len(choices) - 1)]
            elif name.endswith("_nodes"):
                known[name] = int(low) + min(int(code * (high - low + 1)), int(high - low))
            else:
                number = low + code * (high - low)
                known[name] = round(math.exp(number) if log else number, 12)  # bounds come back exactly
        most = self.space.preset.max_operations
        if most is not None and known["top_nodes"] * known["bottom_nodes"] > most:
            return None
        for level in ("top", "bottom"):
            for name, smallest in (("k", 5), ("p", 4)):
                if known[f"{level}_nodes"] < smallest:
                    known[f"{level}_{name}"] = None
        return [known[name] for name in self.names]

    def diversity(self, values: Sequence[Any]) -> float:
        """Share of the wiring noise that a family can have: 0 if it has one wiring only, 1 if no two are alike.

        ``1 - P**2`` with P the probability that no edge is rewired.
        """
        known = dict(zip(self.names, values, strict=True))
        untouched = 1.0
        for level, n_graphs in (("top", 1), ("bottom", known["top_nodes"])):
            n_nodes, p = known[f"{level}_nodes"], known[f"{level}_p"]
            k = known[f"{level}_k"] or 2
            if p is not None and n_nodes > k + 1:
                untouched *= (1 - p) ** (n_graphs * n_nodes * (k // 2))
        return 1 - untouched**2


@dataclass(frozen=True)
class Matern:
    """A fitted Gaussian process with several outputs, as arrays: ``mean + row(x) @ alpha``."""

    points: Array
    """Shape (n, n_features), divided by the length scales."""
    scales: Array
    """Length scale of each feature."""
    alpha: Array
    """Shape (n, n_outputs), amplitude included."""
    mean: Array
    """Shape (n_outputs,)."""
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_squares", np.einsum("ij,ij->i", self.points, self.points))

    def __call__(self, x: Array) -> Array:
        """All outputs at one point, or (m, n_outputs) at m points."""
        scaled = x / self.scales
        if x.ndim == 1:
            squares = self._squares - 2 * (self.points @ scaled) + scaled @ scaled  # type: ignore[attr-defined]
        else:
            squares = (
                self._squares[None] - 2 * (scaled @ self.points.T) + np.einsum("ij,ij->i", scaled, scaled)[:, None]  # type: ignore[attr-defined]
            )
        return np.asarray(self.mean + _matern(squares) @ self.alpha)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "points": self.points.astype(np.float32),
            "scales": self.scales,
            "alpha": self.alpha.astype(np.float32),
            "mean": self.mean,
            "outputs": np.array(self.outputs),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Matern:
        points, scales, alpha, mean = (
            np.ascontiguousarray(arrays[name], dtype=np.float64) for name in ("points", "scales", "alpha", "mean")
        )
        return cls(points, scales, alpha, mean, tuple(str(name) for name in arrays["outputs"]))


def _matern(squares: Array) -> Array:
    """Matern 5/2 of squared distances (Rasmussen & Williams 2006, equation 4.17)."""
    distance = np.sqrt(5.0 * np.maximum(squares, 0.0))
    return np.asarray((1.0 + distance + distance * distance / 3.0) * np.exp(-distance))


class Expected(NamedTuple):
    """What a surrogate knows of the trainings of a family at one budget. Errors are fractions; sds are of errors."""

    cost: float
    """Mean validation error over wirings and weight seeds."""
    test_error: float
    wiring_sd: float
    """Of the means over weight seeds, between wirings of the family."""
    weights_sd: float
    """Between weight seeds of one wiring, as both splits see it."""
    split_sd: float
    """What each split of images adds of its own to one training."""
    outputs: Array
    """Means of everything else, in the order of `BudgetModel.outputs`."""


@dataclass(frozen=True)
class BudgetModel:
    """The surrogate at one budget."""

    mean: Matern
    """Its first output is the log of the average of validation and test error; the others are `outputs`."""
    bias: float
    """Mean error over that of the exponentials of the expected logs."""
    difference: tuple[float, float]
    """Test minus validation error: constant and slope in the average."""
    noise: Array
    """Shape (2 + n_features,): log variance of the average of a training, linear in 1, its mean and the features."""
    noise_range: tuple[float, float]
    """The log variance is clipped to what was seen."""
    amplitude: float
    """Prior variance of the log."""
    wiring_share: float
    """Of the variance that is not the splits', in families of many wirings."""
    split_scale: float
    """Sd that a split adds, in units of the binomial one of its number of images."""
    n_images: int
    quantiles: Array
    """Of the standardised noise of weight seeds at equally spaced probabilities."""
    loadings: Array
    """Shape (n_outputs - 1,): how far an output moves with the error of the same training."""
    spreads: Array
    """Shape (n_outputs - 1,): sd of what is left of its noise."""
    failure_rate: float = 0.0
    lowest: tuple[float, float] = (0.0, 0.0)
    """Validation and test error of the best training that was seen: no answer with noise is better. (0, 0) in files of
    before."""

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.mean.outputs[1:]

    def __call__(self, features: Array, diversity: float) -> Expected:
        predicted = self.mean(features)
        average = min(self.bias * math.exp(float(predicted[0])), 1.0)
        difference = self.difference[0] + self.difference[1] * average
        noise = self.noise
        log_variance = float(noise[0] + noise[1] * average + noise[2:] @ features)
        variance = math.exp(min(max(log_variance, self.noise_range[0]), self.noise_range[1]))
        split = self.split_scale**2 * average * (1 - average) / self.n_images
        training = max(variance - split / 2, 0.1 * variance)
        wiring = self.wiring_share * training
        return Expected(
            average - difference / 2,
            average + difference / 2,
            math.sqrt(wiring * diversity),
            math.sqrt(training - wiring),
            math.sqrt(split),
            predicted[1:],
        )

    def shape(self, u: float) -> float:
        """The standardised noise (mean 0, variance 1) at probability ``u``."""
        place = u * (len(self.quantiles) - 1)
        index = min(int(place), len(self.quantiles) - 2)
        low, high = self.quantiles[index], self.quantiles[index + 1]
        return float(low + (place - index) * (high - low))

    def average(self, features: Array) -> Array:
        """Means over the two splits of the errors of several families, shape (n,)."""
        return np.minimum(self.bias * np.exp(self.mean(features)[:, 0]), 1.0)

    def variances(self, features: Array) -> Array:
        """Of the average error of one training, at several points: wirings, weight seeds and the splits' mean."""
        return _variance(self.noise, self.noise_range, self.average(features), features)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        own = {name: np.asarray(getattr(self, name)) for name in sorted(_BUDGET_FIELDS)}
        return own | {f"mean/{name}": array for name, array in self.mean.to_arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> BudgetModel:
        own: dict[str, Any] = {}
        for name in _BUDGET_FIELDS & arrays.keys():
            array = np.asarray(arrays[name])
            own[name] = array.item() if array.ndim == 0 else array.astype(np.float64)
        for name in _PAIRS & own.keys():
            own[name] = tuple(float(value) for value in own[name])
        return cls(Matern.from_arrays({name[5:]: a for name, a in arrays.items() if name.startswith("mean/")}), **own)


_BUDGET_FIELDS = {field.name for field in fields(BudgetModel)} - {"mean"}
_PAIRS = {"difference", "noise_range", "lowest"}


# --- fitting ----------------------------------------------------------------------------------------------------------

N_QUANTILES = 101
N_KERNEL = 500
"""Families that choose the length scales; all of them make the mean."""
RIDGE = 0.5
WIRING_SHARE = 0.13
"""Where a table has no nested trainings: 3.5 of 27.6 points squared, measured once on cluttered-digits."""

Table = Mapping[str, NDArray[Any]]
"""Columns of equal length, one row a training (see `benchmark.table_of`)."""


@dataclass(frozen=True)
class Trainings:
    """The successful trainings of a table at one budget, with what the surrogate predicts."""

    family: NDArray[np.int64]
    wiring: NDArray[np.int64]
    features: Array
    """Of each training's family."""
    cost: Array
    test_error: Array
    others: Array
    outputs: tuple[str, ...]

    @property
    def average(self) -> Array:
        return np.asarray((self.cost + self.test_error) / 2)

    def where(self, chosen: NDArray[np.bool_]) -> Trainings:
        parts = {f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name != "outputs"}
        return Trainings(**parts, outputs=self.outputs)


def trainings_of(table: Table, features: Array, budget: int) -> Trainings:
    """The successful trainings at a budget; ``features`` has one row for each of the table."""
    chosen = (table["budget_epochs"] == budget) & (table["status"] == "success")
    columns = {f"val_{epoch + 1}": table["val_curve"][chosen, epoch] for epoch in range(budget)}
    columns |= {f"loss_{epoch + 1}": table["loss_curve"][chosen, epoch] for epoch in range(budget)}
    columns |= {name: table[name][chosen] for name in ("train_accuracy", "teacher_agreement")}
    for name in ("train_s", "evaluate_s"):
        columns[f"log_{name}"] = np.log(table[name][chosen])
    columns["log_memory"] = np.log(table["train_memory_bytes"][chosen])
    return Trainings(
        family=table["family"][chosen],
        wiring=table["wiring_seed"][chosen].astype(np.int64),
        features=features[chosen],
        cost=table["cost"][chosen].astype(np.float64),
        test_error=1.0 - table["test_accuracy"][chosen].astype(np.float64),
        others=np.stack([np.asarray(column, dtype=np.float64) for column in columns.values()], axis=1),
        outputs=tuple(columns),
    )


def fit(trainings: Trainings, n_images: int, failure_rate: float = 0.0) -> BudgetModel:
    """The surrogate of one budget.

    Args:
        n_images: Of each of the two splits.
    """
    families, first, index = np.unique(trainings.family, return_index=True, return_inverse=True)
    counts = np.bincount(index)
    points = trainings.features[first]
    averages = np.bincount(index, trainings.average) / counts
    targets = np.column_stack([np.log(np.maximum(trainings.average, 1 / n_images)), trainings.others])
    means = np.stack([np.bincount(index, column) / counts for column in targets.T], axis=1)

    slope = np.polyfit(trainings.average, trainings.test_error - trainings.cost, 1)
    difference = (float(slope[1]), float(slope[0]))
    apart = trainings.test_error - trainings.cost - np.polyval(slope, trainings.average)
    binomial = float(np.mean(trainings.average * (1 - trainings.average))) / n_images
    split_scale = math.sqrt(float(np.var(apart)) / 2 / binomial)

    expected = np.full(len(families), float(averages.mean()))
    variances = np.full(len(families), float(averages.var()) / 2)
    theta: Array | None = None
    for _ in range(2):
        relative = variances / expected**2 / counts  # the variance of a log
        theta, scales, amplitude = _kernel(points, means[:, 0], relative, theta)
        left_out, latent = _left_out(points, means, relative, scales, amplitude)
        expected = np.exp(means[:, 0] - left_out[:, 0])
        bias = float(averages @ counts / (expected @ counts))
        expected, latent = bias * expected, latent * (bias * expected) ** 2
        noise, noise_range = _variance_model(trainings.average, index, points, averages, averages - expected, latent)
        variances = _variance(noise, noise_range, expected, points)
    alpha = _solve(points, means, variances / expected**2 / counts, scales, amplitude)
    mean = Matern(points / scales, scales, alpha, means.mean(axis=0), ("log_error", *trainings.outputs))

    # of each training, what is expected of it when its family is left out
    errors = targets - (means - left_out)[index]
    errors[:, 0] = trainings.average - expected[index]
    standardised = errors[:, 0] / np.sqrt(variances + latent)[index]
    loadings = (errors[:, 0] @ errors[:, 1:]) / (errors[:, 0] @ errors[:, 0])
    spreads = np.std(errors[:, 1:] - np.outer(errors[:, 0], loadings), axis=0)
    return BudgetModel(
        mean=mean,
        bias=bias,
        difference=difference,
        noise=noise,
        noise_range=noise_range,
        amplitude=amplitude,
        wiring_share=_wiring_share(trainings, variances[index]),
        split_scale=split_scale,
        n_images=n_images,
        quantiles=_quantiles(standardised),
        loadings=loadings,
        spreads=spreads,
        failure_rate=failure_rate,
        lowest=(float(trainings.cost.min()), float(trainings.test_error.min())),
    )


def _kernel(points: Array, y: Array, noise: Array, start: Array | None) -> tuple[Array, Array, float]:
    """``(theta, length scales, variance)`` of maximal marginal likelihood, given the variance of each target."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel
    from sklearn.gaussian_process.kernels import Matern as MaternKernel

    rows = np.random.default_rng(0).permutation(len(y))[:N_KERNEL]
    scale = float(np.std(y))
    kernel = ConstantKernel(1.0, (0.01, 100.0)) * MaternKernel(np.full(points.shape[1], 2.0), (0.2, 50.0), nu=2.5)
    if start is not None:
        kernel = kernel.clone_with_theta(start)
    model = GaussianProcessRegressor(kernel, alpha=noise[rows] / scale**2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # features without effect end at the bound of their length scale
        model.fit(points[rows], (y[rows] - y.mean()) / scale)
    fitted = model.kernel_
    return (
        fitted.theta,
        np.asarray(fitted.k2.length_scale, dtype=np.float64),
        float(fitted.k1.constant_value) * scale**2,
    )


def _matrix(points: Array, noise: Array, scales: Array, amplitude: float) -> Array:
    """Correlations of the points, with the noise's share on the diagonal."""
    scaled = points / scales
    squares = np.einsum("ij,ij->i", scaled, scaled)
    matrix = _matern(squares[:, None] + squares[None] - 2 * scaled @ scaled.T)
    matrix[np.diag_indices_from(matrix)] = 1.0 + noise / amplitude + 1e-9
    return matrix


def _solve(points: Array, y: Array, noise: Array, scales: Array, amplitude: float) -> Array:
    return np.asarray(np.linalg.solve(_matrix(points, noise, scales, amplitude), y - y.mean(axis=0)))


def _left_out(points: Array, y: Array, noise: Array, scales: Array, amplitude: float) -> tuple[Array, Array]:
    """Of each point, left out, its residuals and the variance of the first mean (Rasmussen & Williams 5.12)."""
    inverse = np.linalg.inv(_matrix(points, noise, scales, amplitude))
    diagonal = np.diag(inverse)
    residuals = inverse @ (y - y.mean(axis=0)) / diagonal[:, None]
    return residuals, np.maximum(amplitude / diagonal - noise, 1e-3 * amplitude)


def _variance(noise: Array, noise_range: tuple[float, float], mean: Array, points: Array) -> Array:
    return np.asarray(np.exp(np.clip(noise[0] + noise[1] * mean + points @ noise[2:], *noise_range)))


def _variance_model(
    average: Array, index: NDArray[np.intp], points: Array, means: Array, residuals: Array, latent: Array
) -> tuple[Array, tuple[float, float]]:
    """Coefficients of the log variance and its range, by maximal likelihood with a ridge on the features.

    Trainings of one family tell their variance by their deviations from each other; a family's mean tells it by its
    residual, which the uncertainty of the surrogate adds to.
    """
    from scipy.optimize import minimize

    counts = np.bincount(index)
    within = np.bincount(index, (average - means[index]) ** 2)
    predicted = means - residuals
    centre = float(predicted.mean())
    spread = float(predicted.std()) + 1e-12
    design = np.column_stack([np.ones(len(means)), (predicted - centre) / spread, points - points.mean(axis=0)])
    start = np.zeros(design.shape[1])
    start[0] = math.log(max(float(np.mean(residuals**2 - latent)), float(np.mean(residuals**2)) / 4))

    def loss(weights: Array) -> tuple[float, Array]:
        variance = np.exp(np.clip(design @ weights, -30, 5))
        total = latent + variance / counts
        value = np.sum(np.log(total) + residuals**2 / total) / 2
        value += np.sum((counts - 1) * np.log(variance) + within / variance) / 2 + RIDGE * np.sum(weights[2:] ** 2)
        slope = (1 / total - residuals**2 / total**2) / 2 * variance / counts + (counts - 1 - within / variance) / 2
        gradient = design.T @ slope
        gradient[2:] += 2 * RIDGE * weights[2:]
        return float(value), gradient

    weights = minimize(loss, start, jac=True, method="L-BFGS-B").x
    logs = design @ weights
    noise = np.concatenate([[0.0, weights[1] / spread], weights[2:]])
    noise[0] = weights[0] - noise[1] * centre - weights[2:] @ points.mean(axis=0)
    return noise, (float(np.quantile(logs, 0.01)), float(np.quantile(logs, 0.99)))


def _wiring_share(trainings: Trainings, variances: Array) -> float:
    """The share of wirings in the variance, from families with several weight seeds of several wirings (ANOVA)."""
    between = within = 0.0
    n_between = n_within = 0
    n_seeds: list[int] = []
    for family in np.unique(trainings.family):
        rows = trainings.family == family
        groups = [trainings.average[rows & (trainings.wiring == w)] for w in np.unique(trainings.wiring[rows])]
        groups = [group for group in groups if len(group) >= 2]
        if len(groups) < 2:
            continue
        scale = float(variances[rows].mean())
        centres = np.array([group.mean() for group in groups])
        sizes = np.array([len(group) for group in groups])
        within += sum(float(np.sum((group - group.mean()) ** 2)) for group in groups) / scale
        n_within += int(np.sum(sizes - 1))
        between += float(np.sum(sizes * (centres - np.average(centres, weights=sizes)) ** 2)) / scale
        n_between += len(groups) - 1
        n_seeds += sizes.tolist()
    if not n_within:
        return WIRING_SHARE
    seeds = within / n_within
    wirings = max(between / n_between - seeds, 0.0) / float(np.mean(n_seeds))
    return wirings / (wirings + seeds)


def _quantiles(standardised: Array) -> Array:
    """At `N_QUANTILES` equally spaced probabilities; mean 0 and variance 1 when drawn with straight lines between."""
    probabilities = (np.arange(N_QUANTILES) + 0.5) / N_QUANTILES
    quantiles = np.quantile(standardised, probabilities)
    low, high = quantiles[:-1], quantiles[1:]
    mean = float(np.mean((low + high) / 2))
    variance = float(np.mean((low * low + low * high + high * high) / 3)) - mean**2
    return np.asarray((quantiles - mean) / math.sqrt(variance))


def best_family(encoding: FamilyEncoding, model: BudgetModel, seed: int = 0) -> tuple[list[Any], float]:
    """``(values, average error)`` of the family with the lowest mean error that a seeded search finds.

    8,192 uniform families; from the best 40 of them 40 rounds of 10 normal steps each (sd from 0.2 to 0.01 of each
    range), the best kept.
    """
    rng = np.random.default_rng(seed)
    families = [encoding.sample(rng) for _ in range(8192)]
    errors = _mean_errors(encoding, model, families)
    order = np.argsort(errors, kind="stable")[:40]
    best = [(float(errors[i]), families[i]) for i in order]
    for sd in np.geomspace(0.2, 0.01, 40):
        moved = [encoding.perturb(values, float(sd), rng) for _, values in best for _ in range(10)]
        errors = _mean_errors(encoding, model, moved)
        for place, start in enumerate(range(0, len(moved), 10)):
            lowest = start + int(np.argmin(errors[start : start + 10]))
            if errors[lowest] < best[place][0]:
                best[place] = (float(errors[lowest]), moved[lowest])
    error, values = min(best, key=lambda pair: pair[0])
    return values, error


def _mean_errors(encoding: FamilyEncoding, model: BudgetModel, families: Sequence[Sequence[Any]]) -> Array:
    features = np.stack([encoding.features(values) for values in families])
    return np.concatenate([model.average(features[i : i + 2000]) for i in range(0, len(features), 2000)])


# --- quality ----------------------------------------------------------------------------------------------------------

N_SIMULATIONS = 400


def held_out_quality(model: BudgetModel, trainings: Trainings, diversity: Array, seed: int = 0) -> dict[str, Any]:
    """How well a model predicts families that it was not fitted to; errors are validation errors.

    The ceiling of R2 and tau is what the true means would reach, since a family's mean error is known from a few
    trainings only: the observed means are shrunk towards their centre until their variance is what is left of it
    without the noise; trainings are drawn around these with the model's noise; the measure of the shrunk and the
    redrawn means is averaged over `N_SIMULATIONS`. ``within_sd`` (deviations of trainings from their family's mean,
    standardised) judges the noise alone, ``residual_sd`` and the coverages the noise and the mean.

    Args:
        diversity: Of each training's family (`FamilyEncoding.diversity`).

    Returns:
        ``families``, ``trainings``, ``r2``, ``tau``, ``r2_ceiling``, ``tau_ceiling``, ``residual_sd``, ``within_sd``
        (None where families have one training), ``cover_50``, ``cover_80``, ``cover_95``.
    """
    rng = np.random.default_rng(seed)
    families, first, index = np.unique(trainings.family, return_index=True, return_inverse=True)
    counts = np.bincount(index)
    expected = [model(trainings.features[i], float(diversity[i])) for i in first]
    predicted = np.array([e.cost for e in expected])
    observed = np.bincount(index, trainings.cost) / counts
    sds = np.array([math.sqrt(e.wiring_sd**2 + e.weights_sd**2 + e.split_sd**2) for e in expected])

    def draw(n: int) -> Array:
        """Noise of ``n`` trainings of each family, shape (n, families)."""
        noise = rng.standard_normal((n, len(families))) * [e.wiring_sd for e in expected]
        places = rng.random((n, len(families))) * (len(model.quantiles) - 1)
        shape = np.interp(places, np.arange(len(model.quantiles)), model.quantiles)
        noise += shape * [e.weights_sd for e in expected]
        return np.asarray(noise + rng.standard_normal((n, len(families))) * [e.split_sd for e in expected])

    centre, total = float(observed.mean()), float(observed.var())
    noise_variance = float(np.mean(sds**2 / counts))
    kept = max(total - noise_variance, 0.0) / total if total > 0 else 0.0
    truth = centre + math.sqrt(kept) * (observed - centre)
    ceiling = []
    for _ in range(N_SIMULATIONS):
        again = truth + np.array(
            [column[:n].mean() for column, n in zip(draw(int(counts.max())).T, counts, strict=True)]
        )
        ceiling.append(_tau(truth, again))
    residuals = trainings.cost - predicted[index]
    samples = np.sort(draw(2000), axis=0)
    places = np.array([np.searchsorted(samples[:, f], r) for f, r in zip(index, residuals, strict=True)]) / 2000
    several = counts[index] > 1
    within = (trainings.cost - observed[index])[several] / (sds * np.sqrt(1 - 1 / np.maximum(counts, 2)))[index][
        several
    ]
    return {
        "families": len(families),
        "trainings": len(index),
        "r2": _r2(predicted, observed),
        "tau": _tau(predicted, observed),
        "r2_ceiling": kept,
        "tau_ceiling": float(np.mean(ceiling)),
        "residual_sd": float(np.sqrt(np.mean((residuals / sds[index]) ** 2))),
        "within_sd": float(np.sqrt(np.mean(within**2))) if several.any() else None,
        **{f"cover_{p}": float(np.mean(np.abs(places - 0.5) <= p / 200)) for p in (50, 80, 95)},
    }


def kd_quality(model: BudgetModel, trainings: Trainings, generators: NDArray[Any]) -> dict[str, Any]:
    """How well a model predicts what KD settings change, on generators that it was not fitted to.

    Every generator has the same settings, and in each of them the same wirings and weight seeds. An effect is the
    average of validation and test error minus that of the generator's settings, so that what is common to a generator
    or a wiring is not in it. Wirings have their other noise for themselves: what their effects have in common is the
    variance of the true effects, whose share in the observed ones is what an exact model would reach.

    Args:
        generators: Of each training (`FamilyEncoding.generator_key`).

    Returns:
        ``generators``, ``settings`` (of a generator), ``trainings``, ``effect_sd`` (of true effects), ``r2``,
        ``r2_ceiling``, ``tau`` (over all effects) and ``slope``: observed effects over predicted ones, 1 if these are
        neither too large nor too small.
    """
    _, index, counts = np.unique(generators, return_inverse=True, return_counts=True)
    whole = counts[index] == counts.max()  # a generator with a failed training is left out
    trainings, generators = trainings.where(whole), generators[whole]
    order = np.lexsort((trainings.family, trainings.wiring, generators))
    n_wirings = len(np.unique(trainings.wiring[generators == generators[0]]))
    shape = (int(np.sum(counts == counts.max())), n_wirings, -1)
    effects = trainings.average[order].reshape(shape)
    effects = effects - effects.mean(axis=2, keepdims=True)
    predicted = model.average(trainings.features[order]).reshape(shape)[:, 0]
    predicted = predicted - predicted.mean(axis=1, keepdims=True)
    observed, n = effects.mean(axis=1), effects.shape[1]
    noise = float(effects.var(axis=1, ddof=1).mean()) / n
    total = float(np.mean(observed**2))
    truth = max(total - noise, 0.0)
    return {
        "generators": len(effects),
        "settings": effects.shape[2],
        "trainings": effects.size,
        "effect_sd": math.sqrt(truth),
        "r2": 1 - float(np.mean((observed - predicted) ** 2)) / total,
        "r2_ceiling": truth / total,
        "tau": _tau(predicted.ravel(), observed.ravel()),
        "slope": float(np.sum(observed * predicted) / np.sum(predicted**2)),
    }


def _r2(predicted: Array, observed: Array) -> float | None:
    """Share of the variance that is explained; None where nothing varies."""
    total = float(np.var(observed))
    return 1 - float(np.mean((observed - predicted) ** 2)) / total if total > 0 else None


def _tau(a: Array, b: Array) -> float:
    """Kendall's tau-b; 0 where nothing varies."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(a, b)[0])
    return tau if math.isfinite(tau) else 0.0


def curve_quality(model: BudgetModel, trainings: Trainings) -> list[dict[str, Any]]:
    """Of each epoch of the training: R2 and tau of the expected validation accuracy, on families not fitted."""
    _, first, index = np.unique(trainings.family, return_index=True, return_inverse=True)
    counts = np.bincount(index)
    predicted = model.mean(trainings.features[first])[:, 1:]
    rows = []
    for place, name in enumerate(model.outputs):
        if name.startswith("val_"):
            observed = np.bincount(index, trainings.others[:, place]) / counts
            rows.append(
                {
                    "epoch": int(name[4:]),
                    "r2": _r2(predicted[:, place], observed),
                    "tau": _tau(predicted[:, place], observed),
                }
            )
    return rows


def region_quality(
    model: BudgetModel, trainings: Trainings, regions: Mapping[str, NDArray[np.bool_]], variances: Array
) -> list[dict[str, Any]]:
    """What a model says of a region of the space that it has not seen: each region is left out of the mean's data.

    Length scales and noise stay those of all data, so this judges extrapolation, not the choice of length scales.

    Args:
        regions: Name -> which trainings are in it.
        variances: Of the average error of each training.
    """
    _, first, index = np.unique(trainings.family, return_index=True, return_inverse=True)
    counts = np.bincount(index)
    points, observed = trainings.features[first], np.bincount(index, trainings.average) / counts
    scales, amplitude = model.mean.scales, model.amplitude
    rows = []
    for name, members in regions.items():
        inside = members[first]
        known = ~inside
        if min(inside.sum(), known.sum()) < MIN_REGION:
            continue
        noise, logs = variances[first] / counts / observed**2, np.log(observed)
        alpha = _solve(points[known], logs[known], noise[known], scales, amplitude)
        mean = Matern(points[known] / scales, scales, alpha[:, None], np.array([logs[known].mean()]), ("log_error",))
        predicted = replace(model, mean=mean).average(points[inside])
        apart = observed[inside]
        rows.append(
            {
                "region": name,
                "families": int(inside.sum()),
                "r2": _r2(predicted, apart),
                "tau": _tau(predicted, apart),
                "bias": float(np.mean(predicted - apart)),
            }
        )
    return rows


MIN_REGION = 10
"""Families of a region, and outside it."""
