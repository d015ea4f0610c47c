"""What a user of a student's file has to know, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd._version import __version__
from naslib_autokd.data.prepare_picture import PREPARATION
from naslib_autokd.escaping import code, markdown
from naslib_autokd.evaluators.results import FinalResult
from naslib_autokd.records import TrialStore, environment
from naslib_autokd.runners.finals import read_finals
from naslib_autokd.runners.run_folder import FINALS, RESULT, TRIALS, read_settings
from naslib_autokd.runners.statistics import SHARE, mean_interval
from naslib_autokd.shipping.members import find_family
from naslib_autokd.shipping.student_file import PREPARATION_FILE, StudentFile, run_of

if TYPE_CHECKING:
    from naslib_autokd.shipping.int8 import Int8Report


C_FILE = (
    ", C99 with the weights inside and without dependencies: `cc -O3 -c student.c` and `int student_predict(const "
    "float *images, int n, float *logits);`, or a program of `cc -O3 -DSTUDENT_MAIN student.c`"
)


def model_card(
    described: StudentFile,
    folder: Path,
    exported: Path,
    difference: float,
    command: str = "",
    latency_ms: Sequence[float] = (),
    int8: Int8Report | None = None,
) -> str:
    """What a user of the file has to know, as Markdown: what it does, how good it is, how to run and to remake it."""
    from naslib_autokd.search_spaces.hnag.wiring import StudentSpec

    place, result = run_of(folder) or folder, described.result
    run, report = read_settings(place), _report(place / RESULT)
    home = described.path.absolute().parent.parent
    if report and place.absolute() != home and (home / FINALS).is_file():  # another family of the run
        family = find_family(place, result["name"].rpartition("/")[2]).to_dict()
        report |= {"candidate": family, "finals": [final.result.to_dict() for final in read_finals(home)]}
    teacher = report.get("teacher", {})
    finals = report.get("finals", [])
    environment: Mapping[str, Any] = run.get("environment", {})
    lines = [
        f"# Student for {markdown(described.task)}",
        "",
        f"A student of {result['n_params']:,} parameters and {result['macs'] / 1e6:.2f} million multiply-adds per "
        "image, found by searching for a family of students that learn well from a teacher (AutoKD, arXiv 2111.03555) "
        f"with naslib_autokd {__version__}.",
        "",
        "## Use",
        "",
        f"File: {code(exported.name)}{C_FILE if exported.suffix == '.c' else ''}. Input: float32 images `(batch, "
        f"{', '.join(map(str, described.input))})` with "
        "values in [0, 1]; the normalisation is inside."
        if exported.suffix != ".safetensors"
        else f"File: {code(exported.name)}: weights and description; `naslib_autokd.load_student` builds the network. "
        f"Input: float32 images `(batch, {', '.join(map(str, described.input))})`, with values in [0, 1] normalised by "
        f"mean {list(described.mean)} and standard deviation {list(described.std)}.",
        f"Output: logits `(batch, {len(described.classes)})`.",
        "",
        f"Pictures become such images by `{PREPARATION_FILE}`, which needs Pillow and numpy alone: "
        f"`network_input(paths, size={described.input[1]}, channels={described.input[0]})`"
        + (", minus mean, divided by the deviation." if exported.suffix == ".safetensors" else ".")
        + " Training read its pictures in the same way. Another way (a plain resize to the input's size, say) costs "
        "accuracy. In words:",
        "",
        *(f"- {name.replace('_', ' ')}: {text}" for name, text in PREPARATION.items()),
        "",
        *([f"Beware: {markdown(described.warning)}.", ""] if described.warning else []),
        f"Classes, in the order of the logits: {', '.join(map(code, described.classes))}.",
        "",
        "## Results",
        "",
        "| | test accuracy | parameters | MACs | training memory |",
        "|---|---|---|---|---|",
        *(
            [_row("this student", result)]
            if int8 is None
            else [
                _row("this student in 8 bits", {**result, "test_accuracy": int8.test_accuracy}),
                _row("the same in float32", result),
            ]
        ),
    ]
    if teacher:
        lines.append(_row("teacher", teacher))
    lines.append("")
    if len(finals) > 1:
        interval = mean_interval([final["test_accuracy"] for final in finals], bounds=SHARE)
        lines += [
            f"{len(finals)} students of the same family, trained in full: test accuracy {interval.percent()} % "
            "(mean and 95% interval). This one was kept by its validation accuracy "
            f"({100 * result['val_accuracy']:.1f} %); the test split was read once, after that.",
            "",
        ]
    if result.get("test_agreement") is not None:
        lines += [
            f"{'It' if int8 is None else 'In float32 it'} names the same class as the teacher on "
            f"{100 * result['test_agreement']:.1f} % of the test images."
        ]
    if latency_ms:
        lines += [_latency(latency_ms, exported), ""]
    if int8 is not None:
        lines += [
            "**This file computes in 8 bits**, with scales found on training pictures. Against the same student in "
            f"float32: {int8.sentence()}.",
            "",
        ]
    if exported.suffix != ".safetensors":
        lines += [
            f"Outputs of {'this' if int8 is None else 'the float32'} file were compared with the trained module's: "
            f"they differ by {difference:.1e} of the largest logit."
        ]
    kd = (
        "labels alone"
        if result["temperature"] is None
        else (
            f"temperature {result['temperature']:.3g}, weight of the teacher {result['kd_weight']:.3g} "
            "(Hinton et al. 2015)"
        )
    )
    lines += [
        "",
        "## How it was made",
        "",
        f"- Distillation: {kd}; {result['epochs']:g} epochs, seed {result['seed']}.",
        f"- Family: {code(json.dumps(report['candidate']) if report else result['name'])}",
        f"- Wiring {StudentSpec.from_dict(described.spec).wiring.digest}, stage channels {described.spec['channels']}: "
        f"in full in the metadata of {code(f'students/{described.path.name}')}.",
    ]
    if run:
        lines.append(
            f"- Search: optimizer {markdown(run.get('optimizer'))}, seed {markdown(run.get('seed'))}, "
            f"{_spent(place, report)}. "
            f"{f'Again: {code(command)}.' if command else 'Its settings: `run.yaml`, `task.yaml`.'}"
        )
        versions = ", ".join(f"{name} {value}" for name, value in environment.items() if isinstance(value, str))
        lines.append(f"- Environment: {markdown(versions)}.")
    lines += [
        "",
        "## Limits",
        "",
        "Trained and tested on images of this task alone; nothing is known of its behaviour on others.",
        "",
    ]
    return "\n".join(lines)


def _latency(latency_ms: Sequence[float], exported: Path) -> str:
    import onnxruntime

    from naslib_autokd.distillation.runtime import BATCHES

    runs = "compiled by cc -O3" if exported.suffix == ".c" else f"ONNX Runtime {onnxruntime.__version__}"
    times = ", ".join(f"{ms:.3f} ms for {batch}" for batch, ms in zip(BATCHES, latency_ms, strict=True))
    return (
        f"A call takes, by number of images: {times} ({runs}, one thread, "
        f"{markdown(environment().get('processor') or 'an unknown processor')}, where this was exported)."
    )


def _row(name: str, result: Mapping[str, Any]) -> str:
    test = result.get("test_accuracy")
    accuracy = "not measured" if test is None else f"{100 * test:.1f} %"
    return (
        f"| {name} | {accuracy} | {result['n_params']:,} | {result['macs']:,} | "
        f"{result['train_memory_bytes'] / 2**20:.1f} MiB |"
    )


def _spent(run: Path, report: Mapping[str, Any]) -> str:
    """Trials and epochs of the search; of one from Python, which writes no ``result.json``, by its trials."""
    if report:
        n_trials, epochs = (markdown(report.get(name, "?")) for name in ("n_trials", "student_epochs"))
        return f"{n_trials} trials, {epochs} student-epochs"
    try:
        trials = list(TrialStore(run / TRIALS)) if (run / TRIALS).is_file() else []
    except ValueError:  # the card can do without
        trials = []
    if not trials:
        return "? trials, ? student-epochs"
    n_counted = sum(not trial.refused for trial in trials)
    return f"{n_counted} trials, {sum(trial.student_epochs for trial in trials)} student-epochs"


def _report(path: Path) -> dict[str, Any]:
    """What ``result.json`` says; empty if it is not there or cannot be read, for the card can do without."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for result in (content["teacher"], *content["finals"]):
            if result and FinalResult.from_dict(result).test_accuracy is None:
                return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    return content if isinstance(content.get("candidate"), dict) else {}
