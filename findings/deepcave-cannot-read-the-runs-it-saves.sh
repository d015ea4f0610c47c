#!/usr/bin/env bash
# DeepCAVE 1.4.1: a run that its own Run.save() wrote cannot be loaded.
#
# Each line of history.jsonl has the nine fields of a trial. Run.load() means to add the CPU time to older lines, which lack it,
# but does so to every line that has not eleven fields, and then hands ten to a class of nine: TypeError for each run with a
# trial. So whoever records with DeepCAVE's Recorder, or writes its own format, cannot open the run; its "DataFrame" format (two
# CSV tables) is read. Fails if a later version loads what it saves. Needs Python and a package index; the package asks for Python
# below 3.11, and its reader runs on later ones, so it is installed without its dependencies.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q ConfigSpace==1.2.2 "pandas<3" jsonlines==4.0.0 pyyaml
"$place/venv/bin/pip" download -q --no-deps --no-binary :all: --ignore-requires-python -d "$place" deepcave==1.4.1
tar xzf "$place"/deepcave-1.4.1.tar.gz -C "$place"
cd "$place"
PYTHONPATH=$place/deepcave-1.4.1 "$place/venv/bin/python" - <<'PYTHON'
from pathlib import Path

from ConfigSpace import ConfigurationSpace

import deepcave
from deepcave.runs.converters.deepcave import DeepCAVERun
from deepcave.runs.objective import Objective

print("DeepCAVE", deepcave.version)
space = ConfigurationSpace({"x": (0.0, 1.0)}, seed=0)
run = DeepCAVERun("one trial", configspace=space, objectives=[Objective("error")])
run.add(costs=[0.5], config=space.sample_configuration(), seed=0, budget=3.0, start_time=2.0, end_time=5.0)
run.save("saved")
print("saved:", Path("saved/history.jsonl").read_text().strip())
try:
    DeepCAVERun.from_path(Path("saved"))
except TypeError as error:
    print("loaded again: TypeError:", error)
else:
    raise SystemExit("it loads what it saved: the behaviour has changed")
print("as described")
PYTHON
