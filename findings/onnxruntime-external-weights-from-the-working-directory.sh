#!/usr/bin/env bash
# onnxruntime, given a model as bytes, reads its external weights from the working directory: the same bytes answer
# differently, or not at all, in another folder. (torch.onnx.export(dynamo=True) writes such weights for small networks,
# too.) Nothing says so: where the size fits, another file of that name is taken. onnx.load(path) is right: it reads
# them beside the file, and one self-contained model can be made of it. Fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0
mkdir mine other
cat > show.py <<'PYTHON'
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
for name, value in (("mine", 1.0), ("other", 2.0)):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "twice",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])],
        [numpy_helper.from_array(np.full(64, value, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, f"{name}/model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)

content = Path("mine/model.onnx").read_bytes()
answers = {}
for folder in ("mine", "other"):
    os.chdir(folder)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    answers[folder] = float(session.run(None, {"x": np.ones(64, np.float32)})[0][0])
    os.chdir("..")
print("the bytes of mine/model.onnx, whose weights are 1, answer to 1 in each working directory:", answers)
assert answers == {"mine": 1.0, "other": 2.0}, "the behaviour has changed"
PYTHON
venv/bin/python show.py
