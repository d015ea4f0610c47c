"""The KD evaluator as NASLib's ``dataset_api``: a benchmark whose answers are trained when they are first asked for.

NASLib hands its ``dataset_api`` to every query of an architecture, six times per searched architecture, and clones
search spaces all the time. `KDDatasetAPI` therefore carries the evaluator with its data and its teacher, trains once
per (architecture, epochs), answers everything else from its record, and is its own copy.
"""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.runtime import latency
from naslib_autokd.distillation.training import accuracy, limited_threads, predict, train
from naslib_autokd.evaluators.base import Evaluator, HasImages, HasObjective, HasTask, KnowsTestAccuracy
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.plugin.config import fidelity_note
from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.plugin.loaders import task_data
from naslib_autokd.records import CandidateLike, Proposal, Trial, TrialStore, derive_seed
from naslib_autokd.runners.finals import FinalStudents, read_finals, train_family
from naslib_autokd.runners.run_folder import TRIALS, ReplayError, open_run
from naslib_autokd.tasks import Task, did_you_mean, get_task

NASLIB = load_naslib()

from naslib.search_spaces.core.graph import Graph  # noqa: E402
from naslib.search_spaces.core.query_metrics import Metric  # noqa: E402

logger = logging.getLogger("naslib.autokd")  # below NASLib's, whose handlers its runners set up

NOT_MEASURED = -1.0
"""What NASLib itself writes for a loss that it does not have."""

MILLION = 1e6


