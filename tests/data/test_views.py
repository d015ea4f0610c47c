"""Views are cut out when they are used; their pixels are those of padding all images and slicing them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from naslib_autokd.data.images import TaskData
from naslib_autokd.data.splits import split_rng
from naslib_autokd.data.views import Views, draw_views
from naslib_autokd.tasks import get_task


def padded_views(images, task):
    """All views at once, in numpy alone: ``(n_views, n, channels, size, size)``."""
    rng, n, size, margin = split_rng(task, "views"), len(images), images.shape[-1], task.max_shift
    border = ((0, 0), (0, 0), (margin, margin), (margin, margin))
    padded = np.pad(images, border, mode="constant" if task.augmentation == "crop-flip" else "edge")
    n_places, views = (2 * margin + 1) ** 2, [images]
    for _ in range(1, task.n_views):
        place = rng.randint(1 if task.augmentation == "shift" else 0, n_places, size=n)
        rows, columns = np.divmod((place + n_places // 2) % n_places, 2 * margin + 1)
        view = np.stack([p[:, r : r + size, c : c + size] for p, r, c in zip(padded, rows, columns, strict=True)])
        if task.augmentation == "crop-flip":
            mirrored = rng.uniform(size=n) < 0.5
            view[mirrored] = view[mirrored, :, :, ::-1]
        views.append(view)
    return np.stack(views)


@pytest.mark.parametrize("max_shift", [1, 3, 12])
@pytest.mark.parametrize(("channels", "augmentation"), [(1, "shift"), (3, "shift"), (1, "crop-flip"), (3, "crop-flip")])
def test_views_have_the_pixels_of_padded_images(channels, augmentation, max_shift, monkeypatch):
    task = get_task("digits", n_views=3, max_shift=max_shift, augmentation=augmentation)
    images = np.random.RandomState(0).randint(0, 256, size=(50, channels, 8, 8)).astype(np.uint8)
    expected = torch.from_numpy(padded_views(images, task))
    ahead = draw_views(images, task)
    monkeypatch.setattr("naslib_autokd.data.views.DRAWN_BYTES", 0)
    later = draw_views(images, task)
    assert torch.equal(ahead.drawn, expected)
    assert later.drawn is None
    view, index = torch.randint(3, (200,)), torch.randint(50, (200,))
    for views in (ahead, later):
        assert views.shape == (3, 50, channels, 8, 8)
        assert torch.equal(views[view, index], expected[view, index])
        assert views[view, index].is_contiguous()
        assert torch.equal(views[2], expected[2])
        assert torch.equal(views[0], expected[0])
        assert torch.equal(views[:, :20][[1, 2], [3, 19]], expected[[1, 2], [3, 19]])
        assert torch.equal(torch.cat(list(views.batches(47))), expected.flatten(0, 1))
        assert torch.equal(views.joined(views[:, :7])[[2, 1], [53, 49]], expected[[2, 1], [3, 49]])


@pytest.mark.parametrize("drawn_bytes", [0, 2**26])
def test_more_views_of_the_same_images(drawn_bytes, monkeypatch):
    monkeypatch.setattr("naslib_autokd.data.views.DRAWN_BYTES", drawn_bytes)
    task = get_task("digits", n_views=3, max_shift=2, augmentation="crop-flip")
    images = np.random.RandomState(0).randint(0, 256, size=(50, 3, 8, 8)).astype(np.uint8)
    views = draw_views(images, task)
    more = views[:, :40].with_more(7, replace(task, n_train=40))
    assert more.shape == (7, 40, 3, 8, 8)
    expected = padded_views(images[:40], replace(task, n_views=7))
    assert np.array_equal(torch.stack([more[view] for view in range(7)]), expected)
    assert len(np.unique(more.places[:, 0], axis=0)) > 5


def test_the_digest_is_that_of_the_drawn_views(tiny_data):
    given = replace(tiny_data, teacher_views=tiny_data.teacher_views.drawn)
    cut = replace(tiny_data, teacher_views=replace(tiny_data.teacher_views, drawn=None))
    assert given.digest == cut.digest == tiny_data.digest
    other = tiny_data.teacher_views.drawn.clone()
    other[1, 5, 0, 3, 3] ^= 1
    assert replace(tiny_data, teacher_views=other).digest != tiny_data.digest


def test_the_digest_of_the_embedded_task_is_what_it_always_was(cluttered_data):
    assert cluttered_data.digest == "9b4d050bf87c"  # keys of teachers that were cached before
    assert isinstance(cluttered_data, TaskData)
    assert isinstance(cluttered_data.teacher_views, Views)
