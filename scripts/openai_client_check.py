#!/usr/bin/env python3
"""The official openai package against a fusiond that this starts: models, chat, streams, embeddings, error classes.

With FUSIOND_URL it uses that server instead, where models named smollm2 and minilm have to be there.
"""

import base64
import contextlib
import math
import os
import struct
import sys

sys.dont_write_bytecode = True

import openai  # noqa: E402
from fusiond import Failed, Server  # noqa: E402

CHAT, EMBEDDER = "smollm2", "minilm"
QUESTION = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]


def main():
    with running_server() as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        for check in (models, chat, stream, stream_with_usage, embeddings, errors):
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
