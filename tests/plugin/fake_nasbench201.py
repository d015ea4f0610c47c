"""A NAS-Bench-201 without training: NASLib's file holds one `Table`, whose rows are made when they are asked for."""

from __future__ import annotations

import hashlib
from typing import Any


class Table(dict[str, Any]):
    """Rows as in NASLib's ``nb201_cifar10_full_training.pickle``, by the string of the architecture."""

    def __missing__(self, architecture: str) -> dict[str, Any]:
        luck = int(hashlib.sha256(architecture.encode()).hexdigest()[:8], 16) / 16**8
        best = 60.0 + 30.0 * luck
        curve = [best * (1 - 0.5 ** (1 + epoch / 20)) for epoch in range(200)]
        row = {
            "train_acc1es": [value + 2 for value in curve],
            "eval_acc1es": curve,
            "train_losses": [3 - value / 40 for value in curve],
            "eval_losses": [3 - value / 50 for value in curve],
            "cost_info": {"flops": 10 + 90 * luck, "params": 0.1 + luck, "latency": 0.01, "train_time": 10 + luck},
        }
        return dict.fromkeys(("cifar10-valid", "cifar10", "cifar100", "ImageNet16-120"), row)
