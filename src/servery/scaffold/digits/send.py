"""Send the held-out images to a running Servery, one image a request, and tell it the true labels afterwards.

    python send.py                        # the route `digits` of the Servery on this machine
    python send.py --route always-premium

Nothing but Python's standard library is used: this is all that a caller has to do. Press Ctrl-C to stop early.
"""

import argparse
import csv
import http.client
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE_S = 30.0  # how long one request is repeated while Servery asks to come back later


class Caller:
    """One connection that stays open, and the key that goes with every request."""

    def __init__(self, url, key):
        place = urlsplit(url)
        if place.scheme not in ("http", "https") or not place.hostname:
            raise SystemExit(f"--url {url}: write it like http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
        self.url = url
        self.connection = kind(place.hostname, place.port, timeout=60)
        self.headers = {"content-type": "application/json"}
        if key:
            self.headers["authorization"] = f"Bearer {key}"

    def post(self, path, body):
        """The reply's headers and its JSON. Waits and repeats on 429 and 503, as Retry-After says; else stops."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.connection.request("POST", path, json.dumps(body), self.headers)
                reply = self.connection.getresponse()
                text = reply.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                raise SystemExit(
                    f"no Servery answers at {self.url} ({error or type(error).__name__}): "
                    "start it with `servery up servery.yaml`, or say where it is with --url"
                ) from None
            if reply.status < 300:
                return reply.headers, json.loads(text) if text else {}
            wait_s = seconds(reply.headers.get("retry-after"))
            if reply.status not in (429, 503) or time.monotonic() + wait_s > give_up:
                raise SystemExit(f"POST {path} was answered with {reply.status}: {text.strip()}")
            time.sleep(wait_s)


def seconds(retry_after):
    """The seconds that a Retry-After header asks for; one where it gives none, or a date."""
    try:
        return max(float(retry_after), 0.05)
    except (TypeError, ValueError):
        return 1.0


def progress(items, what):
    """The items one by one, with how far we are on stderr: a live line on a terminal, else a line each tenth."""
    live, shown = sys.stderr.isatty(), 0
    for done, item in enumerate(items, start=1):
        yield item
        percent = 100 * done // len(items)
        if percent != shown and (live or percent // 10 != shown // 10):
            line = f"{what} {done}/{len(items)} ({percent} %)"
            print(f"\r{line}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)
            shown = percent
    if live and items:
        print(file=sys.stderr)


def read_images(path, limit):
    """(true label, 64 pixels) for each line of the file."""
    if not path.exists():
        raise SystemExit(f"{path} is missing: `python train.py` writes it")
    with path.open(newline="") as file:
        lines = csv.reader(file)
        next(lines)  # the header
        return [(label, [float(pixel) for pixel in pixels]) for label, *pixels in lines][:limit]


def arguments():
    parser = argparse.ArgumentParser(description="Send images of digits to Servery, then their true labels.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where Servery listens (%(default)s)")
    parser.add_argument("--route", default="digits", help="the route to ask (%(default)s)")
    parser.add_argument("--file", type=Path, default=Path(__file__).resolve().parent / "held-out.csv")
    parser.add_argument("--key", default=os.environ.get("SERVERY_KEY"), help="API key; default: $SERVERY_KEY")
    parser.add_argument("--limit", type=int, help="send only so many images")
    return parser.parse_args()


def main():
    given = arguments()
    images = read_images(given.file, given.limit)
    caller = Caller(given.url, given.key)
    records, tiers, right = [], Counter(), 0
    began = time.monotonic()
    for label, pixels in progress(images, f"{given.route}: images"):
        tensor = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": pixels}
        headers, answer = caller.post(f"/v2/models/{given.route}/infer", {"inputs": [tensor]})
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        right += str(outputs["label"][0]) == label
        tiers[headers["servery-tier"]] += 1
        records.append((headers["servery-record-id"], label))
    took_s = time.monotonic() - began
    for record_id, label in progress(records, f"{given.route}: labels"):
        caller.post("/servery/v1/feedback", {"record_id": record_id, "name": "label", "value": label})
    answered = ", ".join(f"{tier} {count}" for tier, count in tiers.most_common())
    print(f"{given.route}: {len(images)} images in {took_s:.1f} s, {right} right (answered by {answered})")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
