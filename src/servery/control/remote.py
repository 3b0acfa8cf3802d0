"""Artifacts that lie behind a URL, through fsspec (the extra `remote`). Blocking.

Credentials come from the environment, by the names that each store's own tools use, and from nowhere else.
"""

from __future__ import annotations

import importlib
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from servery.control.urls import plain
from servery.runtimes.artifact import ArtifactError

_MARKS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "Content-MD5",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "mtime",
)
_MAX_FILES = 10_000
_CONNECT_S, _READ_S = 5, 60
_MIB = 2**20


class Lying(msgspec.Struct, frozen=True):
    """A file behind a URL: its name below it ("": the URL itself is the file), its size if that is known, and a mark that
    is another one when it was replaced ("": nobody can tell).
    """

    name: str
    size: int
    mark: str


class Remote:
    """One store, as of one URL. ArtifactError where it can't be read."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._shown = plain(url)
        self._system, self._path = self._open()

    def _open(self) -> tuple[Any, str]:
        scheme = urlsplit(self.url).scheme
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        try:
            core: Any = importlib.import_module("fsspec.core")
            if scheme == "s3":
                options["config_kwargs"] = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S}
            elif scheme in ("http", "https"):
                aiohttp: Any = importlib.import_module("aiohttp")
                timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_S)
                options["client_kwargs"] = {"timeout": timeout}
            return core.url_to_fs(self.url, **options)
        except ImportError as error:
            message = f"{self._shown} can't be fetched: {error.name or error} is not installed"
            raise ArtifactError(message, _package(scheme)) from None

    def numbers(self) -> tuple[int, ...]:
        """The numbered folders in it, ascending; none where it is one artifact itself."""
        if urlsplit(self.url).scheme in ("http", "https"):
            return ()
        names = self._read(lambda: self._system.ls(self._path, detail=True))
        folders = [posixpath.basename(one["name"].rstrip("/")) for one in names if one["type"] == "directory"]
        return tuple(sorted(int(name) for name in folders if re.fullmatch(r"[1-9][0-9]{0,17}", name)))

    def files(self) -> tuple[Lying, ...]:
        """What there is to fetch: the file, or all files below the folder."""
        info = self._read(lambda: self._system.info(self._path))
        if info["type"] == "file":
            return (_lying("", info),)
        found: dict[str, Any] = self._read(lambda: self._system.find(self._path, detail=True))
        root = self._path.rstrip("/") + "/"
        names = {name.removeprefix(root): one for name, one in found.items() if name.startswith(root)}
        kept = {name: one for name, one in names.items() if _is_kept(name)}
        if not kept:
            raise ArtifactError(f"{self._shown} does not exist, or is empty")
        if len(kept) > _MAX_FILES:
            raise ArtifactError(
                f"{self._shown} holds more than {_MAX_FILES:,} files", "name a folder that holds the model only"
            )
        return tuple(_lying(name, one) for name, one in sorted(kept.items()))

    def fetch(self, name: str, to: Path, most: int) -> int:
        """Copy one of its files, of at most so many bytes; how many it has."""
        callbacks: Any = importlib.import_module("fsspec.callbacks")
        shown = self._shown

        class Bounded(callbacks.Callback):
            """Ends a copy that brings more than was said."""

            def relative_update(self, inc: int = 1) -> None:
                self.value: int = getattr(self, "value", 0) + inc
                if self.value > most:
                    raise ArtifactError(f"{shown} is larger than {most / _MIB:.0f} MiB", "raise server.fetch_mb")

        path = posixpath.join(self._path, name) if name else self._path
        self._read(lambda: self._system.get_file(path, str(to), callback=Bounded()))
        return to.stat().st_size

    def _read(self, act: Callable[[], Any]) -> Any:
        """What the store says, or why it doesn't: libraries of stores raise whatever they like."""
        try:
            return act()
        except ArtifactError:
            raise
        except FileNotFoundError as error:
            if isinstance(cause := error.__cause__, OSError) and not isinstance(cause, FileNotFoundError):
                raise self._failed(cause) from None  # fsspec calls it so when nobody answers
            raise ArtifactError(f"{self._shown} does not exist, or these credentials may not see it") from None
        except ImportError as error:
            raise ArtifactError(
                f"{self._shown} can't be fetched: {error}", _package(urlsplit(self.url).scheme)
            ) from None
        except Exception as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> ArtifactError:
        said = str(error).replace(self.url, self._shown).splitlines()
        why = f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__
        fix = "look whether it can be reached from here, and at the credentials in the environment"
        return ArtifactError(f"{self._shown} can't be fetched: {why}", fix)


def _lying(name: str, info: dict[str, Any]) -> Lying:
    marks = [str(info[key]) for key in _MARKS if info.get(key)]
    return Lying(name, int(info.get("size") or 0), f"{marks[0]} {info.get('size')}" if marks else "")


def _is_kept(name: str) -> bool:
    """What Python leaves behind, and what is hidden, is no part of an artifact."""
    parts = name.split("/")
    return all(_is_plain(part) for part in parts) and "__pycache__" not in parts and not name.endswith(".pyc")


def _is_plain(part: str) -> bool:
    return part not in ("", ".", "..") and not part.startswith(".")


def _package(scheme: str) -> str:
    known = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
    return f"pip install 'servery[remote]'{f' {known[scheme]}' if scheme in known else ''}"
