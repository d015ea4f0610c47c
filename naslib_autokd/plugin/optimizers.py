"""Optimizers across the two packages, both ways.

`NASLibOptimizer` runs one of NASLib's discrete optimizers as ours (ask and tell), so that our runner gives it what
NASLib cannot: resume after a kill, true counts of evaluations, records, workers. `AskTellOptimizer`, and `AutoKD` of
it, run any of ours, the multi-fidelity ones included, as NASLib's `MetaOptimizer` in NASLib's own Trainer.

Known defects of NASLib (Develop, 0b51bc18) that would make a comparison unfair, and what happens here:

* Bananas with ``acq_fn_optimization="random_sampling"`` queries the objective for every candidate that it ranks (110
  evaluations in 30 epochs): ranked candidates are not evaluated here.
* Bananas and Npenas overwrite the parent in the loop that mutates it, so that the i-th candidate is i mutations away,
  whatever ``max_mutations``: each candidate starts from its parent here; ``as_published=True`` leaves NASLib's loop.
* Bananas with ``acq_fn_type="ei"`` calls ``max`` on a list and raises: it is given an array here. The
  ensembles of "xgb" and "lgb" have no spread, so that "ei" divides by zero: refused.
* BasePredictor answers 3 statistics where the Trainer unpacks 4 (`BasePredictor` here answers 4), and has nothing to do
  after its ``epochs``: as one of ours another round follows (`_BasePredictor`). Below 9 epochs it plans no fit (here
  one follows), and with ``num_ensemble=1`` it averages over the wrong axis (refused).
* All keep a history of 100 whose full list drops the *first* worse entry, not the worst: here the incumbent comes from
  the records, and no history is kept.
* RegularizedEvolution and LocalSearch evaluate architectures again that they have evaluated: so they do here, and each
  time counts.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from threadpoolctl import ThreadpoolController  # scikit-learn needs it too

from naslib_autokd.evaluators.base import HasTask
from naslib_autokd.optimizers import autokd
from naslib_autokd.optimizers.base import (
    OptimizerFactory,
    ScoresStudents,
    SearchSpaceLike,
    SpaceExhausted,
    answers,
    check_budgets,
    get_optimizer,
    known_to,
    nearest,
    replay,
)
from naslib_autokd.plugin.architectures import ARCHITECTURES
from naslib_autokd.plugin.candidates import ArchitectureSpace
from naslib_autokd.plugin.config import fidelity_note
from naslib_autokd.plugin.evaluation import KDDatasetAPI
from naslib_autokd.plugin.graphs import graph_class
from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.plugin.spaces import NASLibSpace
from naslib_autokd.plugin.table_cells import table_graph
from naslib_autokd.plugin.tabular import TabularEvaluator
from naslib_autokd.records import FAILURE_COST, CandidateLike, Proposal, Trial, derive_seed, incumbent
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.search_spaces.table import TableSpace

load_naslib()

from fvcore.common.config import CfgNode  # noqa: E402
from naslib import optimizers as upstream  # noqa: E402
from naslib.optimizers.core.metaclasses import MetaOptimizer  # noqa: E402
from naslib.search_spaces.core.query_metrics import Metric  # noqa: E402

logger = logging.getLogger("naslib.autokd")  # below NASLib's, whose handlers its runners set up

WORST_ACCURACY = 0.0
"""What NASLib is told of a failed training, in percent: NaN would stop its optimizers or freeze their incumbent."""

PREDICTORS = (
    *("bananas", "bayes_lin_reg", "bohamiann", "dngo", "gp", "lgb", "mlp", "ngb", "rf", "sparse_gp", "var_sparse_gp"),
    *("xgb", "bonas", "gcn", "gpwl", "nao", "seminas", "omni_ngb", "omni_seminas"),
)
"""NASLib's ``predictor_type``. From "bonas" on they work on NASLib's own spaces only, if at all."""

DEFAULT_PREDICTOR = "xgb"
"""NASLib's runners take "var_sparse_gp", a minute for each fit. One thread, a fit to 10-60 trials with 200 candidates
ranked: "bayes_lin_reg" and "lgb" 0.1 s, "xgb" 0.4 s, "rf", "bananas" and "mlp" 5 s. Bananas on `hnag` with a noisy
made-up accuracy, 60 trials, 6 seeds: xgb 0.837 +- 0.003, bayes_lin_reg 0.833 +- 0.004, lgb 0.828 +- 0.005, and random
search (10 seeds) 0.808 +- 0.003."""

ALIKE = ("xgb", "lgb")
"""Predictors whose ensembles have no spread (NASLib gives every member the same data and seed): "its" and "ucb" rank by
the mean with them, and "ei" divides by zero."""

ACQUISITION_FUNCTIONS = ("its", "ucb", "ei", "exploit_only")
ACQUISITION_OPTIMIZERS = ("mutation", "random_sampling")


# --- NASLib's optimizers, corrected


class _Noted:
    """Keeps the newest model instead of a history; `told` and `adopt` say where the optimizer learns from it."""

    newest: Any = None

    def _update_history(self, child: Any) -> None:
        self.newest = child

    def told(self, model: Any) -> None:
        """The accuracy of ``model`` was only assumed so far and is known now: nothing more to do than set it."""

    def adopt(self, model: Any) -> None:
        """Learn from an architecture that was not proposed here: nothing in it to learn with."""


class _RandomSearch(_Noted, upstream.RandomSearch):
    def new_epoch(self, epoch: int) -> None:
        super().new_epoch(epoch)
        self.sampled_archs.clear()  # read by get_final_architecture alone


class _RegularizedEvolution(_Noted, upstream.RegularizedEvolution):
    def adopt(self, model: Any) -> None:
        self.population.append(model)


class _LocalSearch(_Noted, upstream.LocalSearch):
    """`climb`: models since the last restart, of which NASLib takes the best for its next centre."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.climb: list[Any] = []

    def new_epoch(self, epoch: int) -> None:
        self.newest = None
        super().new_epoch(epoch)
        if self.newest is None:  # a restart: not put into the history by NASLib
            self.newest = self.best_arch
            self.climb.clear()
        self.climb.append(self.newest)

    def told(self, model: Any) -> None:
        self.best_arch = max(self.climb, key=lambda m: m.accuracy)
        if self.best_arch.told:
            self.climb = [m for m in self.climb if m is self.best_arch or not m.told]

    def adopt(self, model: Any) -> None:
        self.climb.append(model)
        self.told(model)


