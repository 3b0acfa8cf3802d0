"""Triton, as nvidia-pytriton carries it: its server with its Python backend, one instance, batches of what is queued.

Run with the model's folder as argument it writes the model repository there and becomes the server.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

CONFIG = """
name: "rows"
backend: "python"
max_batch_size: 32
input [{ name: "x", data_type: TYPE_FP32, dims: [30] }]
output [
  { name: "label", data_type: TYPE_INT64, dims: [1], reshape { shape: [] } },
  { name: "probabilities", data_type: TYPE_FP32, dims: [2] }
]
instance_group [{ count: 1, kind: KIND_CPU }]
dynamic_batching { }
"""


def repository(folder: Path) -> Path:
    here, models = Path(__file__).parent, folder / "models"
    version = models / "rows" / "1"
    version.mkdir(parents=True)
    (models / "rows" / "config.pbtxt").write_text(CONFIG)
    for file in ("triton_model.py", "linear.py"):
        shutil.copy(here / file, version / file.removeprefix("triton_"))
    return models


def backends(folder: Path, carried: Path) -> Path:
    """The Python backend beside the stub of this interpreter's version: it looks for it there."""
    made = folder / "backends" / "python"
    shutil.copytree(carried / "backends" / "python", made)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(carried / "python_backend_stubs" / version / "triton_python_backend_stub", made)
    return made.parent


def main(folder: Path) -> None:
    site = next(Path(sys.prefix).glob("lib/python3*/site-packages"))
    carried = site / "pytriton" / "tritonserver"
    command = [
        str(carried / "bin" / "tritonserver"),
        f"--model-repository={repository(folder)}",
        f"--backend-directory={backends(folder, carried)}",
        "--http-address=127.0.0.1",
        f"--http-port={os.environ['PEER_PORT']}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={os.environ['PEER_GRPC_PORT']}",
        "--allow-metrics=false",
        "--backend-config=python,shm-region-prefix-name=servery-peers",
    ]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the stub finds the environment by its `python3`
    os.execve(command[0], command, {**os.environ, "PATH": path, "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs")})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
