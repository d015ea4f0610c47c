"""What an engineer would take instead of a searched student, under the limits that the student keeps.

Hand-designed networks in the width that the limits allow (`teachers.zoo.scaled`), the largest of a few small networks
of timm that keeps them, and the teacher with fewer channels (`teachers.pruning`). A rival is a name that says all of
it: ``resnet8x0.53``, ``timm:lcnet_050@pretrained``, ``pruned-teacherx0.41``; `network` makes it.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from torch import nn

from naslib_autokd.distillation.costs import count_macs, count_params
from naslib_autokd.distillation.training import seeded
from naslib_autokd.distillation.training_cost import network_cost
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.evaluators.student_limits import LimitError, amount, widest_within
from naslib_autokd.search_spaces.hnag.wiring import resolve_stem
from naslib_autokd.tasks import did_you_mean
from naslib_autokd.teachers.names import TeacherError, parse_architecture
from naslib_autokd.teachers.networks import InputAdapter, build_network, published_weights
from naslib_autokd.teachers.pruning import OfNormalised, library, pruned
from naslib_autokd.teachers.weights import WeightsFile, load_weights
from naslib_autokd.teachers.zoo import SCALED, ZOO, build

PRUNED, TIMM = "pruned-teacher", "timm"
RIVALS = (*SCALED, TIMM, PRUNED)
"""What ``all`` means."""
SMALL_TIMM = (
    "test_efficientnet.r160_in1k",
    "test_resnet.r160_in1k",
    "lcnet_050.ra2_in1k",
    "mobilenetv3_small_050.lamb_in1k",
    "tinynet_e.in1k",
    "lcnet_075.ra2_in1k",
    "mobilenetv3_small_100.lamb_in1k",
    "mobilenetv2_100.ra_in1k",
    "efficientnet_lite0.ra_in1k",
    "resnet10t.c3_in1k",
    "resnet18.a1_in1k",
)
"""Of 0.1M to 11M parameters, all with published weights; ``timm`` is the largest of them that keeps the limits."""
WIDTHS = tuple(width for step in range(700) if f"resnet8x{(width := float(f'{0.02 * 1.01**step:.3g}')):g}" not in ZOO)
"""0.02 to 20 in steps of 1%, as names have them, without those of the zoo's own networks."""
SHARES = tuple(step / 100 for step in range(4, 101))
"""Of the teacher's channels."""


@dataclass(frozen=True)
class Rival:
    """A network that takes part."""

    name: str
    epochs: int
    """That it is trained for."""
    note: str = ""
    """What a reader has to know, for example that no published weights could be had."""


@dataclass(frozen=True)
class Sized:
    """Stands for a student where limits are checked."""

    name: str
    make: Callable[[], nn.Module]
    n_params: int
    macs: int

    def build(self, seed: int) -> nn.Module:
        with seeded(seed):
            return self.make()


def chosen(names: Sequence[str]) -> list[str]:
    """The rivals of a list of names, in which ``all`` stands for `RIVALS`.

    Raises:
        ValueError: For an unknown or repeated one.
        ImportError: If it needs a package that is not installed; ``all`` leaves such out, and `fitted` says so.
    """
    found: list[str] = []
    for text in names:
        name = text.strip().replace("-", "_") if text.strip().replace("-", "_") in SCALED else text.strip()
        if name == "all":
            found += RIVALS
        elif name in RIVALS or name.startswith("timm:"):
            found.append(name)
            if name.startswith(TIMM):
                parse_architecture(f"timm:{SMALL_TIMM[0]}" if name == TIMM else name)
            elif name == PRUNED:
                library()
        else:
            raise ValueError(f"unknown rival {text!r}{did_you_mean(text, (*RIVALS, 'all'))}")
    if len(set(found)) != len(found):
        raise ValueError(f"rivals must differ, got {', '.join(names)}")
    return found


def _share_in(name: str) -> float | None:
    found = re.fullmatch(rf"{PRUNED}x(0?\.\d+|1(?:\.0*)?)", name)
    return float(found[1]) if found else None


def network(evaluator: KDEvaluator, name: str) -> nn.Module:
    """The network of a rival's name; new weights are drawn from torch's global generator.

    Raises:
        TeacherError, ImportError: If it cannot be made.
    """
    task = evaluator.task
    if (share := _share_in(name)) is not None:
        return pruned(evaluator.teacher, evaluator.data, share, task.width_multiple)
    if name.startswith("timm:"):
        architecture = parse_architecture(name)
        if not architecture.weights:
            return build_network(architecture, task.in_channels, task.n_classes)[0]
        published = published_weights(architecture)
        inner, _ = build_network(architecture, published.input.channels, task.n_classes)
        file = WeightsFile.published(architecture, published.state)
        load_weights(inner, file, architecture, task.n_classes, classes_may_differ=True)
        given = type(published.input)(published.input.mean, published.input.std, published.input.channels, None)
        return OfNormalised(InputAdapter(inner, given), evaluator.data.mean, evaluator.data.std)
    large = resolve_stem(task.stem, task.image_size) == "large"
    return build(name, task.in_channels, task.n_classes, task.width_multiple, large)


