"""A cheap search with faults, importable by worker processes; run as a script it is a process to be killed."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from naslib_autokd.records import Proposal, Trial, derive_seed


class FormulaEvaluator:
    """Answers from a formula: the error falls with the budget and with the KD weight, plus noise.

    Args:
        sleep_s: Seconds that a trial takes.
        faults: ``{number: fault}``; a number is trained once like this, whatever the process.
        journal: File that gets a line ``start NUMBER`` for every evaluation.
    """

    def __init__(
        self,
        sleep_s: float = 0.0,
        faults: dict[int, str] | None = None,
        journal: Path | None = None,
        device: str | None = None,
    ) -> None:
        self.sleep_s, self.faults, self.journal, self.device = sleep_s, faults or {}, journal, device
        self.watch: Callable[[str], None] | None = None

    def evaluate(self, proposal: Proposal) -> Trial:
        if self.journal is not None:
            with open(self.journal, "a") as file:
                file.write(f"start {proposal.number}\n")
        if self.watch is not None:
            self.watch(f"trial {proposal.number}: begun")
            self.watch("too soon after the last word")
        fault = self.faults.get(proposal.number, self.faults.get("all"))  # type: ignore[call-overload]
        if fault is not None:
            misbehave(fault)
        time.sleep(self.sleep_s)
        candidate: Any = proposal.candidate
        noise = 0.02 * (derive_seed(proposal.seed, "noise") / 2**31 - 0.5)
        error = 0.1 + 0.1 * abs(candidate.generator.channel_growth - 1) + 0.1 * (1 - candidate.kd.kd_weight)
        cost = min(1.0, error + 0.3 / proposal.budget_epochs + noise)
        values: dict[str, Any] = {"status": "diverged", "cost": 1.0, "message": "loss is NaN"}
        if fault != "diverge":
            values = {"cost": cost, "val_accuracy": 1 - cost}
        return Trial.of(
            proposal,
            student_epochs=float(proposal.budget_epochs),
            info={} if self.device is None else {"device": self.device},
            **values,
        )


def misbehave(fault: str) -> None:
    """What a training can do to its process."""
    if fault == "hang":
        ctypes.CDLL(None).sleep(60)  # in C, as a training that hangs
    elif fault == "eat":
        eaten = []
        while True:
            eaten.append(bytearray(20 << 20))
            time.sleep(0.005)
    elif fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "crash":
        ctypes.string_at(0)
    elif fault == "exit":
        os._exit(7)
    elif fault == "raise":
        raise RuntimeError("a broken student")
    elif fault == "memory":
        raise MemoryError("no more")


class NeedsAFile(FormulaEvaluator):
    """Cannot be built: its data are missing."""

    def __init__(self, **_: Any) -> None:
        raise FileNotFoundError("the data are not here")


def handler(fault: str = "", index: int = 0) -> Any:
    """A `limits.Handler` that reports, misbehaves as the job says and answers with its process and index."""

    def handle(job: str, report: Any) -> tuple[str, int, int]:
        report({"doing": job})
        misbehave(job)
        if job.startswith("sleep"):
            time.sleep(float(job.split()[1]))
        return job, os.getpid(), index

    misbehave(fault)
    return handle


def indexed_handler(index: int) -> Any:
    return handler(index=index)


def main() -> int:
    from naslib_autokd.runners.engine import DaskEngine
    from naslib_autokd.runners.search import search
    from naslib_autokd.runners.session import SearchInterrupted, StopSignals

    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--optimizer", default="random_search")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sleep", type=float, default=0.05)
    options = parser.parse_args()
    factory = partial(FormulaEvaluator, options.sleep, journal=options.out.with_suffix(".journal"))
    engine = DaskEngine(factory, workers=options.workers) if options.workers > 1 else None
    try:
        with StopSignals() as stop:
            search(
                "cluttered-digits",
                options.optimizer,
                evaluator=factory() if engine is None else None,
                engine=engine,
                n_trials=options.trials,
                seed=3,
                out=options.out,
                stop=stop,
            )
    except SearchInterrupted as error:
        print(error)
        return 130
    finally:
        if engine is not None:
            engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
