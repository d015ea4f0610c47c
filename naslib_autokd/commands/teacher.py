"""``naslib-autokd teacher``: train one, check one, list the names of networks."""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd.commands._options import add_option, add_task_options, print_json, tell_of_images
from naslib_autokd.commands._parser import epilog
from naslib_autokd.commands._types import positive, whole

if TYPE_CHECKING:
    from naslib_autokd.data.images import TaskData
    from naslib_autokd.tasks import Task
    from naslib_autokd.teachers.teacher import Teacher


CHECKED = (
    "task, architecture, usable, problem, notes, classes, classes_stated, mean, std, input, crop, "
    "interpolation, preparation, n_val, accuracy_floor, "
    "stated_val_accuracy, val_accuracy, class_accuracy, n_params, macs, inference_memory_bytes, train_memory_bytes, "
    "batch_size"
)


def add(commands: Any) -> None:
    teacher = commands.add_parser(
        "teacher",
        help="train a teacher, or check one before it is used",
        description="Train a network as the teacher of a task, check any teacher, or list the networks known by name.",
        epilog=epilog("naslib-autokd teacher list", "naslib-autokd teacher check --task cluttered-digits"),
    )
    verbs = teacher.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = verbs.add_parser(
        "train",
        help="train a network on a task's images",
        description="Train a network on a task's images and keep the epoch that is best on the validation split: the "
        "file is written whenever it is as good as before or better, so an interrupted training keeps its best; the "
        "same command goes on from the last epoch (FILE.unfinished) and ends as if it had not been interrupted.",
        epilog=epilog(
            "naslib-autokd teacher train --architecture resnet-small --out teacher.safetensors",
            "naslib-autokd teacher train --task flowers102 --data-dir data "
            "--architecture torchvision:resnet18@pretrained --out teacher.safetensors",
            keys=CHECKED,
        ),
    )
    add_task_options(train)
    training = train.add_argument_group("training")
    training.add_argument(
        "--architecture",
        metavar="NAME",
        help="[zoo:|torchvision:|timm:]name[@weights]; weights: pretrained, a published set or a file to start from "
        "(default: the task's)",
    )
    add_option(training, "--precision")
    training.add_argument("--epochs", type=whole(), metavar="N", help="passes over the data (default: the task's)")
    training.add_argument(
        "--lr", type=positive(1e6), metavar="RATE", help="peak learning rate (default: 0.1, from weights 0.01)"
    )
    _add_input_size(training)
    _add_place(train)
    output = train.add_argument_group("output")
    output.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, .safetensors")
    output.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    add_option(output, "--json")
    train.set_defaults(run=run_train)

    check = verbs.add_parser(
        "check",
        help="say whether a teacher can be trusted on a task",
        description="Load a teacher as a search would, try it on the task's validation images, and print what was "
        "found. The exit status is 0 if it can be used, 2 if not.",
        epilog=epilog(
            "naslib-autokd teacher check --task cluttered-digits",
            "naslib-autokd teacher check --task photos.yaml --teacher model.pth "
            "--teacher-architecture torchvision:resnet18",
            keys=CHECKED,
        ),
    )
    add_task_options(check, "--teacher")
    stated = check.add_argument_group("what the file does not state")
    stated.add_argument("--teacher-architecture", metavar="NAME", help="network of a file that does not state it")
    stated.add_argument("--mean", type=_numbers, metavar="M,M,M", help="what it was trained with, of pixels in [0, 1]")
    stated.add_argument("--std", type=_numbers, metavar="S,S,S", help="the same: standard deviation")
    stated.add_argument(
        "--classes",
        type=_names,
        metavar="A,B,...",
        help="names of its classes (those of the task's), in its outputs' order; a name with a comma in quotes "
        '(\'"salt, pepper",oil\'), or a name on each line ("$(cat names.txt)")',
    )
    _add_input_size(stated)
    stated.add_argument(
        "--crop", type=positive(2), metavar="SHARE", help="of a picture's side that it gets (0.875: its centre)"
    )
    stated.add_argument("--interpolation", choices=("bilinear", "bicubic"), help="how pictures are resized for it")
    _add_place(check)
    output = check.add_argument_group("output")
    output.add_argument(
        "--out", type=Path, metavar="FILE", help="save it, with all that was found, as one .safetensors file"
    )
    add_option(output, "--json")
    check.set_defaults(run=run_check)

    names = verbs.add_parser(
        "list",
        help="list the networks known by name",
        description="List the networks that --architecture and --teacher know; those of libraries that are installed.",
        epilog=epilog("naslib-autokd teacher list", keys="source -> names"),
    )
    add_option(names, "--json")
    names.set_defaults(run=run_list)


