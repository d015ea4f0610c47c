#!/usr/bin/env bash
# Pillow: 16-bit grey becomes black and white by convert("L") or convert("RGB"), which is how data sets are usually read.
#
# A PNG of 64 evenly spaced 16-bit levels keeps 2 of them: values above 255 are clipped, not scaled, without a word. So
# loaders with Image.open(path).convert("RGB") (torchvision's ImageFolder does that) train on white pictures.
# Fails if a later Pillow scales them. Needs Python and a package index.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q pillow==13.0.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/ramp.png" <<'PYTHON'
import sys

import numpy as np
import PIL
from PIL import Image

Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)).save(sys.argv[1])
with Image.open(sys.argv[1]) as image:
    kept = {mode: len(np.unique(np.asarray(image.convert(mode)))) for mode in ("L", "RGB")}
    print(f"Pillow {PIL.__version__}: 64 levels of mode {image.mode} are {kept['L']} as L, {kept['RGB']} as RGB")
assert kept == {"L": 2, "RGB": 2}, "16-bit grey is no longer clipped"
PYTHON
