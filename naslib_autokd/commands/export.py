"""``naslib-autokd export``: the student, shipped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from naslib_autokd.commands._options import add_option, print_json
from naslib_autokd.commands._parser import epilog
from naslib_autokd.commands._types import Number, whole

FORMATS = ("onnx", "c", "torch-export", "safetensors")


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="write the kept student of a run as ONNX, C, torch.export or safetensors, with a model card",
        description="Write the student that a finished search keeps as a file that runs without this package, compare "
        "its outputs with the trained module's, and put beside it a model card and prepare_picture.py, which makes its "
        "input of picture files as training did (needs Pillow and numpy alone).",
        epilog=epilog(
            "naslib-autokd export runs/first --format onnx",
            keys="path, card, preparation, difference, latency_ms, int8",
        ),
    )
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="run folder of a search, or a student's .safetensors"
    )
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="what is written")
    parser.add_argument(
        "--family",
        metavar="DIGEST",
        help="another family that the search has tried, of its front for example (first digits do): trained in full "
        "by the run's settings, kept in RUN/families/DIGEST (default: the kept one)",
    )
    add_option(parser, "--finals", default=None, help="final students of the family")
    add_option(parser, "--device", default=None, help="torch device of trainings (default: cpu)")
    add_option(parser, "--threads", default=None)
    parser.add_argument(
        "--opset", type=whole(), metavar="N", help="of an ONNX file's operations (default: 17, that of onnx 1.12)"
    )
    parser.add_argument(
        "--ir-version", type=whole(), metavar="N", help="of an ONNX file's format (default: 8, that of onnx 1.12)"
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="an ONNX file in 8 bits (static, a scale for each channel, calibrated on training pictures); accuracy and "
        "latency are measured on the validation split, and a student that loses too much is refused",
    )
    parser.add_argument(
        "--int8-fine-tune",
        type=whole(1),
        metavar="EPOCHS",
        help="train the student on for so many epochs in 8 bits, by its run's loss and teacher on the training split, "
        "and keep what is better on the validation split (quantisation-aware training; needs --int8; 5 is a beginning)",
    )
    parser.add_argument(
        "--max-drop",
        type=Number(float, 0.0, 100.0),
        metavar="POINTS",
        help="validation accuracy in percent that --int8 may cost (default: 1)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: RUN/export/student.*)")
    add_option(parser, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from naslib_autokd.commands._again import command_of
    from naslib_autokd.shipping.export import check_request, export
    from naslib_autokd.shipping.members import train_member

    check_request(
        options.format, options.opset, options.ir_version, options.int8, options.max_drop, options.int8_fine_tune
    )
    training = {"device": options.device, "threads": options.threads}
    given = {name: value for name, value in training.items() if value is not None}
    if options.family is None and (options.finals is not None or (given and options.int8_fine_tune is None)):
        raise ValueError(
            "--finals, --device and --threads are of the training of a --family (the last two also of "
            "--int8-fine-tune): give one, or leave them out"
        )

    def tell(text: str) -> None:
        print(text, file=sys.stderr)

    source, run = options.run_folder, options.run_folder.resolve()
    # the card is for others, who have no such folder: from where the command was typed, as its other paths are
    here = Path.cwd()
    command = command_of(run).replace(str(run), str(run.relative_to(here)) if run.is_relative_to(here) else run.name)
    if options.family is not None:
        source = train_member(
            source,
            options.family,
            n_students=options.finals or 1,
            **given,
            report=tell,
        )
    done = export(
        source,
        options.format,
        options.out,
        opset=options.opset,
        ir_version=options.ir_version,
        int8=options.int8,
        int8_fine_tune=options.int8_fine_tune,
        max_drop=options.max_drop,
        **given,
        command=command,
        report=tell,
    )
    if done.warning:
        print(f"beware: {done.warning}", file=sys.stderr)
    if done.int8 is not None and done.int8.warning:
        print(f"beware: {done.int8.warning}", file=sys.stderr)
    if done.int8 is not None and done.int8.advice:
        print(done.int8.advice, file=sys.stderr)
    if options.json:
        files = {"path": str(done.path), "card": str(done.card), "preparation": str(done.preparation)}
        int8 = None if done.int8 is None else done.int8.to_dict()
        print_json({**files, "difference": done.difference, "latency_ms": list(done.latency_ms), "int8": int8})
        return 0
    said = f"{done.path}: {done.path.stat().st_size / 2**10:.0f} KiB"
    if done.int8 is not None:
        said += f" in 8 bits: {done.int8.sentence()}"
    elif options.format != "safetensors":
        said += f", outputs as the student's to {done.difference:.1e} of the largest logit"
    print(said)
    if done.latency_ms and done.int8 is None:
        from naslib_autokd.distillation.runtime import BATCHES

        times = (f"{ms:.3f} ms at batch {batch}" for batch, ms in zip(BATCHES, done.latency_ms, strict=True))
        where = "compiled by cc -O3" if options.format == "c" else "in ONNX Runtime"
        print(f"latency {where} on one thread here: {', '.join(times)}")
    print(f"{done.card}: model card")
    print(f"{done.preparation}: makes its input of picture files, as training did")
    return 0
