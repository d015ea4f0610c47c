"""The plain student of the benchmarks computes what the student computes: outputs, gradients, running statistics."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import script
from test_hnag_generator import generators
from test_hnag_student import EVERYTHING, spec_of
from torch import Tensor
from torch.nn import functional as F

from naslib_autokd.search_spaces.hnag.generator import Generator
from naslib_autokd.search_spaces.hnag.student import Student

plain = script("benchmarks/plain.py")


def agree(student: Student, twin: Any, images: Tensor, labels: Tensor) -> None:
    for model in (student, twin):
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
    torch.testing.assert_close(twin(images), student(images), rtol=1e-9, atol=1e-9)

    def gradients(parameters: list[Tensor]) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]

    ours = gradients([*student.convs, student.classifier_weight, student.classifier_bias])
    theirs = gradients([*[c.weight for c in twin.convolutions], twin.classifier.weight, twin.classifier.bias])
    torch.testing.assert_close(theirs, ours, rtol=1e-7, atol=1e-9)
    norms = gradients([n.weight for n in twin.norms]), gradients([n.bias for n in twin.norms])
    expected = gradients([student.norm_weight, student.norm_bias])
    torch.testing.assert_close([torch.cat(part) for part in norms], expected, rtol=1e-7, atol=1e-9)
    if student.merge_weights is not None:
        edges = torch.stack(gradients([edge.weight for edge in twin.edges]))
        torch.testing.assert_close(edges, gradients([student.merge_weights])[0], rtol=1e-7, atol=1e-9)
    for name in ("running_mean", "running_var"):
        found = torch.cat([getattr(norm, name) for norm in twin.norms])
        torch.testing.assert_close(found, getattr(student, name), rtol=1e-9, atol=1e-9)


@settings(max_examples=12, deadline=None)
@given(generators(6, 3, 4), st.integers(0, 1000), st.sampled_from(["small", "large"]))
def test_plain_and_student_agree_in_float64(generator: Generator, seed: int, stem: str) -> None:
    spec = spec_of(generator, seed, image_size=16 if stem == "large" else 8, stem=stem)
    student = Student(spec, seed).double()
    student.execution = "steps"  # the definition; test_hnag_execution compares the rest with it
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # away from the start, where all edges and norms are alike
        for parameter in student.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    twin = plain.PlainStudent(spec).double()
    twin.load_from(student)
    images = torch.randn(3, 2, spec.image_size, spec.image_size, generator=rng, dtype=torch.float64)
    labels = torch.tensor([0, 1, 3])
    agree(student, twin, images, labels)
    torch.testing.assert_close(twin.eval()(images), student.eval()(images), rtol=1e-9, atol=1e-9)


def test_plain_has_a_module_for_every_node_and_edge() -> None:
    spec = spec_of(EVERYTHING)
    twin = plain.PlainStudent(spec)
    assert len(twin.edges) == spec.wiring.counts.merge_weights
    biases = sum(conv.out_channels for conv in twin.convolutions)
    assert sum(p.numel() for p in twin.parameters()) == spec.n_params + biases
