"""Training and fine-tuning a teacher on a task."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.training import (
    Checkpoint,
    TrainingSettings,
    accuracy,
    limited_threads,
    predict,
    seeded,
    train,
)
from naslib_autokd.records import content_digest, derive_seed
from naslib_autokd.teachers.names import ArchitectureName, TeacherError, is_file_name, parse_architecture
from naslib_autokd.teachers.networks import (
    InputAdapter,
    NetworkInput,
    build_network,
    published_weights,
)
from naslib_autokd.teachers.outputs import LogitsOf, Place, find_logits, shown
from naslib_autokd.teachers.teacher import PIXELS, Teacher, is_plain, predict_batch
from naslib_autokd.teachers.unfinished import Best, Unfinished
from naslib_autokd.teachers.weights import WeightsFile, default_input, load_weights, read_weights, stated_input

TEACHER_BATCH = 64

TEACHER_TRAINING = TrainingSettings(cuda_graph=False)
"""Any network, which may do more in a step than a graph repeats."""

FINE_TUNING = TrainingSettings(lr=0.01, cuda_graph=False)
"""From weights that are trained already, a tenth of the learning rate."""


def teacher_training(architecture: ArchitectureName) -> TrainingSettings:
    """How a network is trained: `TEACHER_TRAINING` from scratch, `FINE_TUNING` from weights."""
    return FINE_TUNING if architecture.weights else TEACHER_TRAINING


def train_teacher(
    data: TaskData,
    *,
    epochs: int | None = None,
    architecture: str | None = None,
    settings: TrainingSettings | None = None,
    input_size: int | None = None,
    threads: int = 1,
    keep: Callable[[Teacher], None] | None = None,
    progress: Callable[[int, float, float], None] | None = None,
    progress_within: Callable[[float], None] | None = None,
    resume: Path | None = None,
    stop: Callable[[], bool] | None = None,
) -> Teacher:
    """Train a teacher on the task's ``n_teacher`` images; a pure function of the task and its data.

    With ``crop-flip`` every epoch shows an image in another view; students see the task's ``n_views``, for which there
    are soft targets. By default on one CPU thread, since the number of threads changes the rounding, and with it every
    later result.

    Args:
        epochs: The task's ``teacher_epochs`` by default.
        architecture: Name with its source and weights to start from (`architectures`); the task's by default. Started
            from weights, the classifier is made anew where its classes are others.
        settings: `teacher_training` by default.
        input_size: The network's; by default the task's, and with published weights that of these.
        keep: Given the teacher after every epoch in which it is at least as good as before on the validation split. The
            result is then the best epoch's (the latest of equal ones), else the last one's.
        progress: Called with epochs done, mean loss and validation accuracy after each epoch.
        progress_within: Called every few steps with the epochs done, as a fraction.
        resume: File that has the training after its last epoch while it runs. If it is there, the training goes on from
            it and becomes, bit for bit, the one that was not interrupted. The caller removes it.
        stop: With ``resume``, asked after every epoch that is kept there; once true the training is interrupted.

    Raises:
        KeyboardInterrupt: After ``stop``.
        TeacherError: If the architecture is unknown, cannot take the images, or its training fails; if ``resume`` is of
            another training.
    """
    task = data.task
    name = parse_architecture(architecture or task.teacher)
    settings = settings or teacher_training(name)
    seed = derive_seed("teacher", task.split_seed)
    with limited_threads(threads), seeded(seed):
        network, given, notes = _to_train(name, data, input_size)
        plain = is_plain(given, task)
        model: nn.Module = (network if plain else InputAdapter(network, given)).to(data.device)
        mean, std = (given.mean, given.std) if plain else PIXELS
        sizes = replace(task, n_train=task.n_teacher, n_unlabelled=0, batch_size=TEACHER_BATCH)
        epochs = epochs or task.teacher_epochs
        views = data.teacher_views
        if task.augmentation == "crop-flip" and views.sources and epochs > len(views):
            # a view each epoch: nobody needs its logits of these
            views = views.with_more(epochs, task)
        all_images = replace(data, task=sizes, mean=mean, std=std, teacher_views=views)
        if path := _check_forward(model, all_images, name):
            model = LogitsOf(model, path)
            notes = [
                *notes,
                f"in training it returns more than logits: output{shown(path)} is trained, the rest is not",
            ]
        info: dict[str, Any] = {"architecture": name.full, "classes": list(data.classes), "notes": notes}
        recipe = content_digest(
            {
                "data": data.digest,
                "architecture": str(name),
                "epochs": epochs,
                "settings": repr(settings),
                "views": len(views),
                "input": repr(given),
                "rounding": [str(torch.__version__), data.device.type, threads],
            }
        )
        found = None if resume is None else Unfinished.read(resume, recipe)
        best = Best() if found is None else found.best
        start = None if found is None else found.checkpoint

        def validate(epoch: int, loss: float) -> None:
            reached = accuracy(_predict(model, all_images), data.val_labels)
            if keep is not None and reached >= best.val_accuracy:  # of equal ones the one at the lowest rate
                weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                best.val_accuracy, best.epoch, best.weights = reached, epoch, weights
                keep(Teacher.of(copy.deepcopy(network), given, task, {**info, "val_accuracy": reached}))
            if progress is not None:
                progress(epoch, loss, reached)

        done = 0 if start is None else start.epochs
        problem = ""
        for until in range(done + 1, epochs + 1) if resume is not None else (epochs,):
            now: list[Checkpoint] = []
            result = train(
                model,
                all_images,
                None,
                kd=None,
                epochs=until,
                schedule_epochs=epochs,
                seed=seed,
                settings=settings,
                progress=None if keep is None and progress is None else validate,
                progress_within=progress_within,
                start=start,
                keep=None if resume is None else now.append,
            )
            if result.status != "success":
                problem = result.message
                break
            settings = replace(settings, precision=result.precision)  # what "auto" took in the first epoch
            if resume is not None:
                (start,) = now
                with contextlib.suppress(OSError):  # without room for it a killed training starts anew
                    Unfinished(start, best).write(resume, recipe)
                if stop is not None and stop() and until < epochs:
                    raise KeyboardInterrupt
        if best.weights:
            model.load_state_dict(best.weights)
            info |= {"epoch": best.epoch}
        elif problem:
            raise TeacherError(f"training the teacher of {task.name!r} failed: {problem}")
        elif start is not None:
            model.load_state_dict(start.model)
        info["val_accuracy"] = accuracy(_predict(model, all_images), data.val_labels)
    return Teacher.of(network, given, task, info)


def _predict(model: nn.Module, data: TaskData) -> Tensor:
    return predict(model, data, data.val_images, predict_batch(model, data.task.image_size))


def _check_forward(model: nn.Module, data: TaskData, name: ArchitectureName) -> Place:
    """A few images through the network as it trains, so that what cannot work is told before any work.

    Returns:
        Where the logits are in what it returns (some networks return those of auxiliary classifiers, too).
    """
    size, before = data.task.image_size, {key: value.clone() for key, value in model.state_dict().items()}
    images = data.val_images[[0, -1, 0]]  # batch norm needs more than one, and the validation split may have one
    try:
        with torch.no_grad():
            out = model.train()(data.normalise(images))
    except Exception as error:  # networks of libraries raise many kinds
        raise TeacherError(
            f"{name.full} cannot take images of {size} pixels: {error}; give another --input-size, to which they are "
            "resized"
        ) from error
    finally:
        model.load_state_dict(before)
    path = find_logits(out, len(images), data.task.n_classes)
    if path is None:
        raise TeacherError(f"{name.full} returns no logits of {data.task.n_classes} classes; take another network")
    return path


def _to_train(
    name: ArchitectureName, data: TaskData, input_size: int | None
) -> tuple[nn.Module, NetworkInput, list[str]]:
    """The network that a training starts from, its input, and what is worth telling."""
    task = data.task
    if not name.weights:
        network, channels = build_network(name, task.in_channels, task.n_classes)
        return network, NetworkInput(data.mean, data.std, channels, input_size), []
    if is_file_name(name.weights):
        file = read_weights(name.weights)
        given, notes = stated_input(file.metadata, *default_input(name, data), task)
    else:
        published = published_weights(name)
        file, given, notes = WeightsFile.published(name, published.state), published.input, []
    given = replace(given, crop=1.0, size=input_size or given.size)  # trained on the whole picture, as students are
    network, _ = build_network(name, given.channels, task.n_classes)
    fitted = load_weights(network, file, name, task.n_classes, classes_may_differ=True)
    return network, given, [*file.notes, *fitted, *notes]
