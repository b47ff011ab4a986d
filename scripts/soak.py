#!/usr/bin/env python3
"""An hour's mixed load in minutes, on real models and fake ones, with engines that crash and hang; then whether anything leaked.

Workers ask for everything at once: chats (whole, streamed, broken off), embeddings, rerankings, loads, unloads, swaps, questions over
documents, jobs. A saboteur kills and stops engines. Every answer must be a success or an error that the contract has for such days.
Then it must be quiet: no request stuck, all slots free, no process, file or memory too many, the ledger true.

  FUSIOND_BIN    the executable; its engines, the fake one included, lie beside it
"""

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

from fusiond import Failed, Server, executable, quoted  # noqa: E402
from models import models_folder  # noqa: E402

CHAT = "SmolLM2-135M-Instruct-Q4_1"
EMBED = "all-MiniLM-L6-v2"
# Answers in 8 tokens; answers in 60 slow ones; aborts in every answer.
FAKES = {
    "quick": {"resident_mb": "80", "estimate_mb": "80"},
    "slow": {"resident_mb": "120", "estimate_mb": "120", "tokens": "60", "delay_ms": "15"},
    "crashes": {"resident_mb": "20", "estimate_mb": "20", "tokens": "10", "crash_after": "4"},
}
# Not everything fits at once.
BUDGET_GB = "0.62"
HANG_SECONDS = 4
# What may be answered on such a day, beside success.
EXPECTED = {
    "model_in_use", "model_not_found", "queue_full", "engine_crashed", "engine_unavailable", "insufficient_vram", "timeout", "job_finished",
}
STUCK_SECONDS = 90
# Jobs, which take about 1.3 kB each.
FILLING = 20_000
DOCUMENT = "The harbour of Port Ellis was built in 1871. Its lighthouse keeper, Ada Finch, wrote down every ship. "


