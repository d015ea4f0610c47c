"""Training a hand-designed student with the losses of the literature, beside Hinton's, in the loop that all share.

The loss of a training is ``(1 - kd_weight) * CE + kd_weight * T**2 * KL + weight * L`` with L one of `feature_losses`.
RepDistiller's tables leave the Hinton term out of every row but its own (``--kd-weight 0`` here); kept, it answers
whether L adds anything to plain KD, and the rows differ by L alone. DKD is a form of the Hinton term and stands in its
place: ``CE + weight * L``, L faded in over the first twelfth of the training (20 of 240 epochs in mdistiller).

The teacher's maps are computed once per (sample, view) where they fit into memory, and in every step where not.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation import feature_losses as losses
from naslib_autokd.distillation.losses import distillation_loss, get_loss
from naslib_autokd.distillation.training import NesterovSGD, TrainingSettings, seeded, triangular_lr
from naslib_autokd.records import derive_seed
from naslib_autokd.tasks import did_you_mean
from naslib_autokd.teachers.onnx import require_layers
from naslib_autokd.teachers.teacher import Teacher, predict_batch
from naslib_autokd.teachers.zoo import Features, features

CACHE_BYTES = 512 * 2**20
"""The teacher's features that a loss reads are kept in memory up to this size."""
DKD_WARM_UP = 20 / 240
PARAPHRASER_SHARE = 30 / 240
"""Of the training's epochs; the paraphraser of FT is trained for so many before it, but at least three."""

TITLES: dict[str, str] = {
    "ce": "labels only",
    "kd": "KD (Hinton et al. 2015)",
    "fitnet": "FitNet hints (Romero et al. 2015)",
    "at": "AT (Zagoruyko & Komodakis 2017)",
    "sp": "SP (Tung & Mori 2019)",
    "cc": "CC (Peng et al. 2019)",
    "vid": "VID (Ahn et al. 2019)",
    "rkd": "RKD (Park et al. 2019)",
    "pkt": "PKT (Passalis & Tefas 2018)",
    "ft": "FT (Kim et al. 2018)",
    "nst": "NST (Huang & Wang 2017)",
    "crd": "CRD (Tian et al. 2020)",
    "dkd": "DKD (Zhao et al. 2022)",
}
"""All losses by name."""


@dataclass(frozen=True)
class LossSettings:
    """What a student is trained with; takes the place of a candidate's KD settings."""

    loss: str = "kd"
    """One of `TITLES`, or ``module:function``: a KD loss of one's own (`losses.KDLoss`) in the place of Hinton's."""
    weight: float | None = None
    """Of the term beside Hinton's; None: the literature's (`feature_losses.WEIGHTS`)."""
    temperature: float = 4.0
    kd_weight: float = 0.9
    """Share of the Hinton term against the cross-entropy; not read by ``ce`` and ``dkd``."""

    def __post_init__(self) -> None:
        if ":" in self.loss:
            get_loss(self.loss)
        elif self.loss not in TITLES:
            raise ValueError(f"unknown loss {self.loss!r}{did_you_mean(self.loss, TITLES)}")
        if self.weight is not None and not 0 <= self.weight < float("inf"):
            raise ValueError(f"the weight of {self.loss} must be a number of at least 0, got {self.weight}")
        if self.weight is not None and (self.loss in ("ce", "kd") or ":" in self.loss):
            raise ValueError(f"{self.loss} has no term to weigh; set kd_weight instead")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")
        if not 0 <= self.kd_weight <= 1:
            raise ValueError(f"kd_weight must be in [0, 1], got {self.kd_weight}")

    @classmethod
    def parse(cls, text: str, *, temperature: float = 4.0, kd_weight: float = 0.9) -> LossSettings:
        """``"at"``, or ``"at=500"`` for another weight than the literature's.

        Raises:
            ValueError: For an unknown name (with the nearest) or a weight that is no number.
        """
        name, given, number = text.strip().partition("=")
        try:
            weight = float(number) if given else None
        except ValueError as error:
            raise ValueError(f"a loss is given as NAME or NAME=WEIGHT, for example at=500, got {text!r}") from error
        return cls(name if ":" in name else name.lower(), weight, temperature, kd_weight)

    @property
    def used_weight(self) -> float | None:
        """None for ``ce``, ``kd`` and a loss of one's own."""
        return losses.WEIGHTS.get(self.loss) if self.weight is None else self.weight

    @property
    def key(self) -> str:
        """What `parse` reads: the name, with the weight where it is not the literature's."""
        return self.loss if self.weight is None else f"{self.loss}={self.weight:g}"


