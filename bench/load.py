"""Load over raw sockets or by `wrk`, and the statistics of repeated rounds. Standard library only.

The generator over raw sockets is Python: one request costs it some 12 µs of CPU, which both sides of a comparison pay alike. At 16
connections it shares the machine with the server, so requests/s is a lower bound of what the server can do. `wrk` takes 10 µs.
"""

import random
import re
import selectors
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from fusiond import Failed

CANARY_LIMIT = 1.3


class Target:
    """Where requests go: a TCP port of this machine or a Unix socket."""

    def __init__(self, path, body, port=None, unix=None):
        self.address, self.family = (str(unix), socket.AF_UNIX) if unix else (("127.0.0.1", port), socket.AF_INET)
        self.path, self.body = path, body
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port or 80}\r\nContent-Type: application/json\r\n"
        self.request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def connect(self):
        connection = socket.socket(self.family, socket.SOCK_STREAM)
        connection.connect(self.address)
        if self.family == socket.AF_INET:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def missing_bytes(received):
    """How much of an answer with a length is still to come; anything but 200 and 202 is an error."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return 1
    head = bytes(received[:end]).lower()
    if not head.startswith((b"http/1.1 200", b"http/1.1 202")):
        raise OSError(f"answered with: {bytes(received[:400]).decode(errors='replace')}")
    length = head.find(b"content-length:")
    if length < 0:
        raise OSError("an answer without a length")
    return end + 4 + int(head[length + 15 :].split(b"\r\n", 1)[0]) - len(received)


def latencies(target, count):
    """Seconds of each of `count` requests, one after the other on one connection."""
    seconds = []
    with target.connect() as connection:
        for _ in range(count):
            started = time.perf_counter()
            connection.sendall(target.request)
            received = bytearray()
            while missing_bytes(received) > 0:
                received += read(connection)
            seconds.append(time.perf_counter() - started)
    return seconds


def throughput(target, connections, seconds):
    """Requests per second with `connections` open, each sending its next request when it has its answer."""
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        connection = target.connect()
        selector.register(connection, selectors.EVENT_READ, bytearray())
        connection.sendall(target.request)
    answered, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for key, _ in selector.select(1):
            key.data.extend(read(key.fileobj))
            if missing_bytes(key.data) <= 0:
                answered += 1
                key.data.clear()
                key.fileobj.sendall(target.request)
    rate = answered / (time.perf_counter() - started)
    for key in list(selector.get_map().values()):
        key.fileobj.close()
    selector.close()
    return rate


def capacity(target, connections, seconds):
    """As `throughput`, by one thread of `wrk`, to a TCP port."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{target.body.decode()}]==]\n')
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name]
        command.append("http://{}:{}{}".format(*target.address, target.path))
        told = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60).stdout
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", told)
    if not rate or "Non-2xx" in told or "Socket errors" in told:
        raise Failed(f"wrk says: {told}")
    return float(rate[1])


def open_loop(target, connections, rate, seconds):
    """Seconds from when each request was due to its answer, at a fixed rate: a server that stalls is charged for all that had to wait."""
    selector = selectors.DefaultSelector()
    free = [target.connect() for _ in range(connections)]
    waiting, took, due = [], [], 0
    started = time.perf_counter()
    total = int(rate * seconds)
    while len(took) < total:
        now = time.perf_counter() - started
        while due < total and due / rate <= now:
            waiting.append(due / rate)
            due += 1
        while waiting and free:
            connection = free.pop()
            selector.register(connection, selectors.EVENT_READ, (bytearray(), waiting.pop(0)))
            connection.sendall(target.request)
        pause = max(0, due / rate - now) if due < total else 1
        for key, _ in selector.select(pause):
            received, at = key.data
            received.extend(read(key.fileobj))
            if missing_bytes(received) <= 0:
                took.append(time.perf_counter() - started - at)
                selector.unregister(key.fileobj)
                free.append(key.fileobj)
    for connection in free:
        connection.close()
    selector.close()
    return took


def read(connection):
    received = connection.recv(65536)
    if not received:
        raise OSError("the connection was closed in the middle of an answer")
    return received


def canary():
    """Seconds of a fixed piece of work: long when somebody else has the processor."""
    started = time.perf_counter()
    total = 0
    for number in range(300_000):
        total += number
    return time.perf_counter() - started


def calm(rounds):
    """The rounds whose canary ran at most 1.3 times as long as the quickest."""
    best = min(row["canary"] for row in rounds)
    return [row for row in rounds if row["canary"] <= CANARY_LIMIT * best]


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def median_with_interval(values):
    """The median and its 95 % bootstrap interval."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[50], medians[1949]


def cpu_seconds(*pids):
    """Processor time that the processes have used so far, theirs and the system's for them (Linux)."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / 100


def children(pid):
    """Process ids of a process's children (Linux)."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except FileNotFoundError:
            continue  # A thread that has just ended.
    return found
