"""Who Servery is measured against: how each is installed in an environment of its own, and started."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import msgspec

HERE = Path(__file__).parent
APPS = HERE / "peers"
PROTO = HERE.parent / "src" / "servery" / "wire" / "proto"
ENVIRONMENTS = Path(sys.prefix) / "peers"  # in .venv, which git ignores
INSTALL_S = 900


class Contender(msgspec.Struct, frozen=True):
    """A server of the same model. `environment` names its requirements, and is "" where ours will do."""

    name: str
    app: str
    environment: str = ""
    package: str = ""  # whose version is told
    http: bool = True
    grpc: bool = False
    variables: tuple[tuple[str, str], ...] = ()

    def python(self) -> str:
        return str(ENVIRONMENTS / self.environment / "bin" / "python") if self.environment else sys.executable

    def command(self, model: Path, port: int, folder: Path) -> list[str]:
        if self.environment:
            return [self.python(), str(APPS / self.app), str(folder)]
        return [self.python(), str(HERE / self.app), str(port), f"rows={model}"]

    def surroundings(self, model: Path, port: int, grpc_port: int, folder: Path) -> dict[str, str]:
        """Its environment's variables. Nobody's statistics leave the machine, nothing is written outside `folder`."""
        told = {
            "PEER_MODEL": str(model),
            "PEER_PORT": str(port),
            "PEER_GRPC_PORT": str(grpc_port),
            "HOME": str(folder),
            "BENTOML_HOME": str(folder / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "true",
            "PYTHONPATH": f"{APPS}:{PROTO}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
        }
        return {**os.environ, **told, **dict(self.variables)}


CONTENDERS = (
    Contender("bare uvicorn", "floor.py"),
    Contender("bare grpc.aio", "grpc_floor.py", http=False, grpc=True),
    Contender("Triton", "triton_app.py", "triton", "nvidia-pytriton", grpc=True),
    Contender("Mosec", "mosec_app.py", "mosec", "mosec"),
    Contender("Mosec, batches", "mosec_app.py", "mosec", "mosec", variables=(("PEER_BATCH", "32"),)),
    Contender("MLServer", "mlserver_app.py", "mlserver", "mlserver", grpc=True),
    Contender("LitServe", "litserve_app.py", "litserve", "litserve"),
    Contender("BentoML", "bentoml_app.py", "bentoml", "bentoml"),
    Contender("Ray Serve", "ray_app.py", "ray", "ray", grpc=True),
)


def install(environment: str) -> str:
    """Make the environment on this interpreter, where it isn't there as its requirements say; why not, or ""."""
    if not environment:
        return ""
    folder, wanted = ENVIRONMENTS / environment, (APPS / f"{environment}.txt").read_text()
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return ""
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [*pip, "--no-deps", "-r", str(APPS / f"{environment}.txt")],
    )
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            return f"installing took more than {INSTALL_S} s"
        if done.returncode:
            told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-300:]]
            return told[-1].strip()
    stamp.write_text(wanted)
    return ""


def words(contender: Contender) -> str:
    """What it is and how it is set up, as its file says."""
    file = APPS / contender.app if contender.environment else HERE / contender.app
    first = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0]
    settings = "".join(f" Here {name}={value}." for name, value in contender.variables)
    return " ".join(first.split()) + settings


def version_of(contender: Contender) -> str:
    """As its environment says."""
    if not contender.package:
        return ""
    code = f"from importlib.metadata import version; print(version({contender.package!r}))"
    done = subprocess.run([contender.python(), "-c", code], capture_output=True, text=True, check=True)
    return f"{contender.package} {done.stdout.strip()}"
