"""`KDTrainer`: NASLib's Trainer with our data, our record and the common final protocol."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable
from typing import Any

from naslib_autokd.plugin.evaluation import FinalAPI, KDDatasetAPI
from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.plugin.loaders import Batch, data_loaders, is_task_of_ours
from naslib_autokd.runners.run_folder import TRIALS
from naslib_autokd.search_spaces import DescribesItself

load_naslib()

from naslib import utils  # noqa: E402
from naslib.defaults.trainer import Trainer  # noqa: E402
from naslib.search_spaces.core.query_metrics import Metric  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

NEEDED = ("save", "dataset", "search.epochs", "search.seed", "search.checkpoint_freq")
NEEDED_ONE_SHOT = ("search.learning_rate_min",)
"""Keys that NASLib's Trainer reads, the second of them for optimizers with a supernet."""

NOT_IN_RUN = {"epochs", "checkpoint_freq", "seed"}
"""Keys of ``config.search`` that may differ when a search is continued (a longer one), or stand elsewhere."""


class KDTrainer(Trainer):
    """Runs any optimizer of NASLib's style on our tasks; NASLib's Trainer in everything that is not said here.

    * The output folders exist before anything runs: ``config.save`` with ``search`` and ``eval``.
    * A discrete search is recorded in ``config.save`` (``task.yaml``, ``run.yaml``, ``trials.jsonl``; the folder of the
      ``dataset_api`` if it has one), beside NASLib's ``errors.json``. Started again after a kill, with fresh objects
      and the same configuration, it starts at epoch 0 with the recorded trainings answered from the record: the same
      trajectory, nothing trained twice. NASLib's own checkpoints hold no optimizer state (its issue 153), so
      ``resume_from`` is not used. Python's ``random`` is seeded as well as numpy and torch.
    * Data loaders are the task's (`loaders.data_loaders`), for optimizers with a supernet; the test split is closed.
    * `evaluate` trains the final architecture with the teacher by the common final protocol, also what a one-shot
      optimizer found on a space that the plugin knows, and judges it on the test split, once.
    * Tasks may have fewer than five classes (top-5 accuracy is then top-n).
    * ``errors.json`` is written at most once a second, and at the end: NASLib writes all of it after every epoch, which
      makes each epoch slower than the last.

    Args:
        optimizer: Adapted to its search space.
        config: NASLib's configuration.
        dataset_api: A `KDDatasetAPI`; by default the optimizer's own, or a new one for ``config.dataset``.

    Raises:
        ValueError: If a key of the configuration is missing (names it), or its dataset is not the dataset_api's.
    """

    def __init__(
        self, optimizer: Any, config: Any, lightweight_output: bool = False, dataset_api: KDDatasetAPI | None = None
    ) -> None:
        check_keys(config, NEEDED + (NEEDED_ONE_SHOT if optimizer.using_step_function else ()))
        for folder in ("", "search", "eval"):
            os.makedirs(os.path.join(config.save, folder), exist_ok=True)
        if optimizer.using_step_function and "save_arch_weights" not in config:
            config.save_arch_weights = False  # NASLib's Trainer reads it unasked
        super().__init__(optimizer, config, lightweight_output)
        found = dataset_api if dataset_api is not None else getattr(optimizer, "dataset_api", None)
        if found is None and is_task_of_ours(config.dataset):
            found = KDDatasetAPI(task=config.dataset, seed=config.search.seed)
        self.dataset_api: KDDatasetAPI | None = found.api if isinstance(found, FinalAPI) else found
        if not isinstance(self.dataset_api, KDDatasetAPI):
            self.dataset_api = None  # a table of NASLib's: its own Trainer does all
        elif not self.dataset_api.is_for(config.dataset):
            raise ValueError(
                f"config.dataset is {config.dataset!r}, but the dataset_api trains on {self.dataset_api.task.name!r}"
            )
        self._searched = False
        self._written_s = -math.inf

    def search(
        self,
        resume_from: str = "",
        summary_writer: Any = None,
        after_epoch: Callable[[int], None] | None = None,
        report_incumbent: bool = True,
    ) -> None:
        """NASLib's search, recorded and continued from the record; see the class.

        Raises:
            RunFolderError: If ``config.save`` holds another run.
            ReplayError: If the search does not repeat what is recorded.
            StoreLockedError: If another process writes the record.
        """
        random.seed(self.config.search.seed)
        api = self.dataset_api
        if api is None or self.optimizer.using_step_function:
            super().search(resume_from, summary_writer, after_epoch, report_incumbent)
        else:
            if api.out is None:
                api.open(self.config.save, self._run_settings())
            api.lock()
            try:
                with api.replaying():
                    super().search("", summary_writer, after_epoch, report_incumbent)
            finally:
                api.close()
        self._written_s = -math.inf
        self._log_to_json()
        self._searched = True

    def evaluate(
        self,
        retrain: bool = True,
        search_model: str = "",
        resume_from: str = "",
        best_arch: Any = None,
        dataset_api: Any = None,
        metric: Metric | None = None,
    ) -> Any:
        """Test accuracy (percent) of the final architecture, trained anew by the common final protocol.

        Its students and their results are in ``finals.jsonl`` and ``students/`` of the run folder. In a fresh process
        a discrete search is brought back from its record first. With a table of NASLib's as ``dataset_api``, and for
        NASLib's own datasets, this is NASLib's evaluation.

        Args:
            best_arch: Evaluated instead of the optimizer's architecture.
            metric: Asked instead of the test accuracy.

        Raises:
            RuntimeError: If there was no search.
        """
        api = self.dataset_api if dataset_api is None else dataset_api
        if isinstance(api, FinalAPI):
            api = api.api
        if not isinstance(api, KDDatasetAPI):
            return super().evaluate(retrain, search_model, resume_from, best_arch, api, metric)
        if best_arch is None:
            self._bring_back(api)
            best_arch = self.optimizer.get_final_architecture()
        if api.out is None and not len(api.store):
            api.open(self.config.save, self._run_settings())
        return api.final().query(best_arch, Metric.TEST_ACCURACY if metric is None else metric, self.config.dataset)

    def _bring_back(self, api: KDDatasetAPI) -> None:
        if self._searched:
            return
        recorded = len(api.store) > 0 or os.path.exists(os.path.join(self.config.save, TRIALS))
        if self.optimizer.using_step_function or not recorded:
            raise RuntimeError(
                "there is no final architecture: call search() first"
                + (" (NASLib's checkpoints do not hold a supernet's architecture weights)" if recorded else "")
            )
        self.search()

    def _run_settings(self) -> dict[str, Any]:
        """What ``run.yaml`` says, besides what the dataset_api does."""
        space = getattr(self.optimizer, "search_space", None) or getattr(self.optimizer, "graph", None)
        described: Any = getattr(space, "space", None)
        search = json.loads(json.dumps(self.config.search))  # sections of fvcore's type as plain dicts
        return {
            "optimizer": type(self.optimizer).__name__,
            "space": described.describe() if isinstance(described, DescribesItself) else type(space).__name__,
            "search_seed": search["seed"],
            "options": {name: search[name] for name in sorted(search) if name not in NOT_IN_RUN},
            "n_trials": search["epochs"],
        }

    # --- NASLib's hooks ---------------------------------------------------------------------------------------------

    def build_search_dataloaders(self, config: Any) -> tuple[DataLoader[Batch], DataLoader[Batch], DataLoader[Batch]]:
        if self.dataset_api is None:
            queues: Any = super().build_search_dataloaders(config)
            return queues
        return data_loaders(config, "train", self.dataset_api.data)[:3]

    def build_eval_dataloaders(self, config: Any) -> tuple[DataLoader[Batch], DataLoader[Batch], DataLoader[Batch]]:
        if self.dataset_api is None:
            queues: Any = super().build_eval_dataloaders(config)
            return queues
        return data_loaders(config, "val", self.dataset_api.data)[:3]

    def _prepare_dataloaders(self, config: Any, mode: str = "train") -> None:
        build = self.build_search_dataloaders if mode == "train" else self.build_eval_dataloaders
        self.train_queue, self.valid_queue, self.test_queue = build(config)

    def _log_to_json(self) -> None:
        if time.monotonic() - self._written_s >= 1.0:
            super()._log_to_json()
            self._written_s = time.monotonic()

    def _store_accuracies(self, logits: Tensor, target: Tensor, split: str) -> None:
        meters = {"train": (self.train_top1, self.train_top5), "val": (self.val_top1, self.val_top5)}[split]
        logits, target = logits.detach().cpu(), target.detach().cpu()
        shares = utils.accuracy(logits, target, topk=(1, min(5, logits.shape[1])))
        for meter, share in zip(meters, shares, strict=True):
            meter.update(share.item(), len(target))


def check_keys(config: Any, keys: tuple[str, ...]) -> None:
    """Refuse a configuration that lacks one of ``keys`` (dotted).

    Raises:
        ValueError: Names the missing ones.
    """
    missing = []
    for key in keys:
        section: Any = config
        for part in key.split("."):
            section = getattr(section, part, None)
        if section is None:
            missing.append(key)
    if missing:
        raise ValueError(f"the configuration lacks {', '.join(missing)} (as in NASLib's YAML files)")
