"""The law of layers: imports run down, never up; records and descriptions never import torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import networkx
import pytest

import naslib_autokd

PACKAGE = Path(naslib_autokd.__file__).parent

# Each layer may import itself, the layers below it, and the package's version.
LAYERS = [
    {"records", "tasks", "settings", "files", "imports", "escaping", "_version"},
    {"data"},
    {"search_spaces"},
    {"teachers", "distillation"},
    {"evaluators"},
    {"optimizers"},
    {"plugin", "runners", "carps"},
    {"shipping"},
    {"cli", "commands", "reports"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

WITHOUT_TORCH = [
    "naslib_autokd",
    "naslib_autokd.records",
    "naslib_autokd.tasks",
    "naslib_autokd.cli",
    "naslib_autokd.search_spaces.hnag",
    "naslib_autokd.search_spaces.hnag.generator",
    "naslib_autokd.search_spaces.hnag.parameters",
    "naslib_autokd.search_spaces.hnag.wiring",
    "naslib_autokd.search_spaces.cell.genotype",
    "naslib_autokd.optimizers",
    "naslib_autokd.runners.search",
    "naslib_autokd.runners.comparison",
    "naslib_autokd.runners.ablation",
    "naslib_autokd.runners.study",
]


def imported_modules(source: str) -> set[str]:
    """Modules that ``source`` imports anywhere, also inside functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def violations(path: Path, source: str) -> list[str]:
    """Imports of ``source`` (at ``path`` below the package) that break a law."""
    layer = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if layer == "__init__":
        return []  # the public names are loaded lazily from every layer
    wrong = []
    for module in sorted(imported_modules(source)):
        parts = module.split(".")
        if parts[0] == "naslib" and layer != "plugin":
            wrong.append(f"{path.name} imports {module}: only plugin/ may import naslib")
        if parts[0] == "naslib_autokd" and len(parts) > 1 and parts[1] in LEVEL and LEVEL[parts[1]] > LEVEL[layer]:
            wrong.append(f"{path.name} ({layer}) imports {module}, which is above it")
    return wrong


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_down_the_layers(path: Path) -> None:
    assert violations(path, path.read_text(encoding="utf-8")) == []


def test_every_module_has_a_layer() -> None:
    top = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert top - {"__init__"} <= set(LEVEL)


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("search_spaces/hnag/student.py", "from naslib_autokd.distillation import losses"),
        ("distillation/training.py", "def f():\n    import naslib_autokd.runners.search"),
        ("optimizers/autokd.py", "from naslib.optimizers import Bananas"),
        ("records.py", "from naslib_autokd import search_spaces"),
    ],
)
def test_the_layer_check_can_fail(where: str, source: str) -> None:
    assert violations(PACKAGE / where, source)


def module_imports(package: Path) -> networkx.DiGraph:
    """Which module of the package imports which, anywhere in its text; names without the package's own."""
    paths = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    graph = networkx.DiGraph()
    for name, path in paths.items():
        found = {one.removeprefix("naslib_autokd.") for one in imported_modules(path.read_text(encoding="utf-8"))}
        found &= set(paths)
        # "from package import module" names the package, too
        graph.add_edges_from((name, one) for one in found if not any(other.startswith(f"{one}.") for other in found))
    return graph


def circles(graph: networkx.DiGraph) -> list[set[str]]:
    return sorted((part for part in networkx.strongly_connected_components(graph) if len(part) > 1), key=sorted)


def test_no_two_modules_import_each_other() -> None:
    assert circles(module_imports(PACKAGE)) == []


def test_the_check_of_circles_can_fail(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "views.py").write_text("def f():\n    from naslib_autokd.data import images")
    (tmp_path / "data" / "images.py").write_text("import naslib_autokd.data.views")
    assert circles(module_imports(tmp_path)) == [{"data.images", "data.views"}]


GUESSES = {
    "io_counters": "psutil, not on macOS",
    "read_chars": "psutil, Linux",
    "write_chars": "psutil, Linux",
    "shared": "psutil, Linux",
    "sched_getaffinity": "os, not on macOS",
    "address": "Dask",
    "refusal": "ours, of a job that has started",
    "workers": "Dask: clusters that start no jobs have none",
    "lower_vectorized": "ConfigSpace, of numbers",
    "upper_vectorized": "ConfigSpace, of numbers",
    "lower": "ConfigSpace, of numbers",
    "choices": "ConfigSpace and Optuna, of categories",
    "sequence": "ConfigSpace, of ordinals",
    "item": "numpy's scalars",
    "filename": "numpy's maps of files, and Pillow's pictures from files",
    "fp": "Pillow, of pictures from files",
    "classes": "torchvision, of data sets",
    "posix_fallocate": "os, not on macOS",
    "torch.ops.torchvision.name": "torch, of operators that another package brings",
    "watches_storage_only": "ours, of a mode of torch's dispatch",
    "__int__": "Python",
    "__float__": "Python",
    "__len__": "Python",
    "__index__": "Python",
    "__getitem__": "Python",
    "__name__": "Python",
    "__qualname__": "Python",
}
"""Attributes that may be missing, of other software's objects."""

