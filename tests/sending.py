"""Asks a server again and again until stdin ends: prints "status record sent ended" for each call, times in steady ns.

python sending.py PORT MODEL BODY CONNECTIONS
"""

from __future__ import annotations

import http.client
import os
import sys
import threading
import time

PAUSE_S = 0.002


def ask_on(port: int, path: str, body: bytes, stop: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while not stop.wait(PAUSE_S):
        sent = time.perf_counter_ns()
        try:
            connection.request("POST", path, body)
            reply = connection.getresponse()
            reply.read()
            status, record = reply.status, reply.headers.get("servery-record-id", "-")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            status, record = 0, type(error).__name__
            stop.wait(0.02)
        os.write(1, f"{status} {record} {sent} {time.perf_counter_ns()}\n".encode())
    connection.close()


def main() -> None:
    port, called, body, connections = sys.argv[1:5]
    stop = threading.Event()
    path = f"/v2/models/{called}/infer"
    threads = [
        threading.Thread(target=ask_on, args=(int(port), path, body.encode(), stop)) for _ in range(int(connections))
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
