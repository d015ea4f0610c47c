"""The network of a genotype, and the supernet against an edge-by-edge reading of the paper."""

from __future__ import annotations

import pytest
import torch
from test_cell_genotype import DARTS_V2, SIZES, random_genotype
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.distillation.costs import count_macs, count_params
from naslib_autokd.search_spaces.cell import OPERATIONS, SMALL_OPERATIONS, CellSpec, fit_width
from naslib_autokd.search_spaces.cell.network import CellNetwork, ConvUnit, depthwise_conv2d, operation_module
from naslib_autokd.search_spaces.cell.supernet import Supernet, edge_index, n_edges


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n_cells", "image_size", "in_channels"), [(3, 12, 1), (5, 7, 3)])
def test_parameters_and_macs_are_those_predicted(seed, n_cells, image_size, in_channels):
    spec = fit_width(
        random_genotype(seed), 30_000, n_cells=n_cells, image_size=image_size, in_channels=in_channels, n_classes=7
    )
    network = CellNetwork(spec)
    assert count_params(network) == spec.n_params
    assert count_macs(network, (in_channels, image_size, image_size)) == spec.macs
    assert network(torch.zeros(2, in_channels, image_size, image_size)).shape == (2, 7)


@pytest.mark.parametrize("channels", [(1, 1, 1), (5, 3, 2)])
def test_odd_widths_are_counted_exactly(channels):
    spec = CellSpec(random_genotype(3), 4, 3, channels, 1, 9, 4)
    network = CellNetwork(spec)
    assert count_params(network) == spec.n_params
    assert count_macs(network, (1, 9, 9)) == spec.macs


def test_depth_is_the_longest_chain_of_convolutions():
    spec = CellSpec(DARTS_V2, 3, 4, (4, 4, 4), 1, 12, 10)
    # stem 1; normal: input 1 -> sep(4) -> node 0 -> dil(2) -> node 3: 1 + 4 + 2; the reduction cells read it through
    # preprocessing (1), a max pool (0) and skip connections inside the cell (0); classifier 1
    assert spec.depth == 1 + 7 + 1 + 1 + 1


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [12, 9])
def test_dilated_convolution_by_phases_is_torchs(kernel, stride, size):
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(2, 4, size, size, generator=rng, dtype=torch.float64)
    weight = torch.randn(4, 1, kernel, kernel, generator=rng, dtype=torch.float64)
    expected = F.conv2d(images, weight, None, stride, kernel - 1, 2, 4)
    torch.testing.assert_close(depthwise_conv2d(images, weight, stride, 2), expected)


def test_building_leaves_the_global_random_state_alone_and_repeats_by_seed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    spec = fit_width(random_genotype(1), 24_000, **SIZES)
    first, again, other = CellNetwork(spec, 5), CellNetwork(spec, 5), CellNetwork(spec, 6)
    Supernet(n_cells=3, stem_channels=4, channels=(4, 4, 4), n_nodes=2, seed=3, **SIZES)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.stem[0].weight, other.stem[0].weight)
    assert all(bool(torch.isfinite(p).all()) for p in first.parameters())


class SlowSupernet(nn.Module):
    """The paper's supernet, one module per operation and edge, with the weights of a `Supernet`."""

    def __init__(self, net: Supernet) -> None:
        super().__init__()
        self.net = net

    @staticmethod
    def norm(images: Tensor) -> Tensor:
        return F.batch_norm(images, None, None, None, None, True)

    def operation(self, name: str, source: nn.Module, slot: int, state: Tensor, stride: int) -> Tensor:
        channels = state.shape[1]
        if name == "none":
            return torch.zeros_like(state[:, :, ::stride, ::stride])
        module = operation_module(name, channels, stride).to(state.dtype)
        part = slice(slot * channels, (slot + 1) * channels)
        if name == "skip_connect" and stride == 1:
            return state
        if name == "skip_connect":
            half = channels // 2
            module.even.weight = nn.Parameter(source.even[slot * half : (slot + 1) * half])
            rest = channels - half
            module.odd.weight = nn.Parameter(source.odd[slot * rest : (slot + 1) * rest])
            return module.train()(state)
        if "pool" in name:
            return self.norm(module(state))
        units = [module] if isinstance(module, ConvUnit) else list(module)
        for unit, shared in zip(units, source.units[name], strict=True):
            unit.depthwise.weight = nn.Parameter(shared.depthwise[part])
            unit.pointwise.weight = nn.Parameter(shared.pointwise[part])
        return module.train()(state)

    def forward(self, images: Tensor) -> Tensor:
        net = self.net
        before = previous = self.norm(F.conv2d(images, net.stem, padding=1))
        for cell, layout in zip(net.cells, net.layout, strict=True):
            table = F.softmax(net.alphas["reduction" if layout.reduces else "normal"], dim=1)
            states = [cell.before(before), cell.previous(previous)]
            for node in range(net.n_nodes):
                total = torch.zeros(())
                for source, state in enumerate(list(states)):
                    stride = 2 if layout.reduces and source < 2 else 1
                    slot = node - max(0, source - 1)
                    for index, name in enumerate(net.operations):
                        out = self.operation(name, cell.sources[source], slot, state, stride)
                        total = total + table[edge_index(node, source), index] * out
                states.append(total)
            before, previous = previous, torch.cat(states[2:], dim=1)
        return F.linear(previous.mean(dim=(2, 3)), net.classifier, net.bias)


@pytest.mark.parametrize(
    "operations", [OPERATIONS, SMALL_OPERATIONS, ("skip_connect", "sep_conv_3x3"), ("none", "dil_conv_5x5")]
)
@pytest.mark.parametrize("size", [8, 9])
def test_batched_supernet_equals_the_edge_by_edge_one(operations, size):
    net = Supernet(
        n_cells=4, stem_channels=3, channels=(4, 3, 5), n_nodes=3, in_channels=1, image_size=size, n_classes=4,
        operations=operations, seed=1,
    ).double()  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for alpha in net.alphas.values():
            alpha.copy_(torch.randn(alpha.shape, generator=rng))
    images = torch.randn(3, 1, size, size, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(net(images), SlowSupernet(net)(images))


def test_running_statistics_move_only_when_tracked():
    net = Supernet(n_cells=3, stem_channels=4, channels=(4, 4, 4), n_nodes=2, seed=3, **SIZES)
    images = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    before = [buffer.clone() for buffer in net.buffers()]
    net.track(False)
    net(images)
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))
    net.track(True)
    net(images)
    assert not any(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))
    assert net.eval()(images).shape == (4, 10)


def test_edges_are_counted_as_in_the_paper():
    assert n_edges(4) == 14
    assert [edge_index(node, source) for node in range(3) for source in range(node + 2)] == list(range(n_edges(3)))


def test_unknown_operations_are_refused():
    for operations, text in ((("conv",), "unknown operation conv"), (("none",), "more than none")):
        with pytest.raises(ValueError, match=text):
            Supernet(
                n_cells=3, stem_channels=4, channels=(4, 4, 4), n_nodes=2, operations=operations, **SIZES
            )  # fmt: skip
