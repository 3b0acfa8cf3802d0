"""The file that workers count in together: those who start at once all make it, and none is told that it is locked."""

from __future__ import annotations

import threading
from pathlib import Path

from servery.quota.shared_file import SharedFile

TABLE = "CREATE TABLE IF NOT EXISTS a (x INTEGER)"


def test_whoever_opens_it_first_keeps_out_nobody(tmp_path: Path) -> None:
    failed: list[str] = []
    for number in range(50):
        path, barrier = tmp_path / f"{number}.db", threading.Barrier(4)
        files = [SharedFile(path, (TABLE,), what="it", busy_ms=5_000, synchronous="OFF") for _ in range(4)]

        def add(file: SharedFile, together: threading.Barrier = barrier) -> None:
            together.wait()
            try:
                with file.change() as connection:
                    connection.execute("INSERT INTO a VALUES (1)")
            except OSError as error:
                failed.append(str(error))

        threads = [threading.Thread(target=add, args=(file,)) for file in files]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with files[0].change() as connection:
            assert connection.execute("SELECT count(*) FROM a").fetchone() == (4 - len(failed),)
        for file in files:
            file.close()
    assert failed == []