def _add_input_size(group: Any) -> None:
    group.add_argument(
        "--input-size", type=whole(4, 2**14), metavar="PIXELS", help="height and width that the network gets"
    )


def _add_place(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where it runs")
    add_option(where, "--device", help="torch device")
    add_option(where, "--threads")


def _numbers(text: str) -> tuple[float, ...]:
    """Of each channel one; a deviation of 0 is told with what the numbers are for."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError("numbers with commas between, such as 0.485,0.456,0.406")
    return numbers


def _names(text: str) -> tuple[str, ...]:
    """Of classes: a line of CSV, so that a name may have commas in quotes; or a name on each line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    try:
        (found,) = [lines] if len(lines) > 1 else csv.reader(lines, skipinitialspace=True, strict=True)
    except (ValueError, csv.Error):
        found = []
    names = tuple(name.strip() for name in found)
    if len(names) < 2 or len(set(names)) < len(names) or "" in names:
        raise argparse.ArgumentTypeError(
            "different names with commas between, such as cat,dog (in quotes if a name has a comma), or a name a line"
        )
    return names


def _task(options: argparse.Namespace) -> Task:
    from naslib_autokd.tasks import get_task

    return get_task(options.task, **({} if options.data_dir is None else {"data_dir": str(options.data_dir)}))


def _data(options: argparse.Namespace, task: Task) -> TaskData:
    from naslib_autokd.data.load import load_data
    from naslib_autokd.evaluators.kd import checked_device

    device = checked_device(options.device)
    tell_of_images(task)
    return load_data(task).to(device)


def run_train(options: argparse.Namespace) -> int:
    from naslib_autokd.reports.terminal import Live
    from naslib_autokd.runners.run_folder import own_file
    from naslib_autokd.runners.session import SearchInterrupted, StopSignals
    from naslib_autokd.teachers.load import write_checkpoint
    from naslib_autokd.teachers.names import parse_architecture
    from naslib_autokd.teachers.training import teacher_training, train_teacher

    out: Path = options.out
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must be a .safetensors file, got {out}")
    unfinished = out.with_name(f"{out.name}.unfinished")
    if out.exists() and not unfinished.exists() and not options.overwrite:
        raise ValueError(f"{out} is there already; give another --out, or --overwrite")
    if not out.parent.is_dir():
        raise ValueError(f"the folder {out.parent} of --out does not exist")
    task = _task(options)
    name = parse_architecture(options.architecture or task.teacher)
    settings = replace(teacher_training(name), precision=options.precision)
    if options.lr is not None:
        settings = replace(settings, lr=options.lr)
    data = _data(options, task)
    epochs = options.epochs or data.task.teacher_epochs
    print(
        f"training {name} on {data.task.n_teacher} images of {task.name!r}, {epochs} epochs, peak rate {settings.lr:g}",
        file=sys.stderr,
    )
    start, n_here = time.perf_counter(), 0

    live = Live("teacher")
    kept = f"the best epoch so far is kept in {out}; the same command continues"

    def progress(epoch: int, loss: float, reached: float) -> None:
        nonlocal n_here
        n_here += 1  # an earlier session may have trained others
        left = (time.perf_counter() - start) / n_here * (epochs - epoch)
        live.show(epoch / epochs, f"epoch {epoch}/{epochs}, loss {loss:.3f}, validation {reached:.1%}", left)

    def progress_within(done: float) -> None:
        live.note(f"{done % 1:.0%} of epoch {int(done) + 1}" if done % 1 else "validation")

    with own_file(out), StopSignals("the running epoch is") as stop, live:
        if options.overwrite:
            unfinished.unlink(missing_ok=True)
        elif unfinished.exists():
            print(f"going on with {unfinished} (--overwrite starts anew)", file=sys.stderr)
        try:
            teacher = train_teacher(
                data,
                epochs=epochs,
                architecture=str(name),
                settings=settings,
                input_size=options.input_size,
                threads=options.threads,
                keep=lambda better: write_checkpoint(better, out, data),
                progress=progress,
                progress_within=progress_within,
                resume=unfinished,
                stop=stop,
            )
        except KeyboardInterrupt:
            raise SearchInterrupted(kept if out.exists() else "the same command continues") from None
        write_checkpoint(teacher, out, data)
        unfinished.unlink(missing_ok=True)
    return _tell(examine(teacher, data), options, f"kept: {out} (epoch {teacher.info['epoch']})")


def run_check(options: argparse.Namespace) -> int:
    from naslib_autokd.distillation.training import limited_threads
    from naslib_autokd.teachers.load import as_teacher, load_teacher, write_checkpoint
    from naslib_autokd.teachers.names import SOURCES, with_weights

    text: str | None = options.teacher
    if options.teacher_architecture is not None:
        if text is None:
            raise ValueError("--teacher-architecture says what a file holds: give --teacher FILE too")
        text = with_weights(options.teacher_architecture, text)
    suffix = ".onnx" if text is not None and text.lower().endswith(".onnx") else ".safetensors"
    if options.out is not None and options.out.suffix != suffix:
        raise ValueError(f"--out must be a {suffix} file, got {options.out}")
    stated = {"mean": options.mean, "std": options.std, "size": options.input_size}
    stated |= {"crop": options.crop, "interpolation": options.interpolation}
    stated = {key: value for key, value in stated.items() if value is not None}
    data = _data(options, _task(options))

    def report(line: str) -> None:
        print(line, file=sys.stderr)

    with limited_threads(options.threads):
        teacher = load_teacher(data, report=report) if text is None else as_teacher(text, data, report).to(data.device)
        if stated:
            teacher = _restated(teacher, stated, data)
        if options.classes is not None:
            teacher = _with_classes(teacher, options.classes, data)
        findings = examine(teacher, data)
    if findings["usable"] and options.out is not None:
        write_checkpoint(teacher, options.out, data)
    kept = None
    if options.out is not None:
        name = str(teacher.info.get("architecture"))
        own = ":" in name and name.partition(":")[0] not in SOURCES
        kept = f"kept: {options.out}" + (f"; as a teacher it is {name}@{options.out}" if own else "")
    return _tell(findings, options, kept)


def _restated(teacher: Teacher, stated: dict[str, Any], data: TaskData) -> Teacher:
    from naslib_autokd.teachers.teacher import Teacher
    from naslib_autokd.teachers.weights import UNSTATED, shown_input

    if len(teacher.members) > 1:
        raise ValueError("--mean, --std and the like are those of one network; check the ensemble's one by one")
    given = replace(teacher.input_for(data.task), **stated)
    said = list(teacher.info.get("notes", ()))
    notes = [note for note in said if UNSTATED not in note]  # it is untrue now
    if len(notes) < len(said) and "mean" not in stated:
        notes.append(f"{UNSTATED} in full: what neither it nor you state is taken: {shown_input(given, data.task)}")
    info = {**teacher.info, "notes": notes}
    return Teacher.of(teacher.members[0], given, data.task, info).to(data.device)


def _with_classes(teacher: Teacher, classes: tuple[str, ...], data: TaskData) -> Teacher:
    from naslib_autokd.teachers.load import in_order_of_task

    if len(teacher.members) > 1:
        raise ValueError("--classes are those of one network; check the ensemble's one by one")
    if teacher.info.get("classes") is not None:
        raise ValueError("the teacher states its classes itself: leave --classes out")
    teacher.info["classes"] = list(classes)
    return in_order_of_task(teacher, data).to(data.device)


def examine(teacher: Teacher, data: TaskData) -> dict[str, Any]:
    """What there is to know of a teacher on a task: JSON values; ``problem`` is None if it is ``usable``."""
    import copy

    from naslib_autokd.distillation.costs import count_macs, count_params, inference_memory, train_memory
    from naslib_autokd.distillation.training import accuracy
    from naslib_autokd.teachers.check import accuracy_floor, check_teacher
    from naslib_autokd.teachers.names import TeacherError

    task, given = data.task, teacher.input_for(data.task)
    shape = (task.in_channels, task.image_size, task.image_size)
    found: dict[str, Any] = {
        "task": task.name,
        "architecture": teacher.info.get("architecture"),
        "usable": True,
        "problem": None,
        "notes": [],
        "classes": list(data.classes),
        "classes_stated": teacher.info.get("classes") is not None,
        "mean": list(given.mean),
        "std": list(given.std),
        "input": [given.channels, given.size, given.size],
        "crop": given.crop,
        "interpolation": given.interpolation,
        "preparation": given.preparation(task.image_size),
        "n_val": len(data.val_labels),
        "accuracy_floor": accuracy_floor(task),
        "stated_val_accuracy": teacher.info.get("val_accuracy"),
        "val_accuracy": None,
        "n_params": count_params(teacher.network),
    }
    if len(teacher.members) > 1:
        nothing = dict.fromkeys(("mean", "std", "input", "crop", "interpolation", "preparation"))
        found |= {**nothing, "n_members": len(teacher.members)}
    try:
        check_teacher(teacher, data, thorough=True)
    except TeacherError as error:
        found |= {"usable": False, "problem": str(error)}
    found["notes"] = notes = list(teacher.info.get("notes", ()))
    try:
        logits = teacher.predict(data.val_images)
        found["val_accuracy"] = accuracy(logits, data.val_labels)
        right = (logits.argmax(dim=1) == data.val_labels).float()
        found["class_accuracy"] = {
            name: float(right[data.val_labels == index].mean()) if (data.val_labels == index).any() else None
            for index, name in enumerate(data.classes)
        }
    except Exception:  # the network is the user's: it may raise anything
        assert not found["usable"]  # it cannot take the images, which the check has said
        return found
    try:
        # the meta device computes nothing: a step on a batch of large images would take minutes
        twin = copy.deepcopy(teacher.network).to("meta").requires_grad_(True)
        found |= {
            "macs": count_macs(twin, shape),
            "inference_memory_bytes": inference_memory(twin, shape),
            "train_memory_bytes": train_memory(twin, shape, task.batch_size),
            "batch_size": task.batch_size,
        }
    except Exception as error:  # what it does may depend on values, or be of no known operation
        reason = " ".join(str(error).split()) or type(error).__name__
        found["notes"] = [*notes, f"its multiply-adds and memory are not counted: {reason[:200]}"]
    return found


def _tell(found: dict[str, Any], options: argparse.Namespace, kept: str | None) -> int:
    from naslib_autokd.teachers.names import few

    if options.json:
        print_json(found)
        return 0 if found["usable"] else 2
    lines = [("architecture", found["architecture"] or "not stated")]
    if found["input"] is None:
        lines.append(("members", f"{found['n_members']}, each with its own input; the mean of their logits is taken"))
    else:
        mean, std = (", ".join(f"{value:.4g}" for value in found[key]) for key in ("mean", "std"))
        channels, size, _ = found["input"]
        lines.append(("input", f"{channels}x{size}x{size}, mean {mean}, standard deviation {std}"))
        if found["preparation"]:
            lines.append(("pictures", found["preparation"]))
    classes = found["classes"]
    names = few(classes[:5]) + (", ..." if len(classes) > 5 else "")
    stated = "as the teacher states them" if found["classes_stated"] else "taken to be the task's order"
    lines.append(("classes", f"{len(classes)}: {names} ({stated})"))
    if found["val_accuracy"] is not None:
        of_classes = {name: value for name, value in found["class_accuracy"].items() if value is not None}
        worst = min(of_classes, key=lambda name: of_classes[name])
        text = f"{found['val_accuracy']:.1%} of {found['n_val']} validation images, floor {found['accuracy_floor']:.1%}"
        if found["stated_val_accuracy"] is not None:
            text += f", its file states {found['stated_val_accuracy']:.1%}"
        lines += [("accuracy", text), ("weakest class", f"{worst}: {of_classes[worst]:.1%}")]
    lines.append(("parameters", f"{found['n_params']:,}"))
    if "macs" in found:
        inference, training = (found[key] / 2**20 for key in ("inference_memory_bytes", "train_memory_bytes"))
        lines += [
            ("multiply-adds", f"{found['macs'] / 1e6:,.1f} million an image"),
            ("memory", f"{inference:,.1f} MiB for one image, {training:,.1f} MiB to train on {found['batch_size']}"),
        ]
    lines += [("note", note) for note in found["notes"]]
    for name, text in lines:
        print(f"{name:14} {text}")
    if not found["usable"]:
        print(f"naslib-autokd: error: {found['problem']}", file=sys.stderr)
        return 2
    print(f"this teacher can be used for {found['task']!r}")
    if kept is not None:
        print(kept)
    return 0


def run_list(options: argparse.Namespace) -> int:
    from naslib_autokd.teachers.names import known_names

    names = known_names()
    if options.json:
        print_json({source: found if isinstance(found, str) else list(found) for source, found in names.items()})
        return 0
    for source, found in names.items():
        print(f"{source}: {found}" if isinstance(found, str) else f"{source} ({len(found)}): {', '.join(found)}")
    return 0
