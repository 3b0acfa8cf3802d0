"""`servery check`, `schema` and `key` as a user runs them: real processes, real files."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import artifacts
from servery.cli.app import COMMANDS

SERVERY = str(Path(sys.executable).parent / "servery")

MANIFEST = """\
servery: 1
models:
  small:
    runtime: onnx
    artifact: models/small.onnx
    confidence: {output: probabilities}
  large:
    runtime: onnx
    artifact: models/large.onnx
routes:
  digits:
    policy: {kind: cascade}
    tiers:
      - {name: cheap, model: small, accept: {confidence: 0.9}}
      - {name: premium, model: large}
"""


def servery(*arguments: str | Path, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SERVERY, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        encoding=encoding,
        env={"PYTHONIOENCODING": encoding, "PATH": "/usr/bin:/bin"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    artifacts.classifier(tmp_path / "models" / "small.onnx", seed=1)
    artifacts.classifier(tmp_path / "models" / "large.onnx", seed=2)
    (tmp_path / "servery.yaml").write_text(MANIFEST)
    return tmp_path


def test_a_good_manifest_is_summarised(folder: Path) -> None:
    result = servery("check", folder / "servery.yaml")
    assert (result.returncode, result.stderr) == (0, "")
    assert "good" in result.stdout
    assert "cheap=small, premium=large" in result.stdout
    assert "x → label, probabilities" in result.stdout


def test_problems_of_the_file_and_of_the_artifacts_come_together_by_line(folder: Path) -> None:
    artifacts.classifier(folder / "models" / "large.onnx", features=29)
    manifest = folder / "servery.yaml"
    text = MANIFEST.replace("probabilities", "probabilites") + "tennants: {}\nrecords: {spool_mb: 0}\n"
    manifest.write_text(text)
    result = servery("check", manifest)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "models.small.confidence.output",
        "routes.digits.tiers[1].model",
        "tennants",
        "records.spool_mb",
    ]
    assert lines[0].startswith(f"{manifest}:6:26: ")
    assert "did you mean `probabilities`?" in lines[0]
    assert "[rows, 30] against `x` FP32 [rows, 29]" in lines[1]
    assert result.stderr == "4 problems.\n"


def test_a_corrupt_and_a_missing_artifact_are_named(folder: Path) -> None:
    (folder / "models" / "small.onnx").write_bytes(b"not a model")
    (folder / "models" / "large.onnx").unlink()
    result = servery("check", folder / "servery.yaml", "-o", "json")
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert not found["ok"]
    assert [(p["line"], p["where"], p["severity"]) for p in found["problems"]] == [
        (5, "models.small.artifact", "unavailable"),
        (9, "models.large.artifact", "unavailable"),
    ]


def test_json_tells_what_is_declared(folder: Path) -> None:
    found = json.loads(servery("check", folder / "servery.yaml", "--output", "json").stdout)
    assert found["ok"]
    assert len(found["digest"]) == 64
    assert [model["name"] for model in found["models"]] == ["small", "large"]
    assert found["routes"][0]["tiers"] == ["cheap=small", "premium=large"]


WRONG_FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "does not exist"),
    "binary": (b"\xff\xfe\x00", "is not UTF-8"),
    "empty": (b"", "is empty"),
    "not YAML": (b"{", "is not YAML"),
    "text": (b"hello", "can't be the text 'hello'"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_one_line_without_a_traceback(tmp_path: Path, case: str) -> None:
    content, message = WRONG_FILES[case]
    path = tmp_path / "servery.yaml"
    if content is not None:
        path.write_bytes(content)
    result = servery("check", path)
    assert result.returncode == 1
    assert message in result.stdout
    assert len(result.stdout.splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    result = servery("check", tmp_path)
    assert result.returncode == 1
    assert "is a folder" in result.stdout


def test_a_terminal_that_knows_few_characters_gets_escapes(tmp_path: Path) -> None:
    (tmp_path / "größe.yaml").write_text("servery: 1\nregioñ: x\n")
    result = servery("check", tmp_path / "größe.yaml", encoding="latin-1")
    assert result.returncode == 1
    assert r"größe.yaml:2:1: regioñ: unknown key 'regioñ' \u2192 did you mean" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [("chekc",), ("check",), ("check", "a", "b"), ("check", "--nope"), ("key", "new")]
)
def test_a_wrong_command_line_is_told_plainly(arguments: tuple[str, ...]) -> None:
    result = servery(*arguments)
    assert result.returncode == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_the_help_lists_every_command() -> None:
    listed = servery("--help").stdout
    assert all(f"\n  {command.name} " in listed for command in COMMANDS)
    assert servery().stdout == listed
    assert re.fullmatch(r"servery \d+\.\d+\.\d+\S*\n", servery("--version").stdout)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_is_where_the_list_says(command: object) -> None:
    entry = next(each for each in COMMANDS if each is command)
    assert callable(getattr(importlib.import_module(entry.module), entry.attribute))


def test_the_schema_describes_the_manifest_for_editors() -> None:
    schema = json.loads(servery("schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["title"] == "Servery manifest"
    assert schema["required"] == ["servery"]
    assert schema["$defs"]["Model"]["properties"]["artifact"]["description"].startswith("path of the artifact")
    assert schema["$defs"]["Confidence"]["properties"]["from"]["enum"] == ["margin", "max"]
    assert schema["additionalProperties"] is False


def test_a_key_is_printed_once_with_lines_that_the_manifest_takes(folder: Path) -> None:
    result = servery("key", "new", "12", "--id", "k2")
    assert result.returncode == 0
    (key,) = re.findall(r"^  (sv_[A-Za-z0-9_-]{43})$", result.stdout, re.MULTILINE)
    lines = result.stdout[result.stdout.index("tenants:") :]
    assert YAML(typ="safe").load(lines) == {
        "tenants": {"12": {"keys": [{"id": "k2", "sha256": hashlib.sha256(key.encode()).hexdigest()}]}}
    }
    manifest = folder / "servery.yaml"
    manifest.write_text(MANIFEST + lines)
    assert "tenant  12" in servery("check", manifest).stdout
    assert key not in servery("key", "new", "12", "--id", "k2").stdout


@pytest.mark.parametrize("tenant", ["", "a\nb", " a", "x" * 129])
def test_a_key_needs_a_name_that_a_manifest_takes(tenant: str) -> None:
    result = servery("key", "new", tenant)
    assert result.returncode == 2
    assert "sv_" not in result.stdout
