#!/usr/bin/env python3
"""A tour of fusiond on real models and real input: what is asked and what comes back, each step checked.

  FUSIOND_BIN   the server (default: target/release/fusiond); its engines lie beside it
  DEMO_EXIT=1   end after the tour instead of serving on
  QWEN=1        chat with Qwen2.5-Coder-1.5B instead of SmolLM2-135M (1.1 GB to fetch; slower and much brighter)

Exit code 0 when every step did what it should, 1 otherwise.
"""

import base64
import os
import queue
import secrets
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import show  # noqa: E402
from fusiond import Failed, Server, quoted  # noqa: E402
from receiver import Receiver  # noqa: E402

CHAT, EMBEDDER = ("qwen", "minilm") if os.environ.get("QWEN") else ("smollm2", "minilm")
CHAT_FILES = {"smollm2": "SmolLM2-135M-Instruct-Q4_1.gguf", "qwen": "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf"}
# The small model goes on and on after its first paragraph.
BRIEFLY = {"max_tokens": 80, "temperature": 0, "stop": ["\n\n"]}
COLLECTION = "tour"
DOCUMENTS = [*sorted((ROOT / "demo/documents").iterdir()), ROOT / "docs/architecture.md"]
WEBHOOK_SECONDS = 120


def main():
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    # Webhooks don't reach private addresses unless told so; the tour's receiver runs on this machine.
    environment = {"WEBHOOK_SECRET": secret, "OUTGOING_ALLOW": "127.0.0.0/8"}
    with Receiver(secret) as receiver, Server(environment=environment) as server:
        start(server)
        load_two_models(server)
        stream_a_chat(server)
        ingest_documents(server)
        ask_with_sources(server)
        run_a_workflow(server)
        submit_a_job(server, receiver)
        unload_a_model(server)
        show.title("The tour is complete: every step did what it should")
        if os.environ.get("DEMO_EXIT") != "1":
            serve_on(server)
        end(server)


def start(server):
    show.title("1. A server on embedded defaults")
    health = server.call("GET", "/health")
    show.asked("GET /health")
    show.answered(f"status {health['status']}, {health['models']['loaded_count']} models loaded, serving on {server.url}")
    expect(health["status"] == "ok", f"health is {health['status']}")


def load_two_models(server):
    show.title("2. Two models in one memory budget")
    wanted = [
        (CHAT, "lm", CHAT_FILES[CHAT], {"context_length": 4096}, "a chat model, run by llama.cpp in a process of its own"),
        (EMBEDDER, "embeddings", "all-MiniLM-L6-v2", {}, "a sentence embedding model, in another process"),
    ]
    for model_id, model_type, path, options, what in wanted:
        body = {"model_id": model_id, "model_type": model_type, "model_path": str(server.models_dir / path), **options}
        show.asked("POST /v1/models/load", f"{path}: {what}")
        loaded = server.call("POST", "/v1/models/load", body)
        show.answered(
            f"{loaded['model_id']} is {loaded['status']} after {loaded['load_time_ms']} ms, {memory(loaded, 'vram_usage')}"
        )
        expect(loaded["status"] == "loaded", f"{model_id} is {loaded['status']}")
        expect(loaded["vram_usage_bytes"] > 0, f"{model_id} holds no memory")


def stream_a_chat(server):
    question = "Name the capital of France."
    show.title("3. A chat, streamed")
    show.asked("POST /v1/chat/completions", question)
    # With the system prompt of its own template this small model answers in invented French; llama-server's users see the same.
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": question}]
    body = {"model": CHAT, "messages": messages, "stream": True, "max_tokens": 60, "temperature": 0}
    started, first, usage = time.monotonic(), [], {}

    def pieces():
        for chunk in server.stream("/v1/chat/completions", body):
            usage.update(chunk.get("usage") or {})
            for choice in chunk["choices"]:
                if piece := choice["delta"].get("content"):
                    first.append(time.monotonic() - started)
                    yield piece

    answer = show.streamed(pieces())
    expect("Paris" in answer, f"the answer does not name Paris: {answer!r}")
    expect(len(first) > 1, "the answer came in one piece")
    show.answered(
        f"({usage['completion_tokens']} tokens in {len(first)} pieces; the first after {first[0] * 1e3:.0f} ms, all after "
        f"{first[-1] * 1e3:.0f} ms)"
    )
    show.checked("the answer names Paris")


