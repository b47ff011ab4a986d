"""Durable jobs: how soon a submission is on disk, how many a second are, and how many a second go the whole way; against other queues."""

import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import peers
from fusiond import Failed, Server
from load import Target, calm, canary, median_with_interval, open_loop, percentile, throughput

ROUNDS = 15
RATE = 500
SECONDS = 1.0
CONNECTIONS = 64
IN_BULK = 500
BULK_CONNECTIONS = 4
JOBS = 2000
WAIT_SECONDS = 300
HERE = Path(__file__).resolve().parent
INPUT = {"messages": [{"role": "user", "content": "Say something."}]}
CONFIGURATION = """[jobs]
parallel = 64
[[model]]
id = "echo"
path = "echo"
type = "lm"
engine = "fake-engine"
concurrency = 64
options = { tokens = "1" }
"""


def measure():
    """Markdown of the section."""
    others = {"bullmq": peers.bullmq(), "celery": peers.celery()}
    if not shutil.which("redis-server"):
        print("  BullMQ and Celery are left out: redis-server is not there", flush=True)
        others = {"bullmq": None, "celery": None}
    rounds = [one_round(others) for _ in range(ROUNDS)]
    return section(calm(rounds))


def one_round(others):
    row = {"canary": canary()}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        row["fdatasync"] = fdatasyncs(folder / "synced")
        row["sqlite"] = sqlite_commits(folder / "one.sqlite")
        (folder / "models").mkdir()
        (folder / "models/echo").write_text("not a real model")
        with Server({"FUSIOND_LOG_LEVEL": "error"}, folder / "models", CONFIGURATION) as server:
            row |= fusiond_submits(server)
        with Server({"FUSIOND_LOG_LEVEL": "error"}, folder / "models", CONFIGURATION) as server:
            row["fusiond_work"] = fusiond_work(server)
        if others["bullmq"]:
            with redis(folder / "bullmq") as port:
                row["bullmq_submit"] = bullmq(others["bullmq"], port, "submit", SECONDS)
            with redis(folder / "bullmq-bulk") as port:
                row["bullmq_bulk"] = bullmq(others["bullmq"], port, "bulk", SECONDS)
            with redis(folder / "bullmq-work") as port:
                row["bullmq_work"] = bullmq(others["bullmq"], port, "work", JOBS)
        if others["celery"]:
            with redis(folder / "celery") as port:
                row["celery_work"] = celery(others["celery"], port)
    return row


def fdatasyncs(path):
    """A second, of 4 kB appended: what the disk can do for one who waits for each."""
    count, started = 0, time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        while time.perf_counter() - started < SECONDS / 2:
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            count += 1
    return count / (time.perf_counter() - started)


def sqlite_commits(path):
    """A second, of one row each, in a log that is synced at each."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, body TEXT)")
    body = json.dumps(INPUT)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS / 2:
        connection.execute("INSERT INTO jobs (body) VALUES (?)", (body,))
        count += 1
    rate = count / (time.perf_counter() - started)
    connection.close()
    return rate


def fusiond_submits(server):
    """Jobs for a later day, so that nothing runs meanwhile."""
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 100 * 86_400))
    job = {"operation": "chat", "model_id": "echo", "input": INPUT, "run_at": later}
    one = Target("/api/mcp/jobs", json.dumps(job).encode(), port=server.port)
    bulk = Target("/api/mcp/jobs/bulk", json.dumps([job] * IN_BULK).encode(), port=server.port)
    open_loop(one, CONNECTIONS, RATE, SECONDS / 4)
    return {
        "latencies": open_loop(one, CONNECTIONS, RATE, 2 * SECONDS),
        "submit": throughput(one, CONNECTIONS, SECONDS),
        "bulk": IN_BULK * throughput(bulk, BULK_CONNECTIONS, SECONDS),
    }


def fusiond_work(server):
    """Jobs a second from the first submission until all are completed; each waits for an engine that answers at once."""
    server.call("POST", "/v1/chat/completions", {"model": "echo"} | INPUT)
    job = {"operation": "chat", "model_id": "echo", "input": INPUT}
    started = time.perf_counter()
    for _ in range(JOBS // IN_BULK):
        server.call("POST", "/api/mcp/jobs/bulk", {"jobs": [job] * IN_BULK, "group": "bench"})
    while (group := server.call("GET", "/api/mcp/groups/bench"))["counts"]["completed"] < JOBS:
        if group["counts"]["failed"] or time.perf_counter() - started > WAIT_SECONDS:
            raise Failed(f"the jobs did not complete: {group}")
        time.sleep(0.02)
    return JOBS / (time.perf_counter() - started)


@contextmanager
def redis(folder):
    """A Redis that syncs each write before it answers, on a free port."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait()