# --- the terms ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """A loss between the features of student and teacher, made for one pair of networks."""

    compute: Callable[[Features, Features, Tensor], Tensor]
    """Of (student, teacher, index of the images); both have only the maps of ``pairs``."""
    pairs: tuple[int, ...] = ()
    """Which of the paired maps are read."""
    module: nn.Module | None = None
    """Its parameters are trained along."""
    prepare: Callable[[Callable[[Tensor, Tensor], Features]], None] | None = None
    """Called once before the training with a function (view, index) -> the teacher's features."""


@dataclass(frozen=True)
class Setting:
    """What a term is made for."""

    student: Features
    """Of one image; the maps are those that are paired, from early to late."""
    teacher: Features
    data: TaskData
    epochs: int
    seed: int

    @property
    def n_pairs(self) -> int:
        return len(self.student.maps)

    def channels(self, pair: int) -> tuple[int, int]:
        """Of the student's and the teacher's map."""
        return self.student.maps[pair].shape[1], self.teacher.maps[pair].shape[1]

    @property
    def n_pooled(self) -> tuple[int, int]:
        return self.student.pooled.shape[1], self.teacher.pooled.shape[1]


def _fitnet(setting: Setting) -> Term:
    middle = setting.n_pairs // 2  # as in RepDistiller: the second of three stages
    regressor = losses.Regressor(*setting.channels(middle))
    return Term(lambda s, t, index: regressor(s.maps[0], t.maps[0]), (middle,), regressor)


def _at(setting: Setting) -> Term:
    return Term(lambda s, t, index: losses.attention_loss(s.maps, t.maps), tuple(range(setting.n_pairs)))


def _nst(setting: Setting) -> Term:
    return Term(lambda s, t, index: losses.selectivity_loss(s.maps, t.maps), tuple(range(setting.n_pairs)))


def _vid(setting: Setting) -> Term:
    pairs = tuple(range(setting.n_pairs))
    modules = nn.ModuleList([losses.VariationalInformation(*setting.channels(pair)) for pair in pairs])

    def compute(s: Features, t: Features, index: Tensor) -> Tensor:
        return torch.stack([module(a, b) for module, a, b in zip(modules, s.maps, t.maps, strict=True)]).sum()

    return Term(compute, pairs, modules)


def _sp(setting: Setting) -> Term:
    return Term(lambda s, t, index: losses.similarity_loss(s.maps[0], t.maps[0]), (setting.n_pairs - 1,))


def _cc(setting: Setting) -> Term:
    return Term(lambda s, t, index: losses.correlation_loss(s.pooled, t.pooled))


def _rkd(setting: Setting) -> Term:
    return Term(lambda s, t, index: losses.relational_loss(s.pooled, t.pooled))


def _pkt(setting: Setting) -> Term:
    return Term(lambda s, t, index: losses.probabilistic_loss(s.pooled, t.pooled))


def _crd(setting: Setting) -> Term:
    crd = losses.ContrastiveRepresentation(*setting.n_pooled, setting.data.train_labels.cpu(), seed=setting.seed)
    crd.to(setting.data.device)
    return Term(lambda s, t, index: crd(s.pooled, t.pooled, index), (), crd)


