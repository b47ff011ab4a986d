#!/usr/bin/env python3
"""The official openai package against a fusiond that this starts: models, chat, streams, embeddings, files, batches, error classes.

With FUSIOND_URL it uses that server instead, where models named smollm2 and minilm have to be there.
"""

import base64
import contextlib
import json
import math
import os
import struct
import sys
import time

sys.dont_write_bytecode = True

import openai  # noqa: E402
from fusiond import Failed, Server  # noqa: E402

CHAT, EMBEDDER = "smollm2", "minilm"
BATCH_SECONDS = 300
QUESTION = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Name the capital of France."},
]


def main():
    with running_server() as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        for check in (models, chat, stream, stream_with_usage, embeddings, files, batches, bad_batch, cancelled_batch, errors):
            check(client)
            print(f"ok  {check.__name__.replace('_', ' ')}")
    print(f"openai {openai.__version__} works")


@contextlib.contextmanager
def running_server():
    if url := os.environ.get("FUSIOND_URL"):
        yield url
        return
    with Server() as server:
        for model_id, model_type, path in (
            (CHAT, "lm", "SmolLM2-135M-Instruct-Q4_1.gguf"),
            (EMBEDDER, "embeddings", "all-MiniLM-L6-v2"),
        ):
            body = {"model_id": model_id, "model_type": model_type, "model_path": str(server.models_dir / path)}
            server.call("POST", "/v1/models/load", body)
        yield server.url


def models(client):
    listed = {model.id for model in client.models.list()}
    expect({CHAT, EMBEDDER} <= listed, f"the list has {listed}")
    expect(client.models.retrieve(CHAT).object == "model", "retrieve answers no model")


def chat(client):
    answer = client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=40, temperature=0)
    choice = answer.choices[0]
    expect("Paris" in choice.message.content, f"the answer is {choice.message.content!r}")
    expect(choice.finish_reason in ("stop", "length"), f"finish_reason is {choice.finish_reason}")
    expect(answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, "usage does not add up")


def stream(client):
    chunks = list(client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=40, temperature=0, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    expect("Paris" in text, f"the stream says {text!r}")
    expect(any(chunk.choices and chunk.choices[0].finish_reason for chunk in chunks), "no chunk has a finish_reason")


def stream_with_usage(client):
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=8, stream=True, stream_options=options)
    )
    expect(chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0, "the last chunk is not the usage")


def embeddings(client):
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose again."]
    # The package asks for base64 by itself and decodes it.
    vectors = [row.embedding for row in client.embeddings.create(model=EMBEDDER, input=texts).data]
    expect([len(vector) for vector in vectors] == [384] * 3, "the vectors have the wrong length")
    expect(cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2]) + 0.3, "near texts are not near")
    plain = client.embeddings.create(model=EMBEDDER, input=texts[0], encoding_format="float").data[0].embedding
    coded = client.embeddings.create(model=EMBEDDER, input=texts[0], encoding_format="base64").data[0].embedding
    decoded = struct.unpack("<384f", base64.b64decode(coded)) if isinstance(coded, str) else coded
    expect(all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(plain, decoded)), "float and base64 differ")


def files(client):
    made = client.files.create(file=("notes.txt", b"some notes"), purpose="user_data")
    expect(made.bytes == 10 and made.filename == "notes.txt" and made.status == "processed", f"the file is {made}")
    expect(client.files.retrieve(made.id).id == made.id, "retrieve answers another file")
    expect(client.files.content(made.id).read() == b"some notes", "the content is another")
    more = [client.files.create(file=("a", b"a"), purpose="user_data").id for _ in range(3)]
    # The package asks for the next pages by itself.
    listed = [file.id for file in client.files.list(purpose="user_data", limit=2)]
    expect(listed == more[::-1] + [made.id], f"the list has {listed}")
    for file_id in listed:
        expect(client.files.delete(file_id).deleted, "delete says it is not")
    raises(openai.NotFoundError, "file_not_found", lambda: client.files.retrieve(made.id))
    raises(openai.BadRequestError, None, lambda: client.files.create(file=("a", b"a"), purpose="homework"))


