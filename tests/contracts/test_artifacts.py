"""Artifacts behind URLs and copies of those on this machine: whole or not at all, once, and never another one than is said."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

import artifacts
from servery.control.artifacts import Artifacts
from servery.control.places import Places
from servery.control.remote import Remote
from servery.control.resolve import Resolved, digest_now, resolve
from servery.control.urls import plain, wrong
from servery.runtimes.artifact import ArtifactError, weights_beside
from servery.terms.manifest import Manifest, Model, Versions
from stores import S3, environment, s3, web

Put = Callable[[str, bytes], str]


def nothing(_: Path) -> tuple[str, ...]:
    return ()


@pytest.fixture(scope="module")
def store() -> Generator[S3]:
    with s3() as store, environment(**store.environment):
        yield store


@pytest.fixture(params=["s3", "http"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Put]:
    """Put content behind a URL, of each kind of store."""
    if request.param == "s3":
        store: S3 = request.getfixturevalue("store")
        yield lambda name, content: store.put(f"{tmp_path.name}/{name}", content)
        return
    folder = tmp_path / "served"
    folder.mkdir()
    with web(folder) as (address, _):
        times = iter(range(10**9, 2 * 10**9))

        def write(name: str, content: bytes) -> str:
            (folder / name).write_bytes(content)
            os.utime(folder / name, (moment := next(times), moment))  # HTTP tells seconds
            return f"{address}/{name}"

        yield write


@pytest.fixture
def copies(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "data" / "artifacts", 10)


def left_over(copies: Artifacts) -> list[str]:
    return (
        [path.name for path in copies.folder.iterdir() if path.name.startswith(".")] if copies.folder.exists() else []
    )


def test_what_is_fetched_is_a_copy_by_its_content(put: Put, copies: Artifacts) -> None:
    url = put("m.bin", b"one")
    there = copies.fetched(url, nothing)
    assert (there.read_bytes(), there.name) == (b"one", "m.bin")
    assert there.parent.parent == copies.folder
    assert there.stat().st_mode & 0o777 == 0o600
    assert copies.fetched(url, nothing) == there
    assert put("m.bin", b"two!") == url
    other = copies.fetched(url, nothing)
    assert (other.read_bytes(), there.read_bytes()) == (b"two!", b"one")
    put("m.bin", b"one")
    assert copies.fetched(url, nothing) == there
    assert left_over(copies) == []


def test_a_copy_that_was_altered_is_fetched_again(put: Put, copies: Artifacts) -> None:
    url = put("m.bin", b"one")
    there = copies.fetched(url, nothing)
    there.write_bytes(b"another")
    assert copies.fetched(url, nothing).read_bytes() == b"one"


def test_what_is_too_large_is_refused_and_leaves_nothing(put: Put, copies: Artifacts) -> None:
    url = put("m.bin", b"x" * (11 << 20))
    with pytest.raises(ArtifactError, match=r"takes 11 MiB, more than server\.fetch_mb"):
        copies.fetched(url, nothing)
    assert left_over(copies) == []
    assert [path for path in copies.folder.iterdir() if path.is_dir()] == []


def test_what_is_missing_is_told(put: Put, copies: Artifacts) -> None:
    url = put("m.bin", b"one")
    with pytest.raises(ArtifactError, match="does not exist, or these credentials may not see it"):
        copies.fetched(url.replace("m.bin", "none.bin"), nothing)


def test_a_start_serves_what_was_fetched_last_where_the_store_is_gone(copies: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"one")
    with web(tmp_path) as (address, _):
        there = copies.fetched(f"{address}/m.bin", nothing)
    with pytest.raises(ArtifactError, match="can't be fetched: "):
        copies.fetched(f"{address}/m.bin", nothing)
    at_start = Artifacts(copies.folder, 10, fallback=True)
    assert at_start.fetched(f"{address}/m.bin", nothing) == there
    [note] = at_start.notes
    assert note.endswith("what was fetched from there before is served")
    with pytest.raises(ArtifactError):
        at_start.fetched(f"{address}/other.bin", nothing)


def test_it_is_fetched_once_and_looked_at_each_time(copies: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"one")
    with web(tmp_path) as (address, asked):
        for _ in range(3):
            copies.fetched(f"{address}/m.bin", nothing)
        assert asked == ["/m.bin"]


def test_an_answer_that_ends_early_leaves_nothing(copies: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "torn.bin").write_bytes(b"x" * 1_000_000)
    with web(tmp_path) as (address, _), pytest.raises(ArtifactError, match="can't be fetched"):
        copies.fetched(f"{address}/torn.bin", nothing)
    assert list(copies.folder.iterdir()) == []


def test_many_who_fetch_at_once_get_the_same(copies: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"one" * 100_000)
    found: list[Path] = []
    with web(tmp_path) as (address, _):
        threads = [
            threading.Thread(target=lambda: found.append(copies.fetched(f"{address}/m.bin", nothing))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert left_over(copies) == []


def resolved(copies: Artifacts, folder: Path, **model: object) -> Resolved:
    made = Model(**{"runtime": "onnx", **model})  # type: ignore[arg-type]
    return resolve(Manifest(1, models={"m": made}), folder, Places("servery.yaml"), copies)


def test_numbered_folders_are_versions_and_only_those_that_are_served_are_fetched(
    store: S3, copies: Artifacts, tmp_path: Path
) -> None:
    for number in (1, 2, 10):
        path = artifacts.constant(tmp_path / f"{number}.onnx", [0.1 * number, 0.5])
        url = store.put(f"numbered/{number}/model.onnx", path.read_bytes())
    found = resolved(copies, tmp_path, artifact="s3://models/numbered", versions=Versions(latest=2))
    assert [(one.number, one.problem) for one in found.models["m"].versions] == [("2", ""), ("10", "")]
    assert url.endswith("10/model.onnx")
    assert len([path for path in copies.folder.iterdir() if path.is_dir()]) == 2
    found = resolved(copies, tmp_path, artifact="s3://models/numbered", versions=Versions(only=(3,)))
    assert [(problem.message, problem.fix) for problem in found.problems] == [
        ("the model 'm' has no version 3", "there is 1, 2, 10")
    ]


def test_weights_beside_a_model_come_with_it(store: S3, copies: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "local" / "weights").mkdir(parents=True)
    path = artifacts.external(tmp_path / "local" / "model.onnx", "weights/w.bin")
    for file in (path, path.parent / "weights/w.bin"):
        store.put(f"external/{file.relative_to(path.parent)}", file.read_bytes())
    assert weights_beside(path) == ("weights/w.bin",)
    found = resolved(copies, tmp_path, artifact="s3://models/external/model.onnx")
    version = found.models["m"].latest
    assert found.problems == ()
    assert version.digest == resolved(copies, tmp_path, artifact=str(path)).models["m"].latest.digest
    assert digest_now(Model("onnx"), version) == version.digest


def test_a_folder_of_code_is_fetched_whole(store: S3, copies: Artifacts, tmp_path: Path) -> None:
    code = "from part.more import X\n\n\nclass M:\n    def predict(self, inputs):\n        return inputs\n"
    for name, text in (
        ("model.py", code),
        ("part/more.py", "X = 1\n"),
        ("part/__pycache__/more.pyc", "x"),
        (".hidden", "x"),
    ):
        store.put(f"code/{name}", text.encode())
    found = resolved(copies, tmp_path, runtime="python", artifact="s3://models/code", entry="M")
    version = found.models["m"].latest
    assert [Path(file).name for file in version.files] == ["model.py", "more.py"]
    assert found.problems == ()


def test_without_credentials_it_says_so(store: S3, copies: Artifacts, tmp_path: Path) -> None:
    url = store.put("secret/m.onnx", b"x")
    with environment(
        AWS_ENDPOINT_URL=store.environment["AWS_ENDPOINT_URL"], AWS_EC2_METADATA_DISABLED="true", HOME=str(tmp_path)
    ):
        with pytest.raises(ArtifactError) as told:
            copies.fetched(url, nothing)
        assert "s3://models/secret/m.onnx can't be fetched: " in str(told.value)
        assert "credentials" in f"{told.value}{told.value.fix}".lower()


def test_a_secret_is_in_no_error(copies: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as told:
        copies.fetched("http://127.0.0.1:1/m.onnx?part=hidden", nothing)
    assert "hidden" not in str(told.value)
    assert plain("https://user:secret@host/a?b=c#d") == "https://host/a"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://host/m.onnx", "'ftp' is not where artifacts are fetched from"),
        ("file:///etc/passwd", "'file' is not where"),
        ("simplecache::s3://bucket/m", "is not where artifacts are fetched from"),
        ("https://user:secret@host/m.onnx", "the URL holds credentials"),
        ("https://host/m.onnx?X-Amz-Signature=abc", "the URL holds a signature or a key"),
        ("https://host/m.onnx?token=", "the URL holds a signature or a key"),
        ("s3:///m.onnx", "has no host or bucket"),
        ("https://[::1/m.onnx", "it is no URL"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_not_asked(copies: Artifacts, url: str, told: str) -> None:
    assert told in wrong(url)[0]
    with pytest.raises(ArtifactError):
        copies.fetched(url, nothing)


def test_right_urls() -> None:
    for url in (
        "s3://b/m.onnx",
        "https://host/m.onnx?version=3",
        "abfs://container@account.dfs.example/m.onnx",
        "gs://b/m",
    ):
        assert wrong(url) == ("", "")


def test_a_store_that_has_no_package_here_names_it() -> None:
    with pytest.raises(ArtifactError) as told:
        Remote("gs://bucket/m.onnx").files()
    assert told.value.fix == "pip install 'servery[remote]' gcsfs"


def test_a_model_that_keeps_is_loaded_from_its_copy(copies: Artifacts, tmp_path: Path) -> None:
    path = artifacts.external(tmp_path / "m" / "model.onnx")
    found = resolved(copies, tmp_path, artifact="m/model.onnx", keep=True)
    version = found.models["m"].latest
    assert Path(version.artifact).is_relative_to(copies.folder)
    shutil.rmtree(path.parent)
    assert digest_now(Model("onnx"), version) == version.digest
    looked = Artifacts(copies.folder, 10, keeps=False)
    artifacts.external(path)
    assert resolved(looked, tmp_path, artifact="m/model.onnx", keep=True).models["m"].latest.artifact == str(path)


def test_what_nobody_needs_is_removed_but_not_what_is_young(copies: Artifacts, tmp_path: Path) -> None:
    paths = [
        copies.copy_of(artifacts.constant(tmp_path / f"{n}.onnx", [n, 1]), [tmp_path / f"{n}.onnx"]) for n in (1, 2)
    ]
    now = time.time()
    assert copies.sweep([paths[0]], now) == 0
    assert copies.sweep([paths[0]], now + 4_000) == 1
    assert [path.exists() for path in paths] == [True, False]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file")
    with pytest.raises(ArtifactError, match="no copy can be kept in"):
        Artifacts(tmp_path / "artifacts", 10).copy_of(
            artifacts.constant(tmp_path / "m.onnx", [1, 0]), [tmp_path / "m.onnx"]
        )