class KDDatasetAPI:
    """NASLib's ``dataset_api`` whose queries train students with the teacher.

    What `query` answers (a Python float unless stated; percent and units as in NASLib's NAS-Bench-201):

    ==================  ==============================================================================================
    VAL_ACCURACY        percent; 0 for a training that failed, never NaN
    TRAIN_ACCURACY      percent of the last epoch's training images that were named correctly in passing; 0 likewise
    TEST_ACCURACY       -1: the test split is closed during a search; `final` opens it
    TRAIN_LOSS          mean of the last epoch, in nats; -1 without one
    VAL_LOSS            -1, but see ``full_lc``
    TEST_LOSS           -1
    TRAIN_TIME          seconds of training; VAL_TIME those of validating it; TEST_TIME -1
    FLOPS               millions of multiply-adds of one image (each counted once, as NAS-Bench-201 does)
    PARAMETERS          millions
    LATENCY             seconds of one forward pass of one image, measured on the evaluator's device when first asked
    EPOCH               epochs trained
    HP                  dict: NAS-Bench-201's ``flops, params, latency, train_time``, and the trial's settings
    RAW                 dict: the whole trial record (`Trial.to_dict`)
    ALL                 dict: every metric above by its name, without RAW
    ==================  ==============================================================================================

    ``epoch=-1`` is a training with the full budget, ``epoch=k`` one whose schedule spans ``k`` epochs: a training of
    its own, not a point on the way to the full one. ``full_lc=True`` answers with a list, one value per epoch of that
    training: TRAIN_LOSS from the record; VAL_ACCURACY and VAL_LOSS, which a training does not measure per epoch, from
    the trial's ``info["val_curve"]`` where its evaluator left one (fractions), else by repeating the same training
    once with a validation after every epoch (not counted as a trial; ``n_repeated`` counts them).

    Args:
        evaluator: Trains (`KDEvaluator`) or answers from a table. None: a `KDEvaluator` of the task, made at the first
            training, with ``options`` as its arguments.
        task: Name or `Task`; the evaluator's own if it has one.
        out: Run folder (``task.yaml``, ``run.yaml``, ``trials.jsonl``). What is recorded there is answered without
            training: starting the same search again continues it.
        seed: Trial ``i`` has the seed ``derive_seed(seed, "trial", i)``.
        budget_epochs: Epochs of a full training; the task's maximum by default.
        n_finals: Students that the final evaluation trains.
        settings: What else ``run.yaml`` says.
        options: Arguments of `KDEvaluator` (``device``, ``threads``, ``objective``, ``data``, ``teacher`` ...).

    Raises:
        ValueError: Before any training, for settings that cannot work.
        RunFolderError: If ``out`` holds another run.
    """

    def __init__(
        self,
        evaluator: Evaluator | None = None,
        *,
        task: str | Task | None = None,
        out: str | Path | None = None,
        seed: int = 0,
        budget_epochs: int | None = None,
        n_finals: int = 1,
        settings: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        known = [name for name in inspect.signature(KDEvaluator).parameters if name != "task"]
        for name in options:
            if name not in known:
                raise ValueError(f"unknown option {name!r}{did_you_mean(name, known)}")
        if evaluator is not None and options:
            raise ValueError(f"an evaluator is given, so {', '.join(options)} must be given to it instead")
        data: TaskData | None = options.get("data")
        own = evaluator.task if isinstance(evaluator, HasTask) else None if data is None else data.task
        if own is None and task is None:
            raise ValueError("give a task: this evaluator does not say which one it is for")
        self.task: Task = own if own is not None else get_task(task if task is not None else "")
        if own is not None and task is not None and get_task(task).name != own.name:
            raise ValueError(f"task is {get_task(task).name!r}, but the evaluator is for {own.name!r}")
        self._given = task if isinstance(task, str) else self.task.name
        self.budget_epochs = self.task.max_budget_epochs if budget_epochs is None else budget_epochs
        if not 1 <= self.budget_epochs <= self.task.max_budget_epochs:
            raise ValueError(
                f"budget_epochs must be in [1, {self.task.max_budget_epochs}], the maximum of task "
                f"{self.task.name!r}, got {budget_epochs}"
            )
        if n_finals < 1:
            raise ValueError(f"n_finals must be at least 1, got {n_finals}")
        self.seed, self.n_finals = seed, n_finals
        self.n_trained = 0
        """Trainings of this process; what the record answered does not count."""
        self.n_repeated = 0
        """Trainings that were repeated for a validation curve."""
        self.objective: str = (
            evaluator.objective if isinstance(evaluator, HasObjective) else options.get("objective", "kd")
        )
        self.out: Path | None = None
        self.store = TrialStore()
        self._evaluator, self._options = evaluator, options
        self._by_budget: dict[tuple[str, int], Trial] = {}
        self._by_proposal: dict[tuple[int, str, int, int], Trial] = {}
        self._unasked: dict[int, Trial] = {}  # by identity: loaded, and not asked for since
        self._replaying = False
        self._fidelities: set[int] = set()  # other than the full one that NASLib asked for
        self._next_number = 0
        self._latency: dict[tuple[int, str, int, int], float] = {}
        self._curves: dict[tuple[int, str, int, int], dict[str, list[float]]] = {}
        self._finals: dict[str, FinalStudents] = {}
        if out is not None:
            self.open(out, settings)

    # --- what NASLib does with it -----------------------------------------------------------------------------------

    def __copy__(self) -> KDDatasetAPI:
        return self

    def __deepcopy__(self, memo: Any) -> KDDatasetAPI:
        return self  # search spaces are cloned all the time: data, teacher and record are shared

    def __getitem__(self, key: object) -> Any:
        # NASLib's tabular spaces look their benchmark up in a dict
        raise TypeError(
            f"this dataset_api trains students of {self.task.name!r}, it is no table with {key!r}: a search space of "
            "NASLib's is trained through naslib_autokd.plugin.spaces (NASLibSpace(...).graph()), and its own table "
            "comes from NASLib's get_dataset_api"
        )

    def query(
        self,
        arch: Any,
        metric: Metric,
        dataset: str | None = None,
        epoch: int = -1,
        full_lc: bool = False,
        path: str | None = None,
    ) -> Any:
        """What NASLib asks of an architecture; trains it if the record has no answer. See the table above.

        Args:
            arch: A search space of NASLib's that holds a sampled architecture, or a candidate.
            dataset: The task's name, or None.
            epoch: Epochs of training; -1, and what is beyond ``budget_epochs``, is the full budget (NASLib's shipped
                configurations have ``fidelity: 108`` and 200, for its tables), which is logged once.
            path: Ignored, as by NASLib's benchmarks.

        Raises:
            ValueError: For a metric, dataset, epoch or architecture that it cannot answer for.
        """
        metric = _checked_metric(metric)
        self._check_dataset(dataset)
        candidate = candidate_of(arch)
        budget = self._budget(epoch)
        if metric in (Metric.TEST_ACCURACY, Metric.TEST_LOSS, Metric.TEST_TIME) and not full_lc:
            return NOT_MEASURED
        trial = self.evaluate(candidate, budget)
        return self._curve(trial, candidate, metric) if full_lc else self._answer(trial, candidate, metric)

    # --- what it does -----------------------------------------------------------------------------------------------

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator; made now if that has not happened yet (trains the teacher on first use)."""
        if self._evaluator is None:
            with untouched_rng():
                self._evaluator = KDEvaluator(self.task, **{"data": self.data} | self._options)
        return self._evaluator

    @property
    def data(self) -> TaskData:
        """The images of the task, those of the evaluator if it has some."""
        if self._evaluator is None:
            if "data" not in self._options:
                self._options["data"] = task_data(self.task)
            found: TaskData = self._options["data"]
            return found
        return self._evaluator.data if isinstance(self._evaluator, HasImages) else task_data(self.task)

    def open(self, out: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        """Keep the record in the run folder ``out``, and answer from what is there already.

        Raises:
            RunFolderError: If the folder holds another run.
            ValueError: If trials were made before, or another folder is open.
        """
        if self.out is not None:
            raise ValueError(f"the record is kept in {self.out} already, it cannot move to {out}")
        if len(self.store):
            raise ValueError(f"{len(self.store)} trials were made before the run folder {out} was given; give it first")
        host = {"host": "naslib", "naslib": NASLIB.commit, "objective": self.objective}
        content = host | {"seed": self.seed, "budget_epochs": self.budget_epochs} | dict(settings or {})
        self.out = open_run(out, self.task, content)
        self.store = TrialStore(self.out / TRIALS)
        self._index_from(0)

    def lock(self) -> None:
        """Become the one writer of the record, which the first training does otherwise; until `close`.

        Raises:
            StoreLockedError: If another process writes it.
        """
        known = len(self.store)
        self.store.lock()
        self._index_from(known)  # what another process has added since it was read

    def close(self) -> None:
        """Let another process write the record."""
        self.store.close()

    def evaluate(self, candidate: CandidateLike, budget_epochs: int | None = None) -> Trial:
        """Train a candidate, once per (digest, budget); its trial is on disk when this returns."""
        budget = self._budget(-1 if budget_epochs is None else budget_epochs)
        key = (candidate.digest, budget)
        if key not in self._by_budget:
            self.lock()
        if key in self._by_budget:
            return self._asked(self._by_budget[key])
        number = self._next_number
        return self._train(Proposal(candidate, budget, derive_seed(self.seed, "trial", number), number))

    def evaluate_proposal(self, proposal: Proposal) -> Trial:
        """Train what one of our optimizers proposed (its number, seed and budget are kept), once per proposal."""
        key = _key(proposal, proposal.candidate.digest)
        if key not in self._by_proposal:
            self.lock()
        return self._asked(self._by_proposal[key]) if key in self._by_proposal else self._train(proposal)

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Inside the block, a training before every trial that was loaded has been asked for again is an error.

        A search that is continued asks for its old trials first; if it does not, it is not the same search.
        """
        self._replaying = True
        try:
            yield
        finally:
            self._replaying = False

    def final(self) -> FinalAPI:
        """The same api with the test split open: TEST_ACCURACY is that of the common final protocol.

        Raises:
            TypeError: If the evaluator can neither train final students nor say a test accuracy itself.
        """
        return FinalAPI(self)

    def final_students(self, candidate: Any) -> FinalStudents:
        """``n_finals`` students of the candidate, trained in full and judged once each on the test split.

        Kept in ``finals.jsonl`` and ``students/`` of the run folder; an architecture is never judged twice.
        """
        done = self._finals.get(candidate.digest)
        if done is None:
            done = self._stored_finals(candidate)
        if done is None:
            with untouched_rng():
                done = train_family(
                    self._final_evaluator(), candidate, n_students=self.n_finals, seed=self.seed, out=self.out
                )
        self._finals[candidate.digest] = done
        return done

    # --- inside -----------------------------------------------------------------------------------------------------

    def _budget(self, epoch: Any) -> int:
        if epoch is None or epoch == -1:
            return self.budget_epochs
        if isinstance(epoch, bool) or int(epoch) != epoch or epoch < 1:
            raise ValueError(
                f"epoch must be a number of training epochs, at least 1 (the full training of task "
                f"{self.task.name!r} has {self.budget_epochs}), or -1 for all, got {epoch}; NASLib's config sets it as "
                "search.fidelity"
            )
        if epoch != self.budget_epochs and epoch not in self._fidelities:
            self._fidelities.add(epoch)
            logger.warning(fidelity_note(int(epoch), self.budget_epochs))
        return min(int(epoch), self.budget_epochs)

    def is_for(self, dataset: str) -> bool:
        """Whether a configuration's ``dataset`` means this task: by its name, that of its data, or its file."""
        return dataset in (self.task.name, self.task.dataset, self._given)

    def _check_dataset(self, dataset: str | None) -> None:
        if dataset is not None and not self.is_for(dataset):
            raise ValueError(
                f"dataset {dataset!r} is asked for, but this dataset_api trains on {self.task.name!r}; set the "
                "config's dataset to it, or make the dataset_api for the other task"
            )

    def _train(self, proposal: Proposal) -> Trial:
        if self._replaying and self._unasked:
            trial = next(iter(self._unasked.values()))
            raise ReplayError(
                f"the search does not repeat the record in {self.out}: it wants to train candidate "
                f"{proposal.candidate.digest}, but has not asked for trial {trial.number} (candidate "
                f"{trial.candidate_digest}) again. The run was made with other versions or settings, or asked for "
                "more than the search does; start in a new folder"
            )
        evaluator = self.evaluator
        with untouched_rng():
            trial = evaluator.evaluate(proposal)
        self.store.append(trial)  # on disk before NASLib knows of it
        self.n_trained += 1
        self._index(trial)
        return trial

    def _index_from(self, known: int) -> None:
        for position in range(known, len(self.store)):
            trial = self.store[position]
            self._index(trial)
            self._unasked[id(trial)] = trial

    def _index(self, trial: Trial) -> None:
        self._by_budget.setdefault((trial.candidate_digest, trial.budget_epochs), trial)
        self._by_proposal.setdefault(_key(trial, trial.candidate_digest), trial)
        self._next_number = max(self._next_number, trial.number + 1)

    def _asked(self, trial: Trial) -> Trial:
        self._unasked.pop(id(trial), None)
        return trial

    def _answer(self, trial: Trial, candidate: Any, metric: Metric) -> Any:
        if metric is Metric.VAL_ACCURACY:
            return 100.0 * (trial.val_accuracy or 0.0) if trial.succeeded else 0.0
        if metric is Metric.TRAIN_ACCURACY:
            return 100.0 * (trial.train_accuracy or 0.0) if trial.succeeded else 0.0
        if metric is Metric.TRAIN_LOSS:
            return float(trial.curve[-1]) if trial.curve else NOT_MEASURED
        if metric is Metric.TRAIN_TIME:
            return float(trial.train_s)
        if metric is Metric.VAL_TIME:
            return float(trial.evaluate_s)
        if metric is Metric.FLOPS:
            return NOT_MEASURED if trial.macs is None else trial.macs / MILLION
        if metric is Metric.PARAMETERS:
            return NOT_MEASURED if trial.n_params is None else trial.n_params / MILLION
        if metric is Metric.LATENCY:
            return self._latency_s(trial, candidate)
        if metric is Metric.EPOCH:
            return float(trial.student_epochs)
        if metric is Metric.RAW:
            return trial.to_dict()
        if metric is Metric.HP:
            return self._settings(trial, candidate)
        if metric is Metric.ALL:
            return {
                other.name: self._answer(trial, candidate, other)
                for other in Metric
                if other not in (Metric.ALL, Metric.RAW)
            }
        return NOT_MEASURED  # losses of the validation split, and all of the test split

    def _settings(self, trial: Trial, candidate: Any) -> dict[str, Any]:
        answers = {
            "flops": Metric.FLOPS,
            "params": Metric.PARAMETERS,
            "latency": Metric.LATENCY,
            "train_time": Metric.TRAIN_TIME,
        }
        return {name: self._answer(trial, candidate, metric) for name, metric in answers.items()} | {
            "budget_epochs": trial.budget_epochs,
            "seed": trial.seed,
            "channels": list(trial.channels),
            "candidate": candidate.to_dict(),
        }

    def _latency_s(self, trial: Trial, candidate: Any) -> float:
        evaluator = self.evaluator
        if not isinstance(evaluator, KDEvaluator) or trial.n_params is None:
            return NOT_MEASURED
        key = _key(trial, trial.candidate_digest)
        if key not in self._latency:
            with untouched_rng(), limited_threads(evaluator.threads):
                student = evaluator.build_student(evaluator.student_spec(candidate, trial.seed), trial.seed)
                self._latency[key] = latency(student, evaluator.image_shape).seconds
        return self._latency[key]

    def _curve(self, trial: Trial, candidate: Any, metric: Metric) -> list[float]:
        if metric is Metric.TRAIN_LOSS:
            return [float(value) for value in trial.curve]
        if metric not in (Metric.VAL_ACCURACY, Metric.VAL_LOSS):
            raise ValueError(
                f"there is no learning curve of {metric.name}; TRAIN_LOSS, VAL_ACCURACY and VAL_LOSS have one"
            )
        if metric is Metric.VAL_ACCURACY and "val_curve" in trial.info:
            return [100.0 * value for value in trial.info["val_curve"]]
        if not trial.succeeded:
            return [0.0 if metric is Metric.VAL_ACCURACY else NOT_MEASURED]
        key = _key(trial, trial.candidate_digest)
        if key not in self._curves:
            self._curves[key] = self._repeated(trial, candidate)
        return list(self._curves[key][metric.name])

    def _repeated(self, trial: Trial, candidate: Any) -> dict[str, list[float]]:
        """Train the trial's student again, exactly as it was, and validate it after every epoch."""
        evaluator = self.evaluator
        if not isinstance(evaluator, KDEvaluator):
            raise ValueError(
                f"{type(evaluator).__name__} does not say how validation went per epoch (info['val_curve'] of its "
                "trials), and only a KDEvaluator can repeat the training"
            )
        data, curves = evaluator.data, {"VAL_ACCURACY": list[float](), "VAL_LOSS": list[float]()}

        def validate(epoch: int, loss: float) -> None:
            logits = predict(student, data, data.val_images)
            curves["VAL_ACCURACY"].append(100.0 * accuracy(logits, data.val_labels))
            curves["VAL_LOSS"].append(float(torch.nn.functional.cross_entropy(logits, data.val_labels)))

        use_teacher = evaluator.objective != "ce" and candidate.kd is not None
        with untouched_rng(), limited_threads(evaluator.threads):
            student = evaluator.build_student(evaluator.student_spec(candidate, trial.seed), trial.seed)
            train(
                student.to(evaluator.device),
                data,
                evaluator.soft_targets.train if use_teacher else None,
                kd=candidate.kd if use_teacher else None,
                kd_loss=evaluator.kd_loss,
                epochs=trial.budget_epochs,
                seed=derive_seed(trial.seed, "batches"),
                settings=evaluator.settings,
                progress=validate,
            )
        self.n_repeated += 1
        return curves

    def _final_evaluator(self) -> KDEvaluator:
        evaluator = self.evaluator
        if not isinstance(evaluator, KDEvaluator):
            raise TypeError(
                f"{type(evaluator).__name__} cannot train final students: give a KDEvaluator, or an evaluator with "
                "test_accuracy(candidate, seed)"
            )
        return evaluator

    def _stored_finals(self, candidate: Any) -> FinalStudents | None:
        """Finals that were put aside when another architecture was judged in the same folder."""
        if self.out is None:
            return None
        path = self.out / f"finals-{self.task.name}-{candidate.digest}.jsonl"
        if not path.exists():
            return None
        rows = [record.result for record in read_finals(path)]
        return None if len(rows) < self.n_finals else FinalStudents.of(rows[: self.n_finals])


class FinalAPI:
    """A `KDDatasetAPI` with the test split open: what the final evaluation gets.

    TEST_ACCURACY (percent) is the mean over ``n_finals`` students of the architecture, trained by the common final
    protocol (`runners.search.train_family`) and judged once each. An evaluator that trains nothing answers with its
    ``test_accuracy(candidate, seed)`` (a fraction) instead. Everything else is answered as before.
    """

    def __init__(self, api: KDDatasetAPI) -> None:
        self.api = api
        self._table: dict[str, float] = {}
        if api._evaluator is not None and not isinstance(api._evaluator, KnowsTestAccuracy):
            api._final_evaluator()

    def __copy__(self) -> FinalAPI:
        return self

    def __deepcopy__(self, memo: Any) -> FinalAPI:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.api, name)

    def __getitem__(self, key: object) -> Any:
        return self.api[key]

    def final(self) -> FinalAPI:
        return self

    def query(
        self,
        arch: Any,
        metric: Metric,
        dataset: str | None = None,
        epoch: int = -1,
        full_lc: bool = False,
        path: str | None = None,
    ) -> Any:
        """As `KDDatasetAPI.query`, with a real TEST_ACCURACY."""
        if _checked_metric(metric) is not Metric.TEST_ACCURACY or full_lc:
            return self.api.query(arch, metric, dataset, epoch, full_lc, path)
        self.api._check_dataset(dataset)
        candidate: Any = candidate_of(arch)
        evaluator = self.api.evaluator
        if not isinstance(evaluator, KnowsTestAccuracy):
            tested = self.api.final_students(candidate).test_accuracies
            return 100.0 * sum(tested) / len(tested)
        if candidate.digest not in self._table:
            self._table[candidate.digest] = 100.0 * float(evaluator.test_accuracy(candidate, self.api.seed))
        return self._table[candidate.digest]


