"""Imports a user's code as it is on the disk now. Python would trust bytecode that only seems to be of the same age."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType

from servery.runtimes.code import Entry
from servery.runtimes.running import CannotRun


class _FromSource(SourceFileLoader):
    """Neither reads nor writes bytecode: the digest of a Version covers the source alone."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def import_code(artifact: Path, entry: Entry) -> ModuleType:
    """The module that has the class. Modules beside it can be imported where the artifact is a folder. CannotRun."""
    if artifact.is_file():
        name = f"model_{entry.module}"  # a file may be called like a module that others need
        loader = _FromSource(name, str(entry.file))
        found = importlib.util.spec_from_file_location(name, entry.file, loader=loader)
        assert found is not None
        module = sys.modules[name] = importlib.util.module_from_spec(found)
        loader.exec_module(module)
        return module
    sys.path_hooks.insert(0, _hook(artifact))
    sys.path.insert(0, str(artifact))
    module = importlib.import_module(entry.module)
    if not Path(module.__file__ or "").is_relative_to(artifact):
        raise CannotRun(f"another module is called {entry.module!r}, and was imported before; rename {entry.file.name}")
    return module


def _hook(folder: Path) -> Callable[[str], FileFinder]:
    """How the import system finds modules inside of `folder`."""

    def find(path: str) -> FileFinder:
        if not Path(path).is_relative_to(folder):
            raise ImportError(path=path)
        return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_FromSource, SOURCE_SUFFIXES))

    return find
