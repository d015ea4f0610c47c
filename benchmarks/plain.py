"""The plain student: one torch module for every node and edge, the structure that faster execution is compared with.

How NAGO's authors build their networks (arXiv:2004.01395): contiguous tensors, convolutions with biases, an own module
for the weight of every edge, the merge, the ReLU, the convolution and the batch norm of every node; nothing is shared
between readers of a value. It computes the same function as `Student` (with the biases at 0, where `load_from` puts
them), so both can be compared number by number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.steps import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM
from naslib_autokd.search_spaces.hnag.student import MERGE_WEIGHT_START, Student
from naslib_autokd.search_spaces.hnag.wiring import (
    OPERATIONS,
    BottomGraph,
    Cell,
    StudentSpec,
    head_hidden,
    stem_hidden,
)


class Edge(nn.Module):
    """The weight of one input of a merge."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(MERGE_WEIGHT_START))

    def forward(self, value: Tensor) -> Tensor:
        return torch.sigmoid(self.weight) * value


class Sum(nn.Module):
    """The weighted sum of several inputs; one input passes as it is."""

    def __init__(self, edges: list[Edge]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(edges)

    def forward(self, values: list[Tensor]) -> Tensor:
        if len(values) == 1:
            return values[0]
        total = self.edges[0](values[0])
        for edge, value in zip(list(self.edges)[1:], values[1:], strict=True):
            total = total + edge(value)
        return total


class Attention(Sum):
    """``(sigmoid(w_0) + sigmoid(x_0))`` times the weighted sum of the other inputs."""

    def forward(self, values: list[Tensor]) -> Tensor:
        edges = list(self.edges)
        total = edges[1](values[1])
        for edge, value in zip(edges[2:], values[2:], strict=True):
            total = total + edge(value)
        return (torch.sigmoid(edges[0].weight) + torch.sigmoid(values[0])) * total


class Concat(nn.Module):
    """A 1x1 convolution of the concatenated inputs."""

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, values: list[Tensor]) -> Tensor:
        return self.projection(torch.cat(values, dim=1))


class Routed(nn.Module):
    """Inputs brought to the reader's stage, each by its own route, before they are merged."""

    def __init__(self, routes: list[nn.Module], merge: nn.Module) -> None:
        super().__init__()
        self.routes, self.merge = nn.ModuleList(routes), merge

    def forward(self, values: list[Tensor]) -> Tensor:
        return self.merge([route(value) for route, value in zip(self.routes, values, strict=True)])


class DAG(nn.Module):
    """A graph of any level: every node merges its inputs and computes; the outputs are averaged."""

    def __init__(self, graph: Graph, merges: list[nn.Module], nodes: list[nn.Module], routes: list[nn.Module]) -> None:
        super().__init__()
        self.graph, self.outputs = graph, graph.outputs
        self.merges, self.nodes, self.routes = nn.ModuleList(merges), nn.ModuleList(nodes), nn.ModuleList(routes)

    def forward(self, value: Tensor) -> Tensor:
        ends: list[Tensor] = []
        for sources, merge, node in zip(self.graph.predecessors, self.merges, self.nodes, strict=True):
            ends.append(node(merge([ends[s] for s in sources] or [value])))
        results = [route(ends[node]) for node, route in zip(self.outputs, self.routes, strict=True)]
        total = results[0]
        for result in results[1:]:
            total = total + result
        return total / len(results)