def batches(client):
    """One for each endpoint; a line's answer is what the route itself answers."""
    prompt = {"model": CHAT, "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
    chat = {"model": CHAT, "messages": QUESTION, "max_tokens": 8, "temperature": 0}
    vector = {"model": EMBEDDER, "input": ["A cat sleeps on the sofa."], "encoding_format": "float"}
    cases = (
        ("/v1/chat/completions", chat, lambda: client.chat.completions.create(**chat).choices[0].message.content),
        ("/v1/completions", prompt, lambda: client.completions.create(**prompt).choices[0].text),
        ("/v1/embeddings", vector, lambda: client.embeddings.create(**vector).data[0].embedding),
    )
    for endpoint, body, ask in cases:
        batch = ended(client, begun(client, endpoint, [body, body]))
        expect(batch.status == "completed", f"the batch is {batch}")
        counts = batch.request_counts
        expect((counts.total, counts.completed, counts.failed) == (2, 2, 0), f"the counts are {counts}")
        expect(batch.error_file_id is None, "there is an error file")
        lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
        expect(sorted(line["custom_id"] for line in lines) == ["line-0", "line-1"], f"the lines are {lines}")
        for line in lines:
            expect(line["response"]["status_code"] == 200 and line["error"] is None, f"the line is {line}")
            answer, expected = line["response"]["body"], ask()
            if endpoint == "/v1/embeddings":
                expect(cosine(answer["data"][0]["embedding"], expected) > 0.9999, "the vector is another")
            elif endpoint == "/v1/completions":
                expect(answer["choices"][0]["text"] == expected, f"the text is {answer}, not {expected!r}")
            else:
                openai.types.chat.ChatCompletion.model_validate(answer)
                said = answer["choices"][0]["message"]["content"]
                expect(said == expected, f"the answer is {said!r}, not {expected!r}")
    listed = client.batches.list(limit=2)
    expect(len(list(listed)) >= len(cases), "the list has too few batches")


def bad_batch(client):
    good = {"model": CHAT, "messages": QUESTION}
    batch = ended(client, begun(client, "/v1/chat/completions", [good, {**good, "model": "no-such-model"}]))
    expect(batch.status == "failed", f"the batch is {batch}")
    error = batch.errors.data[0]
    expect((error.code, error.line, error.param) == ("model_not_found", 2, "body.model"), f"the error is {error}")
    raises(openai.NotFoundError, "batch_not_found", lambda: client.batches.retrieve("batch_1"))


def cancelled_batch(client):
    slow = {"model": CHAT, "messages": QUESTION, "max_tokens": 200, "temperature": 1}
    batch = begun(client, "/v1/chat/completions", [slow] * 100)
    in_use = batch.input_file_id
    raises(openai.ConflictError, "file_in_use", lambda: client.files.delete(in_use))
    expect(client.batches.cancel(batch.id).status == "cancelling", "cancel answers another status")
    batch = ended(client, batch)
    expect(batch.status == "cancelled", f"the batch is {batch}")
    lines = client.files.content(batch.error_file_id).text.splitlines()
    expect(all(json.loads(line)["error"]["code"] == "batch_cancelled" for line in lines), "a line was not cancelled")
    raises(openai.ConflictError, "batch_finished", lambda: client.batches.cancel(batch.id))


def begun(client, endpoint, bodies):
    lines = [
        json.dumps({"custom_id": f"line-{n}", "method": "POST", "url": endpoint, "body": body}) for n, body in enumerate(bodies)
    ]
    file = client.files.create(file=("lines.jsonl", "\n".join(lines).encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"check": "yes"}
    )
    expect(batch.metadata == {"check": "yes"}, f"the metadata is {batch.metadata}")
    return batch


def ended(client, batch):
    deadline = time.monotonic() + BATCH_SECONDS
    while (batch := client.batches.retrieve(batch.id)).status not in ("completed", "failed", "expired", "cancelled"):
        expect(time.monotonic() < deadline, f"the batch is still {batch.status}")
        time.sleep(0.2)
    return batch


def errors(client):
    raises(
        openai.NotFoundError, "model_not_found", lambda: client.chat.completions.create(model="no-such-model", messages=QUESTION)
    )
    raises(openai.NotFoundError, "model_not_found", lambda: client.models.retrieve("no-such-model"))
    raises(openai.BadRequestError, None, lambda: client.chat.completions.create(model=CHAT, messages=[]))
    raises(openai.BadRequestError, None, lambda: client.chat.completions.create(model=CHAT, messages=QUESTION, temperature="hot"))


def raises(kind, code, call):
    try:
        call()
    except kind as error:
        expect(code is None or error.code == code, f"the code is {error.code}, not {code}")
        expect(error.request_id, "the error has no request id")
        return
    raise Failed(f"no {kind.__name__} was raised")


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)


def expect(holds, otherwise):
    if not holds:
        raise Failed(otherwise)


if __name__ == "__main__":
    try:
        main()
    except (Failed, openai.OpenAIError, OSError) as error:
        sys.exit(f"openai client check: {error}")
