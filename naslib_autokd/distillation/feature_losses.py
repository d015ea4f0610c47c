"""Distillation losses beyond Hinton's: the baselines of the literature, as functions of logits and of feature maps.

Each follows the equation of its paper; where the authors' code or RepDistiller's differs, the docstring says so. The
functions are averaged so that the weights of the literature's CIFAR-100 protocol (`WEIGHTS`) fit them. Methods with
parameters of their own are modules. Feature maps are ``(batch, channels, height, width)``; where those of student and
teacher differ in size, the larger is averaged down (`same_size`). No gradient flows into what comes from the teacher.

`baselines` puts them into a training, beside the Hinton loss.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS: dict[str, float] = {
    "fitnet": 100.0,
    "at": 1000.0,
    "sp": 3000.0,
    "cc": 0.02,
    "vid": 1.0,
    "rkd": 1.0,
    "pkt": 30000.0,
    "ft": 200.0,
    "nst": 50.0,
    "crd": 0.8,
    "dkd": 1.0,
}
"""Of each loss beside the others: RepDistiller's scripts/run_cifar_distill.sh (commit b84f547), and mdistiller's
mdistiller/engine/cfg.py (commit a08d46f) for DKD. RepDistiller's ``cc`` and ``ft`` are other formulas than the papers',
so their weights are only a convention here."""


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller of the two resolutions, by adaptive average pooling."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return _pooled(student, size), _pooled(teacher, size)


def _pooled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size)


def hint_loss(
    regressed: Tensor,  # (batch, channels, height, width): the student's guided layer through a regressor
    hint: Tensor,  # the same shape, the teacher's
) -> Tensor:  # ()
    """FitNet: mean of ``(u - r(v))**2`` over all entries.

    Source: Romero et al. 2015, arXiv:1412.6550, eq. (3), which has half the sum over an image's entries; the mean is
    RepDistiller's, whose weight is 100. There and here the hint is trained together with the other terms, while the
    paper trains it first, alone.
    """
    return F.mse_loss(regressed, hint.detach())


class Regressor(nn.Module):
    """1x1 convolution and batch norm from the student's channels to the teacher's: the ``r`` of FitNet.

    The paper's regressor is a larger convolution without padding that also shrinks the map; here that is `same_size`.
    """

    def __init__(self, n_student: int, n_teacher: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_student, n_teacher, 1, bias=False)
        self.norm = nn.BatchNorm2d(n_teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_size(student, teacher)
        return hint_loss(self.norm(self.conv(student)), teacher)


def attention_map(x: Tensor) -> Tensor:
    """``(batch, height * width)``: channels squared and averaged, then of unit length in each image."""
    return F.normalize(x.square().mean(dim=1).flatten(1), dim=1)


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """AT: the sum over pairs of maps of the mean of ``(Q_S / |Q_S| - Q_T / |Q_T|)**2``.

    Source: Zagoruyko & Komodakis 2017, arXiv:1612.03928, eq. (2) with F_sum^2. The paper has the norm of the difference
    itself; the mean of squares is the authors' code, with which the weight of 1000 is used.
    """
    pairs = _same_sizes(student, teacher)
    return torch.stack([(attention_map(s) - attention_map(t.detach())).square().mean() for s, t in pairs]).sum()


def _same_sizes(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [same_size(s, t) for s, t in zip(student, teacher, strict=True)]


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """SP: ``|G_T - G_S|_F**2 / batch**2`` with ``G`` the images' products, each row of unit length.

    Args:
        student: ``(batch, ...)``, the rest is flattened.
        teacher: The same, of any size.

    Source: Tung & Mori 2019, arXiv:1907.09682, section 3.
    """

    def products(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return F.normalize(flat @ flat.T, dim=1)

    return (products(student) - products(teacher.detach())).square().sum() / len(student) ** 2


def correlation_loss(student: Tensor, teacher: Tensor, *, gamma: float = 0.4, order: int = 2) -> Tensor:
    """CC: ``|K(F_T) - K(F_S)|_F**2 / batch**2`` with the Gaussian kernel between all images of a batch.

    Features are brought to unit length, so that ``exp(-gamma |x - y|**2)`` is ``exp(-2 gamma) exp(2 gamma x.y)``, whose
    Taylor series is cut after ``order``.

    Args:
        student: ``(batch, n_features)``.
        teacher: The same, with any number of features.

    Source: Peng et al. 2019, arXiv:1904.01802, section 3. RepDistiller's ``correlation`` is another formula
    (neighbours' absolute differences).
    """

    def kernel(x: Tensor) -> Tensor:
        unit = F.normalize(x, dim=1)
        return math.exp(-2 * gamma) * _series(2 * gamma * (unit @ unit.T), order)

    return (kernel(student) - kernel(teacher.detach())).square().sum() / len(student) ** 2


def _series(x: Tensor, order: int) -> Tensor:
    """Taylor series of ``exp(x)`` up to ``x**order``."""
    total = torch.ones_like(x)
    for p in range(1, order + 1):
        total = total + x**p / math.factorial(p)
    return total


class VariationalInformation(nn.Module):
    """VID: negative log-likelihood of the teacher's map under a normal distribution around a function of the student's.

    Mean over all entries of ``log(sigma_c**2) / 2 + (t - mu(s))**2 / (2 sigma_c**2)``: one variance per channel of the
    teacher, ``softplus(a_c) + eps``, and for ``mu`` three 1x1 convolutions.

    Source: Ahn et al. 2019, arXiv:1904.05835, section 2; the constant ``log(2 pi) / 2`` is left out, as there.
    """

    def __init__(self, n_student: int, n_teacher: int, *, variance: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(n_student, n_teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(n_teacher, n_teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(n_teacher, n_teacher, 1, bias=False),
        )
        self.eps = eps
        self.raw_variance = nn.Parameter(torch.full((n_teacher,), math.log(math.expm1(variance - eps))))

    @property
    def variance(self) -> Tensor:
        """``(n_teacher,)``."""
        return F.softplus(self.raw_variance) + self.eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_size(student, teacher.detach())
        variance = self.variance.view(1, -1, 1, 1)
        return (0.5 * (variance.log() + (teacher - self.mean(student)).square() / variance)).mean()


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-D: Huber loss between all distances within a batch, each divided by their mean over pairs of images.

    Args:
        student: ``(batch, n_features)``.
        teacher: The same, with any number of features.

    Source: Park et al. 2019, arXiv:1904.05068, section 3.2.1, averaged over all ``batch**2`` ordered pairs (the
    authors' code; the paper sums).
    """

    def relative(x: Tensor) -> Tensor:
        # without matrix products: the distance of an image to itself is exactly 0, and has gradient 0
        distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        return distances / distances[distances > 0].mean()

    return F.smooth_l1_loss(relative(student), relative(teacher.detach()))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-A: Huber loss between the cosines of all angles that three images of a batch form.

    Source: Park et al. 2019, section 3.2.2, averaged over all ``batch**3`` triples (the authors' code).
    """

    def cosines(x: Tensor) -> Tensor:
        directions = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)  # [j, i] = e_ij, from j to i
        return directions @ directions.transpose(1, 2)

    return F.smooth_l1_loss(cosines(student), cosines(teacher.detach()))


def relational_loss(
    student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """RKD-DA: `distance_loss` and `angle_loss` with the literature's weights."""
    return distance_weight * distance_loss(student, teacher) + angle_weight * angle_loss(student, teacher)


def probabilistic_loss(student: Tensor, teacher: Tensor, *, eps: float = 1e-7) -> Tensor:
    """PKT: mean over all pairs ``(i, j)`` of ``p_T log(p_T / p_S)``, ``p(j | i)`` from the features' cosines.

    ``p(j | i)`` is proportional to ``(cos(x_i, x_j) + 1) / 2`` over all ``j`` of the batch, ``i`` itself too.

    Source: Passalis & Tefas 2018, arXiv:1803.10837, section 3, cosine kernel. The paper sums; the mean and ``i = j``
    are the authors' code, with which the weight of 30000 is used.
    """

    def probabilities(x: Tensor) -> Tensor:
        unit = F.normalize(x, dim=1)
        affinity = (unit @ unit.T + 1) / 2
        return affinity / affinity.sum(dim=1, keepdim=True)

    p_student, p_teacher = probabilities(student), probabilities(teacher.detach())
    return (p_teacher * torch.log((p_teacher + eps) / (p_student + eps))).mean()


class Paraphraser(nn.Module):
    """FT's auto-encoder of a teacher's map: three convolutions down to ``rate`` times the channels, three back.

    Source: Kim et al. 2018, arXiv:1802.04977, section 3.1. It is trained first, alone, to rebuild the map
    (`reconstruction_loss`), and then frozen.
    """

    def __init__(self, n_teacher: int, rate: float = 0.5) -> None:
        super().__init__()
        self.n_factors = max(1, int(n_teacher * rate))
        self.encoder = _convolutions(nn.Conv2d, (n_teacher, n_teacher, self.n_factors, self.n_factors))
        self.decoder = _convolutions(nn.ConvTranspose2d, (self.n_factors, self.n_factors, n_teacher, n_teacher))

    def forward(self, teacher: Tensor) -> Tensor:
        """The factors ``(batch, n_factors, height, width)``."""
        return self.encoder(teacher)

    def reconstruction_loss(self, teacher: Tensor) -> Tensor:
        """Mean of ``(x - P(x))**2``."""
        return F.mse_loss(self.decoder(self.encoder(teacher)), teacher)


class Translator(nn.Module):
    """FT's network from a student's map to factors that are compared with the `Paraphraser`'s."""

    def __init__(self, n_student: int, n_factors: int) -> None:
        super().__init__()
        self.layers = _convolutions(nn.Conv2d, (n_student, n_student, n_factors, n_factors))

    def forward(self, student: Tensor) -> Tensor:
        return self.layers(student)


def _convolutions(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], channels: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(channels):
        layers += [kind(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """FT: mean of ``|F_T / |F_T|_2 - F_S / |F_S|_2|`` over all entries.

    Args:
        student: Factors, ``(batch, n_factors, height, width)``.
        teacher: Factors of the same shape.

    Source: Kim et al. 2018, section 3.2 with p = 1, averaged. RepDistiller takes the mean square over channels
    first (an attention map), which the paper does not.
    """
    return F.l1_loss(F.normalize(student.flatten(1), dim=1), F.normalize(teacher.detach().flatten(1), dim=1))


def selectivity_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """NST: summed over pairs of maps, the squared maximum mean discrepancy between the channels' activation patterns.

    A channel's pattern is its map, flattened and of unit length; the kernel is ``(x.y)**2``; averaged over images.

    Source: Huang & Wang 2017, arXiv:1707.01219, section 4, polynomial kernel with d = 2 and c = 0.
    """

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(1, 2)).square().mean()

    terms = []
    for s, t in _same_sizes(student, teacher):
        a, b = F.normalize(s.flatten(2), dim=2), F.normalize(t.detach().flatten(2), dim=2)
        terms.append(mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b))
    return torch.stack(terms).sum()


def contrastive_loss(
    scores: Tensor,  # (batch, 1 + n_negatives): products of embeddings of unit length; the positive first
    n_data: int,
    *,
    temperature: float = 0.07,
    log_normaliser: float = 0.0,
) -> Tensor:  # ()
    """CRD's noise-contrastive loss: mean over the batch of ``-log h(positive) - sum of log(1 - h(negative))``.

    ``h = exp(score / temperature) / (exp(score / temperature) + N / M)`` with N negatives and M training images.

    Args:
        log_normaliser: The logarithm of what ``exp(score / temperature)`` is divided by: 0 in the paper; the authors'
            code takes M times its mean in the first batch (Wu et al. 2018, arXiv:1805.01978, eq. 8).

    Source: Tian et al. 2020, arXiv:1910.10699, section 3.2, eqs. (18) and (19).
    """
    log_odds = scores / temperature - log_normaliser - math.log((scores.shape[1] - 1) / n_data)
    return (F.softplus(-log_odds[:, 0]) + F.softplus(log_odds[:, 1:]).sum(dim=1)).mean()


class ContrastiveRepresentation(nn.Module):
    """CRD: linear heads on the pooled features of both networks, and a memory of every training image's embeddings.

    The student's embedding is compared with the teacher's memory, and the teacher's with the student's memory; the
    negatives of an image are other classes' images, drawn without replacement. Memories move half way to each new
    embedding. Both heads are trained.

    Args:
        labels: Of all training images, ``(n_data,)``: which images are negatives.
        n_negatives: At most; fewer where a class has fewer images of other classes.
        seed: Draws the negatives.

    Source: Tian et al. 2020, section 3.2, and the authors' code for the memory (dimension 128, momentum 0.5) and the
    normaliser (`contrastive_loss`).
    """

    student_memory: Tensor
    teacher_memory: Tensor
    labels: Tensor

    def __init__(
        self,
        n_student: int,
        n_teacher: int,
        labels: Tensor,
        *,
        n_dimensions: int = 128,
        n_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.student_head = nn.Linear(n_student, n_dimensions)
        self.teacher_head = nn.Linear(n_teacher, n_dimensions)
        self.temperature, self.momentum, self.seed = temperature, momentum, seed
        largest_class = int(torch.bincount(labels).max())
        self.n_negatives = min(n_negatives, len(labels) - largest_class)
        if self.n_negatives < 1:
            raise ValueError("CRD needs training images of at least two classes")
        spread = math.sqrt(3 / n_dimensions)  # unit length on average
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, torch.empty(len(labels), n_dimensions).uniform_(-spread, spread))
        self.register_buffer("labels", labels.clone())
        self._log_normalisers: list[float] = []
        self._rng: torch.Generator | None = None

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
        """The loss of a batch; moves the memories.

        Args:
            student: Pooled features, ``(batch, n_features)``.
            teacher: The same, with its own number of features.
            index: Which training images these are, ``(batch,)``.
        """
        s = F.normalize(self.student_head(student), dim=1)
        t = F.normalize(self.teacher_head(teacher.detach()), dim=1)
        chosen = torch.cat([index.unsqueeze(1), self._negatives(index)], dim=1)
        # products with all of the memory, then the chosen: a gather of embeddings would be n_dimensions times as large
        scores = [(a @ memory.T).gather(1, chosen) for a, memory in self._views(s, t)]
        if not self._log_normalisers:
            self._log_normalisers = [
                float(torch.logsumexp(x.detach().flatten() / self.temperature, dim=0))
                - math.log(x.numel())
                + math.log(len(self.labels))
                for x in scores
            ]
        terms = [
            contrastive_loss(x, len(self.labels), temperature=self.temperature, log_normaliser=constant)
            for x, constant in zip(scores, self._log_normalisers, strict=True)
        ]
        with torch.no_grad():
            for new, memory in ((s, self.student_memory), (t, self.teacher_memory)):
                mixed = self.momentum * memory[index] + (1 - self.momentum) * new.to(memory.dtype)
                memory[index] = F.normalize(mixed, dim=1)
        return terms[0] + terms[1]

    def _views(self, s: Tensor, t: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        # clones: the memories are written before the backward pass reads them
        return (s, self.teacher_memory.clone()), (t, self.student_memory.clone())

    def _negatives(self, index: Tensor) -> Tensor:
        """``(batch, n_negatives)``: images of other classes, without replacement."""
        device = self.labels.device
        if self._rng is None or self._rng.device != device:
            self._rng = torch.Generator(device).manual_seed(self.seed)
        keys = torch.rand(len(index), len(self.labels), generator=self._rng, device=device)
        keys[self.labels[index].unsqueeze(1) == self.labels.unsqueeze(0)] = -1.0
        return keys.topk(self.n_negatives, dim=1, sorted=False).indices


def decoupled_loss(
    student_logits: Tensor,  # (batch, classes)
    teacher_logits: Tensor,  # (batch, classes)
    labels: Tensor,  # (batch,), int64
    *,
    temperature: float = 4.0,
    target_weight: float = 1.0,
    other_weight: float = 8.0,
) -> Tensor:  # ()
    """DKD: ``temperature**2 * (target_weight * TCKD + other_weight * NCKD)``, averaged over the batch.

    TCKD is the divergence between the two distributions over (the label's class, all others), NCKD that between the
    distributions among the other classes. The Hinton loss is ``TCKD + (1 - p_T(label)) * NCKD``. In training it stands
    in place of the Hinton term, beside the whole cross-entropy, and is faded in.

    Source: Zhao et al. 2022, arXiv:2203.08679, section 3; weights alpha = 1, beta = 8 of mdistiller.
    """
    is_label = F.one_hot(labels, student_logits.shape[1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(logits / temperature, dim=1)
        others = log_p[~is_label].view(len(labels), -1)
        rest = torch.logsumexp(others, dim=1)
        return torch.stack([log_p[is_label], rest], dim=1), others - rest.unsqueeze(1)

    binary_s, others_s = parts(student_logits)
    binary_t, others_t = parts(teacher_logits.detach())
    tckd = F.kl_div(binary_s, binary_t, reduction="batchmean", log_target=True)
    nckd = F.kl_div(others_s, others_t, reduction="batchmean", log_target=True)
    return temperature**2 * (target_weight * tckd + other_weight * nckd)
