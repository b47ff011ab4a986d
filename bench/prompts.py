"""Reading prompts, end to end over HTTP: tokens per CPU-second of new ones, and how soon an answer begins after a known prefix."""

import http.client
import json
import statistics
import time

import peers
from fusiond import Failed, Server
from llama import MODEL, LlamaServer
from load import calm, canary, children, cpu_seconds, median_with_interval
from models import models_folder

ROUNDS = 15
SENTENCE = "The quick brown fox jumps over the lazy dog near the old harbour of Port Ellis. "
# About 512 tokens.
REPEATS = 26
SLOTS = 8
CONTEXT = 1024


def measure():
    """Markdown of the section."""
    model = models_folder() / MODEL
    if not model.is_file():
        return f"## Prompts\n\nSkipped: {MODEL} is not there (`make models`).\n"
    peer = peers.llama_server()
    with Server(configuration="[models]\nthreads = 1\n") as server:
        load = {"model_path": str(model), "model_id": "m", "model_type": "lm", "context_length": CONTEXT * SLOTS}
        server.call("POST", "/v1/models/load", {**load, "concurrency": SLOTS})
        ours = (server.port, [server.process.pid, *children(server.process.pid)])
        if not peer:
            return section([one_round(index, {"fusiond": ours}) for index in range(ROUNDS)], None)
        with LlamaServer(peer, model, CONTEXT) as other:
            servers = {"fusiond": ours, "llama-server": (other.port, [other.process.pid])}
            return section([one_round(index, servers) for index in range(ROUNDS)], other.version)


def one_round(index, servers):
    """Every server in turn, and in the other order in every second round."""
    row = {"canary": canary()}
    for name in sorted(servers, reverse=index % 2 == 1):
        port, pids = servers[name]
        text = f"Note {index + 1000}. " + SENTENCE * REPEATS
        before = cpu_seconds(*pids)
        cold = ask(port, text + "What is this about?")
        row[name, "prefill"] = cold["read"] / (cpu_seconds(*pids) - before)
        warm = ask(port, text + "Where is the fox?")
        if warm["cached"] * 10 < warm["tokens"] * 9:
            raise Failed(f"{name} reused {warm['cached']} of {warm['tokens']} tokens")
        row[name, "cold"], row[name, "warm"] = cold["first"], warm["first"]
    return row


def ask(port, text):
    """One streamed chat of a single token: seconds until it came, and what was read for it."""
    messages = [{"role": "system", "content": "You answer briefly."}, {"role": "user", "content": text}]
    body = {"model": "m", "messages": messages, "max_tokens": 1, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    started, first, usage = time.perf_counter(), None, None
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        choices = event.get("choices") or [{}]
        if first is None and (choices[0].get("delta") or {}).get("content"):
            first = time.perf_counter() - started
        usage = event.get("usage") or usage
    connection.close()
    if first is None or usage is None:
        raise Failed("an answer without a token")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {"first": first, "cached": cached, "tokens": usage["prompt_tokens"], "read": usage["prompt_tokens"] - cached}


def section(rows, version):
    rounds = calm(rows)
    lines = [
        "## Reading prompts",
        "",
        f"{MODEL}, one thread, streamed chats of one token over HTTP. Prefill: about 512 new tokens, per CPU-second of the server and",
        "its engine together. Warm: seconds until the first token of another question after the same text; cold: without it.",
        f"Median of {len(rounds)} calm rounds of {ROUNDS}, in turns; 95 % bootstrap interval of the per-round ratio.",
        "",
        "| | fusiond | llama-server | ratio |",
        "|---|---|---|---|",
    ]
    for name, kind, digits in (("prefill, tokens per CPU-s", "prefill", 0), ("cold, s", "cold", 3), ("warm, s", "warm", 3)):
        ours = statistics.median(row["fusiond", kind] for row in rounds)
        peer, ratio = "skipped: not on PATH (`LLAMA_SERVER` names one)", "–"
        if version is not None:
            peer = f"{statistics.median(row['llama-server', kind] for row in rounds):.{digits}f}"
            middle, low, high = median_with_interval([row["fusiond", kind] / row["llama-server", kind] for row in rounds])
            ratio = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(f"| {name} | {ours:.{digits}f} | {peer} | {ratio} |")
    share = statistics.median(row["fusiond", "warm"] / row["fusiond", "cold"] for row in rounds)
    lines += ["", f"Warm is {share:.3f} of cold for fusiond."]
    if version:
        lines += ["", f"llama-server: {version}"]
    return "\n".join(lines) + "\n"
