"""What the settings of recorded trials say about their error: a random forest, its importances and dependences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from naslib_autokd.records import Trial
from naslib_autokd.reports.importance import (
    SpaceInputs,
    grid_of,
    partial_dependence,
    permutation_importance,
)
from naslib_autokd.runners.statistics import FloatArray

Row = dict[str, Any]

N_POINTS = 32
"""Points of the space that a partial dependence is averaged over."""


@dataclass(frozen=True)
class SearchedSettings:
    """Hyperparameters of trials by name, and the space if it can be made again from what the run says of it."""

    values: list[Row]
    """One for each trial: name -> value; an inactive hyperparameter is missing."""
    hyperparameters: list[Row]
    """See `run_data.TABLES`."""
    space: Any
    """None for a space that is not HNAG's: its candidates are then flat numbers and words without ranges."""

    @classmethod
    def of(cls, trials: Sequence[Trial], described: Any) -> SearchedSettings:
        """Of trials whose run described its space so (``run.yaml``)."""
        space = hnag_space(described)
        if space is not None:
            try:
                return cls(_values(trials, space), _hyperparameters(space), space)
            except ValueError:  # candidates that are not of this space: taken as they are
                pass
        flat = [_flat(trial.candidate) for trial in trials]
        names = list(dict.fromkeys(name for row in flat for name in row))
        varied = [name for name in names if len({repr(row.get(name)) for row in flat}) > 1]
        values = [{name: row[name] for name in varied if name in row} for row in flat]
        return cls(values, [_observed(name, values) for name in varied], None)


def hnag_space(described: Any) -> Any:
    """The HNAG space that ``run.yaml`` describes (`HNAGSpace.describe`); None for another space."""
    from naslib_autokd.search_spaces.hnag.parameters import PRESETS, HNAGSpace, KDSettings, Preset

    if isinstance(described, str):
        described = {"name": described}
    if not isinstance(described, Mapping):
        return None
    preset: Any = described.get("name")
    if preset == "custom" and isinstance(described.get("preset"), Mapping):
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in described["preset"].items()}
        try:
            preset = Preset(**fields)
        except (TypeError, ValueError):
            return None
    elif preset not in PRESETS:
        return None
    return HNAGSpace(
        preset,
        search_kd=described.get("search_kd", True),
        kd=KDSettings.from_dict(described.get("kd", {})),
        mode=described.get("mode", "family"),
        search_size=described.get("search_size", False),
    )


def _values(trials: Sequence[Trial], space: Any) -> list[Row]:
    from naslib_autokd.search_spaces.hnag.parameters import Candidate

    known: dict[str, Row] = {}
    for trial in trials:
        if trial.candidate_digest not in known:
            values = space.values(Candidate.from_dict(trial.candidate))
            values.pop("wiring_seed", None)  # which wiring of its family, no property of it
            known[trial.candidate_digest] = values
    return [known[trial.candidate_digest] for trial in trials]


def _hyperparameters(space: Any) -> list[Row]:
    configspace = space.configuration_space()
    rows = []
    for name in configspace:
        if name == "wiring_seed":
            continue
        own = configspace[name]
        choices = list(getattr(own, "choices", None) or getattr(own, "sequence", None) or [])
        number = not choices or all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices)
        rows.append(
            {
                "name": name,
                "type": "number" if number else "category",
                "log": bool(getattr(own, "log", False)),
                "low": min(choices) if choices and number else getattr(own, "lower", None),
                "high": max(choices) if choices and number else getattr(own, "upper", None),
                "choices": [str(choice) for choice in choices],
            }
        )
    return rows


def _flat(content: Any, prefix: str = "") -> Row:
    """Numbers and words of nested values by dotted names."""
    if isinstance(content, Mapping):
        found: Row = {}
        for key, value in content.items():
            found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(content, list | tuple):
        return _flat(dict(enumerate(content)), prefix) if len(content) <= 32 else {}
    return {prefix: content} if isinstance(content, str | int | float) else {}


