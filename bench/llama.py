"""Decoding on one thread, end to end over HTTP: tokens per CPU-second with 1 and 8 streams, beside llama-server where there is one."""

import http.client
import json
import socket
import statistics
import subprocess
import threading
import time

import peers
from fusiond import Failed, Server
from load import calm, canary, children, cpu_seconds, median_with_interval
from models import models_folder

ROUNDS = 15
TOKENS = 128
STREAMS = (1, 8)
MODEL = "SmolLM2-135M-Instruct-Q4_1.gguf"
CONTEXT = 512


def measure():
    """Markdown of the section."""
    model = models_folder() / MODEL
    if not model.is_file():
        return f"## Decoding\n\nSkipped: {MODEL} is not there (`make models`).\n"
    peer = peers.llama_server()
    with Server(configuration="[models]\nthreads = 1\n") as server:
        load = {"model_path": str(model), "model_id": "m", "model_type": "lm", "context_length": CONTEXT * max(STREAMS)}
        server.call("POST", "/v1/models/load", {**load, "concurrency": max(STREAMS)})
        ours = (server.port, [server.process.pid, *children(server.process.pid)])
        if not peer:
            rounds = [one_round({"fusiond": ours}) for _ in range(ROUNDS)]
            return section(calm(rounds), None)
        with LlamaServer(peer, model) as other:
            rounds = [one_round({"fusiond": ours, "llama-server": (other.port, [other.process.pid])}) for _ in range(ROUNDS)]
            return section(calm(rounds), other.version)


class LlamaServer:
    """The peer, with the same slots, context and threads."""

    def __init__(self, path, model, context=CONTEXT):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        self.version = next((line for line in (told.stdout + told.stderr).splitlines() if line.startswith("version")), "")
        slots = max(STREAMS)
        self.command = [path, "--model", str(model), "--host", "127.0.0.1", "--port", str(self.port), "--device", "none"]
        self.command += ["--threads", "1", "--threads-batch", "1", "--parallel", str(slots), "--ctx-size", str(context * slots)]

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise Failed("llama-server did not start")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def is_ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def one_round(servers):
    row = {"canary": canary()}
    for streams in STREAMS:
        for name, (port, pids) in servers.items():
            row[name, streams] = tokens_per_cpu_second(port, pids, streams)
    return row


def tokens_per_cpu_second(port, pids, streams):
    counts = [0] * streams
    threads = [threading.Thread(target=generate, args=(port, index, counts)) for index in range(streams)]
    before = cpu_seconds(*pids)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not all(counts):
        raise Failed("a stream ended without tokens")
    return sum(counts) / (cpu_seconds(*pids) - before)


def generate(port, index, counts):
    """One streamed chat; prompts differ, so that no answer is another's prefix."""
    messages = [{"role": "user", "content": f"Tell me a long story about the number {index + 10}."}]
    body = {"model": "m", "messages": messages, "max_tokens": TOKENS, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if line.startswith(b"data: {") and (usage := json.loads(line[6:]).get("usage")):
            counts[index] = usage["completion_tokens"]
    connection.close()


def section(rounds, version):
    lines = [
        "## Decoding, tokens per CPU-second",
        "",
        f"{MODEL}, one thread, streamed chats of up to {TOKENS} tokens over HTTP, prompt processing included.",
        "CPU-seconds of the server and its engine together; the client's are not counted.",
        f"Median of {len(rounds)} calm rounds of {ROUNDS}, 95 % bootstrap interval of the per-round ratio.",
        "",
        "| streams | fusiond | llama-server | ratio |",
        "|---|---|---|---|",
    ]
    for streams in STREAMS:
        ours = statistics.median(row["fusiond", streams] for row in rounds)
        peer, ratio = "skipped: not on PATH (`LLAMA_SERVER` names one)", "–"
        if version is not None:
            peer = f"{statistics.median(row['llama-server', streams] for row in rounds):.0f}"
            middle, low, high = median_with_interval([row["fusiond", streams] / row["llama-server", streams] for row in rounds])
            ratio = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(f"| {streams} | {ours:.0f} | {peer} | {ratio} |")
    if version:
        lines += ["", f"llama-server: {version}"]
    return "\n".join(lines) + "\n"
