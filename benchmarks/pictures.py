"""What pictures cost: decoding, cutting out views, and memory at 100,000 of 224 pixels.

    OMP_NUM_THREADS=1 python benchmarks/pictures.py decoding      # needs torchvision
    OMP_NUM_THREADS=1 python benchmarks/pictures.py views
    OMP_NUM_THREADS=1 python benchmarks/pictures.py memory        # 15 GB of disk in the cache folder for some minutes

    decoding   pictures a second and core, ours and torchvision's (``ImageFolder`` with Resize, CenterCrop and
               PILToTensor in a ``DataLoader``) on the same files, in alternating pairs, CPU seconds
    views      share of a training step that cutting a batch out of the images takes, by image size, CPU seconds
    memory     a store of generated pictures, made by the writer that `stored_images` uses, trained on by two processes
               at once: memory of both (``smaps_rollup``) and the size of the file

Each part writes its section of ``results/pictures.json``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from naslib_autokd.data import cache
from naslib_autokd.data.decoding import Decoded, read_images
from naslib_autokd.data.images import TaskData
from naslib_autokd.data.views import draw_views
from naslib_autokd.distillation.training import train
from naslib_autokd.tasks import get_task

RESULTS = Path(__file__).parent / "results" / "pictures.json"
PAIRS = 3


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


# --- decoding -------------------------------------------------------------------------------------------------------


def decoding() -> dict[str, Any]:
    """Photographs of 500 x 375 pixels (ImageNet's usual size), JPEG, quality 90."""
    from PIL import Image
    from torch.utils.data import DataLoader

    from naslib_autokd.data.vision import import_torchvision

    datasets, transforms = import_torchvision().datasets, import_torchvision().transforms
    rng, found = np.random.RandomState(0), {}
    with tempfile.TemporaryDirectory() as root:
        for index in range(256):
            coarse = Image.fromarray(rng.randint(0, 256, size=(12, 16, 3)).astype(np.uint8))
            path = Path(root) / str(index % 2) / f"{index}.jpg"
            path.parent.mkdir(exist_ok=True)
            smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.float64)
            noisy = (smooth + rng.normal(scale=12, size=smooth.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(path, quality=90)
        paths = sorted(Path(root).rglob("*.jpg"))
        for size in (224, 64, 32):
            prepare = transforms.Compose(
                [transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()]
            )
            loader = DataLoader(datasets.ImageFolder(root, prepare), batch_size=64)

            def theirs(loader: Any = loader) -> None:
                torch.cat([images for images, _ in loader])

            def ours(size: int = size) -> None:
                read_images(paths, size, 3, threads=1)

            theirs(), ours()
            pairs = [(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(PAIRS)]
            found[str(size)] = {
                "ours_per_s": len(paths) / statistics.median(one for one, _ in pairs),
                "torchvision_per_s": len(paths) / statistics.median(other for _, other in pairs),
                "ours_over_torchvision": statistics.median(other / one for one, other in pairs),
            }
    return found


# --- views ----------------------------------------------------------------------------------------------------------


def views() -> dict[str, Any]:
    """The student of the default family of each task's space."""
    from naslib_autokd.search_spaces.hnag import HNAGSpace
    from naslib_autokd.search_spaces.hnag.student import Student
    from naslib_autokd.search_spaces.hnag.wiring import fit_width

    found = {}
    for name, size, n in (("cluttered-digits", 12, 6000), ("cifar10", 32, 4000), ("mit67", 224, 64)):
        task = get_task(name, n_train=n, n_teacher=n, image_size=size)
        images = np.random.RandomState(0).randint(0, 256, size=(n, task.in_channels, size, size)).astype(np.uint8)
        ahead = draw_views(images, task).cut_ahead()
        later = type(ahead)(ahead.sources, ahead.places, ahead.zeros)
        wiring = HNAGSpace(task.preset).default_candidate().sample_wiring(0)
        spec = fit_width(
            wiring, task.max_params, in_channels=task.in_channels, image_size=size, n_classes=task.n_classes
        )
        model = Student(spec, seed=0).train()
        rng = torch.Generator().manual_seed(0)
        batch = (
            torch.randint(task.n_views, (task.batch_size,), generator=rng),
            torch.randint(n, (task.batch_size,), generator=rng),
        )
        images_in = later[batch].float()

        def step(model: nn.Module = model, images_in: torch.Tensor = images_in) -> None:
            model(images_in).logsumexp(dim=1).mean().backward()

        def cut(views: Any = later, batch: Any = batch) -> None:
            for _ in range(20):
                views[batch]

        def gather(views: Any = ahead, batch: Any = batch) -> None:
            for _ in range(20):
                views[batch]

        step(), cut(), gather()
        rows = [(cpu_seconds(step), cpu_seconds(cut) / 20, cpu_seconds(gather) / 20) for _ in range(PAIRS)]
        found[f"{name}, {size} pixels"] = {
            "step_ms": 1000 * statistics.median(row[0] for row in rows),
            "cut_share": statistics.median(row[1] / row[0] for row in rows),
            "gather_share": statistics.median(row[2] / row[0] for row in rows),
        }
    return found


# --- memory ---------------------------------------------------------------------------------------------------------

N_CLASSES = 100


def _data(n: int, size: int) -> TaskData:
    block = np.random.RandomState(0).randint(0, 256, size=(64, 3, size, size)).astype(np.uint8)

    def fill(out: Any) -> Decoded:
        for start in range(0, n, len(block)):
            part = out[start : start + len(block)]
            part[:] = np.roll(block, start // len(block) % size, axis=3)[: len(part)]
        return Decoded(out, np.arange(n), ())

    images = cache.stored(f"generated-{n}-{size}", (n, 3, size, size), fill, lambda where: None).images
    task = get_task("mit67", n_train=n, n_teacher=n, n_val=64, n_classes=N_CLASSES, image_size=size)
    labels = torch.arange(n) % N_CLASSES
    val = torch.zeros((64, 3, size, size), dtype=torch.uint8)
    drawn = draw_views(images, task)

    def make_test() -> Any:
        raise AssertionError("the test split is not read here")

    classes = tuple(map(str, range(N_CLASSES)))
    return TaskData(task, drawn, labels, val, labels[:64], classes, (0.5,) * 3, (0.3,) * 3, make_test)


def _work(n: int, size: int, seconds: list[float]) -> None:
    """An epoch of a network so small that its pictures are what takes time and memory."""
    torch.set_num_threads(1)
    data = _data(n, size)
    network = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    result = train(nn.Sequential(network, nn.Linear(8, N_CLASSES)), data, None, kd=None, epochs=1, seed=os.getpid())
    seconds.append(result.seconds)


def _worker(n: int, size: int, queue: Any) -> None:
    seconds: list[float] = []
    _work(n, size, seconds)
    queue.put(seconds[0])


def memory_of(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    return {key: 1024 * int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)}


def memory(n: int, size: int) -> dict[str, Any]:
    started, path = time.perf_counter(), cache.cache_folder() / "pictures" / f"generated-{n}-{size}.u8"
    existed = path.exists()
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import pictures; "
         f"pictures._data({n}, {size})"],
        check=True,
    )  # fmt: skip
    made = time.perf_counter() - started
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_worker, args=(n, size, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    peaks = {"Rss": 0, "Pss": 0, "Anonymous": 0}
    while any(worker.is_alive() for worker in workers):
        try:
            now = [memory_of(worker.pid) for worker in workers if worker.pid is not None and worker.is_alive()]
        except OSError:  # one has just ended
            continue
        for key in peaks:
            peaks[key] = max(peaks[key], sum(one[key] for one in now))
        time.sleep(5)  # the kernel walks through all pages to answer
    raw = n * 3 * size * size
    found = {
        "pictures": n,
        "raw_gb": raw / 1e9,
        "file_over_raw": path.stat().st_size / raw,
        "made_s": None if existed else made,
        "epoch_s": [queue.get(), queue.get()],
        "both_processes_gb": {key.lower(): value / 1e9 for key, value in peaks.items()},
        "pss_over_raw": peaks["Pss"] / raw,
    }
    for file in path.parent.glob(f"generated-{n}-{size}*"):
        file.unlink()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("decoding", "views", "memory"))
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "memory":
        section = memory(options.pictures, options.size)
    else:
        section = {"decoding": decoding, "views": views}[options.part]()
    everything = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(everything | {options.part: section}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(section, indent=1))
