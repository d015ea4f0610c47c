"""Fixed augmented views of training images."""

from __future__ import annotations

import numpy as np

from naslib_autokd.data.images import Images
from naslib_autokd.data.splits import split_rng
from naslib_autokd.tasks import Task


def draw_views(images: Images, task: Task) -> Images:
    """``(n_views, n, channels, size, size)``; view 0 is the image itself, the others are drawn once per sample.

    ``shift``: moved by up to ``max_shift`` pixels in each direction (by at least one), the border is repeated.
    ``crop-flip``: cut out of the image with ``max_shift`` zeros around it, and mirrored with probability one half.
    """
    views = np.broadcast_to(images, (task.n_views, *images.shape)).copy()
    rng, n, size, margin = split_rng(task, "views"), len(images), task.image_size, task.max_shift
    border = ((0, 0), (0, 0), (margin, margin), (margin, margin))
    padded = np.pad(images, border, mode="constant" if task.augmentation == "crop-flip" else "edge")
    n_places = (2 * margin + 1) ** 2
    for view in views[1:]:
        place = rng.randint(1 if task.augmentation == "shift" else 0, n_places, size=n)  # 0 is the middle
        corner = np.divmod((place + n_places // 2) % n_places, 2 * margin + 1)
        rows, columns = (start[:, None] + np.arange(size) for start in corner)
        if task.augmentation == "crop-flip":
            mirrored = rng.uniform(size=n) < 0.5
            columns[mirrored] = columns[mirrored, ::-1]
        for channel in range(images.shape[1]):
            view[:, channel] = padded[np.arange(n)[:, None, None], channel, rows[:, :, None], columns[:, None, :]]
    return views
