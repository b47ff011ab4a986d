"""What the server adds: client → fusiond → engine against client → engine, with an engine that answers at once."""

import json
import statistics
import subprocess
import tempfile
from pathlib import Path

from fusiond import Failed, Server, executable
from load import Target, calm, canary, children, cpu_seconds, latencies, median_with_interval, percentile, throughput

ROUNDS = 15
REQUESTS = 400
CONNECTIONS = 16
SECONDS = 1.0
PATH = "/v1/chat/completions"
BODY = json.dumps({"model": "fake", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 1}).encode()


def measure():
    """Markdown of the section."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "fake.gguf"
        model.write_bytes(b"GGUF")
        with Engine(model, Path(folder) / "engine.sock") as engine, Server(models_dir=folder) as server:
            load = {"model_path": str(model), "model_id": "fake", "model_type": "lm", "engine": "fake-engine"}
            server.call("POST", "/v1/models/load", {**load, "concurrency": CONNECTIONS, "options": {"tokens": 1}})
            through = Target(PATH, BODY, port=server.port)
            direct = Target(PATH, BODY, unix=engine.socket)
            for target in (through, direct):
                latencies(target, REQUESTS)
            rounds = [one_round(through, direct, server.process.pid) for _ in range(ROUNDS)]
    return section(calm(rounds))


class Engine:
    """The fake engine on its own, as fusiond starts it."""

    def __init__(self, model, socket):
        self.socket = socket
        self.command = [str(executable().parent / "fake-engine"), "serve", "--socket", str(socket), "--model", str(model)]
        self.command += ["--slots", str(CONNECTIONS), "--option", "tokens=1"]

    def __enter__(self):
        # It ends when its standard input does.
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if b'"ready"' not in self.process.stdout.readline():
            raise Failed("the fake engine did not start")
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def one_round(through, direct, pid):
    """A, B, A, B: latency then throughput, each through the server and directly."""
    row = {"canary": canary()}
    row["through"] = latencies(through, REQUESTS)
    row["direct"] = latencies(direct, REQUESTS)
    server_before, engines_before = cpu_seconds(pid), cpu_seconds(*children(pid))
    row["through_rps"] = throughput(through, CONNECTIONS, SECONDS)
    row["server_cpu"] = (cpu_seconds(pid) - server_before) / (row["through_rps"] * SECONDS)
    row["engine_cpu"] = (cpu_seconds(*children(pid)) - engines_before) / (row["through_rps"] * SECONDS)
    row["direct_rps"] = throughput(direct, CONNECTIONS, SECONDS)
    return row


def section(rounds):
    def microseconds(side, share):
        return statistics.median(percentile(row[side], share) for row in rounds) * 1e6

    def added(share):
        return median_with_interval(
            [(percentile(row["through"], share) - percentile(row["direct"], share)) * 1e6 for row in rounds]
        )

    ratio = median_with_interval([percentile(row["through"], 0.5) / percentile(row["direct"], 0.5) for row in rounds])
    rps = median_with_interval([row["through_rps"] / row["direct_rps"] for row in rounds])
    p50, p99 = added(0.5), added(0.99)
    median = statistics.median
    return f"""## Added latency per request

A chat of one token, not streamed to the client, to an engine that answers at once: through fusiond (TCP) against the engine's own
Unix socket. One connection, {REQUESTS} requests a side and round; then {CONNECTIONS} connections for {SECONDS:.0f} s. Median of {len(rounds)} calm rounds
of {ROUNDS} in turn, 95 % bootstrap interval in brackets.

| | through fusiond | engine alone | added, or ratio |
|---|---|---|---|
| p50 | {microseconds("through", 0.5):.0f} µs | {microseconds("direct", 0.5):.0f} µs | +{p50[0]:.0f} µs [{p50[1]:.0f}, {p50[2]:.0f}]; × {ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}] |
| p99 | {microseconds("through", 0.99):.0f} µs | {microseconds("direct", 0.99):.0f} µs | +{p99[0]:.0f} µs [{p99[1]:.0f}, {p99[2]:.0f}] |
| requests/s at {CONNECTIONS} connections | {median(row["through_rps"] for row in rounds):,.0f} | {median(row["direct_rps"] for row in rounds):,.0f} | × {rps[0]:.2f} [{rps[1]:.2f}, {rps[2]:.2f}] |
| CPU per request at {CONNECTIONS} connections | {median(row["server_cpu"] for row in rounds) * 1e6:.0f} µs in fusiond, {median(row["engine_cpu"] for row in rounds) * 1e6:.0f} µs in the engine | | |

The load generator is Python on the same processors: requests/s is a lower bound, and the engine-alone column shows its ceiling.
"""
