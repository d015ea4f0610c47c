#!/usr/bin/env bash
# Pillow: an uncompressed TIFF file with EXIF orientation 5 to 8 is garbled if it is opened by its path.
#
# Of modes that Pillow maps into memory (L, P, RGBA, CMYK, I;16), the sides are exchanged before the file is mapped, so rows
# have the wrong length: the picture is scrambled, without a word. Opened as a stream, or as RGB, it is right.
# Fails if a later Pillow reads both alike. Needs Python and a package index.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q pillow==13.0.0 numpy==2.4.6
cd "$place"
venv/bin/python - <<'PYTHON'
import io

import numpy as np
import PIL
from PIL import Image

stored = Image.fromarray(np.arange(6 * 4, dtype=np.uint8).reshape(4, 6))
exif = Image.Exif()
exif[0x0112] = 6
stored.save("turned.tif", exif=exif)
upright = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
with open("turned.tif", "rb") as file:
    sources = {"path": "turned.tif", "stream": io.BytesIO(file.read())}
right = {}
for name, source in sources.items():
    with Image.open(source) as image:
        image.load()
        right[name] = np.array_equal(np.asarray(image), upright)
        print(f"Pillow {PIL.__version__}, opened as a {name}: first row {np.asarray(image)[0].tolist()}")
print(f"upright: first row {upright[0].tolist()}")
assert right == {"path": False, "stream": True}, f"turned TIFF files are read in another way: {right}"
PYTHON
