"""A queryable benchmark of families with their KD settings: answers in well under a millisecond, without training.

`KDBenchmark` stands where `evaluators.kd.KDEvaluator` stands. Behind it is a table of real trainings and the surrogate
that was fitted to it (`evaluators.surrogate`). An answer is the surrogate's mean plus noise, a pure function of
(candidate, budget, seed):

* wiring noise, a function of the family's generator and the drawn wiring: all seeds, KD settings and budgets of one
  wiring share it (in part: see `BUDGET_CORRELATION`);
* weight-seed noise, a function of candidate, budget and seed, and what the validation split adds.

Parameters, multiply-adds and depth are exact: the wiring is drawn as the live evaluator draws it. Test errors are in
no trial: `KDBenchmark.final_test_error` and `KDBenchmark.true_test_error` are for judging a search when it is over.

The files hold arrays (npz without pickle) and, beside them, JSON. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from naslib_autokd._version import __version__
from naslib_autokd.evaluators.base import Score
from naslib_autokd.evaluators.surrogate import (
    Array,
    BudgetModel,
    Expected,
    FamilyEncoding,
    best_family,
    curve_quality,
    fit,
    held_out_quality,
    kd_quality,
    region_quality,
    trainings_of,
)
from naslib_autokd.records import Proposal, Trial, derive_seed
from naslib_autokd.search_spaces import HasSize
from naslib_autokd.search_spaces.hnag.individual import WiringCandidate
from naslib_autokd.search_spaces.hnag.parameters import Candidate, HNAGSpace
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec, Wiring, fit_width
from naslib_autokd.tasks import Task, did_you_mean

TABLES = Path(__file__).parent / "tables"

BENCHMARKS = {"cluttered-digits": "cluttered-digits-v1.npz"}
"""Name -> file in `TABLES`."""

FORMAT = 1
"""Of the files; another number is another version of naslib_autokd."""

BUDGET_CORRELATION = 0.8
"""Of one wiring's noise between two budgets. A choice: every training of the table has a wiring of its own."""

N_REMEMBERED = 20_000
"""Families whose features and expectations are kept, since searches ask for them again."""

_normal = NormalDist().inv_cdf


class BenchmarkError(ValueError):
    """A benchmark's file cannot be used, or a question cannot be answered."""