def _observed(name: str, values: Sequence[Row]) -> Row:
    found = [row[name] for row in values if name in row]
    number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
    return {
        "name": name,
        "type": "number" if number else "category",
        "log": False,
        "low": min(found) if number else None,
        "high": max(found) if number else None,
        "choices": [] if number else sorted({str(value) for value in found}),
    }


def analysis(searched: SearchedSettings, rows: Sequence[int], costs: Sequence[float]) -> tuple[list[Row], list[Row]]:
    """The tables ``importance`` and ``dependence`` of the trials with these places (`run_data.TABLES`).

    Raises:
        ValueError: If there are too few families, or all costs are equal.
    """
    encode = _Encoder(searched)
    x = np.array([encode(searched.values[index]) for index in rows])
    y = np.asarray(costs, dtype=np.float64)
    families = [repr(sorted(searched.values[index].items())) for index in rows]
    found = permutation_importance(x, y, encode.names, families, n_repeats=3)
    order = np.argsort(-found.mean)
    importance = [
        {
            "hyperparameter": found.names[i],
            "importance": float(found.mean[i]),
            "sd": float(found.sd[i]),
            "r2": found.r2,
            "n": found.n,
        }
        for i in order
    ]
    if searched.space is None:
        return importance, []
    return importance, _dependence(searched.space, encode, x, y, [found.names[i] for i in order])


class _Encoder:
    """Values as numbers: ConfigSpace's own in [0, 1], -1 where inactive; words of other spaces by their order."""

    def __init__(self, searched: SearchedSettings) -> None:
        self.names = [row["name"] for row in searched.hyperparameters]
        if not self.names:
            raise ValueError("all trials have the same settings")
        space = None if searched.space is None else searched.space.configuration_space()
        self._codes = [_code(row, None if space is None else space[row["name"]]) for row in searched.hyperparameters]

    def __call__(self, values: Row) -> list[float]:
        return [
            code(values[name]) if name in values else -1.0 for name, code in zip(self.names, self._codes, strict=True)
        ]


def _code(row: Row, hyperparameter: Any) -> Any:
    if hyperparameter is not None:
        return lru_cache(maxsize=None)(lambda value: float(hyperparameter.to_vector(value)))
    if row["type"] == "number":
        return float
    return lambda value: float(row["choices"].index(str(value)))


def _dependence(space: Any, encode: _Encoder, x: FloatArray, y: FloatArray, names: Sequence[str]) -> list[Row]:
    """Of each hyperparameter, over points of the space where it is active; the largest effect first."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(100, min_samples_leaf=2, max_features=1 / 2, random_state=0).fit(x, y)
    inputs = SpaceInputs(space, n_pool=512)

    def predict(points: Sequence[Mapping[str, Any]]) -> FloatArray:
        active = [inputs.active(point) for point in points]
        known = [index for index, values in enumerate(active) if values is not None]
        answers = np.full(len(points), math.nan)
        if known:
            answers[known] = forest.predict(np.array([encode(active[index] or {}) for index in known]))
        return answers

    points = inputs.sample(N_POINTS)
    rows: list[Row] = []
    for name in names:
        hyperparameter = inputs.hyperparameters[name]
        values = grid_of(hyperparameter)
        own = [point for point in points if inputs.is_active(name, point)]
        if len(values) < 2 or not own:
            continue
        curve = partial_dependence(predict, own, name, values)
        log = bool(getattr(hyperparameter, "log", False))
        rows += [
            {
                "hyperparameter": name,
                "value": value if isinstance(value, int | float) else str(value),
                "mean": float(curve.mean[k]),
                "low": float(curve.low[k]),
                "high": float(curve.high[k]),
                "log": log,
            }
            for k, value in enumerate(values)
            if math.isfinite(curve.mean[k])
        ]
    return rows
