"""Trains students against the teacher: trials during a search, and the common final protocol after it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from naslib_autokd.data.images import TaskData, normalise
from naslib_autokd.data.load import load_data
from naslib_autokd.data.prepare_picture import PREPARATION
from naslib_autokd.distillation import latency_model
from naslib_autokd.distillation.costs import count_macs, count_params, inference_memory, train_memory
from naslib_autokd.distillation.diswot import SCORE_BATCH, SCORE_COST, LastFeatures, compare, last_features
from naslib_autokd.distillation.latency_model import LatencyModel
from naslib_autokd.distillation.losses import KDLoss, get_loss
from naslib_autokd.distillation.runtime import Latency, Runtime, check_available, latency, missing_packages
from naslib_autokd.distillation.training import (
    Checkpoint,
    KDLike,
    TrainingResult,
    TrainingSettings,
    accuracy,
    limited_threads,
    predict,
    seeded,
    train,
)
from naslib_autokd.distillation.training_cost import TrainingCost, network_cost, student_cost
from naslib_autokd.evaluators.base import Score
from naslib_autokd.evaluators.checkpoints import CheckpointFolder
from naslib_autokd.evaluators.judgement import judgement
from naslib_autokd.evaluators.latency_screen import LatencyScreen, Model
from naslib_autokd.evaluators.results import FinalResult as FinalResult
from naslib_autokd.evaluators.results import same_bytes
from naslib_autokd.evaluators.student_limits import LimitError, StudentLimits, widest_within
from naslib_autokd.files import write_whole
from naslib_autokd.records import MEASURED_OBJECTIVES, Proposal, Trial, content_digest, derive_seed, is_out_of_memory
from naslib_autokd.search_spaces import BuildsItself, DescribesStudents, HasSize
from naslib_autokd.search_spaces.hnag.wiring import ParameterBudgetError, StudentSpec, fit_width
from naslib_autokd.tasks import Task, did_you_mean, get_task
from naslib_autokd.teachers.load import TeacherSource, is_trained_here, load_teacher, name_of_teacher
from naslib_autokd.teachers.networks import InputAdapter
from naslib_autokd.teachers.onnx import require_layers
from naslib_autokd.teachers.soft_targets import SoftTargets
from naslib_autokd.teachers.teacher import Teacher

OBJECTIVES = ("kd", "ce")

log = logging.getLogger(__name__)


WORTH_A_MODEL_S = 30.0
"""Seconds of measured latencies after which a model of them is calibrated, which takes about as long at batch 1."""
MOST_ATTEMPTS = 3
"""How often a predicted width may turn out not to keep the latency, or to be another, before all are measured."""


class SpecLike(Protocol):
    """What the evaluator reads from a student's description (`search_spaces.hnag.StudentSpec`).

    A description of another kind of student has ``build(seed) -> nn.Module`` too.
    """

    @property
    def wiring(self) -> Any:
        """What was drawn; its ``digest`` is recorded."""

    @property
    def channels(self) -> tuple[int, ...]: ...
    @property
    def n_params(self) -> int: ...
    @property
    def macs(self) -> int: ...
    @property
    def depth(self) -> int | None: ...


@runtime_checkable
class HasSpec(Protocol):
    """A module that knows its description (`SpecLike`, with ``to_dict``), which its file then holds."""

    @property
    def spec(self) -> Any: ...


class KDEvaluator:
    """Evaluates candidates by training one student of their family against the task's teacher.

    Args:
        task: A `Task` or its name.
        device: Of the trainings: ``cpu``, ``cuda``, ``cuda:1`` ...
        threads: CPU threads of one training; one is fastest for students this small, and workers run side by side.
        objective: ``kd`` trains with the candidate's KD settings, ``ce`` on the labels alone (the teacher then only
            serves to report the agreement with it), ``module:function`` with a KD loss of one's own
            (`distillation.losses.KDLoss`).
        teacher: Anything that `load_teacher` takes; None is the task's own. Wrong teachers are errors here.
        time_limit_s: A training that is over it after an epoch ends with status ``timeout``. None, the default,
            keeps results independent of the machine's speed.
        limits: Of every student, besides the task's ``max_params``: a family's students get the largest width that
            keeps them, and a family of which none does is refused, a failed trial that costs no epochs.
        continue_from_checkpoint: Folder where trials below the task's ``max_budget_epochs`` leave their student. One
            of the same family with a larger budget goes on with the one of the largest budget there, instead of a new
            student, and is charged the rest of its epochs only. Its ``info`` has ``continued_from``: ``number``,
            ``budget_epochs`` and ``student_seed`` of that trial, or None. A folder is for one run, and shared by its
            workers. Off by default (None), for it is biased: such trainings were half a point worse than full ones
            (cluttered-digits, 3 of 9 epochs, 34 families), ranked families no better (Kendall's tau with the truth 0.58
            and 0.64), and repeat the lower budget's luck; see docs/performance.md, "Training path".
        measure: Costs of `records.MEASURED_OBJECTIVES` that are measured for each student, into a trial's ``info``.
        runtime: Where latencies are measured, of limits and of ``measure``: ONNX Runtime, with one image and one thread
            of a CPU by default. ``info`` says in ``latency_of`` what was measured.
        report: Told what takes long while the evaluator is made (training the teacher, once).

    Raises:
        TaskError: If the data cannot be used.
        TeacherError: If the teacher cannot be used.
    """

    def __init__(
        self,
        task: Task | str,
        *,
        device: str | torch.device = "cpu",
        threads: int = 1,
        objective: str = "kd",
        data: TaskData | None = None,
        teacher: TeacherSource | None = None,
        settings: TrainingSettings | None = None,
        time_limit_s: float | None = None,
        limits: StudentLimits | None = None,
        measure: Sequence[str] = (),
        runtime: Runtime | None = None,
        continue_from_checkpoint: str | Path | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        if objective not in OBJECTIVES and ":" not in objective:
            raise ValueError(f"unknown objective {objective!r}{did_you_mean(objective, OBJECTIVES)}")
        self.kd_loss: KDLoss | None = None if objective in OBJECTIVES else get_loss(objective)
        """What takes the place of `distillation_loss`."""
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        for name in measure:
            if name not in MEASURED_OBJECTIVES:
                raise ValueError(f"nothing to measure: {name!r}{did_you_mean(name, MEASURED_OBJECTIVES)}")
        self.limits, self.measure = limits or StudentLimits(), tuple(measure)
        if self.limits.max_latency_s is not None and "latency" not in self.measure:
            self.measure += ("latency",)  # trials tell what was limited
        self.runtime = runtime or Runtime()
        if "latency" in self.measure:
            check_available(self.runtime)
        self.device = checked_device(device)
        self.threads, self.objective, self.time_limit_s = threads, objective, time_limit_s
        self.settings = settings or TrainingSettings()
        self.data = (load_data(get_task(task)) if data is None else data).to(self.device)
        self._asked_teacher = name_of_teacher(teacher)
        self.task = self.data.task
        """The task with everything that only its data tell (number of classes of a folder, sizes) filled in."""
        self.teacher: Teacher = load_teacher(self.data, teacher, threads=threads, report=report)
        own = teacher is None or is_trained_here(teacher)
        self.given_teacher = (
            "" if own else content_digest({**self._teacher_key(), "moments": [self.teacher.mean, self.teacher.std]})
        )
        self.soft_targets = SoftTargets.cached(self.teacher, self.data, threads=threads, report=report)
        self.checkpoints: CheckpointFolder | None = None
        if continue_from_checkpoint is not None:
            self.checkpoints = CheckpointFolder(continue_from_checkpoint, self._training_key())
        self.watch: Callable[[str], None] | None = None
        """Told what a training of this evaluator does: at its begin, and after each epoch."""
        self._width_decided_by = ""
        self._report = report
        self._measured_last: tuple[Any, Latency] | None = None
        self._measuring_s = 0.0
        self._latency_model: Model | None = None
        self._teacher_test: Tensor | None = None
        self._score_batch: tuple[Tensor, LastFeatures] | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """What ``run.yaml`` says of it under ``evaluation``, as ``naslib-autokd search`` writes it there."""
        found: dict[str, Any] = {"objective": self.objective, "teacher": self._asked_teacher}
        if self.limits:
            found["limits"] = asdict(self.limits)
        if "latency" in self.measure:
            found["runtime"] = asdict(self.runtime)
        if self.checkpoints is not None:
            found["continue_from_checkpoint"] = True
        if self.settings.precision != "float32":
            found["precision"] = self.settings.precision
        if not self.settings.cuda_graph:
            found["cuda_graph"] = False
        return found

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.task.in_channels, self.task.image_size, self.task.image_size)

    def student_spec(self, candidate: Any, seed: int) -> Any:
        """The student that ``seed`` draws from the candidate's family, with its width fitted to the task.

        A candidate of another space describes its student itself, by ``student_spec(task, seed)``.

        Raises:
            LimitError: If no width of it keeps the limits.
            ParameterBudgetError: If no width of it has at most the task's ``max_params`` parameters.
        """
        spec, self._width_decided_by = self._fitted(candidate, seed)
        return spec

    def _fitted(self, candidate: Any, seed: int) -> tuple[Any, str]:
        """`student_spec`, and what decides its width: a limit of `StudentLimits`, ``max_params``, the candidate's own
        ``size``; empty where the candidate describes its student itself."""
        if isinstance(candidate, DescribesStudents):
            spec = candidate.student_spec(self.task, seed)
            if broken := self.limits.broken(lambda cost: self.cost_of(spec, cost)):
                texts = [
                    f"{name}={limit:.4g}, the student needs {value:.4g}" for name, (value, limit) in broken.items()
                ]
                raise LimitError("; ".join(texts), {name: value for name, (value, _) in broken.items()})
            return spec, ""
        wiring = candidate.sample_wiring(derive_seed(seed, "wiring"))

        def fit(max_params: int) -> Any:
            return fit_width(
                wiring,
                max_params,
                in_channels=self.task.in_channels,
                image_size=self.task.image_size,
                n_classes=self.task.n_classes,
                stem=self.task.stem,
                min_channels=self.task.min_channels,
                width_multiple=self.task.width_multiple,
            )

        size = candidate.size if isinstance(candidate, HasSize) else 1.0
        if size == 1.0 and not self.limits:
            return fit(self.task.max_params), "max_params"
        try:
            smallest = fit(0).n_params
        except ParameterBudgetError as error:
            smallest = error.smallest
        # a share that is too small for the family means its narrowest student
        max_params = min(self.task.max_params, max(smallest, round(self.task.max_params * size)))
        screen = self._latency_screen()
        for attempt in range(MOST_ATTEMPTS + 1):
            spec, decides = widest_within(self.limits, fit, partial(self._cost, screen), max_params, smallest)
            if screen is None or screen.settles(spec):
                break
            if attempt + 1 == MOST_ATTEMPTS:
                screen.distrust()
        return spec, decides or ("max_params" if size == 1.0 else "size")

    def _latency_screen(self) -> LatencyScreen | None:
        """For the students of one wiring; None without a limit of latency."""
        if (limit := self.limits.max_latency_s) is None:
            return None
        return LatencyScreen(lambda spec: self.cost_of(spec, "latency"), limit, self._predictor())

    def _predictor(self) -> Model | None:
        """What predicts latencies on this machine: the model that is in the cache, or one that is calibrated once
        measuring has taken `WORTH_A_MODEL_S`."""
        if self._latency_model is None and self.runtime.provider == "cpu" and not missing_packages():
            model = latency_model.kept(self.image_shape, self.runtime)
            if model is None and self._measuring_s > WORTH_A_MODEL_S:
                model = latency_model.calibrated(self.image_shape, self.runtime, self._report)
            self._latency_model = None if model is None else _Predictor(model, lambda spec: self.build_student(spec, 0))
        return self._latency_model

    def _cost(self, screen: LatencyScreen | None, spec: Any, cost: str) -> float:
        return self.cost_of(spec, cost) if screen is None or cost != "latency" else screen(spec)

    def cost_of(self, spec: Any, cost: str) -> float:
        """A cost of a student by its name in `records.OBJECTIVES` (not the error), without training it."""
        if cost in ("params", "macs"):
            return float(spec.n_params if cost == "params" else spec.macs)
        with limited_threads(self.threads):
            student = self.build_student(spec, 0).to(self.device)
            if cost == "train_memory":
                return float(train_memory(student, self.image_shape, self.task.batch_size))
            return float(self._measured(student, (cost,))[cost])

    def _measured(self, student: nn.Module, costs: Sequence[str]) -> dict[str, Any]:
        """Costs of `records.MEASURED_OBJECTIVES`, and ``latency_of``: of what in which words."""
        found: dict[str, Any] = {}
        for cost in costs:
            if cost == "latency":
                measured = self._latency(student)
                found |= {"latency": measured.seconds, "latency_of": measured.measured}
            else:
                found[cost] = inference_memory(student, self.image_shape)
        return found

    def _latency(self, student: nn.Module) -> Latency:
        """Measured; of the spec that was measured last as it was then, for weights do not matter."""
        spec = student.spec if isinstance(student, HasSpec) else None
        if spec is None or self._measured_last is None or self._measured_last[0] != spec:
            start = time.perf_counter()
            self._measured_last = spec, latency(student, self.image_shape, self.runtime)
            self._measuring_s += time.perf_counter() - start
        return self._measured_last[1]

    def build_student(self, spec: Any, seed: int) -> nn.Module:
        """The module of a spec, with weights drawn by ``derive_seed(seed, "weights")``."""
        if isinstance(spec, BuildsItself):
            return cast(nn.Module, spec.build(derive_seed(seed, "weights")))
        from naslib_autokd.search_spaces.hnag.student import Student

        return Student(spec, seed=derive_seed(seed, "weights"))

    def training_seconds(self, proposal: Proposal) -> float:
        """What `evaluate` will cost in CPU seconds, by the model; draws the same student, and trains nothing."""
        budget, seed = proposal.budget_epochs, proposal.seed
        kept = None if self.checkpoints is None else self.checkpoints.best(proposal.candidate.digest, budget)
        try:
            spec = self.student_spec(proposal.candidate, seed if kept is None else kept.student_seed)
            cost = self._training_cost(spec)
        except Exception:  # `evaluate` will say what is wrong with it
            return 0.0
        return self._seconds(cost, budget - (0 if kept is None else kept.checkpoint.epochs))

    def _training_cost(self, spec: Any, student: nn.Module | None = None) -> TrainingCost:
        """Of a training step of a student, which is built only where its description does not tell."""
        if isinstance(spec, StudentSpec):
            return student_cost(spec, self.task.batch_size)
        student = self.build_student(spec, 0) if student is None else student
        return network_cost(student, self.image_shape, self.task.batch_size)

    def _seconds(self, cost: TrainingCost, epochs: float) -> float:
        """Of so many epochs and one look at the validation split."""
        batch_size = min(self.task.batch_size, self.data.n_shown)
        return cost.seconds(epochs * (self.data.n_shown // batch_size), len(self.data.val_labels))

    def evaluate(self, proposal: Proposal) -> Trial:
        """Draw a student, train it for the proposal's budget, validate it once.

        Raises:
            ValueError: If the budget is larger than the task's ``max_budget_epochs``. Whatever the student does
                (divergence, memory, errors) is a trial with that status instead.
        """
        if proposal.budget_epochs > self.task.max_budget_epochs:
            raise ValueError(
                f"budget_epochs={proposal.budget_epochs} is larger than the maximum of task {self.task.name!r}, "
                f"{self.task.max_budget_epochs}; raise max_budget_epochs in the task or lower the budget"
            )
        trial = Trial.of(
            proposal,
            wiring_seed=derive_seed(proposal.seed, "wiring"),
            training_seconds=0.0,
            info={"device": str(self.device), "torch": str(torch.__version__), "objective": self.objective},
        )
        steps: dict[str, Any] = {"info": trial.info}
        try:
            with limited_threads(self.threads):
                self._run(proposal, steps)
        except (LimitError, ParameterBudgetError) as error:
            steps |= {"status": "refused", "message": f"{type(error).__name__}: {error}"}
        except Exception as error:
            steps |= {"status": "error", "message": f"{type(error).__name__}: {error}"}
            if is_out_of_memory(error):
                advice = self._memory_advice(steps.get("train_memory_bytes"))
                steps |= {"status": "out_of_memory", "message": f"{steps['message']}; {advice}"}
            else:
                steps["info"] = steps["info"] | {"traceback": traceback.format_exc(limit=-3)}
        if steps.get("status") == "out_of_memory":
            self._free_memory()
        return replace(trial, **steps)

    def _memory_advice(self, step_bytes: int | None) -> str:
        """What to do where a training has no memory, and how much a step of it takes if that is known."""
        needs = "" if step_bytes is None else f"a step takes {step_bytes / 2**20:.0f} MiB of tensors: "
        return (
            f"{needs}limit students (--max-memory), lower the task's batch_size ({self.task.batch_size}), or run fewer "
            f"workers {'on this machine' if self.device.type == 'cpu' else f'on {self.device}'}"
        )

    def _free_memory(self) -> None:
        """For the next training, and others on this GPU; once the exception, which holds tensors, is gone."""
        if self.device.type == "cuda":
            with contextlib.suppress(RuntimeError):  # after a capture that failed, torch may refuse
                torch.cuda.empty_cache()

    def _run(self, proposal: Proposal, steps: dict[str, Any]) -> None:
        """Fill ``steps`` with the fields of the trial as they become known, so that a failure keeps the earlier."""
        clock = _Clock(steps)
        kd: KDLike = cast(Any, proposal.candidate).kd
        budget, seed = proposal.budget_epochs, proposal.seed
        with clock("sample_s"):
            kept = None if self.checkpoints is None else self.checkpoints.best(proposal.candidate.digest, budget)
            if kept is not None:
                seed = kept.student_seed
            if self.checkpoints is not None:
                steps["info"] = steps["info"] | {"continued_from": None if kept is None else kept.about}
            self._width_decided_by = ""  # a subclass may have a student_spec of its own
            spec = self.student_spec(proposal.candidate, seed)
            if self._width_decided_by and self.limits:  # else it is always the same
                steps["info"] = steps["info"] | {"width_decided_by": self._width_decided_by}
            steps |= {
                "wiring_seed": derive_seed(seed, "wiring"),
                "wiring": spec.wiring.digest,
                "channels": tuple(spec.channels),
                "n_params": spec.n_params,
                "budget_used": spec.n_params / self.task.max_params,
                "macs": spec.macs,
                "depth": spec.depth,
            }
        with clock("build_s"):
            student = self.build_student(spec, seed).to(self.device)
            steps["train_memory_bytes"] = train_memory(student, self.image_shape, self.task.batch_size)
            cost = self._training_cost(spec, student)
            if self.measure:
                steps["info"] = steps["info"] | self._measured(student, self.measure)
        start, state = None if kept is None else kept.checkpoint, list[Checkpoint]()
        done = 0 if start is None else start.epochs
        # a training that raises is charged in full
        steps |= {"student_epochs": float(budget - done), "training_seconds": self._seconds(cost, budget - done)}
        with clock("train_s"):
            what = "the default family" if proposal.number < 0 else f"trial {proposal.number}"
            batches, told = derive_seed(seed, "batches"), self._teller(what, budget)
            if self.checkpoints is None:
                result = self._train(student, kd, budget, batches, told)
            else:
                result = self._train_on(student, kd, budget, batches, start, state.append, told)
        steps["info"] = steps["info"] | self._how(result)
        if result.precision == "bfloat16":
            steps["train_memory_bytes"] = self._train_memory(student, result)
        steps |= {
            "status": result.status,
            "message": result.message,
            "student_epochs": result.epochs,
            "training_seconds": self._seconds(cost, result.epochs),
            "curve": result.curve,
            "train_accuracy": result.train_accuracy,
        }
        if result.status != "success":
            return
        with clock("evaluate_s"):
            logits = predict(student, self.data, self.data.val_images)
            if not bool(torch.isfinite(logits).all()):
                steps |= {"status": "diverged", "message": "outputs on the validation split are not finite"}
                return
            val_accuracy = accuracy(logits, self.data.val_labels)
            steps |= {
                "val_accuracy": val_accuracy,
                "cost": 1 - val_accuracy,
                "teacher_agreement": accuracy(logits, self.soft_targets.val.argmax(dim=1)),
            }
        if self.checkpoints is not None and budget < self.task.max_budget_epochs:
            self.checkpoints.save(proposal, seed, *state)

    def _teller(self, what: str, epochs: int) -> Callable[[int, float], None] | None:
        """A training's ``progress`` for `watch`."""
        watch = self.watch
        if watch is None:
            return None
        watch(f"{what}: epoch 1 of {epochs}")
        return lambda done, loss: watch(f"{what}: {done} of {epochs} epochs, training loss {loss:.3g}")

    def _train(
        self,
        model: nn.Module,
        kd: KDLike | None,
        epochs: int,
        seed: int,
        progress: Callable[[int, float], None] | None = None,
    ) -> TrainingResult:
        return self._train_on(model, kd, epochs, seed, progress=progress)

    def _train_on(
        self,
        model: nn.Module,
        kd: KDLike | None,
        epochs: int,
        seed: int,
        start: Checkpoint | None = None,
        keep: Callable[[Checkpoint], None] | None = None,
        progress: Callable[[int, float], None] | None = None,
    ) -> TrainingResult:
        use_teacher = self.objective != "ce" and kd is not None
        return train(
            model,
            self.data,
            self.soft_targets.train if use_teacher else None,
            kd=kd if use_teacher else None,
            kd_loss=self.kd_loss,
            epochs=epochs,
            seed=seed,
            settings=self.settings,
            time_limit_s=self.time_limit_s,
            progress=progress,
            start=start,
            keep=keep,
        )

    def _how(self, result: TrainingResult) -> dict[str, Any]:
        """What a record says of how it was trained."""
        told: dict[str, Any] = {"precision": result.precision}
        told |= {"precision_reason": result.precision_reason} if result.precision_reason else {}
        if self.device.type == "cuda":
            told["cuda_graph"] = result.cuda_graph
            told |= {"cuda_graph_reason": result.cuda_graph_reason} if result.cuda_graph_reason else {}
        return told

    def _train_memory(self, student: nn.Module, result: TrainingResult) -> int:
        half = result.precision == "bfloat16"
        return train_memory(student, self.image_shape, self.task.batch_size, bfloat16=half)

    def _teacher_key(self) -> dict[str, Any]:
        network = self.teacher.network
        weights = {name: tensor.cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
        inputs = [repr(module.input) for module in network.modules() if isinstance(module, InputAdapter)]
        key = {"teacher": hashlib.sha256(to_safetensors(weights)).hexdigest()}
        return {**key, **({"teacher_inputs": inputs} if inputs else {})}

    def _training_key(self) -> str:
        """Digest of everything that a training depends on besides family, seed and budget."""
        return content_digest(
            {
                **self._teacher_key(),
                **({"unlabelled": self.data.unlabelled_digest} if self.task.unlabelled_dir else {}),
                "task": self.task.digest,
                "data": self.data.digest,
                "objective": self.objective,
                "settings": asdict(replace(self.settings, cuda_graph=False)),  # the same, with and without
            }
        )

    def training_free_score(self, candidate: Any, seed: int) -> Score:
        """DisWOT's score (`distillation.diswot`) of the student that `evaluate` would train with this seed.

        On the same `SCORE_BATCH` training images for all students; the student's batch norms use the statistics of the
        batch. The score does not depend on the KD settings. A student that cannot be built or scored has the score
        minus infinity.

        Raises:
            DisWOTError, TeacherError: If the teacher has no feature map to compare with.
        """
        with limited_threads(self.threads):
            images, teacher = self.images_to_score()
            cost = SCORE_COST * len(images) / self.data.n_shown
            try:
                student = self.build_student(self.student_spec(candidate, seed), seed).to(self.device).train()
                return Score(compare(teacher, last_features(student, images)).value, cost)
            except Exception as error:  # what a student does is never the caller's fault
                log.warning("candidate %s cannot be scored: %s: %s", candidate.digest, type(error).__name__, error)
                return Score(-math.inf, cost)

    def images_to_score(self) -> tuple[Tensor, LastFeatures]:
        """Normalised training images, the same ones always, and what the teacher makes of them."""
        if self._score_batch is None:
            require_layers(self.teacher, "DisWOT")
            data = self.data
            rng = torch.Generator().manual_seed(derive_seed("score", self.task.split_seed))
            drawn = torch.randperm(len(data.train_labels), generator=rng)[:SCORE_BATCH].to(self.device)
            images = data.train_views[torch.zeros_like(drawn), drawn]
            of_teacher = last_features(
                self.teacher.settle().network, normalise(images, self.teacher.mean, self.teacher.std)
            )
            self._score_batch = data.normalise(images), of_teacher
        return self._score_batch

    def train_final(
        self,
        build: Callable[[], nn.Module],
        kd: KDLike | None,
        seed: int,
        epochs: int | None = None,
        name: str = "",
        what: str = "a final student",
    ) -> tuple[nn.Module, FinalResult]:
        """The final training that all methods share: build, train in full, validate. Does not read the test split.

        Args:
            build: Makes the network; runs with torch's global generator seeded by ``derive_seed(seed, "weights")``.
            kd: Ignored with ``objective="ce"``; None trains on the labels alone.
            epochs: Default: the task's ``max_budget_epochs``.
            name: Of the result, as its table shows it.
            what: It is called in what `watch` is told.

        Raises:
            MemoryError: If there is no memory for it, on the CPU or on a GPU; says what to do.
        """
        with limited_threads(self.threads):
            with seeded(derive_seed(seed, "weights")):
                model = build().to(self.device)
            macs = count_macs(model, self.image_shape)
            epochs = epochs or self.task.max_budget_epochs
            told = self._teller(what, epochs)
            try:
                result = self._train(model, kd, epochs, derive_seed(seed, "batches"), told)
                memory = self._train_memory(model, result)
                logits = predict(model, self.data, self.data.val_images)
            except Exception as error:
                if is_out_of_memory(error):
                    whose = f" of {name}" if name else ""
                    raise MemoryError(f"{what}{whose}: {error}; {self._memory_advice(None)}") from error
                raise
            good = result.status != "diverged" and bool(torch.isfinite(logits).all())
        used = None if self.objective == "ce" else kd
        return model, FinalResult(
            name=name,
            seed=seed,
            status=result.status if good else "diverged",
            message=result.message,
            epochs=result.epochs,
            val_accuracy=accuracy(logits, self.data.val_labels) if good else 0.0,
            teacher_agreement=accuracy(logits, self.soft_targets.val.argmax(dim=1)) if good else 0.0,
            n_params=count_params(model),
            macs=macs,
            train_memory_bytes=memory,
            seconds=result.seconds,
            temperature=None if used is None else used.temperature,
            kd_weight=None if used is None else used.kd_weight,
            curve=result.curve,
            precision=result.precision,
            training_seconds=self._seconds(network_cost(model, self.image_shape, self.task.batch_size), result.epochs),
        )

    def judge(self, model: nn.Module, result: FinalResult) -> FinalResult:
        """``result`` with the model's test accuracy and test agreement. Reads the test split: call once per model."""
        images, labels = self.data.read_test()
        with limited_threads(self.threads):
            logits = predict(model, self.data, images)
            teacher = self._teacher_on_test(images)
        if result.status == "diverged":
            return replace(result, test_accuracy=0.0, test_agreement=0.0)
        return replace(
            result,
            test_accuracy=accuracy(logits, labels),
            test_agreement=accuracy(logits, teacher.argmax(dim=1)),
            test_counts=judgement(logits, teacher, labels, self.data.classes),
        )

    def teacher_row(self) -> FinalResult:
        """The teacher as a row of the table, judged on the test split like everybody else."""
        images, labels = self.data.read_test()
        network = self.teacher.network
        with limited_threads(self.threads):
            test = self._teacher_on_test(images)
            trainable = [parameter for parameter in network.parameters() if not parameter.requires_grad]
            for parameter in trainable:
                parameter.requires_grad_(True)
            macs, memory, message = 0, 0, ""
            try:
                macs = count_macs(network, self.image_shape)
                memory = train_memory(network, self.image_shape, self.task.batch_size)
            except Exception as error:  # it is the user's, and need not be one that can be trained
                message = f"its costs are not counted: {' '.join(str(error).split()) or type(error).__name__}"
            finally:
                for parameter in trainable:
                    parameter.requires_grad_(False)
        return FinalResult(
            name="teacher",
            seed=self.task.split_seed,
            status="success",
            message=message,
            epochs=0.0,
            val_accuracy=accuracy(self.soft_targets.val, self.data.val_labels),
            teacher_agreement=1.0,
            n_params=count_params(network),
            macs=macs,
            train_memory_bytes=memory,
            seconds=0.0,
            test_accuracy=accuracy(test, labels),
            test_agreement=1.0,
        )

    def _teacher_on_test(self, images: Tensor) -> Tensor:
        if self._teacher_test is None:
            self._teacher_test = self.teacher.predict(images)
        return self._teacher_test

    def save_student(self, model: nn.Module, result: FinalResult, path: str | Path) -> None:
        """`student_file` at ``path``, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.student_file(model, result))

    def student_file(self, model: nn.Module, result: FinalResult) -> bytes:
        """Weights as safetensors, with spec, normalisation, classes, seen pictures, result and digest as metadata."""
        spec: Any = model.spec if isinstance(model, HasSpec) else None
        metadata = {
            "spec": None if spec is None else spec.to_dict(),
            "classes": list(self.data.classes),
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "input": list(self.image_shape),
            "preparation": PREPARATION,
            "seen": self.data.seen.to_dict(),
            "task": self.task.name,
            "task_digest": self.task.digest,
            "result": result.to_dict(),
            "record": content_digest(result.to_dict()),
        }
        # some modules share theirs, which safetensors refuses
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
        return same_bytes(to_safetensors(state, {key: json.dumps(value) for key, value in metadata.items()}))


class _Predictor:
    """A `LatencyModel` for specs of HNAG's students."""

    def __init__(self, model: LatencyModel, build: Callable[[Any], nn.Module]) -> None:
        self._model, self._build, self.error = model, build, model.error

    def predict(self, student: Any) -> float:
        return self._model.predict(cast(Any, self._build(student)).eval())


def checked_device(device: str | torch.device) -> torch.device:
    """The device, if torch has it.

    Raises:
        ValueError: For an unknown device or one that this machine lacks.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r} cannot be used here: {error}") from error
    return found


class _Clock:
    """``with clock("train_s"):`` writes the wall seconds of the block into the record, also if it raises."""

    def __init__(self, record: dict[str, Any]) -> None:
        self._record = record

    def __call__(self, name: str) -> _Clock:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._record[self._name] = time.perf_counter() - self._start