OF_NASLIB = {
    "candidate": "graphs; of the class, where asking one that holds nothing raises",
    "space": "graphs: ours carry their space",
    "space_name": "graphs",
    "kd": "graphs: ours alone",
    "self.self._held": "graphs: where each class keeps its architecture",
    "QUERYABLE": "search spaces",
    "search_space": "optimizers",
    "graph": "optimizers",
    "dataset_api": "optimizers",
    "zc": "optimizers",
    "query": "a dataset_api",
    "name": "members of enumerations, for which people hand over strings",
    "dataset": "data sets, and the next four",
    "config": "",
    "data": "",
    "train_portion": "",
    "dataset.name": "get_transforms, get_data",
    "batch_size": "configurations, and the next two",
    "config.name": "search, evaluation",
    "section.part": "of dotted keys",
}
"""What the plugin asks of NASLib's objects: NASLib has no types, so users' own spaces and data sets look like this."""


def guesses(source: str) -> list[str]:
    """Attributes of which ``source`` asks whether an object has them; ``object.variable`` where a variable names it."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    asked = [
        call.args[:2] for call in calls if (ast.unparse(call.func), len(call.args)) in (("hasattr", 2), ("getattr", 3))
    ]
    return [
        str(name.value) if isinstance(name, ast.Constant) else f"{ast.unparse(thing)}.{ast.unparse(name)}"
        for thing, name in asked
    ]


@pytest.mark.parametrize(
    "room", ["data", "runners", "evaluators", "optimizers", "distillation", "search_spaces", "shipping", "plugin"]
)
def test_what_an_object_can_do_is_said_by_a_protocol(room: str) -> None:
    found = {name for path in (PACKAGE / room).rglob("*.py") for name in guesses(path.read_text(encoding="utf-8"))}
    assert found <= set(GUESSES) | set(OF_NASLIB if room == "plugin" else ())


def test_the_check_of_guesses_can_fail() -> None:
    source = "hasattr(optimizer, 'attach') or getattr(space, 'check', None) or hasattr(evaluator, name)"
    assert guesses(source) == ["attach", "check", "evaluator.name"]


READS_PICTURES = {"data/decoding.py", "data/prepare_picture.py"}
"""The second is what exported students come with."""
PICTURE_READERS = {"imread", "read_image", "decode_image", "decode_jpeg", "decode_png", "pil_loader", "default_loader"}


def pictures_opened(source: str) -> list[str]:
    """Calls in ``source`` that read a picture file: Pillow's ``Image.open``, and other libraries' functions."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [ast.unparse(call) for call in calls]
    return [name for name in names if name.endswith("Image.open") or name.split(".")[-1] in PICTURE_READERS]


def test_one_place_opens_pictures() -> None:
    """Else training, teachers and what is shipped may see different numbers of the same file."""
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if pictures_opened(path.read_text("utf-8"))
    }
    assert found == READS_PICTURES


@pytest.mark.parametrize(
    "source",
    ["from PIL import Image\nImage.open('x')", "PIL.Image.open(x)", "torchvision.io.read_image(x)", "imread(x)"],
)
def test_the_check_of_pictures_can_fail(source: str) -> None:
    assert pictures_opened(source)


def loaded_packages(*modules: str) -> list[set[str]]:
    """Packages that are loaded in a new process once each of ``modules`` was imported, one after the other."""
    code = (
        "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
        "    print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_modules_import_without_torch() -> None:
    loaded = dict(zip(WITHOUT_TORCH, loaded_packages(*WITHOUT_TORCH), strict=True))
    assert not {name for name, packages in loaded.items() if packages & {"torch", "torchvision", "naslib", "smac"}}


def test_the_torch_check_can_fail() -> None:
    assert "torch" in loaded_packages("naslib_autokd.search_spaces.hnag.student")[0]


def test_import_of_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "naslib", "smac", "ConfigSpace", "numpy", "sklearn", "networkx", "altair", "scipy"}
    assert not loaded_packages("naslib_autokd")[0] & heavy


def test_every_public_name_loads() -> None:
    for name in naslib_autokd.__all__:
        assert getattr(naslib_autokd, name) is not None
