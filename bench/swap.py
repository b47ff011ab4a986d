"""How soon a model that isn't loaded answers: from nothing loaded, and in place of another, beside llama-server's router mode."""

import http.client
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import peers
from fusiond import Failed, Server
from load import calm, canary, children, median_with_interval
from models import models_folder

ROUNDS = 15
SMALL = "SmolLM2-135M-Instruct-Q4_1.gguf"
LARGE = "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf"
CONTEXT = 4096
SLOTS = 4
THREADS = 1


def measure():
    """Markdown of the section."""
    files = [models_folder() / name for name in (SMALL, LARGE)]
    if not all(file.is_file() for file in files):
        return f"## Loads and swaps\n\nSkipped: {SMALL} and {LARGE} are not both there (`make models QWEN=1`).\n"
    program = peers.llama_server()
    with tempfile.TemporaryDirectory(prefix="fusiond-swap-") as folder:
        for name, file in zip("ab", files):
            # Links: the router takes every model in its folder.
            (Path(folder) / f"{name}.gguf").symlink_to(file)
        with Ours(folder) as ours:
            if not program:
                return section([one_round({"fusiond": ours}, index) for index in range(ROUNDS)], None)
            with Router(program, folder) as router:
                servers = {"fusiond": ours, "router": router}
                return section([one_round(servers, index) for index in range(ROUNDS)], router.version)


class Ours(Server):
    """fusiond with room for one model."""

    def __init__(self, folder):
        super().__init__(environment={"MAX_MODELS": "1"}, models_dir=folder, configuration=f"[models]\nthreads = {THREADS}\n")

    def __enter__(self):
        super().__enter__()
        for name in "ab":
            body = {"model_path": f"{name}.gguf", "model_id": name, "model_type": "lm", "concurrency": SLOTS}
            self.call("POST", "/v1/models/load", {**body, "context_length": CONTEXT})
            self.unload(name)
        return self

    def unload(self, name):
        self.call("DELETE", f"/v1/models/{name}/unload")

    def pid(self):
        return self.process.pid


class Router:
    """llama-server in router mode, with the same slots, context and threads, and room for one model."""

    def __init__(self, program, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        self.version = next((line for line in (told.stdout + told.stderr).splitlines() if line.startswith("version")), "")
        self.command = [program, "--models-dir", str(folder), "--models-max", "1", "--host", "127.0.0.1", "--port", str(self.port)]
        self.command += ["--device", "none", "--threads", str(THREADS), "--threads-batch", str(THREADS)]
        # Its own defaults beyond that, but for what BENCH_ROUTER_FLAGS adds, such as --no-warmup.
        self.command += ["--parallel", str(SLOTS), "--ctx-size", str(CONTEXT), *os.environ.get("BENCH_ROUTER_FLAGS", "").split()]

    def __enter__(self):
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self.command, **quiet)
        deadline = time.monotonic() + 60
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise Failed("llama-server's router did not start")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def is_ready(self):
        try:
            return self.ask("GET", "/health")[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            connection.close()

    def unload(self, name):
        self.ask("POST", "/models/unload", {"model": name})
        deadline = time.monotonic() + 30
        while self.status(name) != "unloaded":
            if time.monotonic() > deadline:
                raise Failed("the router does not unload")
            time.sleep(0.01)

    def status(self, name):
        rows = self.ask("GET", "/models")[1]["data"]
        return next(row["status"]["value"] for row in rows if row["id"] == name)

    def pid(self):
        return self.process.pid


def one_round(servers, index):
    """Each server in turn, in the other order in every second round: both models from nothing, then each in place of the other."""
    row = {"canary": canary()}
    for name in sorted(servers, reverse=index % 2 == 1):
        server = servers[name]
        for kind, model in (("load", "a"), ("swap", "b"), ("swap", "a")):
            row[name, kind, model] = first_token(server, model)
        server.unload("a")
        row[name, "load", "b"] = first_token(server, "b")
        server.unload("b")
    return row


def first_token(server, model):
    """Wall and CPU seconds from the request to its first piece of text, loading included."""
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0}
    before = family_cpu(server.pid())
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    started, wall = time.perf_counter(), None
    connection.request("POST", "/v1/chat/completions", json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if wall is None and line.startswith(b"data: {"):
            choices = json.loads(line[6:]).get("choices") or [{}]
            if (choices[0].get("delta") or {}).get("content"):
                wall = time.perf_counter() - started
                cpu = family_cpu(server.pid()) - before
    connection.close()
    if wall is None:
        raise Failed("an answer without a token")
    return wall, cpu


def family_cpu(pid):
    """CPU seconds of a process, of the children it has, and of those that ended."""
    ticks = 0
    for process in (pid, *children(pid)):
        try:
            with open(f"/proc/{process}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
        except FileNotFoundError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / 100


def section(rows, version):
    rounds = calm(rows)
    lines = [
        "## Loads and swaps, until the first token",
        "",
        "From a streamed chat's request to its first piece of text: with nothing loaded, and with the other model loaded where there is",
        f"room for one. {THREADS} thread, {SLOTS} slots, a context of {CONTEXT} tokens; files in the page cache. Seconds on the wall, and in",
        f"brackets CPU-seconds of the server and all its processes. Median of {len(rounds)} calm rounds of {len(rows)}, in turns; 95 % bootstrap",
        "interval of the per-round ratio of the wall time.",
        "",
        "| | fusiond | llama-server's router | ratio | ratio of CPU |",
        "|---|---|---|---|---|",
    ]
    names = {"a": "SmolLM2-135M Q4_1", "b": "Qwen2.5-Coder-1.5B Q4_K_M"}
    for kind in ("load", "swap"):
        for model in "ab":
            lines.append(f"| {kind}, {names[model]} | {table_row(rounds, kind, model, version)} |")
    if version:
        flags = os.environ.get("BENCH_ROUTER_FLAGS")
        lines += ["", f"llama-server: {version}{f', with {flags}' if flags else ''}"]
    return "\n".join(lines) + "\n"


def table_row(rounds, kind, model, version):
    def shown(name):
        wall, cpu = (statistics.median(row[name, kind, model][part] for row in rounds) for part in (0, 1))
        return f"{wall:.3f} ({cpu:.2f})"

    if version is None:
        return f"{shown('fusiond')} | skipped: no llama-server that runs here | – | –"
    ratios = []
    for part in (0, 1):
        pairs = [(row["fusiond", kind, model][part], row["router", kind, model][part]) for row in rounds]
        middle, low, high = median_with_interval([ours / theirs for ours, theirs in pairs if theirs])
        ratios.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
    return f"{shown('fusiond')} | {shown('router')} | {ratios[0]} | {ratios[1]}"