def main():
    options = arguments()
    if sys.platform != "linux":
        print("SKIPPED: the soak reads /proc, so it runs on Linux only")
        return
    real = [models_folder() / f"{CHAT}.gguf", models_folder() / EMBED]
    if not all(path.exists() for path in real):
        print("SKIPPED: the models have not been fetched; run `make models`")
        return
    print(f"soaking for {options.seconds} s with {options.workers} workers, seed {options.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="fusiond-soak-"))
    try:
        for path in real:
            (folder / path.name).symlink_to(path)
        for name in FAKES:
            (folder / name).write_text("not a real model")
        with Server({"MAX_VRAM_GB": BUDGET_GB}, folder, configuration()) as server:
            Soak(server, options).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--growth", type=float, default=5.0, help="percent by which the server's memory may grow (default: 5)")
    return parser.parse_args()


def configuration():
    lines = [
        "[models]", f"hang_timeout_seconds = {HANG_SECONDS}", "queue_timeout_seconds = 30", "max_queue_size = 40", "concurrency = 3",
    ]
    for name, options in FAKES.items():
        told = ", ".join(f'{key} = "{value}"' for key, value in options.items())
        lines += ["[[model]]", f'id = "{name}"', f'path = "{name}"', 'type = "lm"', 'engine = "fake-engine"', f"options = {{ {told} }}"]
    return "\n".join(lines) + "\n"


class Soak:
    def __init__(self, server, options):
        self.server, self.options = server, options
        self.ended = threading.Event()
        self.outcomes, self.wrong = Counter(), []
        self.jobs = []
        self.lock = threading.Lock()
        self.samples = []
        self.pids = set()

    def run(self):
        self.prepare()
        tasks = [(self.work, (number,)) for number in range(self.options.workers)] + [(self.sabotage, ()), (self.watch, ())]
        threads = [threading.Thread(target=task, args=arguments, daemon=True) for task, arguments in tasks]
        for thread in threads:
            thread.start()
        time.sleep(self.options.seconds)
        self.ended.set()
        deadline = time.monotonic() + STUCK_SECONDS
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))
        problems = [f"{len([thread for thread in threads if thread.is_alive()])} requests are stuck"] if any(
            thread.is_alive() for thread in threads
        ) else []
        problems += self.after()
        self.report()
        if problems or self.wrong:
            kept = Path(tempfile.mkdtemp(prefix="fusiond-soak-failed-")) / "log"
            shutil.copy(self.server.log, kept)
            raise Failed("\n".join([*problems, *self.wrong[:20], f"the server's log: {kept}"]))

    def prepare(self):
        for name in (CHAT, EMBED):
            self.server.call("POST", "/v1/models/load", {"model_path": name, **({"context_length": 1024} if name == CHAT else {})})
        documents = [{"id": f"d{number}", "text": DOCUMENT * (number + 1)} for number in range(5)]
        self.server.call("POST", "/api/rag/ingest", {"collection": "c", "documents": documents, "embedding_model": EMBED})
        self.fill_caches()

    def fill_caches(self):
        """Enough of what is kept that the database's page cache is full: growing to its bound isn't a leak."""
        chat = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 4}
        later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 100 * 86_400))
        job = {"operation": "chat", "model_id": "quick", "input": chat, "run_at": later}
        for _ in range(FILLING // 500):
            self.server.call("POST", "/api/mcp/jobs/bulk", {"group": "filling", "jobs": [job] * 500})
        self.server.call("DELETE", "/api/mcp/jobs?group=filling")

    # --- the load ---

    def work(self, number):
        draw = random.Random(self.options.seed * 1000 + number)
        actions = {
            self.chat: 8, self.stream: 8, self.break_off: 6, self.embed: 8, self.rerank: 4, self.load: 3, self.unload: 3, self.query: 2,
            self.submit: 3, self.ingest: 1, self.look: 2,
        }
        while not self.ended.is_set():
            action = draw.choices(list(actions), list(actions.values()))[0]
            try:
                told = action(draw)
            except (OSError, http.client.HTTPException, ValueError) as error:
                told = f"{type(error).__name__}: {error}"
            with self.lock:
                name = action.__name__
                self.outcomes[name, told] += 1
                if told != "ok" and told not in EXPECTED:
                    self.wrong.append(f"{name}: {told}")

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=STUCK_SECONDS)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        parsed = json.loads(text)
        return (parsed, "ok") if answer.status < 400 else (parsed, parsed["error"]["code"])

    def body(self, draw, stream):
        model = draw.choice([CHAT, "quick", "slow", CHAT, "quick", "crashes"])
        content = f"Tell me about number {draw.randrange(100)}."
        return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": draw.randrange(1, 24), "stream": stream}

    def chat(self, draw):
        return self.ask("POST", "/v1/chat/completions", self.body(draw, False))[1]

    def stream(self, draw):
        return self.read(self.body(draw, True), None)

    def break_off(self, draw):
        return self.read({**self.body(draw, True), "max_tokens": 200}, draw.randrange(0, 6))

    def read(self, body, events):
        """Reads a stream to its end, or goes away after so many events."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=STUCK_SECONDS)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            if events == 0:
                return "ok"
            answer = connection.getresponse()
            if answer.status >= 400:
                return json.loads(answer.read())["error"]["code"]
            seen = 0
            for line in answer:
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    return "ok"
                event = json.loads(line[6:])
                if "error" in event:
                    return event["error"]["code"]
                seen += 1
                if events and seen >= events:
                    return "ok"
            return "a stream without an end"
        finally:
            connection.close()

    def embed(self, draw):
        texts = [DOCUMENT[: draw.randrange(5, 90)] for _ in range(draw.randrange(1, 8))]
        answer, told = self.ask("POST", "/v1/embeddings", {"model": EMBED, "input": texts})
        return told if told != "ok" or len(answer["data"]) == len(texts) else "vectors are missing"

    def rerank(self, draw):
        documents = [DOCUMENT[: draw.randrange(5, 90)] for _ in range(4)]
        return self.ask("POST", "/v1/rerank", {"model": EMBED, "query": "Who kept the lighthouse?", "documents": documents})[1]

    def load(self, draw):
        return self.ask("POST", "/v1/models/load", {"model_path": draw.choice([CHAT, EMBED, *FAKES])})[1]

    def unload(self, draw):
        force = "?force=true" if draw.random() < 0.3 else ""
        return self.ask("DELETE", f"/v1/models/{quoted(draw.choice([CHAT, EMBED, *FAKES]))}/unload{force}")[1]

    def query(self, draw):
        body = {"query": "When was the harbour built?", "collection": "c", "model_id": CHAT, "generation_config": {"max_tokens": 8}}
        return self.ask("POST", "/api/rag/query", body)[1]

    def ingest(self, draw):
        number = draw.randrange(5)
        document = {"id": f"d{number}", "text": DOCUMENT * (number + 1) + f"Note {draw.randrange(3)}."}
        return self.ask("POST", "/api/rag/ingest", {"collection": "c", "documents": [document], "embedding_model": EMBED})[1]

    def submit(self, draw):
        chat = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 4}
        body = draw.choice([
            {"operation": "chat", "model_id": draw.choice(["quick", CHAT]), "input": chat},
            {"operation": "embed", "model_id": EMBED, "input": {"input": ["a", "b"]}},
        ])
        answer, told = self.ask("POST", "/api/mcp/jobs", {**body, "priority": "low"})
        if told == "ok":
            self.jobs.append(answer["job_id"])
            if draw.random() < 0.2:
                told = self.ask("DELETE", f"/api/mcp/jobs/{answer['job_id']}")[1]
        return told

    def look(self, draw):
        return self.ask("GET", draw.choice(["/v1/models", "/health", "/v1/queue/stats", "/internal/diagnostics"]))[1]

    # --- the saboteur, and who watches ---

    def sabotage(self):
        draw = random.Random(self.options.seed)
        while not self.ended.wait(draw.uniform(1, 4)):
            engines = self.engines()
            if engines:
                how = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
                try:
                    os.kill(draw.choice(engines), how)
                except ProcessLookupError:
                    continue
                self.outcomes["sabotage", how.name] += 1

    def engines(self):
        """The engines that the server has now; those that only estimate are none."""
        found = []
        for task in Path(f"/proc/{self.server.process.pid}/task").iterdir():
            try:
                found += [int(pid) for pid in (task / "children").read_text().split()]
            except OSError:
                continue
        return [pid for pid in found if b"\0serve\0" in command_line(pid)]

    def watch(self):
        while not self.ended.wait(0.5):
            self.pids.update(self.engines())
            self.samples.append((time.monotonic(), resident(self.server.process.pid)))

    # --- afterwards ---

    def after(self):
        problems = self.quiet() + self.unfinished_jobs() + self.ledger() + self.slots() + self.growth()
        files = self.files()
        self.server.call("GET", "/health")
        code = self.server.stop()
        if code != 0:
            problems.append(f"the server ended with {code}")
        # They end with their standard input.
        time.sleep(1)
        orphans = [pid for pid in self.pids if b"\0serve\0" in command_line(pid)]
        if orphans:
            problems.append(f"{len(orphans)} engines outlived the server")
        return problems + files

    def quiet(self):
        deadline = time.monotonic() + STUCK_SECONDS
        while True:
            models = self.server.call("GET", "/v1/queue/stats")["models"]
            busy = {name: row for name, row in models.items() if row["running"] or row["queue_size"]}
            if not busy:
                return []
            if time.monotonic() > deadline:
                return [f"slots are taken, and nobody asks: {busy}"]
            time.sleep(0.2)

    def unfinished_jobs(self):
        states = Counter()
        for job in self.jobs:
            state = self.server.call("GET", f"/api/mcp/jobs/{job}?wait_ms=60000")["status"]
            states[state] += 1
        self.outcomes.update({("jobs", state): count for state, count in states.items()})
        left = sum(states[state] for state in ("queued", "processing"))
        return [f"{left} jobs are not finished"] if left else []

    def ledger(self):
        """What is charged against what the processes hold, model by model."""
        problems = []
        # Models are measured every five seconds.
        time.sleep(6)
        loaded = [row["id"] for row in self.server.call("GET", "/v1/models")["data"] if row["status"] == "loaded"]
        engines = self.engines()
        if len(engines) != len(loaded):
            problems.append(f"{len(engines)} engines for {len(loaded)} loaded models")
        for name in loaded:
            info = self.server.call("GET", f"/v1/models/{quoted(name)}/info")
            charged = info["vram_usage_bytes"]
            least, most = held(info["pid"])
            self.outcomes["ledger", f"{name} {charged / 1e6:.0f} MB"] += 1
            if not 0.9 * least <= charged <= 1.1 * most:
                problems.append(f"{name} is charged {charged} bytes and holds from {least} to {most}")
        return problems

    def slots(self):
        """Every slot can still be had."""
        problems = []
        for name in (CHAT, "quick", "slow"):
            body = {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
            told = []
            ask = lambda: told.append(self.ask("POST", "/v1/chat/completions", body)[1])  # noqa: B023, E731
            # One that sabotage has left as failed says so until it is loaded.
            self.ask("POST", "/v1/models/load", {"model_path": name})
            threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(STUCK_SECONDS)
            if told != ["ok"] * 3:
                problems.append(f"three requests to {name} at the end: {told}")
        return problems

    def growth(self):
        begins = self.samples[0][0]
        length = self.samples[-1][0] - begins
        # The first fifth is for caches and pools to fill.
        part = lambda least, most: [size for at, size in self.samples if least <= (at - begins) / length < most]  # noqa: E731
        before, after = statistics.median(part(0.2, 0.6)), statistics.median(part(0.6, 1.0))
        percent = 100 * (after / before - 1)
        print(f"server's memory: {before / 1e6:.1f} MB, later {after / 1e6:.1f} MB ({percent:+.1f} %)", flush=True)
        return [f"the server's memory grew by {percent:.1f} %"] if percent > self.options.growth else []

    def files(self):
        """Files that the server holds once nobody asks: as many as a fresh one, a few for each engine, and its idle connections."""
        count = len(os.listdir(f"/proc/{self.server.process.pid}/fd"))
        allowed = 60 + 40 * len(self.engines())
        return [f"the server holds {count} files"] if count > allowed else []

    def report(self):
        for (name, told), count in sorted(self.outcomes.items()):
            print(f"  {name:<10} {told:<24} {count}")


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Failed("the server is gone")


def held(pid):
    """Bytes that are a process's own, and those with what it has mapped of files as well."""
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    size = lambda name: int(rows[name].split()[0]) * 1024  # noqa: E731
    own = size("RssAnon") + size("RssShmem")
    return own, own + size("RssFile")


if __name__ == "__main__":
    try:
        executable()
        main()
    except (Failed, OSError) as error:
        sys.exit(f"soak: {error}")
