"""Every baseline loss against the formula of its paper, written as plain loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from naslib_autokd.distillation import feature_losses as fl
from naslib_autokd.distillation.losses import distillation_loss

BATCH = 4


def randn(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_(grad)


def student_map(channels: int = 3, size: int = 4, seed: int = 1) -> Tensor:
    return randn(BATCH, channels, size, size, seed=seed, grad=True)


def teacher_map(channels: int = 5, size: int = 4, seed: int = 2) -> Tensor:
    return randn(BATCH, channels, size, size, seed=seed, grad=True)


def vectors() -> tuple[Tensor, Tensor]:
    return randn(BATCH, 3, seed=3, grad=True), randn(BATCH, 5, seed=4, grad=True)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).sum())


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def numpy(*tensors: Tensor) -> list[np.ndarray]:
    return [x.detach().numpy() for x in tensors]


def close(loss: Tensor, expected: float) -> None:
    assert loss.detach().item() == pytest.approx(float(expected), rel=1e-9, abs=1e-14)


def test_hint_loss():
    u, v = randn(2, 3, 2, 2, seed=1), randn(2, 3, 2, 2, seed=2)
    close(fl.hint_loss(u, v), ((u - v) ** 2).sum() / 24)


def test_hints_regressor_meets_the_teachers_channels_at_the_smaller_resolution():
    torch.manual_seed(0)
    regressor = fl.Regressor(3, 5).double()
    s, t = student_map(size=4), teacher_map(size=2)
    with torch.no_grad():
        down = s.view(BATCH, 3, 2, 2, 2, 2).mean(dim=(3, 5))
        mapped = torch.einsum("oc,bchw->bohw", regressor.conv.weight[:, :, 0, 0], down)
        mean, var = mapped.mean(dim=(0, 2, 3), keepdim=True), mapped.var(dim=(0, 2, 3), keepdim=True, correction=0)
        expected = ((mapped - mean) / torch.sqrt(var + 1e-5) - t).square().mean()
    close(regressor(s, t), expected)


def test_attention_loss():
    pairs = [(student_map(), teacher_map()), (student_map(2, 2, 5), teacher_map(7, 4, 6))]  # the second is shrunk
    expected = 0.0
    for s, t in pairs:
        if t.shape[2] != s.shape[2]:
            t = t.view(BATCH, 7, 2, 2, 2, 2).mean(dim=(3, 5))
        a, b = numpy(s, t)
        total = 0.0
        for image in range(BATCH):
            q_s = unit((a[image] ** 2).sum(axis=0).ravel())
            q_t = unit((b[image] ** 2).sum(axis=0).ravel())
            total += ((q_s - q_t) ** 2).sum()
        expected += total / (BATCH * q_s.size)
    close(fl.attention_loss([s for s, _ in pairs], [t for _, t in pairs]), expected)


def test_similarity_loss():
    s, t = student_map(), teacher_map(size=2)
    expected = 0.0
    a, b = (x.reshape(BATCH, -1) for x in numpy(s, t))
    for i in range(BATCH):
        row_s = unit(np.array([a[i] @ a[j] for j in range(BATCH)]))
        row_t = unit(np.array([b[i] @ b[j] for j in range(BATCH)]))
        expected += ((row_s - row_t) ** 2).sum()
    close(fl.similarity_loss(s, t), expected / BATCH**2)


def test_correlation_loss():
    s, t = vectors()
    gamma = 0.4
    a, b = ([unit(row) for row in x] for x in numpy(s, t))
    expected = 0.0

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * (x @ y) ** p for p in range(3))

    for i in range(BATCH):
        for j in range(BATCH):
            expected += (kernel(b[i], b[j]) - kernel(a[i], a[j])) ** 2
    close(fl.correlation_loss(s, t, gamma=gamma), expected / BATCH**2)


def test_correlation_kernel_tends_to_the_gaussian():
    s, t = vectors()
    a, b = F.normalize(s, dim=1), F.normalize(t, dim=1)
    gaussian = [torch.exp(-0.4 * torch.cdist(x, x) ** 2) for x in (a, b)]
    expected = (gaussian[0] - gaussian[1]).square().sum() / BATCH**2
    torch.testing.assert_close(fl.correlation_loss(s, t, gamma=0.4, order=14), expected)


def test_variational_information():
    torch.manual_seed(0)
    loss = fl.VariationalInformation(3, 5).double()
    with torch.no_grad():
        loss.raw_variance.copy_(randn(5, seed=7))
    s, t = student_map(), teacher_map()
    with torch.no_grad():
        mean = loss.mean(s).numpy()
    sigma2 = np.log1p(np.exp(loss.raw_variance.detach().numpy())) + 1e-5
    target, total = t.detach().numpy(), 0.0
    for image, channel, row, column in np.ndindex(target.shape):
        square = (target[image, channel, row, column] - mean[image, channel, row, column]) ** 2
        total += 0.5 * math.log(sigma2[channel]) + square / (2 * sigma2[channel])
    close(loss(s, t), total / target.size)
    assert fl.VariationalInformation(3, 5).variance.detach().tolist() == pytest.approx([5.0] * 5)


def test_distance_loss():
    s, t = vectors()

    def relative(x: np.ndarray) -> np.ndarray:
        d = np.array([[np.sqrt(((x[i] - x[j]) ** 2).sum()) for j in range(BATCH)] for i in range(BATCH)])
        return d / (d.sum() / (BATCH * (BATCH - 1)))

    a, b = (relative(x) for x in numpy(s, t))
    close(fl.distance_loss(s, t), sum(huber(a[i, j] - b[i, j]) for i, j in np.ndindex(a.shape)) / BATCH**2)


def test_angle_loss():
    s, t = vectors()

    def cosine(x: np.ndarray, i: int, j: int, k: int) -> float:
        if j in (i, k):
            return 0.0
        return float(unit(x[i] - x[j]) @ unit(x[k] - x[j]))

    a, b = numpy(s, t)
    triples = list(np.ndindex(BATCH, BATCH, BATCH))
    close(fl.angle_loss(s, t), sum(huber(cosine(a, *triple) - cosine(b, *triple)) for triple in triples) / BATCH**3)
    close(fl.relational_loss(s, t), (25 * fl.distance_loss(s, t) + 50 * fl.angle_loss(s, t)).detach())


def test_relational_losses_survive_two_equal_images():
    s = torch.zeros(3, 2, dtype=torch.float64)
    s[2, 0] = 1.0
    s.requires_grad_()
    loss = fl.relational_loss(s, randn(3, 4))
    loss.backward()
    assert math.isfinite(loss.detach())
    assert bool(torch.isfinite(s.grad).all())


def test_probabilistic_loss():
    s, t = vectors()

    def conditional(x: np.ndarray, i: int, j: int) -> float:
        affinity = [(unit(x[i]) @ unit(x[k]) + 1) / 2 for k in range(BATCH)]
        return float(affinity[j] / sum(affinity))

    a, b = numpy(s, t)
    expected = sum(
        conditional(b, i, j) * math.log((conditional(b, i, j) + 1e-7) / (conditional(a, i, j) + 1e-7))
        for i in range(BATCH)
        for j in range(BATCH)
    )
    close(fl.probabilistic_loss(s, t), expected / BATCH**2)


def test_factor_loss():
    s, t = student_map(5), teacher_map(5)
    expected = sum(np.abs(unit(a.ravel()) - unit(b.ravel())).sum() for a, b in zip(*numpy(s, t), strict=True))
    close(fl.factor_loss(s, t), expected / s.numel())


def test_paraphraser_and_translator_make_factors_of_one_shape():
    torch.manual_seed(0)
    paraphraser, translator = fl.Paraphraser(8), fl.Translator(3, 4)
    teacher = torch.randn(2, 8, 5, 5)
    assert paraphraser(teacher).shape == translator(torch.randn(2, 3, 5, 5)).shape == (2, 4, 5, 5)
    expected = (paraphraser.decoder(paraphraser.encoder(teacher)) - teacher).square().mean()
    torch.testing.assert_close(paraphraser.reconstruction_loss(teacher), expected)
    optimizer_steps = 60
    first = paraphraser.reconstruction_loss(teacher).detach()
    for _ in range(optimizer_steps):
        gradients = torch.autograd.grad(paraphraser.reconstruction_loss(teacher), list(paraphraser.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(paraphraser.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    assert paraphraser.reconstruction_loss(teacher).detach() < 0.8 * first


def test_selectivity_loss():
    s, t = student_map(), teacher_map()
    total = 0.0
    for a, b in zip(*numpy(s, t), strict=True):
        f_s, f_t = [unit(x.ravel()) for x in a], [unit(x.ravel()) for x in b]
        for left, right, factor in ((f_t, f_t, 1), (f_s, f_s, 1), (f_s, f_t, -2)):
            kernels = [float(x @ y) ** 2 for x in left for y in right]
            total += factor * sum(kernels) / len(kernels)
    close(fl.selectivity_loss([s], [t]), total / BATCH)


def test_contrastive_loss():
    scores, n_data, tau = randn(3, 1 + 6, seed=8) * 0.1, 20, 0.07
    expected = 0.0
    for row in scores.numpy():
        h = np.exp(row / tau) / (np.exp(row / tau) + 6 / n_data)
        expected -= math.log(h[0]) + np.log(1 - h[1:]).sum()
    close(fl.contrastive_loss(scores, n_data, temperature=tau), expected / 3)
    shifted = fl.contrastive_loss(scores + 0.07 * 2.0, n_data, temperature=tau, log_normaliser=2.0)
    torch.testing.assert_close(shifted, fl.contrastive_loss(scores, n_data, temperature=tau))


def make_crd(n_negatives: int = 3) -> tuple[fl.ContrastiveRepresentation, Tensor]:
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    return fl.ContrastiveRepresentation(3, 5, labels, n_dimensions=6, n_negatives=n_negatives).double(), labels


def test_crd_compares_with_the_other_networks_memory():
    loss, labels = make_crd(n_negatives=4)
    s, t = vectors()
    index = torch.tensor([1, 3, 6, 7])
    memories = loss.student_memory.clone(), loss.teacher_memory.clone()
    rng_negatives = make_crd(n_negatives=4)[0]._negatives(index)
    value = loss(s, t, index)
    with torch.no_grad():
        e_s, e_t = (F.normalize(h(x), dim=1) for h, x in ((loss.student_head, s), (loss.teacher_head, t)))
        expected = torch.zeros(())
        for embedding, memory in ((e_s, memories[1]), (e_t, memories[0])):
            scores = torch.stack(
                [memory[[int(i), *n.tolist()]] @ e for e, i, n in zip(embedding, index, rng_negatives, strict=True)]
            )
            z = torch.exp(scores / 0.07).mean() * len(labels)
            h = torch.exp(scores / 0.07) / z
            h = h / (h + 4 / len(labels))
            expected = expected - (torch.log(h[:, 0]) + torch.log(1 - h[:, 1:]).sum(dim=1)).mean()
        close(value, expected)
        torch.testing.assert_close(loss.student_memory[3], F.normalize(0.5 * memories[0][3] + 0.5 * e_s[1], dim=0))
        torch.testing.assert_close(loss.teacher_memory[7], F.normalize(0.5 * memories[1][7] + 0.5 * e_t[3], dim=0))
    assert torch.equal(loss.student_memory[0], memories[0][0])
    value.backward()
    assert loss.teacher_head.weight.grad is not None
    assert t.grad is None


def test_crd_draws_negatives_of_other_classes_without_repeats():
    loss, labels = make_crd(n_negatives=100)
    assert loss.n_negatives == 5  # the largest class has 3 of 8 images
    for _ in range(20):
        index = torch.tensor([0, 3, 5])
        drawn = loss._negatives(index)
        for i, row in zip(index, drawn, strict=True):
            assert len(set(row.tolist())) == 5
            assert not bool((labels[row] == labels[i]).any())
    with pytest.raises(ValueError, match="two classes"):
        fl.ContrastiveRepresentation(3, 5, torch.zeros(4, dtype=torch.long))


def test_decoupled_loss():
    s, t = randn(BATCH, 6, seed=9) * 3, randn(BATCH, 6, seed=10) * 3
    labels = torch.tensor([0, 2, 2, 5])
    expected = 0.0
    for z_s, z_t, y in zip(*numpy(s, t), labels.tolist(), strict=True):
        p, q = (np.exp(z / 4) / np.exp(z / 4).sum() for z in (z_t, z_s))
        tckd = p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
        others = [k for k in range(6) if k != y]
        p_o, q_o = p[others] / (1 - p[y]), q[others] / (1 - q[y])
        expected += 16 * (tckd + 8 * (p_o * np.log(p_o / q_o)).sum())
    close(fl.decoupled_loss(s, t, labels), expected / BATCH)


def test_hintons_loss_is_tckd_and_weighted_nckd():
    s, t = randn(1, 6, seed=11), randn(1, 6, seed=12)
    labels = torch.tensor([4])
    p_label = float(torch.softmax(t / 4, dim=1)[0, 4])
    hinton = distillation_loss(s, t, labels, temperature=4.0, kd_weight=1.0)
    torch.testing.assert_close(fl.decoupled_loss(s, t, labels, other_weight=1 - p_label), hinton)


def every_loss() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """name -> (loss, the student's input, the teacher's input)."""
    torch.manual_seed(0)
    found = {}

    def add(name: str, loss: object, s: Tensor, t: Tensor) -> None:
        found[name] = (loss(s, t), s, t)  # type: ignore[operator]

    add("fitnet", fl.Regressor(3, 5).double(), student_map(), teacher_map())
    add("at", lambda s, t: fl.attention_loss([s], [t]), student_map(), teacher_map())
    add("sp", fl.similarity_loss, student_map(), teacher_map())
    add("cc", fl.correlation_loss, *vectors())
    add("vid", fl.VariationalInformation(3, 5).double(), student_map(), teacher_map())
    add("rkd", fl.relational_loss, *vectors())
    add("pkt", fl.probabilistic_loss, *vectors())
    add("ft", fl.factor_loss, student_map(5), teacher_map(5))
    add("nst", lambda s, t: fl.selectivity_loss([s], [t]), student_map(), teacher_map())
    add("crd", lambda s, t: make_crd()[0](s, t, torch.tensor([0, 3, 5, 6])), *vectors())
    add(
        "dkd",
        lambda s, t: fl.decoupled_loss(s, t, torch.tensor([0, 1, 2, 1])),
        randn(BATCH, 3, grad=True),
        vectors()[0],
    )
    return found


def test_gradients_flow_to_the_student_and_not_to_the_teacher():
    losses = every_loss()
    assert set(losses) == set(fl.WEIGHTS)
    for name, (loss, s, t) in losses.items():
        assert loss.shape == (), name
        loss.backward()
        assert s.grad is not None, name
        assert float(s.grad.abs().sum()) > 0, name
        assert t.grad is None, name


SAME = {
    "at": lambda x: fl.attention_loss([x], [x]),
    "sp": lambda x: fl.similarity_loss(x, x),
    "nst": lambda x: fl.selectivity_loss([x], [x]),
    "ft": lambda x: fl.factor_loss(x, x),
    "cc": lambda x: fl.correlation_loss(x.flatten(1), x.flatten(1)),
    "rkd": lambda x: fl.relational_loss(x.flatten(1), x.flatten(1)),
    "pkt": lambda x: fl.probabilistic_loss(x.flatten(1), x.flatten(1)),
}


@pytest.mark.parametrize("name", SAME)
def test_a_student_like_its_teacher_has_no_loss(name):
    assert SAME[name](student_map()).detach().item() == pytest.approx(0.0, abs=1e-12)


def test_scale_of_the_features_does_not_matter_where_the_papers_normalise():
    s, t = student_map(), teacher_map()
    v, w = vectors()
    for loss, a, b in (
        (lambda x, y: fl.attention_loss([x], [y]), s, t),
        (lambda x, y: fl.selectivity_loss([x], [y]), s, t),
        (fl.similarity_loss, s, t),
        (fl.correlation_loss, v, w),
        (fl.probabilistic_loss, v, w),
        (fl.relational_loss, v, w),
    ):
        torch.testing.assert_close(loss(3 * a, 0.5 * b), loss(a, b))


def test_torchdistill_agrees_where_it_follows_the_papers():
    """torchdistill 1.1.5. Not compared: its SPKDLoss, which divides rows by the sum of their entries' sizes."""
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    s, t = student_map(), teacher_map()
    v, w = vectors()

    def values(loss: object, a: Tensor, b: Tensor, **kwargs: object) -> Tensor:
        return loss({"m": {"output": a, "input": a}}, {"m": {"output": b, "input": b}}, **kwargs)  # type: ignore[operator]

    pair = {"p": {"teacher": {"path": "m", "io": "output"}, "student": {"path": "m", "io": "output"}, "weight": 1}}
    at = mid_level.ATLoss(at_pairs=pair, mode="code")
    torch.testing.assert_close(fl.attention_loss([s], [t]), values(at, s, t))
    pkt = mid_level.PKTLoss("m", "input", "m", "input")
    torch.testing.assert_close(fl.probabilistic_loss(v, w), values(pkt, v, w))
    rkd = mid_level.RKDLoss(
        student_output_path="m", teacher_output_path="m", dist_factor=25.0, angle_factor=50.0, reduction="mean"
    )
    torch.testing.assert_close(fl.relational_loss(v, w), values(rkd, v, w))
    ft = mid_level.FTLoss(paraphraser_path="m", translator_path="m")
    factors = student_map(5), teacher_map(5)
    torch.testing.assert_close(fl.factor_loss(*factors), values(ft, *factors))
    cc = mid_level.CCKDLoss("m", "m", {"type": "gaussian", "gamma": 0.4, "max_p": 2}, "batchmean")
    unit_v, unit_w = F.normalize(v, dim=1), F.normalize(w, dim=1)  # its features are normalised elsewhere
    # its loss is the distance of the two kernel matrices, the paper's its square
    torch.testing.assert_close(fl.correlation_loss(v, w) * BATCH**2, (values(cc, unit_v, unit_w) * BATCH**2) ** 2)