def fitted(
    evaluator: KDEvaluator,
    names: Sequence[str],
    epochs: Callable[[nn.Module], int],
    report: Callable[[str], None] | None = None,
) -> tuple[dict[str, Rival], dict[str, str]]:
    """The rivals by what they were asked as, each as wide as ``max_params`` and the evaluator's limits allow.

    Args:
        names: Of `RIVALS`, or ``timm:NAME``.
        epochs: That a network is trained for.

    Returns:
        Rivals, and why others cannot take part.
    """
    found: dict[str, Rival] = {}
    left_out: dict[str, str] = {}
    for name in names:
        if report is not None:
            report(f"{name} in the width that keeps the limits")
        try:
            sized, note = _of_timm(evaluator, name) if name.startswith(TIMM) else (_widest(evaluator, name), "")
            if name == PRUNED:
                note = "starts from the teacher's weights"
                if (more := evaluator.task.n_teacher) > evaluator.task.n_train:
                    note += f", learned from {more:,} images; the others learn from {evaluator.task.n_train:,}"
            found[name] = Rival(sized.name, epochs(sized.build(0)), note)
        except (LimitError, TeacherError, ImportError) as error:
            left_out[name] = str(error)
    return found, left_out


def _sized(evaluator: KDEvaluator, name: str) -> Sized:
    made = network(evaluator, name)
    return Sized(name, lambda: network(evaluator, name), count_params(made), count_macs(made, evaluator.image_shape))


def _widest(evaluator: KDEvaluator, name: str) -> Sized:
    widths = SHARES if name == PRUNED else WIDTHS
    at = cache(lambda index: _sized(evaluator, f"{name}x{widths[index]:g}"))
    max_params = evaluator.task.max_params

    def fit(n_params: int) -> Sized:
        within = bisect.bisect_right(range(len(widths)), n_params, key=lambda index: at(index).n_params)
        return at(max(0, within - 1))

    smallest = at(0).n_params
    if smallest > max_params:
        raise LimitError(
            f"max_params={max_params:,}, but its narrowest form needs {smallest:,}", {"max_params": smallest}
        )
    costs = cache(lambda sized, cost: evaluator.cost_of(sized, cost))
    words = {"narrowest": "its narrowest form", "advice": "raise the limit or leave it out"}
    return widest_within(evaluator.limits, fit, costs, max_params, smallest, **words)[0]


def _of_timm(evaluator: KDEvaluator, name: str) -> tuple[Sized, str]:
    """A network of timm, and whether it has published weights."""
    tried: list[tuple[int, str]] = []
    for each in SMALL_TIMM if name == TIMM else (name.removeprefix("timm:"),):
        sized = _sized(evaluator, f"timm:{each.partition('@')[0]}")
        tried.append((sized.n_params, each))
    for _, each in sorted(tried, reverse=True):
        sized = _sized(evaluator, f"timm:{each.partition('@')[0]}")
        broken = evaluator.limits.broken(lambda cost: evaluator.cost_of(sized, cost))  # noqa: B023  (called at once)
        if sized.n_params <= evaluator.task.max_params and not broken:
            pretrained = f"timm:{each.partition('@')[0]}@pretrained"
            try:
                return _sized(evaluator, pretrained), "from published weights"
            except TeacherError as error:
                return sized, f"trained from scratch: {error}"
    n_params, each = min(tried)
    shown = ", ".join(f"{key}={amount(key, limit)}" for key, limit in _set_limits(evaluator).items())
    raise LimitError(
        f"none of {len(tried)} keeps the limits (max_params={evaluator.task.max_params:,}"
        f"{f', {shown}' if shown else ''}); the smallest, {each}, has {n_params:,} parameters",
        {},
    )


def _set_limits(evaluator: KDEvaluator) -> dict[str, float]:
    return {name: value for name, value in vars(evaluator.limits).items() if value is not None}


def epochs_in(evaluator: KDEvaluator, seconds: float) -> Callable[[nn.Module], int]:
    """How many epochs of a network fit into so many modelled CPU seconds (`distillation.training_cost`); at least 1."""
    task, data = evaluator.task, evaluator.data
    n_steps = max(1, data.n_shown // min(task.batch_size, data.n_shown))

    def epochs(network: nn.Module) -> int:
        return max(1, round(seconds / (n_steps * network_cost(network, evaluator.image_shape, task.batch_size).step)))

    return epochs
