"""Ask a running Servery the questions of answers.csv, eight at once, and tell it afterwards which answers were right.

    python send.py                        # the route `assistant` of the Servery on this machine, as the tenant acme
    python send.py --route always-premium
    python send.py --key try-me-slowly    # as the tenant trial, whose budget is soon spent

Nothing but Python's standard library is used: this is all that a caller has to do. The clients of OpenAI and of Anthropic
work too (README.md). Press Ctrl-C to stop early.
"""

import argparse
import csv
import http.client
import json
import os
import re
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

AT_ONCE = 8
PATIENCE_S = 30.0  # how long one request is repeated while Servery asks to come back later
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Caller:
    """A connection for each thread, which stays open, and the key that goes with every request."""

    def __init__(self, url, key):
        place = urlsplit(url)
        if place.scheme not in ("http", "https") or not place.hostname:
            raise SystemExit(f"--url {url}: write it like http://127.0.0.1:8000")
        self.kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
        self.place = (place.hostname, place.port)
        self.url = url
        self.of_thread = threading.local()
        self.headers = {"content-type": "application/json"}
        if key:
            self.headers["authorization"] = f"Bearer {key}"

    def connection(self):
        if not hasattr(self.of_thread, "connection"):
            self.of_thread.connection = self.kind(*self.place, timeout=60)
        return self.of_thread.connection

    def post(self, path, body):
        """The reply's headers and its JSON. Waits and repeats on 429 and 503, as Retry-After says; else stops."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.connection().request("POST", path, json.dumps(body), self.headers)
                reply = self.connection().getresponse()
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


def progress(items, total, what):
    """The items one by one, with how far we are on stderr: a live line on a terminal, else a line each tenth."""
    live, shown = sys.stderr.isatty(), 0
    for done, item in enumerate(items, start=1):
        yield item
        percent = 100 * done // total
        if percent != shown and (live or percent // 10 != shown // 10):
            line = f"{what} {done}/{total} ({percent} %)"
            print(f"\r{line}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)
            shown = percent
    if live and total:
        print(file=sys.stderr)


def at_once(work, items, what):
    """What `work` gives for each item, in their order; the first failure ends it."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from progress(pool.map(work, items), len(items), what)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def is_right(said, label):
    """Whether the last number of an answer is the one that is true."""
    numbers = NUMBER.findall(said)
    return bool(numbers) and float(numbers[-1]) == float(label)


def read_questions(path, limit):
    """(prompt, what is true) for each line of the file."""
    if not path.exists():
        raise SystemExit(f"{path} is missing: `python arithmetic.py` writes it")
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["prompt"], row["label"]) for row in csv.DictReader(file)][:limit]


def arguments():
    parser = argparse.ArgumentParser(description="Ask Servery questions of arithmetic, and tell it what was right.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where Servery listens (%(default)s)")
    parser.add_argument("--route", default="assistant", help="the route to ask (%(default)s)")
    parser.add_argument("--file", type=Path, default=Path(__file__).absolute().parent / "answers.csv")
    parser.add_argument("--key", default=os.environ.get("SERVERY_KEY", "try-me"), help="API key; default: $SERVERY_KEY")
    parser.add_argument("--limit", type=int, help="send only so many questions")
    return parser.parse_args()


def main():
    given = arguments()
    questions = read_questions(given.file, given.limit)
    caller = Caller(given.url, given.key)

    def ask(question):
        prompt, label = question
        body = {"model": given.route, "messages": [{"role": "user", "content": prompt}]}
        headers, answer = caller.post("/v1/chat/completions", body)
        right = is_right(answer["choices"][0]["message"]["content"], label)
        return headers["servery-record-id"], headers["servery-tier"], right

    def tell(asked):
        record_id, _, right = asked
        caller.post("/servery/v1/feedback", {"record_id": record_id, "name": "correct", "value": right})

    began = time.monotonic()
    asked = list(at_once(ask, questions, f"{given.route}: questions"))
    took_s = time.monotonic() - began
    for _ in at_once(tell, asked, f"{given.route}: feedback"):
        pass
    right = sum(right for _, _, right in asked)
    answered = ", ".join(f"{tier} {count}" for tier, count in Counter(tier for _, tier, _ in asked).most_common())
    print(f"{given.route}: {len(asked)} questions in {took_s:.1f} s, {right} right (answered by {answered})")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