def _ft(setting: Setting) -> Term:
    last = setting.n_pairs - 1
    n_student, n_teacher = setting.channels(last)
    paraphraser = losses.Paraphraser(n_teacher).to(setting.data.device)
    translator = losses.Translator(n_student, paraphraser.n_factors)

    def prepare(teacher: Callable[[Tensor, Tensor], Features]) -> None:
        data, settings = setting.data, TrainingSettings()
        epochs = max(3, round(PARAPHRASER_SHARE * setting.epochs))
        n_views, n = data.train_views.shape[:2]
        steps = n // min(data.task.batch_size, n)
        rng = torch.Generator().manual_seed(setting.seed)
        torch_optimizer = NesterovSGD(paraphraser.parameters(), settings)
        for epoch in range(epochs):
            order = torch.randperm(n, generator=rng)[: n // steps * steps].to(data.device)
            for step, index in enumerate(order.chunk(steps)):
                view = torch.full_like(index, epoch % n_views)
                paraphraser.reconstruction_loss(teacher(view, index).maps[0]).backward()
                torch_optimizer.step(triangular_lr(epoch * steps + step, epochs * steps, settings))
        paraphraser.eval().requires_grad_(False)

    def compute(s: Features, t: Features, index: Tensor) -> Tensor:
        student, target = losses.same_size(translator(s.maps[0]), paraphraser(t.maps[0]))
        return losses.factor_loss(student, target)

    return Term(compute, (last,), translator, prepare)


TERMS: dict[str, Callable[[Setting], Term]] = {
    "fitnet": _fitnet,
    "at": _at,
    "sp": _sp,
    "cc": _cc,
    "vid": _vid,
    "rkd": _rkd,
    "pkt": _pkt,
    "ft": _ft,
    "nst": _nst,
    "crd": _crd,
}


# --- the teacher's side ---------------------------------------------------------------------------------------------


class TeacherFeatures:
    """A teacher's features of the training images: read from memory, or computed when asked.

    Args:
        keep: Which of the teacher's maps are wanted.
        max_bytes: Size up to which everything is computed at once and kept.
    """

    def __init__(self, teacher: Teacher, data: TaskData, keep: Sequence[int], max_bytes: int = CACHE_BYTES) -> None:
        self.teacher, self.data, self.keep = teacher, data, tuple(keep)
        n_views, n = data.train_views.shape[:2]
        one = self._compute(data.train_views[[0], [0]])
        self.n_bytes = 4 * n_views * n * sum(x.numel() for x in (*one.maps, one.pooled, one.logits))
        self._kept: Features | None = None
        if self.n_bytes <= max_bytes:
            batch_size = predict_batch(teacher.network, data.task.image_size)
            parts = [self._compute(part) for part in data.train_views.batches(batch_size)]
            self._kept = Features(
                tuple(
                    torch.cat(maps).unflatten(0, (n_views, n)) for maps in zip(*(p.maps for p in parts), strict=True)
                ),
                torch.cat([p.pooled for p in parts]).unflatten(0, (n_views, n)),
                torch.cat([p.logits for p in parts]).unflatten(0, (n_views, n)),
            )

    @property
    def in_memory(self) -> bool:
        return self._kept is not None

    def __call__(self, view: Tensor, index: Tensor) -> Features:
        """Of a batch; the maps are those of ``keep``."""
        kept = self._kept
        if kept is None:
            return self._compute(self.data.train_views[view, index])
        return Features(tuple(x[view, index] for x in kept.maps), kept.pooled[view, index], kept.logits[view, index])

    @torch.no_grad()
    def _compute(self, images: Tensor) -> Features:
        found = features(self.teacher, images)
        return Features(tuple(found.maps[place] for place in self.keep), found.pooled, found.logits)


class BaselineObjective:
    """The loss of one student's training, for `training.train`.

    Args:
        model: The student, on the data's device.
        soft_targets: The teacher's logits ``(n_views, n_train, classes)``.
        epochs: Of the training that follows.
        seed: Initial weights of the term's modules, and what it draws.
    """

    def __init__(
        self,
        settings: LossSettings,
        model: nn.Module,
        data: TaskData,
        teacher: Teacher,
        soft_targets: Tensor,
        *,
        epochs: int,
        seed: int,
        max_bytes: int = CACHE_BYTES,
    ) -> None:
        self.settings, self.soft_targets = settings, soft_targets
        self.term: Term | None = None
        if settings.loss not in TERMS:
            return
        require_layers(teacher, f"the loss {settings.loss}")
        image = data.train_views[[0], [0]]
        student, taught = _probe(model, data.normalise(image)), _probe(teacher, image)
        n_pairs = min(len(student.maps), len(taught.maps))  # counted from the last stage, where both are small
        first_student, first_teacher = len(student.maps) - n_pairs, len(taught.maps) - n_pairs
        setting = Setting(
            student._replace(maps=student.maps[first_student:]),
            taught._replace(maps=taught.maps[first_teacher:]),
            data,
            epochs,
            derive_seed(seed, "loss"),
        )
        with seeded(derive_seed(seed, "loss weights")):
            self.term = TERMS[settings.loss](setting)
            if self.term.module is not None:
                self.term.module.to(data.device).train()
            self._student_maps = tuple(first_student + pair for pair in self.term.pairs)
            self.teacher = TeacherFeatures(
                teacher, data, [first_teacher + pair for pair in self.term.pairs], max_bytes=max_bytes
            )
            if self.term.prepare is not None:
                self.term.prepare(self.teacher)

    def parameters(self) -> Iterable[Tensor]:
        return [] if self.term is None or self.term.module is None else self.term.module.parameters()

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, view: Tensor, index: Tensor, done: float
    ) -> tuple[Tensor, Tensor]:
        """Logits and loss of a batch (see `training.Objective`)."""
        settings, term = self.settings, self.term
        if term is None:
            logits = model(images)
        else:
            found = features(model, images)
            logits = found.logits
        if settings.loss == "ce":
            return logits, F.cross_entropy(logits, labels)
        taught = self.soft_targets[view, index]
        weight = settings.used_weight or 0.0
        if settings.loss == "dkd":
            extra = losses.decoupled_loss(logits, taught, labels, temperature=settings.temperature)
            return logits, F.cross_entropy(logits, labels) + weight * min(done / DKD_WARM_UP, 1.0) * extra
        kd_loss = get_loss(settings.loss) if ":" in settings.loss else distillation_loss
        loss = kd_loss(logits, taught, labels, temperature=settings.temperature, kd_weight=settings.kd_weight)
        if term is not None:
            student = found._replace(maps=tuple(found.maps[place] for place in self._student_maps))
            loss = loss + weight * term.compute(student, self.teacher(view, index), index)
        return logits, loss


