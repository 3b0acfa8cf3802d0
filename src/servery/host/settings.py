"""Where a Servery keeps its files, and the lock that makes the folder its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class FolderTaken(Exception):
    """Another Servery runs on this data folder."""


class DataFolder:
    """The layout of one data folder. Only its owner may read it: it holds the seal and the Records."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def snapshot(self) -> Path:
        return self.path / "snapshot.json"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.db"

    @property
    def state(self) -> Path:
        """Revisions, the journal of changes, what is held, the audit."""
        return self.path / "state.db"

    @property
    def heads(self) -> Path:
        """The heads of the audit, apart from it."""
        return self.path / "audit.heads"

    @property
    def content_spool(self) -> Path:
        """Where workers put Content."""
        return self.path / "content"

    @property
    def contents(self) -> Path:
        """The database of Content."""
        return self.path / "contents.db"

    @property
    def fleet(self) -> Path:
        """Which Replicas are to run, as the controller wrote it last."""
        return self.path / "run" / "fleet.json"

    @property
    def took(self) -> Path:
        """How long calls took when Versions were warmed up, so that a new start knows where they run."""
        return self.path / "took.json"

    @property
    def drift(self) -> Path:
        """Which windows were looked at for drift, and which alarms are still to be told."""
        return self.path / "drift.json"

    @property
    def bulletin(self) -> Path:
        """The live facts as the controller told them last, so that a new start goes on by them."""
        return self.path / "bulletin.json"

    @property
    def limits(self) -> Path:
        """The counter of requests per minute that several workers share."""
        return self.run / "limits.db"

    @property
    def budgets(self) -> Path:
        """What tenants have spent of their budgets."""
        return self.path / "budgets.db"

    @property
    def artifacts(self) -> Path:
        """Copies of artifacts: fetched from a URL, or kept because their model asks for it."""
        return self.path / "artifacts"

    def router(self, digest: str) -> Path:
        """A published router, by its digest."""
        return self.path / "routers" / f"{digest}.npz"

    def verifier(self, digest: str) -> Path:
        """A published verifier, by its digest."""
        return self.path / "verifiers" / f"{digest}.npz"

    @property
    def control(self) -> Path:
        """The socket where workers reach the controller."""
        return self.run / "control.sock"

    @property
    def admin(self) -> Path:
        """The socket where this user's commands reach the controller."""
        return self.run / "admin.sock"

    @property
    def run(self) -> Path:
        """Where Replicas listen, and what they are started with."""
        return self.path / "run"

    def create(self) -> None:
        """Make the folder and its parts where they are missing; OSError."""
        self.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.run.mkdir(mode=0o700, exist_ok=True)
        self.path.chmod(0o700)

    def sweep(self) -> None:
        """Remove the sockets of an earlier life. Only who has taken the folder may do this."""
        for left in self.run.iterdir():
            left.unlink(missing_ok=True)

    def take(self) -> int:
        """Lock the folder for this process and those that inherit the descriptor, until all have ended.

        FolderTaken names the process that has it.
        """
        handle = os.open(self.path / "servery.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            advice = "stop that one, or give another folder with --data"
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                advice = "that one has ended, and its last child ends within seconds: try again"
            raise FolderTaken(f"{self.path} is in use by the Servery with process id {owner}; {advice}") from None
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        return handle

    def taken(self) -> bool:
        """Whether the process that took the folder last still runs."""
        try:
            owner = (self.path / "servery.lock").read_text().strip()
        except (OSError, UnicodeDecodeError):
            return False
        return owner.isdigit() and Path(f"/proc/{owner}").exists()

    @property
    def content_key(self) -> Path:
        """The keys of Content, where the manifest names no other place for them."""
        return self.path / "content.key"

    def make_content_key(self, new: str) -> None:
        """Write that file with the key `new`, synced, unless it's there; of several who do so at once, one does. OSError."""
        if self.content_key.exists():
            return
        young = self.path / f".content.key.{os.getpid()}"
        handle = os.open(young, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(f"{new}\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(young, self.content_key)
        finally:
            young.unlink()
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def seal(self) -> bytes:
        """The secret that marks record ids with their tenant; made on first use."""
        path = self.path / "seal"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_bytes()
        with os.fdopen(handle, "wb") as file:
            file.write(secret := os.urandom(32))
        return secret