def candidate_of(arch: Any) -> Any:
    """The candidate that an architecture of a NASLib search space stands for.

    Raises:
        ValueError: If it has none: nothing was sampled yet, or it is of a space that the plugin does not know.
    """
    if isinstance(arch, Graph) and not hasattr(type(arch), "candidate"):
        from naslib_autokd.plugin import spaces

        return spaces.candidate_of(arch)
    candidate = arch if isinstance(arch, CandidateLike) else getattr(arch, "candidate", None)
    if candidate is None:
        raise ValueError(
            f"{type(arch).__name__} is no architecture that can be trained here: it has no candidate. Sample it first "
            "(sample_random_architecture or set_spec); a search space of your own needs an attribute candidate (a "
            "naslib_autokd candidate: digest, to_dict, kd, student_spec)"
        )
    return candidate


@contextmanager
def untouched_rng() -> Iterator[None]:
    """Put the global random states of Python, numpy and torch back after the block: NASLib draws from all three."""
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  (NASLib's)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _checked_metric(metric: Any) -> Metric:
    if isinstance(metric, Metric):
        return metric
    names = [known.name for known in Metric]
    if str(metric) in names:
        return Metric[str(metric)]
    raise ValueError(f"unknown metric {metric!r}{did_you_mean(str(metric).upper(), names)}")


def _key(asked: Proposal | Trial, digest: str) -> tuple[int, str, int, int]:
    return (asked.number, digest, asked.budget_epochs, asked.seed)
