"""What the server adds, against what a router adds that does far less: vllm-router, on the same engine."""

import os
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from operator import itemgetter
from pathlib import Path

from fusiond import Failed, Server, executable
from load import Target, calm, canary, capacity, children, cpu_seconds, latencies, median_with_interval, percentile
from overhead import BODY, CONNECTIONS, PATH, REQUESTS, ROUNDS

ENGINE_PORT, ROUTER_PORT = 9555, 9556
# As the router is started: neither writes a line for each request.
QUIET = {"LOG_LEVEL": "error"}
START_SECONDS = 60
SECONDS = 2


def measure():
    """Markdown of the section."""
    router = os.environ.get("VLLM_ROUTER") or shutil.which("vllm-router")
    if not router:
        return TITLE + "\nSkipped: no vllm-router on PATH (`VLLM_ROUTER` names one; it comes from PyPI).\n"
    if not shutil.which("wrk"):
        return TITLE + "\nSkipped: no wrk on PATH (Debian's package is named wrk too).\n"
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "fake.gguf"
        model.write_bytes(b"GGUF")
        with Peer(router) as peer, Server(QUIET, models_dir=folder) as server:
            load = {"model_path": str(model), "model_id": "fake", "model_type": "lm", "engine": "fake-engine"}
            server.call("POST", "/v1/models/load", {**load, "concurrency": CONNECTIONS, "options": {"tokens": 1}})
            ports = {"fusiond": server.port, "router": ROUTER_PORT, "engine": ENGINE_PORT}
            targets = {name: Target(PATH, BODY, port=port) for name, port in ports.items()}
            for target in targets.values():
                latencies(target, REQUESTS)
            pid = server.process.pid
            processes = {"fusiond": [pid, *children(pid)], "router": [peer.router.pid, peer.engine.pid], "engine": []}
            rounds = [one_round(targets, processes) for _ in range(ROUNDS)]
    return section(calm(rounds))


class Peer:
    """The fake engine on TCP, and the router before it."""

    def __init__(self, router):
        self.command = router
        self.engine = self.router = None

    def __enter__(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        engine = [executable().parent / "fake-engine", "serve", "--listen", f"127.0.0.1:{ENGINE_PORT}", "--model", "none"]
        engine += ["--slots", str(4 * CONNECTIONS), "--option", "tokens=1"]
        self.engine = subprocess.Popen(engine, stdin=subprocess.PIPE, **quiet)
        router = [self.command, "--host", "127.0.0.1", "--port", str(ROUTER_PORT), "--policy", "round_robin"]
        router += ["--worker-urls", f"http://127.0.0.1:{ENGINE_PORT}", "--log-level", "error"]
        self.router = subprocess.Popen(router, stdin=subprocess.DEVNULL, **quiet)
        self.wait()
        return self

    def wait(self):
        request = urllib.request.Request(f"http://127.0.0.1:{ROUTER_PORT}{PATH}", BODY, {"Content-Type": "application/json"})
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        self.__exit__()
        raise Failed("vllm-router did not answer")

    def __exit__(self, *_):
        for process in (self.router, self.engine):
            process.terminate()
            process.wait()


def one_round(targets, processes):
    """Each in turn: latencies, then capacity, and the processor time that each process took for a request."""
    row = {"canary": canary()}
    for name, target in targets.items():
        row[name] = percentile(latencies(target, REQUESTS), 0.5)
    for name, target in targets.items():
        before = [cpu_seconds(pid) for pid in processes[name]]
        row[f"{name}_rps"] = capacity(target, CONNECTIONS, SECONDS)
        took = [cpu_seconds(pid) - since for pid, since in zip(processes[name], before, strict=True)]
        row[f"{name}_cpu"] = [seconds / (row[f"{name}_rps"] * SECONDS) for seconds in took]
    return row


TITLE = "## Added latency against vllm-router\n"


def section(rounds):
    def middle(name, scale):
        return statistics.median(row[name] for row in rounds) * scale

    added = median_with_interval([(row["fusiond"] - row["engine"]) / (row["router"] - row["engine"]) for row in rounds])
    rps = median_with_interval([row["fusiond_rps"] / row["router_rps"] for row in rounds])
    own = median_with_interval([row["router_cpu"][0] / row["fusiond_cpu"][0] for row in rounds])
    whole = median_with_interval([sum(row["router_cpu"]) / sum(row["fusiond_cpu"]) for row in rounds])

    def cpu(name, share):
        return statistics.median(share(row[f"{name}_cpu"]) for row in rounds) * 1e6

    return f"""{TITLE}
The same chat, through each on TCP, to the same kind of engine; both log errors only. Added means beyond the engine alone on TCP.
{len(rounds)} calm rounds of {ROUNDS} in turn.

| | fusiond | vllm-router | engine alone | fusiond / vllm-router |
|---|---|---|---|---|
| p50 | {middle("fusiond", 1e6):.0f} µs | {middle("router", 1e6):.0f} µs | {middle("engine", 1e6):.0f} µs | added × {added[0]:.2f} [{added[1]:.2f}, {added[2]:.2f}] |
| requests/s at {CONNECTIONS} connections | {middle("fusiond_rps", 1):,.0f} | {middle("router_rps", 1):,.0f} | {middle("engine_rps", 1):,.0f} | × {rps[0]:.2f} [{rps[1]:.2f}, {rps[2]:.2f}] |
| CPU per request there, server alone | {cpu("fusiond", itemgetter(0)):.0f} µs | {cpu("router", itemgetter(0)):.0f} µs | | requests per CPU-second × {own[0]:.2f} [{own[1]:.2f}, {own[2]:.2f}] |
| CPU per request there, with its engine | {cpu("fusiond", sum):.0f} µs | {cpu("router", sum):.0f} µs | | requests per CPU-second × {whole[0]:.2f} [{whole[1]:.2f}, {whole[2]:.2f}] |

The load is that of all processors then, a part of it the load generator's (`wrk`, one thread), which both sides pay alike and which brings the ratio of
requests/s closer to one. The figure to go by is that of requests per CPU-second.
"""