class KDBenchmark:
    """Trainings of families with KD settings, answered from a surrogate; implements `base.Benchmark`.

    Args:
        task: A name in `BENCHMARKS`, not looked at with ``path``; or a `Task`, which must be the benchmark's.
        path: An ``.npz`` file that ``naslib-autokd bench fit`` wrote (its ``.json`` beside it).
        space: Another space of the same preset for optimizers to search, such as
            ``HNAGSpace("hnag-small", mode="individual")`` or one with fixed KD settings; default: the table's.
        noise: False answers with expectations (of the family, or of the wiring of an individual candidate).

    Raises:
        BenchmarkError: If there is no such benchmark, or the file is of another version or damaged.
    """

    def __init__(
        self,
        task: str | Task = "cluttered-digits",
        *,
        path: str | Path | None = None,
        space: Any = None,
        noise: bool = True,
    ) -> None:
        if path is None:
            name = task if isinstance(task, str) else task.name
            if name not in BENCHMARKS:
                raise BenchmarkError(f"there is no benchmark of {name!r}{did_you_mean(name, BENCHMARKS)}")
            path = TABLES / BENCHMARKS[name]
        self.path, self.noise = Path(path), noise
        arrays, self.datasheet = read_files(self.path)
        self.name: str = self.datasheet["name"]
        self.task = Task.from_dict(self.datasheet["task"])
        if isinstance(task, Task) and task != self.task:
            ours, theirs = asdict(self.task), asdict(task)
            differ = ", ".join(
                f"{key} {ours[key]!r} and not {theirs[key]!r}" for key in ours if ours[key] != theirs[key]
            )
            raise BenchmarkError(f"the benchmark {self.name} is of another task: its trainings have {differ}")
        self.table_space = _space_of(self.datasheet["space"])
        """Every candidate of it is answered."""
        self.space = self.table_space if space is None else space
        self._encoding = FamilyEncoding(self.table_space, self.task)
        self._models: dict[int, BudgetModel] = {}
        for budget in self.datasheet["budgets"]:
            prefix = f"{budget}/"
            own = {key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)}
            self._models[budget] = BudgetModel.from_arrays(own)
        self._table_arrays = {key[6:]: array for key, array in arrays.items() if key.startswith("table/")}
        self._families: dict[Any, _Family] = {}
        self._scorer: Any = None

    def __repr__(self) -> str:
        return f"KDBenchmark({self.name!r})"

    @property
    def budgets(self) -> tuple[int, ...]:
        """Epochs of training, ascending; the last is a full training."""
        return tuple(self._models)

    @property
    def table(self) -> dict[str, NDArray[Any]]:
        """The trainings behind the surrogate, as columns of equal length (see `table_of`)."""
        for column in self._table_arrays.values():
            column.flags.writeable = False
        return dict(self._table_arrays)

    # --- answers ------------------------------------------------------------------------------------------------------

    def evaluate(self, proposal: Proposal) -> Trial:
        """One training, as the live evaluator would record it, but for what is not known.

        Raises:
            BenchmarkError: If the candidate is not in the benchmark's space, or the budget not one of `budgets`.
        """
        candidate, budget = proposal.candidate, proposal.budget_epochs
        family = self._family(candidate)
        expected = self._expected(family, budget)
        model = self._models[budget]
        wiring, wiring_seed = _draw(candidate, proposal.seed)
        spec = self._spec(wiring)
        draws = _Draws(f"{self.name}/{candidate.digest}/{budget}/{proposal.seed}")
        if self.noise and draws.uniform(3) < model.failure_rate:
            return self._trial(proposal, spec, wiring_seed, status="diverged", message="drawn by the benchmark")
        noise = self._noise(expected, candidate, family, budget, proposal.seed, "validation")
        cost = min(max(expected.cost + noise, 0.0), 1.0)
        outputs = expected.outputs
        if self.noise:
            cost = max(self._counted(cost, self.task.n_val), model.lowest[0])
            outputs = outputs + model.loadings * noise + model.spreads * draws.normals(len(outputs))
        info: dict[str, Any] = {"benchmark": self.name}
        shares = [min(max(share, 0.0), 1.0) for share in outputs[:budget].tolist()]
        info["val_curve"] = [*shares[:-1], 1 - cost]
        named = dict(zip(model.outputs[2 * budget :], outputs[2 * budget :].tolist(), strict=True))
        return self._trial(
            proposal,
            spec,
            wiring_seed,
            cost=cost,
            val_accuracy=1 - cost,
            train_accuracy=min(max(named["train_accuracy"], 0.0), 1.0),
            teacher_agreement=min(max(named["teacher_agreement"], 0.0), 1.0),
            curve=tuple([max(loss, 0.0) for loss in outputs[budget : 2 * budget].tolist()]),
            train_memory_bytes=round(math.exp(named["log_memory"])),
            train_s=math.exp(named["log_train_s"]),
            evaluate_s=math.exp(named["log_evaluate_s"]),
            info=info,
        )

    def training_seconds(self, proposal: Proposal) -> float:
        """Modelled CPU seconds of this training (`distillation.training_cost`); the first call loads torch."""
        from naslib_autokd.distillation.training_cost import student_cost

        wiring, _ = _draw(proposal.candidate, proposal.seed)
        n_steps = proposal.budget_epochs * (self.task.n_train // self.task.batch_size)
        return student_cost(self._spec(wiring), self.task.batch_size).seconds(n_steps, self.task.n_val)

    def true_cost(self, candidate: Any) -> float:
        """Expected validation error of a full training: of a family over its wirings and weight seeds, of an
        individual candidate over weight seeds."""
        return self._truth(candidate).cost

    def true_test_error(self, candidate: Any) -> float:
        """The same for the test split."""
        return self._truth(candidate).test_error

    def final_test_error(self, candidate: Any, seed: int) -> float:
        """Test error of one full training: the one that `evaluate` reports the validation error of for this seed.

        As a final evaluation, draw with seeds that the search did not use.
        """
        return self.draw_error(candidate, seed, "test")

    def draw_error(self, candidate: Any, seed: int, split: str = "validation") -> float:
        """The error of one full training, without the rest of the trial (a third of the time)."""
        budget = self.budgets[-1]
        family = self._family(candidate)
        expected = self._expected(family, budget)
        error = expected.cost if split == "validation" else expected.test_error
        n_images = self.task.n_val if split == "validation" else self.task.n_test
        error += self._noise(expected, candidate, family, budget, seed, split)
        lowest = self._models[budget].lowest[split == "test"]
        return max(self._counted(error, n_images), lowest) if self.noise else min(max(error, 0.0), 1.0)

    def _noise(self, expected: Expected, candidate: Any, family: _Family, budget: int, seed: int, split: str) -> float:
        """What one training's error differs by from that of its family."""
        if not (self.noise or _is_individual(candidate)):
            return 0.0
        noise = expected.wiring_sd * _wiring_effect(_wiring_key(candidate, seed, family), budget)
        if self.noise:
            draws = _Draws(f"{self.name}/{candidate.digest}/{budget}/{seed}")
            noise += expected.weights_sd * self._models[budget].shape(draws.uniform(0))
            noise += expected.split_sd * draws.normal(1 if split == "validation" else 2)
        return noise

    def training_free_score(self, candidate: Any, seed: int) -> Score:
        """The score of a real untrained student (`KDEvaluator.training_free_score`): cheap enough to need no surrogate.

        Takes some 20 ms; the first call loads torch, the images and the teacher (trained once on a machine).
        """
        if self._scorer is None:
            from naslib_autokd.evaluators.kd import KDEvaluator

            self._scorer = KDEvaluator(self.task)
        score: Score = self._scorer.training_free_score(candidate, seed)
        return score

    def test_accuracy(self, candidate: Any, seed: int) -> float:
        """``1 - final_test_error``: what the NASLib plugin asks of an evaluator that trains nothing."""
        return 1.0 - self.final_test_error(candidate, seed)

    def noise_sd(self, candidate: Any, budget_epochs: int) -> tuple[float, float]:
        """Standard deviations of the validation error that wirings, and that weight seeds and the split, add."""
        expected = self._expected(self._family(candidate), budget_epochs)
        return expected.wiring_sd, math.hypot(expected.weights_sd, expected.split_sd)

    @property
    def best_test_error(self) -> float:
        """The lowest `true_test_error` of a family that a seeded optimisation of the surrogate found (`fit_files`)."""
        return float(self.datasheet["best"]["test_error"])

    @cached_property
    def best_candidate(self) -> Candidate:
        """The family with `best_test_error`."""
        return Candidate.from_dict(self.datasheet["best"]["candidate"])

    # --- inside -------------------------------------------------------------------------------------------------------

    def _family(self, candidate: Any) -> _Family:
        if isinstance(candidate, HasSize) and candidate.size != 1.0:
            raise BenchmarkError(
                f"the benchmark {self.name} has students of the task's full parameter limit only, not of "
                f"{candidate.size:g} of it: search a space without search_size"
            )
        try:
            values = tuple(self._encoding.values(candidate))
        except AttributeError as error:
            raise BenchmarkError(f"the benchmark {self.name} has no answer for a {type(candidate).__name__}") from error
        except ValueError as error:
            raise BenchmarkError(f"the benchmark {self.name} has no answer: {error}") from error
        family = self._families.get(values)
        if family is None:
            if len(self._families) >= N_REMEMBERED:
                self._families.clear()
            family = self._families[values] = _Family(
                self._encoding.features(values),
                self._encoding.diversity(values),
                self._encoding.generator_key(values),
                {},
            )
        return family

    def _expected(self, family: _Family, budget: int) -> Expected:
        found = family.expected.get(budget)
        if found is None:
            if budget not in self._models:
                raise BenchmarkError(
                    f"the benchmark {self.name} has trainings of {', '.join(map(str, self.budgets))} epochs, not of "
                    f"{budget}: each budget has its own learning-rate schedule"
                )
            found = family.expected[budget] = self._models[budget](family.features, family.diversity)
        return found

    def _truth(self, candidate: Any) -> Expected:
        family, budget = self._family(candidate), self.budgets[-1]
        expected = self._expected(family, budget)
        if not _is_individual(candidate):
            return expected
        effect = expected.wiring_sd * _wiring_effect(_wiring_key(candidate, 0, family), budget)
        return expected._replace(cost=expected.cost + effect, test_error=expected.test_error + effect)

    def _spec(self, wiring: Wiring) -> StudentSpec:
        task = self.task
        return fit_width(
            wiring,
            task.max_params,
            in_channels=task.in_channels,
            image_size=task.image_size,
            n_classes=task.n_classes,
            stem=task.stem,
            min_channels=task.min_channels,
            width_multiple=task.width_multiple,
        )

    def _trial(self, proposal: Proposal, spec: StudentSpec, wiring_seed: int | None, **results: Any) -> Trial:
        return Trial.of(
            proposal,
            student_epochs=float(proposal.budget_epochs),
            wiring=spec.wiring.digest,
            wiring_seed=wiring_seed,
            channels=spec.channels,
            n_params=spec.n_params,
            budget_used=spec.n_params / self.task.max_params,
            macs=spec.macs,
            depth=spec.depth,
            **results,
        )

    @staticmethod
    def _counted(error: float, n_images: int) -> float:
        """The nearest share of so many images."""
        return min(max(round(error * n_images), 0), n_images) / n_images


class _Family(NamedTuple):
    features: Array
    diversity: float
    generator: str
    """Tells generators apart, whatever the KD settings."""
    expected: dict[int, Expected]


def _is_individual(candidate: Any) -> bool:
    return isinstance(candidate, WiringCandidate) or candidate.wiring_seed is not None


def _draw(candidate: Any, seed: int) -> tuple[Wiring, int | None]:
    """The wiring of a training and its seed (None for an edited wiring)."""
    if isinstance(candidate, WiringCandidate):
        return candidate.wiring, None
    wiring_seed = derive_seed(seed, "wiring") if candidate.wiring_seed is None else candidate.wiring_seed
    return candidate.generator.sample_wiring(wiring_seed), wiring_seed


def _wiring_key(candidate: Any, seed: int, family: _Family) -> str:
    """What the wiring's noise is a function of.

    An edited wiring is known by its content; a drawn one by its generator and seed, so that the noise of a family's
    wirings has mean 0 over seeds also where few wirings are possible.
    """
    if isinstance(candidate, WiringCandidate):
        return candidate.wiring.digest
    seed = derive_seed(seed, "wiring") if candidate.wiring_seed is None else candidate.wiring_seed
    return f"{family.generator}/{seed}"


def _wiring_effect(key: str, budget: int) -> float:
    """Standard normal, correlated by `BUDGET_CORRELATION` between budgets."""
    common, own = _Draws(f"wiring/{key}").normal(0), _Draws(f"wiring/{key}/{budget}").normal(0)
    return math.sqrt(BUDGET_CORRELATION) * common + math.sqrt(1 - BUDGET_CORRELATION) * own


class _Draws:
    """A few random numbers that are a function of a text, on every machine."""

    def __init__(self, text: str) -> None:
        self._text = text
        digest = hashlib.sha256(text.encode()).digest()
        self._words = [int.from_bytes(digest[i : i + 8], "big") >> 11 for i in range(0, 32, 8)]

    def uniform(self, index: int) -> float:
        """In (0, 1); ``index`` 0 to 3."""
        return (self._words[index] + 0.5) / 2**53

    def normal(self, index: int) -> float:
        return _normal(self.uniform(index))

    def normals(self, n: int) -> Array:
        """Coarse ones, of 256 values, for curves."""
        return _COARSE[np.frombuffer(hashlib.shake_128(self._text.encode()).digest(n), dtype=np.uint8)]


def _coarse_normals() -> Array:
    values = np.array([_normal((i + 0.5) / 256) for i in range(256)])
    return values / values.std()


_COARSE = _coarse_normals()


# --- files ------------------------------------------------------------------------------------------------------------


def table_of(trials: Sequence[Trial], stages: Sequence[str], space: HNAGSpace) -> dict[str, NDArray[Any]]:
    """The trainings of a build as columns of equal length, by number.

    ``number``, ``stage``, ``family`` (index: equal for equal families), ``top_nodes`` ... ``kd_weight`` (the space's
    hyperparameters; nan where one has no effect), ``wiring_seed``, ``seed`` (of the weights), ``budget_epochs``,
    ``status``, ``cost`` (validation error), ``val_accuracy``, ``test_accuracy``, ``train_accuracy``,
    ``teacher_agreement``, ``test_agreement``, ``val_curve`` and ``loss_curve`` (one column an epoch, nan after the
    budget; the former on the first 600 validation images), ``n_params``, ``macs``, ``depth``, ``channels`` (3 columns),
    ``train_memory_bytes``, ``train_s``, ``evaluate_s``, ``wiring`` (digest). What a failure does not have is nan or 0.

    Args:
        stages: Of each trial, in the same order.
    """
    order = sorted(range(len(trials)), key=lambda i: trials[i].number)
    rows = [trials[i] for i in order]
    names = list(space._space)
    families: dict[str, int] = {}
    values = []
    for trial in rows:
        candidate = Candidate.from_dict({**trial.candidate, "wiring_seed": None})
        families.setdefault(candidate.digest, len(families))
        values.append(space.values(candidate))
    longest = max(trial.budget_epochs for trial in rows)

    def curve(of: Callable[[Trial], Sequence[float]]) -> NDArray[Any]:
        padded = [[*of(trial), *[math.nan] * (longest - len(of(trial)))] for trial in rows]
        return np.array(padded, dtype=np.float32)

    def numbers(of: Callable[[Trial], float | None]) -> NDArray[Any]:
        return np.array([math.nan if (value := of(trial)) is None else value for trial in rows], dtype=np.float32)

    def integers(of: Callable[[Trial], int | None]) -> NDArray[Any]:
        return np.array([of(trial) or 0 for trial in rows], dtype=np.int64)

    digests = [Candidate.from_dict({**trial.candidate, "wiring_seed": None}).digest for trial in rows]
    columns: dict[str, NDArray[Any]] = {
        "number": integers(lambda t: t.number),
        "stage": np.array([stages[i] for i in order]),
        "family": np.array([families[digest] for digest in digests], dtype=np.int64),
    }
    for name in names:
        known = [value.get(name) for value in values]
        if any(isinstance(value, str) for value in known):
            columns[name] = np.array(known)
        else:
            columns[name] = np.array([math.nan if value is None else value for value in known], dtype=np.float64)
    return columns | {
        "wiring_seed": integers(lambda t: t.candidate["wiring_seed"]),
        "seed": integers(lambda t: t.seed),
        "budget_epochs": integers(lambda t: t.budget_epochs).astype(np.int16),
        "status": np.array([trial.status for trial in rows]),
        "cost": numbers(lambda t: t.cost),
        "val_accuracy": numbers(lambda t: t.val_accuracy),
        "test_accuracy": numbers(lambda t: t.info.get("test_accuracy")),
        "train_accuracy": numbers(lambda t: t.train_accuracy),
        "teacher_agreement": numbers(lambda t: t.teacher_agreement),
        "test_agreement": numbers(lambda t: t.info.get("test_agreement")),
        "val_curve": curve(lambda t: t.info.get("val_curve", ())),
        "loss_curve": curve(lambda t: t.curve),
        "n_params": integers(lambda t: t.n_params).astype(np.int32),
        "macs": integers(lambda t: t.macs),
        "depth": integers(lambda t: t.depth).astype(np.int16),
        "channels": np.array([trial.channels or (0, 0, 0) for trial in rows], dtype=np.int16),
        "train_memory_bytes": integers(lambda t: t.train_memory_bytes),
        "train_s": numbers(lambda t: t.train_s),
        "evaluate_s": numbers(lambda t: t.evaluate_s),
        "wiring": np.array([trial.wiring for trial in rows]),
    }


def write_files(path: str | Path, arrays: Mapping[str, NDArray[Any]], datasheet: Mapping[str, Any]) -> None:
    """``path`` (.npz) and its ``.json``; equal content is equal bytes."""
    path = Path(path)
    if path.suffix != ".npz":
        raise BenchmarkError(f"a benchmark is an .npz file, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **dict(arrays))  # type: ignore[arg-type]
    content = {"format": FORMAT, "sha256": _sha256(path), **datasheet}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_files(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Inverse of `write_files`.

    Raises:
        BenchmarkError: If a file is missing, damaged, or of another version.
    """
    path = Path(path)
    sheet = path.with_suffix(".json")
    for needed in (path, sheet):
        if not needed.is_file():
            raise BenchmarkError(f"{needed} does not exist: a benchmark is an .npz file with its .json beside it")
    try:
        datasheet = json.loads(sheet.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchmarkError(f"{sheet} is damaged: {error}") from error
    if not isinstance(datasheet, dict) or datasheet.get("format") != FORMAT:
        found = datasheet.get("format") if isinstance(datasheet, dict) else None
        raise BenchmarkError(
            f"{path} has format {found}, and naslib_autokd {__version__} reads format {FORMAT}: fit it again from its "
            "table (naslib-autokd bench fit), or use the version that wrote it"
        )
    if datasheet.get("sha256") != _sha256(path):
        raise BenchmarkError(f"{path} is damaged, or {sheet.name} belongs to another file: their checksums differ")
    with np.load(path, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}, datasheet


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _space_of(described: Mapping[str, Any]) -> HNAGSpace:
    return HNAGSpace(described["name"], search_kd=described["search_kd"], mode=described["mode"])


FITTED_STAGES = ("space", "nested", "dense", "dense-nested", "repeats", "kd")
"""Stages of a build that surrogates are fitted to; the others judge them."""


def fit_files(
    trials: Sequence[Trial], stages: Sequence[str], task: Task, space: HNAGSpace, path: str | Path, **made: Any
) -> dict[str, Any]:
    """Fit a surrogate to the trainings of a build and write the benchmark's files; the datasheet.

    Args:
        stages: Of each trial (`runners.bench.stage_of`); those in `FITTED_STAGES` are fitted.
        made: More for the datasheet (how the table was made).

    Raises:
        BenchmarkError: If there are too few trainings.
    """
    table = table_of(trials, stages, space)
    encoding = FamilyEncoding(space, task)
    rows = table_values(table, encoding)
    features = np.stack([encoding.features(values) for values in rows])
    fitted = np.isin(table["stage"], FITTED_STAGES)
    arrays: dict[str, NDArray[Any]] = {f"table/{name}": column for name, column in table.items()}
    models: dict[int, BudgetModel] = {}
    for budget in sorted({int(b) for b in table["budget_epochs"]}):
        trainings = trainings_of(_rows(table, fitted), features[fitted], budget)
        n_families = len(np.unique(trainings.family))
        if n_families < MIN_FAMILIES:
            raise BenchmarkError(
                f"a surrogate needs at least {MIN_FAMILIES} families trained at {budget} epochs, found {n_families}: "
                "let the build go on (naslib-autokd bench build)"
            )
        failed = float(np.mean(table["status"][fitted & (table["budget_epochs"] == budget)] != "success"))
        models[budget] = fit(trainings, task.n_val, failed)
        arrays |= {f"{budget}/{name}": array for name, array in models[budget].to_arrays().items()}
    values, _ = best_family(encoding, models[max(models)])
    active = {name: value for name, value in zip(encoding.names, values, strict=True) if value is not None}
    datasheet = {
        "name": Path(path).stem,
        "task": task.to_dict(),
        "space": space.describe(),
        "budgets": list(models),
        "made": {"naslib_autokd": __version__, **made},
        "n_trainings": len(trials),
        "n_families": int(table["family"].max()) + 1,
        "stages": {stage: int(np.sum(table["stage"] == stage)) for stage in dict.fromkeys(table["stage"].tolist())},
    }
    candidate = space.candidate(active)
    best = {"candidate": candidate.to_dict(), "test_error": 0.0}
    write_files(path, arrays, {**datasheet, "best": best})
    benchmark = KDBenchmark(path=path)
    best["test_error"] = benchmark.true_test_error(candidate)
    datasheet |= {"best": best}
    datasheet["quality"] = _quality(table, rows, features, encoding, models)
    write_files(path, arrays, datasheet)
    return datasheet


def _rows(table: Mapping[str, NDArray[Any]], chosen: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    return {name: column[chosen] for name, column in table.items()}


def _quality(
    table: Mapping[str, NDArray[Any]],
    rows: Sequence[Sequence[Any]],
    features: Array,
    encoding: FamilyEncoding,
    models: Mapping[int, BudgetModel],
) -> dict[str, list[dict[str, Any]]]:
    """The tables of the datasheet: title -> rows."""
    found: dict[str, list[dict[str, Any]]] = {}
    full = max(models)
    groups = {"all": HELD_OUT_STAGES, **{stage: (stage,) for stage in HELD_OUT_STAGES}}
    of_budgets, of_epochs = [], []
    for group, stages in groups.items():
        chosen = np.isin(table["stage"], stages)
        diversity = np.array([encoding.diversity(rows[i]) for i in np.flatnonzero(chosen).tolist()])
        for budget, model in models.items():
            trained = (table["budget_epochs"][chosen] == budget) & (table["status"][chosen] == "success")
            trainings = trainings_of(_rows(table, chosen), features[chosen], budget)
            if len(np.unique(trainings.family)) >= MIN_HELD_OUT:
                of_budgets.append(
                    {"held out": group, "epochs": budget, **held_out_quality(model, trainings, diversity[trained])}
                )
                if group == "all" and budget == full:
                    of_epochs = curve_quality(model, trainings)
    if of_budgets:
        found["Families that were not fitted, by epochs of training"] = of_budgets
        found[f"The same, each epoch of the training of {full} epochs"] = of_epochs
    chosen = (table["stage"] == "kd-held-out") & (table["status"] == "success")
    if chosen.any():
        generators = np.array([encoding.generator_key(rows[i]) for i in np.flatnonzero(chosen).tolist()])
        trainings = trainings_of(_rows(table, chosen), features[chosen], full)
        found["KD settings of generators that were not fitted, in full"] = [
            kd_quality(models[full], trainings, generators)
        ]
    chosen = np.isin(table["stage"], FITTED_STAGES) & (table["budget_epochs"] == full) & (table["status"] == "success")
    trainings = trainings_of(_rows(table, chosen), features[chosen], full)
    column = {name: table[name][chosen] for name in encoding.names}
    regions = {
        f"{name} = {value}": column[name] == value
        for name in ("bottom_nodes", "downsampling")
        for value in np.unique(column[name])
    }
    regions |= {
        f"{low} <= top_nodes <= {high}": (column["top_nodes"] >= low) & (column["top_nodes"] <= high)
        for low, high in ((3, 4), (5, 6), (7, 9))
    }
    for name in ("channel_growth", "temperature", "kd_weight"):
        low, high = np.quantile(column[name], (1 / 3, 2 / 3))
        regions |= {f"{name} < {low:.2f}": column[name] < low, f"{name} > {high:.2f}": column[name] > high}
    found[f"Regions left out of the fit, {full} epochs"] = region_quality(
        models[full], trainings, regions, models[full].variances(trainings.features)
    )
    return {title: lines for title, lines in found.items() if lines}


HELD_OUT_STAGES = ("held-out", "dense-held-out")
MIN_HELD_OUT = 8


MIN_FAMILIES = 20


def table_values(table: Mapping[str, NDArray[Any]], encoding: FamilyEncoding) -> list[list[Any]]:
    """The hyperparameters of each row, as `FamilyEncoding.values` gives them."""
    columns = []
    for name in encoding.names:
        column = table[name].tolist()
        whole = name.endswith(("_nodes", "_k"))
        columns.append(
            [
                value if isinstance(value, str) else None if math.isnan(value) else int(value) if whole else value
                for value in column
            ]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def get_benchmark(benchmark: Any, **options: Any) -> Any:
    """The benchmark of a name in `BENCHMARKS`, an ``.npz`` file, or the ``.yaml`` of a foreign table.

    More names come from the entry points ``naslib_autokd.benchmarks`` (NASLib's NAS-Bench-201). An object is returned
    as it is.

    Raises:
        BenchmarkError: If there is none (with the nearest names).
    """
    if not isinstance(benchmark, str | Path):
        return benchmark
    path = Path(benchmark)
    if path.suffix in (".yaml", ".yml"):
        from naslib_autokd.evaluators.foreign import ForeignBenchmark

        return ForeignBenchmark(path, **options)
    if path.suffix == ".npz":
        return KDBenchmark(path=path, **options)
    for point in entry_points(group="naslib_autokd.benchmarks", name=str(benchmark)):
        return point.load()(**options)
    return KDBenchmark(str(benchmark), **options)


@dataclass(frozen=True)
class Agreement:
    """How live trainings and a benchmark's answers agree, over families trained once each in full."""

    n: int
    correlations: dict[str, tuple[float, float, float]]
    """``pearson``, ``spearman`` and ``kendall`` of the live errors with the expected ones: value and 95% interval
    (bootstrap over families)."""
    exact: dict[str, tuple[float, float]]
    """The middle 95% of the same correlations if the benchmark were exact: its own noise on its own means."""
    difference: tuple[float, float, float]
    """Mean of live minus expected error and its 95% interval (Student t)."""
    coverage: float
    """Share of live errors inside the benchmark's 95% interval of one training."""


def agreement(benchmark: KDBenchmark, trials: Sequence[Trial], split: str = "validation") -> Agreement:
    """Compare live trainings with what ``benchmark`` expected of them.

    Args:
        trials: Successful full trainings, at least 3; failures are left out.
        split: "validation", or "test" for trials of a `evaluators.recording.RecordingEvaluator`.

    Raises:
        BenchmarkError: If there are too few.
    """
    from scipy import stats

    full = benchmark.budgets[-1]
    trials = [trial for trial in trials if trial.succeeded and trial.budget_epochs == full]
    if len(trials) < 3:
        raise BenchmarkError(f"agreement needs at least 3 trainings of {full} epochs, got {len(trials)}")
    candidates = [Candidate.from_dict(trial.candidate) for trial in trials]
    of = benchmark.true_cost if split == "validation" else benchmark.true_test_error
    live = np.array([t.cost if split == "validation" else 1 - t.info["test_accuracy"] for t in trials])
    expected = np.array([of(candidate) for candidate in candidates])
    functions: dict[str, Callable[[Array, Array], Any]] = {
        "pearson": stats.pearsonr,
        "spearman": stats.spearmanr,
        "kendall": stats.kendalltau,
    }

    def correlation(name: str, a: Array, b: Array) -> float:
        """nan where nothing varies."""
        return float(functions[name](a, b)[0]) if np.ptp(a) > 0 and np.ptp(b) > 0 else math.nan

    rng = np.random.default_rng(0)
    resampled = [rng.integers(len(trials), size=len(trials)) for _ in range(1000)]
    resampled = [rows for rows in resampled if len(set(rows.tolist())) > 2]
    drawn = [
        np.array([benchmark.draw_error(c, 1_000_000 * k + i, split) for i, c in enumerate(candidates)])
        for k in range(200)
    ]
    correlations, exact = {}, {}
    for name in functions:
        found = [correlation(name, live[rows], expected[rows]) for rows in resampled]
        low, high = np.nanquantile(found, (0.025, 0.975))
        correlations[name] = (correlation(name, live, expected), float(low), float(high))
        low, high = np.nanquantile([correlation(name, errors, expected) for errors in drawn], (0.025, 0.975))
        exact[name] = (float(low), float(high))
    apart = live - expected
    half = float(stats.t.ppf(0.975, len(apart) - 1)) * float(apart.std(ddof=1)) / math.sqrt(len(apart))
    low_, high_ = np.quantile(np.stack(drawn), (0.025, 0.975), axis=0)
    return Agreement(
        n=len(trials),
        correlations=correlations,
        exact=exact,
        difference=(float(apart.mean()), float(apart.mean()) - half, float(apart.mean()) + half),
        coverage=float(np.mean((live >= low_) & (live <= high_))),
    )
