"""What a long prompt does to a stream that is running: the pauses between its tokens, without and with one arriving."""

import http.client
import json
import statistics
import threading
import time

from fusiond import Failed, Server
from load import calm, canary, median_with_interval, percentile
from models import models_folder

MODEL = "SmolLM2-135M-Instruct-Q4_1.gguf"
ROUNDS = 5
TOKENS = 400
SENTENCE = "The quick brown fox jumps over the lazy dog near the old harbour of Port Ellis. "
# About 4,000 tokens.
REPEATS = 210


def measure():
    """Markdown of the section."""
    model = models_folder() / MODEL
    if not model.is_file():
        return f"## Pauses\n\nSkipped: {MODEL} is not there (`make models`).\n"
    with Server(configuration="[models]\nthreads = 1\n") as server:
        load = {"model_path": str(model), "model_id": "m", "model_type": "lm", "context_length": 8192}
        server.call("POST", "/v1/models/load", {**load, "concurrency": 4})
        return section([one_round(server.port, index) for index in range(ROUNDS)])


def one_round(port, index):
    row = {"canary": canary()}
    row["alone"] = percentile(pauses(port, index, None), 0.99)
    prompt = f"Note {index + 1000}. " + SENTENCE * REPEATS + "What is this about?"
    row["beside"] = percentile(pauses(port, index, prompt), 0.99)
    return row


def pauses(port, index, prompt):
    """Seconds between the events of one stream; with a prompt, only those while it was being read."""
    times, reading = [], {}
    stream = chat(port, f"Tell me a very long story about the number {index + 10}.", TOKENS)
    other = threading.Thread(target=read_prompt, args=(port, prompt, reading))
    for _ in stream:
        times.append(time.perf_counter())
        if prompt and len(times) == 20:
            other.start()
    if prompt:
        other.join()
        times = [at for at in times if reading["began"] <= at <= reading["ended"]]
    if len(times) < 20:
        raise Failed(f"only {len(times)} tokens of the stream came meanwhile")
    return [later - earlier for earlier, later in zip(times, times[1:])]


def read_prompt(port, prompt, reading):
    reading["began"] = time.perf_counter()
    for _ in chat(port, prompt, 1):
        reading.setdefault("ended", time.perf_counter())
    reading.setdefault("ended", time.perf_counter())


def chat(port, text, max_tokens):
    """The pieces of text of a streamed chat, as they come."""
    messages = [{"role": "user", "content": text}]
    body = {"model": "m", "messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise Failed(f"a chat was answered with {response.status}: {response.read().decode()}")
    for line in response:
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:]).get("choices") or [{}]
            if content := (choices[0].get("delta") or {}).get("content"):
                yield content
    connection.close()


def section(rows):
    rounds = calm(rows)
    alone, beside = (statistics.median(row[kind] for row in rounds) * 1000 for kind in ("alone", "beside"))
    middle, low, high = median_with_interval([row["beside"] / row["alone"] for row in rounds])
    return f"""## Pauses of a stream while a long prompt is read

{MODEL}, one thread; p99 of the time between two pieces of text, on the wall. Median of {len(rounds)} calm rounds of {ROUNDS}.

| alone, ms | beside a prompt of about 4,000 tokens, ms | ratio |
|---|---|---|
| {alone:.0f} | {beside:.0f} | {middle:.1f} [{low:.1f}, {high:.1f}] |
"""
