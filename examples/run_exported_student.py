"""Name the class of an image with an exported student; needs onnxruntime, numpy and pillow, not this package.

python examples/run_exported_student.py runs/first/export/student.onnx image.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1])
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
_, channels, height, width = about["input"]
image = Image.open(sys.argv[2]).convert("L" if channels == 1 else "RGB").resize((width, height))
pixels = np.asarray(image, dtype=np.float32).reshape(height, width, channels) / 255
logits = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})[0][0]
probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
print(f"{about['classes'][logits.argmax()]} ({100 * probabilities.max():.1f} %)")
