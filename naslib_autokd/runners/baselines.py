"""Hand-designed students with the losses of the literature, and a searched family with plain KD, under one protocol.

Each (student, loss, seed) is one training by `KDEvaluator.train_final`: the task's data, views, schedule, teacher and
full budget. Rivals (`rivals`) are trained so with plain KD, under the limits that a searched student keeps. Trainings
of one student with one seed have the same initial weights and see the same batches, so that differences between losses
are paired. One line of ``results.jsonl`` for each finished training; what is there is not trained again, and a
comparison can be made longer (more seeds, losses, students, rivals) in the same folder.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from naslib_autokd.distillation.baselines import TERMS, TITLES, BaselineObjective, LossSettings
from naslib_autokd.distillation.latency_model import least_seconds
from naslib_autokd.distillation.runtime import BATCHES, OnnxSession, Runtime, missing_packages, onnx_file
from naslib_autokd.distillation.training import KDLike, TrainingResult, TrainingSettings, train
from naslib_autokd.evaluators.kd import FinalResult, KDEvaluator
from naslib_autokd.evaluators.student_limits import StudentLimits
from naslib_autokd.files import write_whole
from naslib_autokd.records import TrialStore, derive_seed
from naslib_autokd.runners import rivals as rivals_of
from naslib_autokd.runners.engine import DaskPool, now_and_then, pick_device
from naslib_autokd.runners.limits import Handler, Outcome, Report, attempt
from naslib_autokd.runners.rivals import Rival
from naslib_autokd.runners.run_folder import (
    RESULT,
    RIVALS,
    TRAININGS,
    TRIALS,
    RunFolder,
    RunFolderError,
    append_line,
    check_run,
    cut_torn_line,
    open_run,
    read_json,
    read_settings,
    read_task,
)
from naslib_autokd.runners.session import SearchInterrupted
from naslib_autokd.runners.statistics import (
    SHARE,
    Interval,
    PairedDifference,
    holm_of_known,
    mean_interval,
    paired_difference,
)
from naslib_autokd.search_spaces.hnag import Candidate, HNAGSpace
from naslib_autokd.settings import read_document
from naslib_autokd.tasks import Task, get_task
from naslib_autokd.teachers.onnx import require_layers
from naslib_autokd.teachers.zoo import known

FAMILY = "searched family"
SUMMARY = "summary.json"
"""All results, once every training has ended."""

Job = tuple[str, str, int]
"""``(student, loss, seed)``."""


class BaselineEvaluator(KDEvaluator):
    """Trains with `LossSettings` in place of KD settings; everything else is the evaluator's."""

    def _train(
        self,
        model: nn.Module,
        kd: KDLike | None,
        epochs: int,
        seed: int,
        progress: Callable[[int, float], None] | None = None,
    ) -> TrainingResult:
        if not isinstance(kd, LossSettings):
            return super()._train(model, kd, epochs, seed, progress)
        objective = BaselineObjective(
            kd, model, self.data, self.teacher, self.soft_targets.train, epochs=epochs, seed=seed
        )
        # the losses have different scales, some grow by design (DKD) or are negative (VID): only a loss that is not
        # finite is a divergence here
        settings = replace(self.settings or TrainingSettings(), divergence_factor=float("inf"))
        return train(
            model,
            self.data,
            None,
            kd=None,
            epochs=epochs,
            seed=seed,
            settings=settings,
            objective=objective,
            progress=progress,
        )