def wait_for(port):
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise Failed("redis-server did not start") from None
            time.sleep(0.02)


def bullmq(place, port, what, amount):
    environment = os.environ | {"BULLMQ_FOLDER": str(place)}
    return told(["node", str(HERE / "bullmq_peer.mjs"), str(port), what, str(amount)], environment)


def celery(python, port):
    environment = os.environ | {"REDIS_URL": f"redis://127.0.0.1:{port}/0", "PYTHONDONTWRITEBYTECODE": "1"}
    worker = [str(python), "-m", "celery", "-A", "celery_peer", "worker", "--loglevel", "ERROR", "--without-gossip", "--without-mingle"]
    process = subprocess.Popen(worker, cwd=HERE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return told([str(python), str(HERE / "celery_peer.py"), str(JOBS)], environment)
    finally:
        process.terminate()
        process.wait()


def told(command, environment):
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    if answer.returncode:
        raise Failed(f"{command[0]} failed: {answer.stderr[-400:]}")
    return float(answer.stdout)


def section(rounds):
    def rate(name):
        values = [row[name] for row in rounds if name in row]
        return f"{statistics.median(values):,.0f}" if values else "–"

    def ratio(name, other):
        pairs = [row[name] / row[other] for row in rounds if other in row]
        return "× {:.2f} [{:.2f}, {:.2f}]".format(*median_with_interval(pairs)) if pairs else "–"

    def milliseconds(share):
        return statistics.median(percentile(row["latencies"], share) for row in rounds) * 1e3

    return f"""## Durable jobs

Submissions that answer once they are synced, on one disk. Latency: {RATE} a second on time, whatever the server does (open loop).
Capacity: {CONNECTIONS} connections with one job a request, and {BULK_CONNECTIONS} with {IN_BULK}. Whole way: {JOBS:,} jobs handed in {IN_BULK} at a time,
each answered by an engine at once; for BullMQ and Celery a task that does nothing. Redis syncs each write (`appendfsync always`).
Median of {len(rounds)} calm rounds of {ROUNDS}, 95 % bootstrap interval of the per-round ratio.

| submit | |
|---|---|
| p50, p99 at {RATE}/s | {milliseconds(0.5):.2f} ms, {milliseconds(0.99):.2f} ms |

| jobs a second | fusiond | the other | ratio |
|---|---|---|---|
| submit, one a request; SQLite one by one | {rate("submit")} | {rate("sqlite")} | {ratio("submit", "sqlite")} |
| submit in bulk; SQLite one by one | {rate("bulk")} | {rate("sqlite")} | {ratio("bulk", "sqlite")} |
| submit, one a request; BullMQ one by one | {rate("submit")} | {rate("bullmq_submit")} | {ratio("submit", "bullmq_submit")} |
| submit in bulk; BullMQ one by one | {rate("bulk")} | {rate("bullmq_submit")} | {ratio("bulk", "bullmq_submit")} |
| submit in bulk; BullMQ in bulk | {rate("bulk")} | {rate("bullmq_bulk")} | {ratio("bulk", "bullmq_bulk")} |
| whole way; BullMQ | {rate("fusiond_work")} | {rate("bullmq_work")} | {ratio("fusiond_work", "bullmq_work")} |
| whole way; Celery | {rate("fusiond_work")} | {rate("celery_work")} | {ratio("fusiond_work", "celery_work")} |

A bare fdatasync of 4 kB: {rate("fdatasync")} a second. The load generator is Python on the same processors: fusiond's capacities are lower bounds.
"""
