"""Packaging of naslib_autokd. Tool settings live in pyproject.toml; tested versions in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION: dict[str, str] = {}
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
    package_data={"naslib_autokd": ["py.typed"]},
    install_requires=[
        "torch>=2.10",  # older ones have unsafe checkpoint loading (CVE-2026-24747)
        "torchvision",  # imported lazily: only the CIFAR and image-folder loaders need it
        "networkx>=3.2",
        "smac>=2.4",
        "ConfigSpace>=1.2",
        "scikit-learn>=1.4",
        "numpy>=1.26",
        "scipy>=1.11",
        "safetensors>=0.4.3",
        "pyyaml>=6.0",
        "filelock>=3.13",
        "matplotlib>=3.8",
        "rich>=13",
        "pillow>=10",
    ],
    extras_require={
        "optuna": ["optuna>=4.0"],
        "test": ["pytest>=8", "pytest-timeout", "hypothesis", "fvcore", "ruff", "mypy>=1.10", "types-PyYAML"],
    },
    entry_points={"console_scripts": ["naslib-autokd = naslib_autokd.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