@torch.no_grad()
def _probe(model: nn.Module, images: Tensor) -> Features:
    """Features of one image; batch statistics are neither used nor changed."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    found = features(model, images)
    for module, mode in training.items():
        module.training = mode
    return found


# --- published results ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedResult:
    """A number of the literature's CIFAR-100 tables."""

    teacher: str
    student: str
    """Names of the zoo, and ``resnet50``."""
    loss: str
    """One of `TITLES`, or ``teacher``."""
    top1: float
    """Test accuracy, percent."""
    source: str
    commit: str
    note: str


PUBLISHED_PROTOCOL = (
    "CIFAR-100, 240 epochs, batch 64, learning rate 0.05 (0.01 for MobileNet and ShuffleNet) divided by 10 at 150, 180 "
    "and 210; feature losses beside the cross-entropy alone, without the Hinton term; no validation split: the test "
    "set is evaluated after every epoch and the best epoch is kept (mdistiller reports that one)"
)


def published_results(student: str | None = None) -> list[PublishedResult]:
    """``kd_reference.csv``: RepDistiller's table, and mdistiller's for DKD; of one student if it is named."""
    text = resources.files("naslib_autokd.distillation").joinpath("kd_reference.csv").read_text(encoding="utf-8")
    rows = [
        PublishedResult(**{**row, "top1": float(row["top1"])})  # type: ignore[arg-type]
        for row in csv.DictReader(text.splitlines())
    ]
    return rows if student is None else [row for row in rows if row.student == student]