class PlainStudent(nn.Module):
    """Images (batch, in_channels, image_size, image_size) to logits (batch, n_classes), as `Student` of the same spec.

    ``convolutions``, ``norms`` and ``edges`` list the modules in the order of `Student.convs`, its batch norms and its
    merge weights.
    """

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__()
        self.spec = spec
        # plain lists: the modules are registered where they stand in the graph
        self.convolutions: list[nn.Conv2d] = []
        self.norms: list[nn.BatchNorm2d] = []
        self.edges: list[Edge] = []
        wiring, channels = spec.wiring, spec.channels
        stages, last = wiring.stages, wiring.stages[-1]
        self.stem = self._stem()
        merges: list[nn.Module] = []
        cells: list[nn.Module] = []
        for top, sources in enumerate(wiring.graph.predecessors):
            stage, together = stages[top], wiring.merges[top] == "concat"
            from_stages = [stages[s] for s in sources] or [0]
            routes = [self._route(s, stage, project=not together) for s in from_stages]
            from_channels = [channels[s] for s in from_stages] if together else [channels[stage]] * len(from_stages)
            merges.append(Routed(routes, self._merge(wiring.merges[top], from_channels, channels[stage])))
            cells.append(self._cell(wiring.cells[top], channels[stage]))
        routes = [self._route(stages[node], last) for node in wiring.graph.outputs]
        self.body = DAG(wiring.graph, merges, cells, routes)
        features = channels[last]
        head: list[nn.Module] = [nn.ReLU()]
        if hidden := head_hidden(wiring.head_ratio, features):
            head += [self._conv(features, hidden, 1, 1), self._norm(hidden), nn.ReLU()]
        self.head = nn.Sequential(*head, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(hidden or features, spec.n_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.head(self.body(self.stem(images))))

    @torch.no_grad()
    def load_from(self, student: Student) -> None:
        """Take the weights and running statistics of the student; biases of convolutions become 0."""
        for module, weight in zip(self.convolutions, student.convs, strict=True):
            module.weight.copy_(weight)
            assert module.bias is not None
            module.bias.zero_()
        channels = [norm.num_features for norm in self.norms]
        parts = [
            values.split(channels)
            for values in (student.norm_weight, student.norm_bias, student.running_mean, student.running_var)
        ]
        for norm, *values in zip(self.norms, *parts, strict=True):
            for own, value in zip((norm.weight, norm.bias, norm.running_mean, norm.running_var), values, strict=True):
                assert own is not None
                own.copy_(value)
        for edge, weight in zip(
            self.edges, () if student.merge_weights is None else student.merge_weights, strict=True
        ):
            edge.weight.copy_(weight)
        self.classifier.weight.copy_(student.classifier_weight)
        self.classifier.bias.copy_(student.classifier_bias)

    def _conv(self, n_in: int, n_out: int, height: int, width: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        module = nn.Conv2d(n_in, n_out, (height, width), stride, (height // 2, width // 2), groups=groups)
        self.convolutions.append(module)
        return module

    def _norm(self, channels: int) -> nn.BatchNorm2d:
        self.norms.append(nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM))
        return self.norms[-1]

    def _stem(self) -> nn.Module:
        channels, in_channels = self.spec.channels[0], self.spec.in_channels
        if self.spec.stem == "small":
            return nn.Sequential(self._conv(in_channels, channels, 3, 3), self._norm(channels))
        middle = stem_hidden(channels)
        first = [self._conv(in_channels, middle, 3, 3, stride=2), self._norm(middle), nn.ReLU()]
        return nn.Sequential(*first, self._conv(middle, channels, 3, 3, stride=2), self._norm(channels))

    def _route(self, source: int, target: int, project: bool = True) -> nn.Module:
        """From one stage to another: halved once per stage, then projected."""
        pool = nn.AvgPool2d if self.spec.wiring.downsampling == "average" else nn.MaxPool2d
        route: list[nn.Module] = [pool(2) for _ in range(target - source)]
        if project and source != target:
            route.append(self._conv(self.spec.channels[source], self.spec.channels[target], 1, 1))
        return nn.Sequential(*route)

    def _merge(self, merge: str, from_channels: list[int], channels: int) -> nn.Module:
        if merge == "concat":
            return Concat(self._conv(sum(from_channels), channels, 1, 1))
        edges = [Edge() for _ in from_channels] if len(from_channels) > 1 else []
        self.edges += edges
        return Attention(edges) if merge == "attention" else Sum(edges)

    def _cell(self, cell: Cell, channels: int) -> DAG:
        merges: list[nn.Module] = []
        nodes: list[nn.Module] = []
        for sources, merge, bottom in zip(cell.graph.predecessors, cell.merges, cell.nodes, strict=True):
            merges.append(self._merge(merge, [channels] * (len(sources) or 1), channels))
            nodes.append(self._bottom(bottom, channels))
        return DAG(cell.graph, merges, nodes, [nn.Identity() for _ in cell.graph.outputs])

    def _bottom(self, bottom: BottomGraph, channels: int) -> DAG:
        merges: list[nn.Module] = []
        nodes: list[nn.Module] = []
        for sources, merge, operation in zip(bottom.graph.predecessors, bottom.merges, bottom.operations, strict=True):
            merges.append(self._merge(merge, [channels] * (len(sources) or 1), channels))
            nodes.append(nn.Sequential(nn.ReLU(), *self._operation(operation, channels), self._norm(channels)))
        return DAG(bottom.graph, merges, nodes, [nn.Identity() for _ in bottom.graph.outputs])

    def _operation(self, name: str, channels: int) -> list[nn.Module]:
        kind, height, width = OPERATIONS[name]
        if kind == "conv":
            return [self._conv(channels, channels, height, width)]
        if kind == "separable":
            return [
                self._conv(channels, channels, height, width, groups=channels),
                self._conv(channels, channels, 1, 1),
            ]
        if kind == "average":
            return [nn.AvgPool2d(height, 1, height // 2)]
        return [nn.MaxPool2d(height, 1, height // 2)]