def ingest_documents(server):
    show.title("4. Documents")
    show.asked("POST /api/rag/ingest", ", ".join(str(path.relative_to(ROOT)) for path in DOCUMENTS))
    fields = {"collection": COLLECTION, "embedding_model": EMBEDDER, "chunk_size": "128", "overlap": "16"}
    done = server.upload("/api/rag/ingest", fields, DOCUMENTS)
    show.answered(
        f"{done['documents_ingested']} documents, {done['chunks_created']} chunks, embedded in {done['embedding_time_ms']} ms"
    )
    expect(done["documents_ingested"] == len(DOCUMENTS), f"some documents failed: {done['documents_failed']}")
    again = server.upload("/api/rag/ingest", fields, DOCUMENTS)
    expect(again["chunks_created"] == 0, f"the same documents made {again['chunks_created']} new chunks")
    show.checked("ingesting the same files again makes nothing new")


def ask_with_sources(server):
    question = "Which command shows the webhook secret?"
    show.title("5. A question over the documents, with sources that can be checked")
    show.asked("POST /api/rag/query", question)
    body = {"query": question, "collection": COLLECTION, "top_k": 3, "model_id": CHAT, "generation_config": BRIEFLY}
    answer = server.call("POST", "/api/rag/query", body)
    show.answered(answer["answer"])
    show.answered(f"(retrieval {answer['retrieval_latency_ms']} ms, generation {answer['generation_latency_ms']} ms)")
    print()
    list_sources(server, answer["sources"])
    check_citations(server, answer)
    files = [source["metadata"].get("file") for source in answer["sources"]]
    expect("jobs-and-webhooks.md" in files, f"the passage about webhooks was not found, but {files}")
    # What so small a model makes of its sources is not checked; that the sources are right is.
    expect(answer["answer"].strip(), "the answer is empty")


def list_sources(server, sources):
    expect(sources, "no sources came back")
    for number, source in enumerate(sources, 1):
        place = source["metadata"]
        start, end = place["char_start"], place["char_end"]
        show.answered(f"[{number}] {place['file']}, characters {start}–{end}, score {source['score']:.3f}")
        show.paragraph(show.excerpt(source["text"]), indent="        ")
        expect(stored_text(server, source["document_id"])[start:end] == source["text"], f"source {number} is not where it says")
        on_disk = next(path for path in DOCUMENTS if path.name == place["file"]).read_text(encoding="utf-8")
        expect(on_disk[start:end] == source["text"], f"source {number} is not in the file where it says it is")
    show.checked("each source's text stands in its file exactly where it says")


def check_citations(server, answer):
    for citation in answer["citations"]:
        show.answered(
            f"from [{citation['source']}], characters {citation['char_start']}–{citation['char_end']}: “{citation['quote']}”"
        )
        text = stored_text(server, answer["sources"][citation["source"] - 1]["document_id"])
        expect(text[citation["char_start"] : citation["char_end"]] == citation["quote"], "a citation is not where it says")
    if answer["citations"]:
        show.checked("each citation stands in its document, word for word")


def stored_text(server, document_id):
    return server.call("GET", f"/api/rag/documents/{COLLECTION}/{quoted(document_id)}")["text"]


def run_a_workflow(server):
    question = "Who gave the Gettysburg Address?"
    show.title("6. A workflow: retrieve, rerank, generate")
    show.asked("POST /api/fusion/orchestrate", f"rag_with_rerank: {question}")
    body = {
        "workflow": "rag_with_rerank",
        "input": {"query": question, "collection": COLLECTION, "top_k": 3},
        "models": {"retrieval": EMBEDDER, "generation": CHAT},
        "config": BRIEFLY,
    }
    run = server.call("POST", "/api/fusion/orchestrate", body)
    expect(run["status"] == "completed", f"the run is {run['status']}: {run.get('error')}")
    show.answered(run["result"]["answer"])
    print()
    head = ("step", "model", "status", "ms", "attempts")
    trace = run["execution_trace"]
    show.table(
        head, [(row["step"], row.get("model") or "–", row["status"], row["duration_ms"], row["attempts"]) for row in trace]
    )
    show.answered(f"(run {run['run_id']}, {run['total_latency_ms']} ms in all)")
    expect(len(trace) >= 3, f"the trace has {len(trace)} steps")
    files = [source["metadata"]["file"] for source in run["result"]["sources"]]
    expect(files[0] == "gettysburg-address.txt", f"the best source is not the address, but {files}")
    expect(run["result"]["answer"].strip(), "the answer is empty")
    show.checked(f"the best of its {len(files)} sources is {files[0]}")