class _WithPredictor(_Noted):
    """Bananas, Npenas and BasePredictor learn from `train_data`."""

    train_data: list[Any]

    def adopt(self, model: Any) -> None:
        model.arch_hash = model.arch.get_hash()
        self.train_data.append(model)


class _NotFromEqualAnswers:
    """No predictor learns from equal answers (NASLib's divide by their spread): draws as in the first epochs then."""

    train_data: list[Any]

    def new_epoch(self, epoch: int) -> None:
        equal = len({model.accuracy for model in self.train_data}) < 2
        super().new_epoch(0 if equal else epoch)  # type: ignore[misc]


class _WithMutation(_NotFromEqualAnswers, _WithPredictor):
    config: Any

    def _get_train(self) -> tuple[list[Any], Any]:
        return [m.arch for m in self.train_data], np.array([m.accuracy for m in self.train_data])

    def _get_new_candidates(self, ytrain: Any) -> list[Any]:
        search = self.config.search
        if search.as_published or search.get("acq_fn_optimization", "mutation") != "mutation":
            candidates: list[Any] = super()._get_new_candidates(ytrain)  # type: ignore[misc]
            return candidates
        parents = [self.train_data[i].arch for i in np.argsort(ytrain)[-search.num_arches_to_mutate :]]
        space: Any = self.search_space  # type: ignore[attr-defined]
        candidates = []
        for parent in parents:
            for _ in range(int(search.num_candidates / len(parents) / search.max_mutations)):
                model: Any = torch.nn.Module()
                model.arch = parent
                for _ in range(search.max_mutations):
                    child = space.clone()
                    child.mutate(model.arch, dataset_api=self.dataset_api)  # type: ignore[attr-defined]
                    if space.instantiate_model:
                        child.parse()
                    model.arch = child
                model.arch_hash = model.arch.get_hash()
                candidates.append(model)
        return candidates


class _Bananas(_WithMutation, upstream.Bananas):
    pass


class _Npenas(_WithMutation, upstream.Npenas):
    pass