@dataclass(frozen=True)
class Training:
    """One finished training."""

    student: str
    """A name of the zoo, or `FAMILY`."""
    loss: str
    """`LossSettings.key`."""
    seed: int
    result: FinalResult

    @property
    def job(self) -> Job:
        return self.student, self.loss, self.seed

    @property
    def test_accuracy(self) -> float:
        assert self.result.test_accuracy is not None
        return self.result.test_accuracy

    def to_dict(self) -> dict[str, Any]:
        return {"student": self.student, "loss": self.loss, "seed": self.seed, "result": self.result.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Training:
        """Inverse of `to_dict`.

        Raises:
            ValueError, KeyError, TypeError: If it is no finished training.
        """
        student, loss, seed = values["student"], values["loss"], values["seed"]
        result = FinalResult.from_dict(values["result"])
        if not (isinstance(student, str) and isinstance(loss, str) and type(seed) is int):
            raise ValueError("student and loss must be text, and seed a whole number")
        if result.test_accuracy is None:
            raise ValueError("the training was not judged: test_accuracy is missing")
        return cls(student, loss, seed, result)


@dataclass(frozen=True)
class BaselineRow:
    """One student with one loss over all seeds."""

    student: str
    loss: str
    test_accuracy: Interval
    val_accuracy: Interval
    gain: PairedDifference | None
    """Its test accuracy minus that of the same student with plain KD, paired by seed; None for plain KD itself."""
    p_holm: float | None
    """Of the gains' t tests over all rows; None where there is none."""
    behind_family: PairedDifference | None
    """The family's test accuracy minus its, paired by seed; None for the family and without one."""
    n_params: float
    macs: float
    train_memory_bytes: float
    test_agreement: float
    """With the teacher."""
    seconds: float
    """Of a training, on the machine it ran on."""

    @property
    def title(self) -> str:
        name, _, weight = self.loss.partition("=")
        return TITLES.get(name, name) + (f", weight {weight}" if weight else "")

    @property
    def short_title(self) -> str:
        """`title` without the authors."""
        name, _, weight = self.loss.partition("=")
        return TITLES.get(name, name).partition(" (")[0] + (f", weight {weight}" if weight else "")


@dataclass(frozen=True)
class BaselineComparison:
    """All results of `compare`, and the teacher's own."""

    task: str
    seeds: tuple[int, ...]
    epochs: int
    kd_weight: float
    """Of the Hinton term of the hand-designed students; the family has its own."""
    teacher: FinalResult | None
    """None of one that is not finished."""
    rows: tuple[BaselineRow, ...]
    trainings: tuple[Training, ...]
    failures: tuple[tuple[str, str, int, str], ...]
    """``(student, loss, seed, error)``."""
    rivals: tuple[Rival, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    """Rivals that cannot keep the limits or be made, with the reason."""
    latencies_ms: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Of the family, the rivals and the teacher: of calls of `runtime.BATCHES` images, timed in turns; empty without
    ONNX Runtime or rivals."""

    family_is_default: bool = False
    """Whether the family is the space's default one, which no search found."""

    @property
    def family_name(self) -> str:
        """What texts call the family."""
        return "default family" if self.family_is_default else FAMILY

    def name_of(self, row: BaselineRow) -> str:
        """What texts call a row's student."""
        return self.family_name if row.student == FAMILY else row.student

    def row(self, student: str, loss: str) -> BaselineRow | None:
        return next((row for row in self.rows if (row.student, row.loss) == (student, loss)), None)

    @property
    def family(self) -> BaselineRow | None:
        """With its own plain KD."""
        return self.row(FAMILY, "kd")

    @property
    def rival_rows(self) -> list[BaselineRow]:
        names = {rival.name for rival in self.rivals}
        return [row for row in self.rows if row.student in names]

    @property
    def best_advanced(self) -> BaselineRow | None:
        """The row of a hand-designed student with an advanced loss whose validation accuracy is best."""
        rows = [row for row in self.rows if row.student != FAMILY and row.loss not in ("ce", "kd")]
        return max(rows, key=lambda row: row.val_accuracy.mean, default=None)


def compare(
    task: str | Task,
    students: Sequence[str],
    losses: Sequence[str],
    *,
    seeds: Sequence[int],
    out: str | Path | RunFolder,
    workers: int = 2,
    teacher: str | None = None,
    family: Candidate | None = None,
    family_losses: Sequence[str] = (),
    rivals: Sequence[str] = (),
    rival_epochs: int | None = None,
    rival_seconds: float | None = None,
    limits: StudentLimits | None = None,
    runtime: Runtime | None = None,
    temperature: float = 4.0,
    kd_weight: float = 0.9,
    device: str = "cpu",
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    watch: Callable[[str], None] | None = None,
) -> BaselineComparison:
    """Train every student with every loss and every seed, and the family with its own plain KD and ``family_losses``.

    Args:
        students: Names of the zoo.
        losses: Names of `TITLES`, or ``name=weight``. Plain KD is the reference of the differences.
        out: Run folder, held until the comparison ends.
        workers: Trainings at the same time, one thread each; 1 trains in this process.
        teacher: Another teacher than the task's.
        family: Of a search; its students are drawn and trained as a search's final students are.
        family_losses: As ``losses``, for the family besides plain KD. They stand beside the Hinton term with the
            temperature and the weight that were searched with the family.
        rivals: Of `rivals.RIVALS`, or ``timm:NAME``: trained with plain KD, each as wide as the limits allow. They need
            a family, which they are compared with.
        rival_epochs: The task's by default.
        rival_seconds: Instead of epochs, CPU seconds of a training by the cost model, for each rival.
        limits: Of the family's students and of the rivals, besides the task's ``max_params``.
        runtime: Where a limit of latency is measured.
        temperature, kd_weight: Of the Hinton term of all hand-designed students.
        device: Torch device; several, with commas between, are given to the workers in turn.
        stop: Asked before each training; once true those that run are finished and saved.
        progress: Called with (trainings done, of, text).
        watch: Told what goes on, of trainings epoch by epoch.

    Raises:
        ValueError: For settings that cannot work, before any work; for a folder that holds another comparison.
        StoreLockedError: If another process writes ``out``.
        SearchInterrupted: After ``stop``.
    """
    task = get_task(task)
    check(task, students, losses, seeds, workers)
    students = [known(student) for student in students]
    parsed = [LossSettings.parse(text, temperature=temperature, kd_weight=kd_weight) for text in losses]
    settings = {each.key: each for each in parsed}
    asked_rivals = rivals_of.chosen(rivals)
    if rivals and family is None:
        raise ValueError("rivals are compared with a family: give one")
    if not settings and family is None:
        raise ValueError("nothing to train: give students and losses, or a family")
    of_family: dict[str, LossSettings | None] = {}
    if family is not None:
        own = {"temperature": family.kd.temperature, "kd_weight": family.kd.kd_weight}
        given = [LossSettings.parse(text, **own) for text in family_losses]
        of_family = {"kd": None, **{each.key: each for each in given if each.key != "kd"}}
    elif family_losses:
        raise ValueError("family_losses need a family")
    jobs = [(student, loss, seed) for seed in seeds for student in students for loss in settings]
    jobs += [(FAMILY, loss, seed) for seed in seeds for loss in of_family]
    jobs.sort(key=lambda job: (seeds.index(job[2]), job[0] != FAMILY))
    evaluation: dict[str, Any] = {"objective": "kd", "teacher": teacher}
    if limits:
        evaluation |= {"limits": asdict(limits), "runtime": asdict(runtime or Runtime())}
    about = {
        "baselines": {"temperature": temperature, "kd_weight": kd_weight},
        "family": None if family is None else family.to_dict(),
        "evaluation": evaluation,
    }
    with RunFolder.own(out) as folder:
        check_run(folder, task, about)
        store = folder.path / TRAININGS
        cut_torn_line(store)
        done = {training.job: training for training in read_trainings(store)}
        report = _reporter(progress, len(jobs) + len(asked_rivals) * len(seeds))
        if watch is not None:
            watch("loading the images and the teacher")
        evaluator = BaselineEvaluator(
            task, device=device.split(",")[0], teacher=teacher, limits=limits, runtime=runtime, report=report
        )
        if needs := [key for key, chosen in settings.items() if chosen is not None and chosen.loss in TERMS]:
            require_layers(evaluator.teacher, f"the loss {needs[0]}")
        open_run(folder, task, about)  # not before: the folder of a refused teacher is free for the right one
        found_rivals: list[Rival] = []
        left_out: dict[str, str] = {}
        if family is not None and asked_rivals:
            asked = {"epochs": rival_epochs, "seconds": rival_seconds}
            found_rivals, left_out = _fitted_rivals(evaluator, asked_rivals, asked, folder.path / RIVALS, report)
            settings.setdefault("kd", LossSettings("kd", temperature=temperature, kd_weight=kd_weight))
            jobs += [(rival.name, "kd", seed) for seed in seeds for rival in found_rivals]
            jobs.sort(key=lambda job: seeds.index(job[2]))
        epochs = {rival.name: rival.epochs for rival in found_rivals}
        failures: list[tuple[str, str, int, str]] = []
        recipe = {
            "task": task.to_dict(),
            "device": device,
            "teacher": teacher,
            "limits": None if limits is None else asdict(limits),
            "runtime": None if runtime is None else asdict(runtime),
        }
        messages: dict[Job, dict[str, Any]] = {}
        for student, loss, seed in (job for job in jobs if job not in done):
            chosen = of_family[loss] if student == FAMILY else settings[loss]
            messages[student, loss, seed] = {
                "student": student,
                "loss": loss,
                "settings": None if chosen is None else asdict(chosen),
                "family": family.to_dict() if family is not None and student == FAMILY else None,
                "seed": seed,
                "epochs": epochs.get(student),
            }
        with _outcomes(evaluator, recipe, messages, workers, stop or (lambda: False), watch) as outcomes:
            for job, outcome in outcomes:
                if outcome.status == "success":
                    done[job] = Training(*job, FinalResult.from_dict(outcome.value))
                    append_line(store, json.dumps(done[job].to_dict()))
                    text = f"test {100 * done[job].test_accuracy:.1f}"
                else:
                    failures.append((*job, outcome.message))
                    text = f"failed: {outcome.message}"
                n_done = sum(job in done for job in jobs) + len(failures)
                if progress is not None:
                    progress(n_done, len(jobs), f"{job[0]}, {job[1]}, seed {job[2]}: {text}")
        n_done = sum(job in done for job in jobs)
        if stop is not None and stop() and n_done + len(failures) < len(jobs):
            raise SearchInterrupted(f"stopped after {n_done} of {len(jobs)} trainings; the same command continues")
        latencies: dict[str, tuple[float, ...]] = {}
        if family is not None and rivals:
            if watch is not None:
                watch("measuring milliseconds in ONNX Runtime")
            latencies = _latencies_ms(evaluator, family, seeds, found_rivals)
    trainings = tuple(done[job] for job in jobs if job in done)
    return BaselineComparison(
        task=task.name,
        seeds=tuple(seeds),
        epochs=task.max_budget_epochs,
        kd_weight=kd_weight,
        teacher=evaluator.teacher_row(),
        rows=tuple(make_rows(trainings)),
        trainings=trainings,
        failures=tuple(failures),
        rivals=tuple(found_rivals),
        left_out=left_out,
        latencies_ms=latencies,
        family_is_default=family is not None and _is_default(family, task.preset),
    )


def _is_default(family: Candidate, preset: str) -> bool:
    return family.digest == HNAGSpace(preset).default_candidate().digest


def _fitted_rivals(
    evaluator: BaselineEvaluator,
    names: Sequence[str],
    asked: dict[str, Any],
    file: Path,
    report: Callable[[str], None] | None,
) -> tuple[list[Rival], dict[str, str]]:
    """The rivals in the widths that ``file`` has, for latencies differ from run to run; new ones are written there."""
    kept = read_json(file) or {"asked": asked, "rivals": {}}
    if kept["asked"] != asked:
        raise RunFolderError(
            f"{file} has rivals that were trained for other epochs ({kept['asked']}); give another --out"
        )
    new = [name for name in names if name not in kept["rivals"]]
    given, seconds = asked["epochs"] or evaluator.task.max_budget_epochs, asked["seconds"]
    epochs = (lambda _: given) if seconds is None else rivals_of.epochs_in(evaluator, seconds)
    found, left_out = rivals_of.fitted(evaluator, new, epochs, report)
    kept["rivals"] |= {name: asdict(rival) for name, rival in found.items()}
    write_whole(file, json.dumps(kept, indent=1).encode())
    return [Rival(**kept["rivals"][name]) for name in names if name in kept["rivals"]], left_out


def _latencies_ms(
    evaluator: BaselineEvaluator, family: Candidate, seeds: Sequence[int], rivals: Sequence[Rival]
) -> dict[str, tuple[float, ...]]:
    """Of the networks that are compared, on one thread: the least of many calls, in which all have their turns.

    The family's is the mean of its students.
    """
    if missing_packages():
        return {}
    specs = {seed: evaluator.student_spec(family, derive_seed(seed, "baselines")) for seed in seeds}
    networks = {(FAMILY, seed): evaluator.build_student(spec, 0) for seed, spec in specs.items()}
    networks |= {(rival.name, 0): rivals_of.network(evaluator, rival.name) for rival in rivals}
    networks["teacher", 0] = evaluator.teacher.network
    shape, mean, std = evaluator.image_shape, evaluator.data.mean, evaluator.data.std
    files = {}
    for key, network in networks.items():
        with contextlib.suppress(Exception):  # torch cannot export every network, and says so in many ways
            files[key] = onnx_file(network.cpu().eval(), shape, mean, std)
    found: dict[str, list[tuple[float, ...]]] = {}
    times = [
        least_seconds([OnnxSession(content, Runtime(batch=batch)) for content in files.values()], shape)
        for batch in BATCHES
    ]
    for (name, _), own in zip(files, zip(*times, strict=True), strict=True):
        found.setdefault(name, []).append(tuple(1e3 * seconds for seconds in own))
    return {name: tuple(map(_mean, zip(*values, strict=True))) for name, values in found.items()}


def time_of_search(folder: str | Path) -> float:
    """CPU seconds of training that a search has taken, by the cost model."""
    return TrialStore(Path(folder) / TRIALS).training_seconds


def check(task: str | Task, students: Sequence[str], losses: Sequence[str], seeds: Sequence[int], workers: int) -> None:
    """Refuse what cannot be compared; cheap.

    Raises:
        ValueError: For unknown names (with the nearest), repeated seeds or students, data that are not there.
    """
    task = get_task(task)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be given and differ, got {list(seeds)}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if len(set(students)) != len(students):
        raise ValueError(f"students must differ, got {', '.join(students)}")
    if bool(students) != bool(losses):
        raise ValueError("hand-designed students need losses, and losses need students; got only one of them")
    for text in losses:
        LossSettings.parse(text)
    for student in students:
        known(student)
    from naslib_autokd.data.load import resolve

    resolve(task)


def read_trainings(path: str | Path) -> list[Training]:
    """The complete lines of ``results.jsonl``; an unfinished last line is passed over.

    Raises:
        RunFolderError: If a line is no training, or stands there twice (names the line).
    """
    path = Path(path)
    if not path.exists():
        return []
    content = path.read_bytes()
    found: dict[Job, Training] = {}
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            training = Training.from_dict(json.loads(line))
            if training.job in found:
                raise ValueError("this training stands there twice")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunFolderError(
                f"{path}, line {number}: {reason}; delete the line, and the same command trains this again"
            ) from error
        found[training.job] = training
    return list(found.values())


def read_comparison(folder: Path) -> BaselineComparison:
    """What has come of a comparison so far.

    Raises:
        RunFolderError: If a file cannot be read.
    """
    stored, trainings = read_json(folder / SUMMARY), read_trainings(folder / TRAININGS)
    task, teacher = read_task(folder), stored.get("teacher")
    about = read_settings(folder)
    is_default = False
    with contextlib.suppress(ValueError, KeyError, TypeError):  # of an older version, or damaged: nothing but a word
        is_default = _is_default(Candidate.from_dict(about["family"]), str(task["preset"]))
    failures = ((str(s), str(loss), int(seed), str(error)) for s, loss, seed, error in stored.get("failures", []))
    return BaselineComparison(
        task=str(task.get("name", "")),
        seeds=tuple(sorted({training.seed for training in trainings})),
        epochs=int(task.get("max_budget_epochs", 0)),
        kd_weight=float((about.get("baselines") or {}).get("kd_weight", 0.0)),
        teacher=FinalResult.from_dict(teacher) if teacher else None,
        rows=tuple(make_rows(trainings)),
        trainings=tuple(trainings),
        failures=tuple(failures),
        rivals=tuple(Rival(**values) for values in (read_json(folder / RIVALS).get("rivals") or {}).values()),
        left_out=stored.get("left_out") or {},
        latencies_ms={name: tuple(values) for name, values in (stored.get("latencies_ms") or {}).items()},
        family_is_default=is_default,
    )


def _reporter(progress: Callable[[int, int, str], None] | None, n_jobs: int) -> Callable[[str], None] | None:
    return None if progress is None else lambda text: progress(0, n_jobs, text)


@contextmanager
def _outcomes(
    evaluator: BaselineEvaluator,
    recipe: Mapping[str, Any],
    messages: Mapping[Job, dict[str, Any]],
    workers: int,
    stop: Callable[[], bool],
    watch: Callable[[str], None] | None,
) -> Iterator[Iterator[tuple[Job, Outcome]]]:
    """The jobs' outcomes as they come, none started after ``stop``; workers are ended with the block."""
    if workers == 1 or len(messages) < 2:
        handle, evaluator.watch = partial(train_one, evaluator), watch
        here = itertools.takewhile(lambda _: not stop(), messages.items())
        yield ((job, attempt(lambda m, _: handle(m), message, lambda _: None)) for job, message in here)
        return
    many = min(workers, len(messages))
    with DaskPool(partial(job_handler, dict(recipe)), workers=many, on_message=watch) as pool:

        def results() -> Iterator[tuple[Job, Outcome]]:
            waiting, running = deque(messages.items()), 0
            while running or (waiting and not stop()):
                while waiting and running < pool.n_slots and not stop():
                    pool.submit(*waiting.popleft())
                    running += 1
                if running and (finished := pool.next_finished(1.0)) is not None:
                    running -= 1
                    yield finished

        yield results()


def job_handler(recipe: dict[str, Any], index: int) -> Handler:
    """What a worker process does with the trainings of a comparison; data and teacher are loaded once."""
    import torch

    torch.set_num_threads(1)
    device = pick_device(recipe["device"].split(","), index)
    evaluator = BaselineEvaluator(
        Task.from_dict(recipe["task"]),
        device=device or "cpu",
        teacher=recipe["teacher"],
        limits=recipe["limits"] and StudentLimits(**recipe["limits"]),
        runtime=recipe["runtime"] and Runtime(**recipe["runtime"]),
    )

    def handle(job: Mapping[str, Any], report: Report) -> dict[str, Any]:
        evaluator.watch = now_and_then(report)
        return train_one(evaluator, job)

    return handle


def train_one(evaluator: BaselineEvaluator, job: Mapping[str, Any]) -> dict[str, Any]:
    """One training of a comparison, judged once on the test split."""
    seed = derive_seed(job["seed"], "baselines")
    what = f"{job['student']}, {job['loss']}, seed {job['seed']}"
    kd: KDLike | None = None if job["settings"] is None else LossSettings(**job["settings"])
    if job["family"] is not None:
        family = Candidate.from_dict(job["family"])
        network: Callable[[], nn.Module] = partial(evaluator.build_student, evaluator.student_spec(family, seed), seed)
        kd = kd or family.kd
    else:
        network = partial(rivals_of.network, evaluator, job["student"])
    model, result = evaluator.train_final(network, kd, seed, job["epochs"], name=job["student"], what=what)
    return evaluator.judge(model, result).to_dict()


def make_rows(trainings: Sequence[Training]) -> list[BaselineRow]:
    """Rows in the order of the students' and losses' first trainings; differences over the seeds that both have."""
    groups: dict[tuple[str, str], dict[int, Training]] = {}
    for training in trainings:
        groups.setdefault((training.student, training.loss), {})[training.seed] = training
    family = groups.get((FAMILY, "kd"))
    rows = []
    for (student, loss), found in groups.items():
        values = list(found.values())
        plain = groups.get((student, "kd")) if loss != "kd" else None
        rows.append(
            BaselineRow(
                student=student,
                loss=loss,
                test_accuracy=mean_interval([t.test_accuracy for t in values], bounds=SHARE),
                val_accuracy=mean_interval([t.result.val_accuracy for t in values], bounds=SHARE),
                gain=_difference(found, plain),
                p_holm=None,
                behind_family=_difference(family, found) if student != FAMILY else None,
                n_params=_mean([t.result.n_params for t in values]),
                macs=_mean([t.result.macs for t in values]),
                train_memory_bytes=_mean([t.result.train_memory_bytes for t in values]),
                test_agreement=_mean([t.result.test_agreement or 0.0 for t in values]),
                seconds=_mean([t.result.seconds for t in values]),
            )
        )
    adjusted = holm_of_known([None if row.gain is None else row.gain.p_value for row in rows])
    return [replace(row, p_holm=p_value) for row, p_value in zip(rows, adjusted, strict=True)]


def _difference(a: Mapping[int, Training] | None, b: Mapping[int, Training] | None) -> PairedDifference | None:
    shared = sorted(set(a or ()) & set(b or ()))
    if not shared or a is None or b is None:
        return None
    return paired_difference([a[seed].test_accuracy for seed in shared], [b[seed].test_accuracy for seed in shared])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def read_family(path: str | Path) -> Candidate:
    """The family in a YAML or JSON file, or the one that a finished search found (its run folder).

    Raises:
        ValueError: If there is none; says what was expected.
    """
    path = Path(path)
    file = path / RESULT if path.is_dir() else path
    if not file.is_file():
        what = "has no result.json: the search is not finished" if path.is_dir() else "does not exist"
        raise ValueError(f"--family {path} {what}; give a run folder of a finished search, or a candidate's file")
    try:
        content = read_document(file).values
        if not isinstance(content, dict):
            raise ValueError("no mapping")
        return Candidate.from_dict(content.get("candidate", content))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} holds no family of the random-graph space: {error}") from error
