#!/usr/bin/env bash
# dask-jobqueue, distributed: a job that the queue refuses is nobody's error; who waits for its worker waits for ever.
#
# SLURMCluster.scale() returns although sbatch ends with an error, since jobs are submitted in a task of the event loop whose
# exception is logged and dropped. The cluster goes on counting the worker as one that will come: wait_for_workers() without
# a timeout never returns, and with one says that 0 of 1 workers arrived, without the queue's message; nothing is submitted
# again. So a misspelt partition or a spent account looks like a long queue, and close() ends with a bare AssertionError.
# Fails if a later version raises, tries again, or closes. Needs Python and a package index; no queue: sbatch is a script that refuses.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q dask-jobqueue==0.9.0 dask==2026.7.1 distributed==2026.7.1
mkdir "$place/bin"
cat > "$place/bin/sbatch" <<'SBATCH'
#!/bin/sh
echo asked >> "$ASKED"
echo "sbatch: error: invalid partition specified: gpus" >&2
exit 1
SBATCH
chmod +x "$place/bin/sbatch"
cd "$place"
PATH=$place/bin:$PATH ASKED=$place/asked "$place/venv/bin/python" -W ignore - <<'PYTHON'
import os
import time
from importlib.metadata import version

from dask_jobqueue import SLURMCluster
from distributed import Client

print("dask-jobqueue", version("dask-jobqueue"), "distributed", version("distributed"))
cluster = SLURMCluster(cores=1, memory="1GB", queue="gpus", interface="lo")
client = Client(cluster)
cluster.scale(1)
print("scale(1) returned")
try:
    client.wait_for_workers(1, timeout=15)
    said = ""
except TimeoutError as error:
    said = str(error)
time.sleep(5)
asked = len(open(os.environ["ASKED"]).readlines())
waited_for = len(cluster.worker_spec)
try:
    cluster.close()
    closing = ""
except AssertionError as error:
    closing = f"AssertionError: {error}"
print("after 15 s:", said)
print(f"sbatch was called {asked} time(s); workers that the cluster still counts on: {waited_for}")
print("close():", closing)
assert said
assert "partition" not in said
assert asked == 1
assert waited_for == 1
assert closing
print("as described", flush=True)
os._exit(0)  # what could not be closed would wait at the end
PYTHON