def submit_a_job(server, receiver):
    show.title("7. A job that calls back")
    messages = [{"role": "user", "content": "Name three colours."}]
    body = {"operation": "chat", "model_id": CHAT, "input": {"messages": messages, "max_tokens": 60, "temperature": 0}}
    body["callback_url"] = receiver.url
    show.asked("POST /api/mcp/jobs", f"a chat ({messages[0]['content']}), callback to {receiver.url}")
    job = server.call("POST", "/api/mcp/jobs", body)
    show.answered(f"202: {job['job_id']} is {job['status']}, written to disk before this answer")
    print()
    hook, headers = wait_for(receiver, job["job_id"], "job.completed")
    content = hook["job"]["result"]["content"]
    show.asked(f"webhook received: {hook['event']}", f"webhook-id {headers['webhook-id']}")
    show.answered(content)
    show.checked("its signature is genuine (HMAC-SHA256 over id, timestamp and body)")
    kept = server.call("GET", f"/api/mcp/jobs/{job['job_id']}")
    expect(kept["status"] == "completed" and kept["result"]["content"] == content, "the job's record differs from the webhook")
    show.checked("GET /api/mcp/jobs/{id} tells the same")


def wait_for(receiver, job_id, event):
    deadline = time.monotonic() + WEBHOOK_SECONDS
    while True:
        try:
            hook, headers, problem = receiver.arrivals.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            raise Failed(f"no {event} webhook arrived within {WEBHOOK_SECONDS} s") from None
        expect(problem is None, f"a webhook arrived with a wrong signature: {problem}")
        expect(
            hook["event"] not in ("job.failed", "job.cancelled"), f"the job ended as {hook['event']}: {hook['job'].get('error')}"
        )
        if (hook["event"], hook["job"]["job_id"]) == (event, job_id):
            return hook, {name.lower(): value for name, value in headers.items()}


def unload_a_model(server):
    show.title("8. Unloading frees the memory")
    show.asked(f"DELETE /v1/models/{CHAT}/unload")
    freed = server.call("DELETE", f"/v1/models/{CHAT}/unload")
    show.answered(f"{freed['model_id']} is {freed['status']}, {memory(freed, 'vram_freed')} after {freed['unload_time_ms']} ms")
    rows = {row["id"]: row for row in server.call("GET", "/v1/models")["data"]}
    print()
    head = ("model", "status", "memory")
    show.table(head, [(name, rows[name]["status"], show.megabytes(rows[name]["vram_usage_bytes"])) for name in (CHAT, EMBEDDER)])
    expect(freed["vram_freed_bytes"] > 0, "no memory was freed")
    expect(rows[CHAT]["status"] == "unloaded", f"{CHAT} is still {rows[CHAT]['status']}")
    expect(rows[EMBEDDER]["status"] == "loaded", f"{EMBEDDER} is {rows[EMBEDDER]['status']}")
    show.checked("the other model is still there")


def serve_on(server):
    show.paragraph(f"fusiond serves on at {server.url}; Ctrl-C ends it. To try, in another terminal:", indent="  ")
    show.paragraph("")
    print(f"  curl {server.url}/v1/models")
    print(f"  curl {server.url}/v1/chat/completions -H 'content-type: application/json' \\")
    print(f"""    -d '{{"model":"{CHAT}","messages":[{{"role":"user","content":"Hello!"}}]}}'""", flush=True)
    try:
        code = server.process.wait()
    except KeyboardInterrupt:
        print()
        return
    raise Failed(f"fusiond ended by itself with exit code {code}:\n{server.log_tail()}")


def end(server):
    code = server.stop()
    expect(code == 0, f"fusiond ended with exit code {code}:\n{server.log_tail()}")
    show.paragraph("fusiond drained and ended.", indent="  ")


def memory(answer, name):
    verb = "holds" if name == "vram_usage" else "gave back"
    return f"{verb} {show.megabytes(answer[f'{name}_bytes'])}"


def expect(holds, otherwise):
    if not holds:
        raise Failed(otherwise)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"\ndemo: {error}")
    except KeyError as error:
        sys.exit(f"\ndemo: an answer lacks the field {error}, which the contract promises")
    except OSError as error:
        sys.exit(f"\ndemo: {error}")
    except KeyboardInterrupt:
        sys.exit("\ndemo: interrupted")