class _BasePredictor(_WithPredictor, upstream.BasePredictor):
    """NASLib's schedule is one round: ``epochs - k`` random architectures, a fit, the ``k`` best of ``2 * epochs``.

    When it is over another one starts: a fit to all that was evaluated, the ``k`` best of ``2 * epochs`` new ones.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.k: int = max(1, self.k)  # 0 below 9 epochs, where NASLib evaluates random architectures only
        self.chosen: list[Any] = []
        self.choices: list[Any] = []

    def new_epoch(self, epoch: int) -> None:
        if epoch < self.num_init:
            super().new_epoch(epoch)
            return
        step = (epoch - self.num_init) % self.k
        if step == 0:
            self.train_data += self.chosen
            self.chosen, self.choices = [], []
        super().new_epoch(self.num_init + step)
        self.chosen.append(self.newest)


_PREDICTOR_OPTIONS: dict[str, Any] = {
    "predictor_type": DEFAULT_PREDICTOR,
    "num_ensemble": 3,
    "encoding_type": "adjacency_one_hot",  # NASLib stores it and takes the one of each predictor
}
_MUTATION_OPTIONS: dict[str, Any] = {
    "num_init": 10,
    "k": 10,
    **_PREDICTOR_OPTIONS,
    "num_arches_to_mutate": 5,
    "max_mutations": 1,
    "num_candidates": 200,
    "as_published": False,
}
_KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "random_search": (_RandomSearch, {}),
    "regularized_evolution": (_RegularizedEvolution, {"sample_size": 10, "population_size": 30}),
    "local_search": (_LocalSearch, {"num_init": 10}),
    "bananas": (_Bananas, {**_MUTATION_OPTIONS, "acq_fn_type": "its", "acq_fn_optimization": "mutation"}),
    "npenas": (_Npenas, _MUTATION_OPTIONS),
    "base_predictor": (_BasePredictor, {**_PREDICTOR_OPTIONS, "epochs": None}),
}
"""Name -> (class, options with the values of NASLib's ``runners/nas/discrete_config.yaml``, but for predictor_type)."""


def _checked_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    known = _KINDS[kind][1]
    for name, value in options.items():
        if name not in known:
            if not known:
                raise ValueError(f"NASLib's {kind} has no options, got {name!r}")
            raise ValueError(nearest(name, known, f"option of NASLib's {kind}"))
        default = known[name]
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if (name == "epochs" or (isinstance(default, int) and not isinstance(default, bool))) and not whole:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    chosen = {**known, **options}
    for name, names in (
        ("predictor_type", PREDICTORS),
        ("acq_fn_type", ACQUISITION_FUNCTIONS),
        ("acq_fn_optimization", ACQUISITION_OPTIMIZERS),
    ):
        if name in chosen and chosen[name] not in names:
            raise ValueError(nearest(chosen[name], names, name))
    if chosen.get("acq_fn_type") == "ei" and chosen["predictor_type"] in ALIKE:
        raise ValueError(
            "acq_fn_type 'ei' needs an ensemble whose members differ, and those of NASLib's "
            f"{chosen['predictor_type']!r} do not; take predictor_type 'rf' or 'bananas', or acq_fn_type 'its'"
        )
    if (
        "num_candidates" in chosen
        and chosen["num_candidates"] < chosen["num_arches_to_mutate"] * chosen["max_mutations"]
    ):
        raise ValueError(
            "num_candidates must be at least num_arches_to_mutate * max_mutations "
            f"({chosen['num_arches_to_mutate']} * {chosen['max_mutations']}), got {chosen['num_candidates']}"
        )
    if kind == "base_predictor" and chosen["num_ensemble"] < 2:
        raise ValueError("num_ensemble must be at least 2: NASLib's BasePredictor averages over the wrong axis of one")
    return chosen


# --- NASLib's optimizers as ours


class _Answers:
    """The ``dataset_api`` that NASLib's optimizer asks: answers at once, with what is assumed until the tell."""

    def __init__(self) -> None:
        self.assumed = WORST_ACCURACY

    def query(
        self, arch: Any, metric: Any, dataset: Any = None, epoch: int = -1, full_lc: bool = False, **_: Any
    ) -> float:
        return self.assumed

    def __deepcopy__(self, memo: dict[int, Any]) -> _Answers:
        return self


class _RandomStreams:
    """The global random streams of ``random``, numpy and torch (CPU), as one object that can be swapped in."""

    def __init__(self, seed: int) -> None:
        outside = self._get()
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - NASLib draws from the global stream
        torch.random.default_generator.manual_seed(seed)
        self._own = self._get()
        self._set(outside)

    @staticmethod
    def _get() -> tuple[Any, Any, Any]:
        return random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002

    @staticmethod
    def _set(state: tuple[Any, Any, Any]) -> None:
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
        torch.random.set_rng_state(state[2])

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        outside = self._get()
        self._set(self._own)
        try:
            yield
        finally:
            self._own = self._get()
            self._set(outside)


@cache
def _threadpools() -> Any:
    return ThreadpoolController()  # finds the libraries once: 20 ms


@contextlib.contextmanager
def _one_quiet_thread(all_libraries: bool) -> Iterator[None]:
    """One thread (sums must not depend on their number) and no progress bars, prints or warnings of NASLib."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.ExitStack() as stack:
            if all_libraries:
                stack.enter_context(_threadpools().limit(limits=1))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)


class NASLibOptimizer:
    """One of NASLib's discrete optimizers, asked and told.

    NASLib's ``new_epoch`` evaluates one architecture in its middle and none of its optimizers looks at the result
    before the next one. So `ask` runs the epoch and answers the query with an assumed accuracy, the worst that was
    told so far (0 before any), and `tell` puts the true one wherever NASLib keeps it (RegularizedEvolution's
    population, LocalSearch's best architecture, the training data of the predictors). With one worker each trial is
    told before the next ask, and the search is NASLib's own, architecture for architecture; with several, those in
    flight count as bad until they are told.

    NASLib draws from the global streams of numpy, ``random`` and torch. This has its own, seeded as ``utils.set_seed``
    and ``Trainer.search`` do and swapped in only while NASLib's code runs, on one thread. Restored by replay.

    A trial that was never proposed here (a warm start) enters the population (RegularizedEvolution), the current climb
    (LocalSearch) or the training data (Bananas, Npenas, BasePredictor), if it was trained at ``max_budget_epochs``, the
    only budget that NASLib knows; RandomSearch ignores it. A failed one counts as 0 percent. The incumbent is the
    candidate with the lowest observed cost at the largest budget.

    Args:
        kind: "random_search", "regularized_evolution", "local_search", "bananas", "npenas" or "base_predictor".
        space: What is searched: a space that has a NASLib graph (`graph_of`).
        seed: Seed of the run.
        max_budget_epochs: Epochs of every trial.
        min_budget_epochs: Accepted for uniformity; NASLib has one budget.
        total_budget_epochs: Student-epochs of the whole run: BasePredictor plans by it, the others do not.
        options: Names of NASLib's ``config.search``, with NASLib's values as defaults but for ``predictor_type``
            (`DEFAULT_PREDICTOR`). ``as_published=True``: Bananas and Npenas mutate as NASLib does. ``epochs``
            (BasePredictor): evaluations of the first round, by default the budget in full trainings.

    Raises:
        ValueError: For an unknown option (with the nearest), a value or a budget that cannot work.
    """

    def __init__(
        self,
        kind: str,
        space: SearchSpaceLike,
        *,
        seed: int = 0,
        max_budget_epochs: int,
        min_budget_epochs: int = 1,
        total_budget_epochs: float | None = None,
        **options: Any,
    ) -> None:
        if kind not in _KINDS:
            raise ValueError(nearest(kind, _KINDS, "optimizer of NASLib"))
        check_budgets(max_budget_epochs, min_budget_epochs, total_budget_epochs)
        chosen = _checked_options(kind, options)
        epochs = chosen.get("epochs")
        if epochs is None:
            epochs = 100 if total_budget_epochs is None else int(total_budget_epochs // max_budget_epochs)
        search = {**chosen, "epochs": epochs, "seed": seed, "fidelity": -1, "debug_predictor": False}
        self.kind, self.space, self.seed = kind, space, int(seed)
        self.max_budget_epochs = int(max_budget_epochs)
        self.config = CfgNode({"dataset": space.name, "seed": int(seed), "search": search})
        self._answers = _Answers()
        self._with_predictor = "predictor_type" in chosen
        self._asked = 0
        self._pending: dict[int, tuple[Proposal, Any]] = {}
        self._candidates: dict[str, CandidateLike] = {}
        self._trials: dict[tuple[int, str, int, int], Trial] = {}
        self._worst: float | None = None
        self._streams = _RandomStreams(self.seed)
        with _RandomStreams(self.seed).inside():  # building networks draws weights
            self._graph = graph_of(space)
            self._optimizer = _KINDS[kind][0](self.config)
            self._optimizer.adapt_search_space(self._graph, dataset_api=self._answers)

    def ask(self) -> Proposal:
        """The next evaluation.

        Raises:
            RuntimeError: If NASLib's code fails (with its error).
        """
        number = self._asked
        self._answers.assumed = WORST_ACCURACY if self._worst is None else self._worst
        try:
            with self._streams.inside(), _one_quiet_thread(self._with_predictor):
                self._optimizer.new_epoch(number)
        except Exception as error:
            raise RuntimeError(
                f"NASLib's {self.kind} failed before evaluation {number}: {type(error).__name__}: {error}"
            ) from error
        model = self._optimizer.newest
        model.told = False
        candidate = model.arch.candidate
        proposal = Proposal(candidate, self.max_budget_epochs, derive_seed(self.seed, "trial", number), number)
        self._asked += 1
        self._pending[number] = (proposal, model)
        self._candidates[candidate.digest] = candidate
        return proposal

    def tell(self, trial: Trial) -> None:
        """Learn from a trial, its own or a foreign one.

        Raises:
            ValueError: If the trial's candidate does not belong to this space.
        """
        key = (trial.number, trial.candidate_digest, trial.budget_epochs, trial.seed)
        if key in self._trials:
            return
        accuracy = 100.0 * (1.0 - trial.cost) if trial.succeeded else WORST_ACCURACY
        pending = self._pending.get(trial.number)
        if pending is not None and answers(trial, pending[0]):
            model = self._pending.pop(trial.number)[1]
            model.accuracy, model.told = accuracy, True
            self._optimizer.told(model)
        else:
            self._adopt(trial, accuracy)
        self._trials[key] = trial
        if trial.succeeded and trial.budget_epochs == self.max_budget_epochs:
            self._worst = accuracy if self._worst is None else min(accuracy, self._worst)

    def _adopt(self, trial: Trial, accuracy: float) -> None:
        model: Any = torch.nn.Module()
        try:
            with _RandomStreams(self.seed).inside():
                model.arch = with_candidate(self._graph, trial.candidate)
        except ValueError as error:
            raise ValueError(f"trial {trial.number} ({trial.candidate_digest}) is {error}") from error
        self._candidates.setdefault(trial.candidate_digest, model.arch.candidate)
        if trial.budget_epochs == self.max_budget_epochs:
            model.accuracy, model.told = accuracy, True
            self._optimizer.adopt(model)

    def incumbent(self) -> CandidateLike | None:
        """The candidate with the lowest observed cost at the largest budget; None before a success."""
        best = incumbent(self._trials[key] for key in sorted(self._trials))
        return None if best is None else self._candidates[best.candidate_digest]


def _factory(kind: str) -> Callable[..., NASLibOptimizer]:
    def factory(space: SearchSpaceLike, **options: Any) -> NASLibOptimizer:
        return NASLibOptimizer(kind, space, **options)

    factory.__name__ = factory.__qualname__ = kind
    factory.__doc__ = f"NASLib's {kind.replace('_', ' ')}, see `NASLibOptimizer`."
    return factory


random_search = _factory("random_search")
regularized_evolution = _factory("regularized_evolution")
local_search = _factory("local_search")
bananas = _factory("bananas")
npenas = _factory("npenas")
base_predictor = _factory("base_predictor")


# --- spaces and graphs


@runtime_checkable
class HasGraph(Protocol):
    """A space that brings its own NASLib graph."""

    def graph(self) -> Any: ...


@runtime_checkable
class TrainsProposals(Protocol):
    """A ``dataset_api`` that trains what our optimizers propose (`KDDatasetAPI`); others are asked for an accuracy."""

    def evaluate_proposal(self, proposal: Proposal) -> Trial: ...


@runtime_checkable
class HasFullBudget(Protocol):
    """A ``dataset_api`` that says what a full training is."""

    budget_epochs: int


def graph_of(space: Any) -> Any:
    """The NASLib graph of one of our spaces.

    `HNAGSpace` has `plugin.hnag.HNAGSearchSpace`, NASLib's own spaces those of `plugin.graphs`, a table of cells
    `plugin.table_cells.table_graph`; any other space brings its own, by a method ``graph()``.

    Raises:
        ValueError: If the space has none.
    """
    if isinstance(space, HNAGSpace):
        from naslib_autokd.plugin.hnag import HNAGSearchSpace

        return HNAGSearchSpace(space=space)
    if isinstance(space, ArchitectureSpace):
        return graph_class(space.name)(space)
    if isinstance(space, TableSpace):
        return table_graph(space)
    if isinstance(space, HasGraph):
        return space.graph()
    raise ValueError(
        f"the space {space.name!r} has no NASLib graph: NASLib's optimizers search HNAG, NASLib's own spaces "
        "(naslib_autokd.plugin.spaces) and spaces with a method graph() that answers with one"
    )


def space_of(graph: Any) -> SearchSpaceLike:
    """Our space for a NASLib graph: the one it carries, or that of NASLib's own search space.

    Raises:
        ValueError: If there is none.
    """
    space = getattr(graph, "space", None)
    if isinstance(space, SearchSpaceLike):
        return space
    name = getattr(graph, "space_name", None)
    if name in ARCHITECTURES:
        return NASLibSpace(name, search_kd=False)
    raise ValueError(
        f"{type(graph).__name__} is no search space that our optimizers know: it has no attribute space (an object "
        f"with configuration_space) and its space_name is none of {', '.join(ARCHITECTURES)}"
    )


def with_candidate(graph: Any, candidate: Mapping[str, Any]) -> Any:
    """A clone of ``graph`` that holds a recorded candidate (``Candidate.to_dict()``).

    Raises:
        ValueError: If the graph's space has no such candidate.
    """
    clone = graph.clone()
    try:
        clone.set_spec(dict(candidate))
    except Exception as error:  # spaces have many
        raise ValueError(f"not a candidate of {_name(graph)}: {error}") from error
    return clone


def _name(graph: Any) -> str:
    return str(getattr(graph, "space_name", type(graph).__name__))


# --- in NASLib's Trainer


def four_statistics(optimizer: Any, report_incumbent: bool = True) -> tuple[float, ...]:
    """Training, validation and test accuracy (percent) and training time: what NASLib's Trainer unpacks."""
    best = optimizer.get_final_architecture() if report_incumbent else optimizer.history[-1].arch
    metrics = (Metric.TRAIN_ACCURACY, Metric.VAL_ACCURACY, Metric.TEST_ACCURACY, Metric.TRAIN_TIME)
    return tuple(best.query(metric, optimizer.dataset, dataset_api=optimizer.dataset_api) for metric in metrics)


REPAIRS: tuple[tuple[Any, str, Any], ...] = (
    (upstream.BasePredictor, "train_statistics", four_statistics),
    (upstream.Npenas, "_get_best_candidates", upstream.Bananas._get_best_candidates),
)
"""Methods of NASLib's that cannot work, and what does: BasePredictor gives three statistics where the Trainer unpacks
four, Npenas asks for zero-cost scores (``search.zc_ensemble``) with two arguments that nobody takes. `register` puts
them in; the classes below have them anyway."""


class BasePredictor(upstream.BasePredictor):
    """NASLib's, repaired (`REPAIRS`)."""

    train_statistics = four_statistics


class Bananas(_NotFromEqualAnswers, upstream.Bananas):
    """NASLib's, for short runs of its Trainer, too, whose first accuracies may all be equal."""


class Npenas(_NotFromEqualAnswers, upstream.Npenas):
    """The same, repaired (`REPAIRS`)."""

    _get_best_candidates = upstream.Bananas._get_best_candidates


# --- our optimizers as NASLib's


class _Journal:
    """The trials so far as NASLib's "model": the only thing that its Trainer puts into a checkpoint.

    fvcore drops what has another shape in the checkpoint than in the model, but takes what the model does not have: so
    there is no tensor while there are no trials, and a fresh optimizer accepts a checkpoint of any length.
    """

    KEY = "trials"

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.loaded: list[Trial] = []
        """From a checkpoint, not yet replayed."""
        self._lines = bytearray()

    def append(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._lines += trial.to_json().encode() + b"\n"

    def state_dict(self) -> dict[str, Any]:
        if not self.trials:
            return {}
        return {self.KEY: torch.frombuffer(bytearray(self._lines), dtype=torch.uint8)}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Any:
        if self.KEY in state and not self.trials:
            lines = bytes(state[self.KEY].tolist()).decode().splitlines()
            self.loaded = [Trial.from_dict(json.loads(line)) for line in lines]
        return torch.nn.modules.module._IncompatibleKeys([], [])


class AskTellOptimizer(MetaOptimizer):
    """Any of our optimizers as one of NASLib's, for its Trainer: one proposal, at its own budget, per epoch.

    With a `KDDatasetAPI` each proposal is trained with its own budget and seeds, and its trial is told, failures
    included. With NASLib's tables the accuracy at that epoch is looked up. The Trainer's checkpoints hold all trials,
    so that ``Trainer.search(resume_from=...)`` goes on as if it had never stopped.

    An epoch of NASLib's is one evaluation, whatever it costs. With ``search.equal_cost`` it is the cost of one full
    training, for a comparison with optimizers that train in full only: as many proposals are evaluated in an epoch as
    that pays for. What does not fit waits for the next epoch, so that never more is spent than
    ``search.epochs`` full trainings cost.

    Args:
        config: NASLib's (``CfgNode``). Read: ``dataset``, ``search.epochs`` (number of proposals), ``search.seed``,
            ``search.fidelity`` (epochs of a full training; -1, missing or beyond it: what the ``dataset_api`` or the
            space has), ``search.min_budget_epochs`` (by default the task's), ``search.equal_cost`` (see below).
        optimizer: Name or factory (`optimizers.base.get_optimizer`).
        options: Options of the optimizer.

    Raises:
        ValueError: For an unknown optimizer or option, or a key that the config lacks (names it).
    """

    using_step_function = False

    def __init__(self, config: Any, optimizer: str | OptimizerFactory = "autokd", **options: Any) -> None:
        super().__init__()
        self.config = config
        for section, name in ((config, "dataset"), (config, "search"), (config.get("search", {}), "epochs")):
            if name not in section:
                raise ValueError(f"the config has no {'search.' if name == 'epochs' else ''}{name}, which is required")
        self.dataset = config.dataset
        self.epochs = config.search.epochs
        self.seed = int(config.search.get("seed", config.get("seed", 0)))
        self.performance_metric = Metric.VAL_ACCURACY
        self._name = optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", repr(optimizer))
        self._factory = get_optimizer(optimizer)
        self._options = options
        self.equal_cost = bool(config.search.get("equal_cost", False))
        self._waiting: Proposal | None = None
        self._journal = _Journal()
        self._statistics: dict[tuple[int, str, int, int], tuple[float, float, float, float]] = {}

    # --- NASLib's side

    def adapt_search_space(self, search_space: Any, scope: Any = None, dataset_api: Any = None) -> None:
        """Take the space and what answers for it.

        Raises:
            ValueError: If it is no search space of ours or NASLib's, or an option or a budget cannot work.
        """
        if not getattr(search_space, "QUERYABLE", False):
            raise ValueError(
                f"{_name(search_space)} cannot be queried (QUERYABLE is not set): {self._name} evaluates one "
                "architecture after the other and has nothing to ask"
            )
        self.search_space = search_space.clone()
        self.scope = scope if scope else search_space.OPTIMIZER_SCOPE
        self.dataset_api = dataset_api
        self.space: Any = space_of(search_space)
        self._table = None
        if isinstance(dataset_api, dict):
            self._table = TabularEvaluator(dataset_api, self.space.name, self.dataset)
        self.max_budget_epochs = self._full_training()
        self.optimizer = self._build()

    def _full_training(self) -> int:
        full = self.dataset_api.budget_epochs if isinstance(self.dataset_api, HasFullBudget) else None
        if self._table:
            full = max(self._table.budgets)
        asked = self.config.search.get("fidelity", -1)
        if not isinstance(asked, int) or asked <= 0:
            return int(full or 1)
        if full is None:
            return int(asked)
        if asked != full:
            logger.warning(fidelity_note(asked, full))
        return int(min(asked, full))

    def _build(self) -> Any:
        search = self.config.search
        minimum = search.get("min_budget_epochs")
        if minimum is None and self._table:
            minimum = min(self._table.budgets)
        elif minimum is None:
            minimum = self.dataset_api.task.min_budget_epochs if isinstance(self.dataset_api, HasTask) else 1
        # a trial of Hyperband with two rungs costs two thirds of a full one, and so `runners.search` counts
        total = max(1.0, self.epochs * (1 if self.equal_cost else 2 / 3)) * self.max_budget_epochs
        try:
            optimizer = self._factory(
                self.space,
                seed=self.seed,
                max_budget_epochs=self.max_budget_epochs,
                min_budget_epochs=min(int(minimum), self.max_budget_epochs),
                total_budget_epochs=total,
                **{**known_to(self._factory, self._table), **self._options},
            )
        except TypeError as error:  # an option that the optimizer does not have
            raise ValueError(f"optimizer {self._name!r}: {error}") from error
        if isinstance(optimizer, ScoresStudents):
            api = self.dataset_api
            optimizer.attach(api.evaluator if isinstance(api, KDDatasetAPI) else api)
        return optimizer

    def new_epoch(self, epoch: int) -> None:
        """Ask, evaluate, tell; nothing once every point of a finite space was tried."""
        self._restore()
        while True:
            try:
                proposal = self._waiting or self.optimizer.ask()
            except SpaceExhausted:
                return
            if self.equal_cost and self._spent() + proposal.budget_epochs > (epoch + 1) * self.max_budget_epochs + 1e-6:
                self._waiting = proposal
                return
            self._waiting = None
            trial = self._evaluate(proposal)
            self._journal.append(trial)
            self.optimizer.tell(trial)
            if not self.equal_cost:
                return

    def _spent(self) -> float:
        """Student-epochs so far; a family that was refused counts as one, so that an epoch of refusals ends."""
        scores = self.optimizer.extra_student_epochs if isinstance(self.optimizer, ScoresStudents) else 0.0
        return float(scores + sum(trial.student_epochs or 1.0 for trial in self._journal.trials))

    def train_statistics(self, report_incumbent: bool = True) -> tuple[float, float, float, float]:
        """Training, validation and test accuracy (percent; test -1 where it is closed) and training time.

        Of the incumbent, at the largest budget that succeeded (0, 0, -1, 0 before a success), or of the newest trial.
        """
        trial = self._best() if report_incumbent else next(iter(self.trials[-1:]), None)
        if trial is None or not trial.succeeded:
            return WORST_ACCURACY, WORST_ACCURACY, -1.0, 0.0
        key = (trial.number, trial.candidate_digest, trial.budget_epochs, trial.seed)
        if key not in self._statistics:
            self._statistics[key] = self._statistics_of(trial)
        return self._statistics[key]

    def get_final_architecture(self) -> Any:
        """The incumbent: by the optimizer's evidence, the best at the largest budget.

        Raises:
            RuntimeError: If no trial succeeded.
        """
        best = self._best()
        if best is None:
            reasons = sorted({trial.message for trial in self.trials if trial.message})
            raise RuntimeError(
                f"none of {len(self.trials)} trials succeeded, so there is no architecture"
                + (f"; the reasons were: {'; '.join(reasons[:3])}" if reasons else "")
            )
        return self._architecture(best.candidate)

    def get_op_optimizer(self) -> Any:
        raise NotImplementedError("no weights are shared between architectures here")

    def get_checkpointables(self) -> dict[str, Any]:
        return {"model": self._journal}

    # --- inside

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the order of their numbers."""
        self._restore()
        return self._journal.trials

    def _restore(self) -> None:
        loaded, self._journal.loaded = self._journal.loaded, []
        if not loaded:
            return
        if replay(self.optimizer, loaded):
            raise ValueError(
                f"the checkpoint's {len(loaded)} trials are not those that {self._name} proposes: it was made with "
                "another seed, space, number of epochs or version"
            )
        for trial in loaded:
            self._journal.append(trial)

    def _best(self) -> Trial | None:
        trials = self.trials
        candidate = self.optimizer.incumbent()
        if candidate is None:
            return None
        return incumbent(trial for trial in trials if trial.candidate_digest == candidate.digest)

    def _architecture(self, candidate: Mapping[str, Any]) -> Any:
        if isinstance(self.space, ArchitectureSpace) and not hasattr(type(self.search_space), "candidate"):
            clone = self.search_space.clone()  # of NASLib's own class
            clone.set_spec(_tuples(candidate["architecture"]))
            return clone
        return with_candidate(self.search_space, candidate)

    def _evaluate(self, proposal: Proposal) -> Trial:
        if self._table:
            return self._table.evaluate(proposal)
        if isinstance(self.dataset_api, TrainsProposals):
            return self.dataset_api.evaluate_proposal(proposal)
        arch = self._architecture(proposal.candidate.to_dict())
        accuracy = float(self._query(arch, self.performance_metric, proposal.budget_epochs))
        known = math.isfinite(accuracy)
        return Trial.of(
            proposal,
            status="success" if known else "error",
            cost=1.0 - accuracy / 100.0 if known else FAILURE_COST,
            message="" if known else f"the accuracy that was answered is {accuracy}",
            val_accuracy=accuracy / 100.0 if known else None,
            student_epochs=float(proposal.budget_epochs),
        )

    def _query(self, arch: Any, metric: Any, budget: int) -> Any:
        """What NASLib's ``query`` answers for a training of ``budget`` epochs."""
        epoch = -1 if budget == self.max_budget_epochs else budget
        if self._table:  # NASLib's epoch is an index into the learning curve of NAS-Bench-201, and of no other table
            epoch = budget - 1 if self._table.space.name == "nasbench201" else -1
        return arch.query(metric, self.dataset, epoch=epoch, dataset_api=self.dataset_api)

    def _statistics_of(self, trial: Trial) -> tuple[float, float, float, float]:
        train, val = (100.0 * (value or 0.0) for value in (trial.train_accuracy, 1.0 - trial.cost))
        if isinstance(self.dataset_api, TrainsProposals):
            return train, val, -1.0, trial.train_s
        # a table needs no operations on the edges of the graph, and NASLib's own takes half a second to clone
        arch = (
            with_candidate(graph_of(self.space), trial.candidate)
            if self._table
            else self._architecture(trial.candidate)
        )
        test, time = (
            self._query(arch, metric, trial.budget_epochs) for metric in (Metric.TEST_ACCURACY, Metric.TRAIN_TIME)
        )
        if trial.train_accuracy is None:
            train = self._query(arch, Metric.TRAIN_ACCURACY, trial.budget_epochs)
        return float(train), val, float(test), float(time)


class AutoKD(AskTellOptimizer):
    """AutoKD in NASLib's style: ``AutoKD(config)``, then ``adapt_search_space`` and NASLib's Trainer.

    AutoKD's own options (``model``, ``eta``, ``choose_by`` ...) are read from ``config.search`` too. Its ``fidelity``,
    how budgets are spent, is a word ("full", "hyperband-3"), so ``search.fidelity`` may be that instead of a number.

    Args:
        config: As in `AskTellOptimizer`.
        options: AutoKD's options; they go before the config's.
    """

    def __init__(self, config: Any, **options: Any) -> None:
        super().__init__(config, "autokd", **options)
        search = self.config.search
        names = set(inspect.signature(autokd.AutoKD).parameters) - {*_OURS, "space", "fidelity"}
        found = {name: search[name] for name in sorted(names) if name in search}
        if isinstance(search.get("fidelity"), str):
            found["fidelity"] = search.fidelity
        self._options = found | options


_OURS = ("seed", "max_budget_epochs", "min_budget_epochs", "total_budget_epochs")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list | tuple) else value
