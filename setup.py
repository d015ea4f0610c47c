"""Packaging of naslib_autokd. Tool settings live in pyproject.toml; tested versions in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION: dict[str, str] = {}
ZERO_COST = (
    *("epe_nas", "fisher", "grad_norm", "grasp", "jacov", "l2_norm"),
    *("nwot", "plain", "snip", "synflow", "zen"),
)  # NASLib's measures: `plugin.zero_cost.MEASURES`
exec((HERE / "naslib_autokd" / "_version.py").read_text(), VERSION)

setup(
    name="naslib_autokd",
    version=VERSION["__version__"],
    description="Knowledge-distillation NAS: search for families of students (AutoKD), as a plugin of NASLib",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["naslib_autokd", "naslib_autokd.*"]),
    package_data={
        "naslib_autokd": [
            "py.typed",
            "distillation/*.csv",
            "distillation/*.json",
            "search_spaces/hnag/*.[ch]",
            "shipping/*.c",
            "plugin/configs/*.yaml",
            "carps/configs/*/*/*.yaml",
            "evaluators/tables/*",
            "runners/studies/*.yaml",
            "reports/html/report.*",
        ],
    },
    install_requires=[
        "torch>=2.10",  # older ones have unsafe checkpoint loading (CVE-2026-24747)
        "torchvision",  # imported lazily: only the CIFAR and image-folder loaders need it
        "networkx>=3.3",
        "smac>=2.4.1,<2.5",  # private parts are used: tests/optimizers/test_smac_parts.py
        "ConfigSpace>=1.2.1",
        "scikit-learn>=1.4",
        "numpy>=1.26",
        "scipy>=1.15",  # before, nnls gives up on the latency model's equations
        "safetensors>=0.4.3",
        "pyyaml>=6.0",
        "filelock>=3.13",
        "msgspec>=0.19",
        "altair>=6",  # charts as data
        "vl-convert-python>=1.9",  # draws them without a browser, and brings the library that reports embed
        "rich>=14.3",  # older ones end the lines of a file with an empty one
        "pillow>=11.3",  # AVIF
        "onnx>=1.16",  # students as ONNX files, and what they take where they run
        "onnxruntime>=1.18",  # reads what torch exports (format 10)
        "dask>=2024.1",  # workers; smac brings these four, too
        "distributed>=2024.1",
        "cloudpickle>=3",
        "psutil>=5.9",
        "shtab>=1.7",  # shell completion
    ],
    extras_require={
        # what NASLib's modules import (its own requirements pin versions of 2021); NASLib itself is not on PyPI
        "naslib": [
            "fvcore",
            "seaborn",
            "nasbench-pytorch",
            "pytorch-msssim",
            "scikit-image",
            "termcolor",
            "transforms3d",
            "emcee",
            "GraKeL",
            "graphviz",
            "lightgbm",
            "ngboost",
            "pybnn",
            "pyro-ppl",
            "six",
            "xgboost",
        ],
        "cluster": ["dask-jobqueue>=0.8"],
        "optuna": ["optuna>=5.0"],  # with 4 the TPE sampler repeats a forbidden point until none is left
        "botorch": ["botorch>=0.12"],
        "tensorboard": ["tensorboard"],
        "timm": ["timm>=1.0"],
        "pruning": ["torch-pruning>=1.5"],  # the pruned teacher among the rivals of compare-kd
        "carps": ["carps>=1.0"],
        "onnx": ["onnxscript"],  # networks of other spaces as ONNX files
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
        "test": [
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "fvcore",
            "onnxscript",
            "playwright>=1.45",  # drives an installed Chromium; downloads none
            "ruff",
            "mypy>=1.10",
            "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": ["naslib-autokd = naslib_autokd.cli:main"],
        # NASLib's spaces and optimizers under our names: their modules import NASLib, so they come in by this door
        "naslib_autokd.search_spaces": [
            "nasbench101 = naslib_autokd.plugin.spaces:nasbench101",
            "nasbench201 = naslib_autokd.plugin.spaces:nasbench201",
            "nasbench301 = naslib_autokd.plugin.spaces:nasbench301",
            "simple_cell = naslib_autokd.plugin.spaces:simple_cell",
        ],
        "naslib_autokd.optimizers": [
            "naslib-random_search = naslib_autokd.plugin.optimizers:random_search",
            "naslib-regularized_evolution = naslib_autokd.plugin.optimizers:regularized_evolution",
            "naslib-local_search = naslib_autokd.plugin.optimizers:local_search",
            "naslib-bananas = naslib_autokd.plugin.optimizers:bananas",
            "naslib-npenas = naslib_autokd.plugin.optimizers:npenas",
            "naslib-base_predictor = naslib_autokd.plugin.optimizers:base_predictor",
            *(f"naslib-zerocost:{name} = naslib_autokd.plugin.zero_cost:{name}" for name in ZERO_COST),
        ],
        "naslib_autokd.benchmarks": [
            "nasbench201 = naslib_autokd.plugin.table_cells:cifar10",
            "nasbench201-cifar10 = naslib_autokd.plugin.table_cells:cifar10",
            "nasbench201-cifar100 = naslib_autokd.plugin.table_cells:cifar100",
            "nasbench201-ImageNet16-120 = naslib_autokd.plugin.table_cells:imagenet16_120",
            "nasbench201-ninapro = naslib_autokd.plugin.table_cells:ninapro",
        ],
        "naslib_autokd.one_shot_methods": [
            "naslib-darts = naslib_autokd.plugin.one_shot:darts",
            "naslib-gdas = naslib_autokd.plugin.one_shot:gdas",
            "naslib-drnas = naslib_autokd.plugin.one_shot:drnas",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: {version}" for version in ("3.11", "3.12", "3.13")),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
