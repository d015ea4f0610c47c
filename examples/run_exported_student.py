"""Name the class of pictures with an exported student; needs onnxruntime, numpy and pillow, not this package.

``prepare_picture.py``, which the export puts beside the student, makes the input as training did.

python examples/run_exported_student.py runs/first/export/student.onnx image.png
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

student, *pictures = sys.argv[1:]
sys.path.insert(0, str(Path(student).parent))
from prepare_picture import network_input  # noqa: E402

session = onnxruntime.InferenceSession(student)
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
_, channels, size, _ = about["input"]
for logits in session.run(None, {"images": network_input(pictures, size, channels)})[0]:
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{about['classes'][logits.argmax()]} ({100 * probabilities.max():.1f} %)")
