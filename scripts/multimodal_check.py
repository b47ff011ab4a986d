#!/usr/bin/env python3
"""Images and sounds through the official openai package, on tiny random models that this makes.

With a llama-server (LLAMA_SERVER, or in PATH) it is asked the same about the same files, and must begin its answer with the same
tokens: for images of the size that the model sees, since versions of llama.cpp differ in how they resize, and not for sound,
which they prepare differently.
"""

import base64
import contextlib
import math
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

sys.dont_write_bytecode = True

import openai  # noqa: E402
from fusiond import Failed, Server  # noqa: E402

SCRIPTS = Path(__file__).parent
TOKENS = 4  # rounding differs between builds, and random weights soon make much of it
PATIENCE_SECONDS = 60


def main():
    peer = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        subprocess.run([sys.executable, SCRIPTS / "tiny_multimodal.py", folder], check=True)
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        for name, prompts in PROMPTS.items():
            path = Path(folder) / f"tiny-{name}.gguf"
            body = {"model_id": name, "model_type": "multimodal", "model_path": str(path), "context_length": 2048}
            server.call("POST", "/v1/models/load", body)
            answers = [ask(client, name, parts) for parts in prompts]
            expect(len(set(answers)) == len(answers), f"{name}: two prompts have one answer")
            again = [ask(client, name, parts) for parts in prompts]
            expect(again == answers, f"{name}: the second time it answers otherwise")
            compared = peer and name in UNSCALED
            if compared:
                unscaled = [[text("What is it? "), UNSCALED[name]], [UNSCALED[name], text("Say.")]]
                compare(peer, path, unscaled, [ask(client, name, parts) for parts in unscaled])
            print(f"ok  {name}" + (", as llama-server" if compared else ""))
        refusals(client)
    if not peer:
        print("skipped: no llama-server to compare with (LLAMA_SERVER names one)")
    print(f"openai {openai.__version__} shows and plays")


def ask(client, model, parts):
    """The text, and how many tokens and cells the prompt had."""
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": parts}], temperature=0, max_tokens=TOKENS
    )
    return answer.choices[0].message.content, answer.usage.prompt_tokens


def compare(peer, path, prompts, answers):
    with llama_server(peer, path) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        for parts, answer in zip(prompts, answers):
            other = ask(client, "any", parts)
            expect(other == answer, f"{path.stem}: llama-server says {other}, not {answer}")


@contextlib.contextmanager
def llama_server(peer, path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [peer, "--model", path, "--mmproj", path.with_name(f"mmproj-{path.name}"), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "none", "--no-mmproj-offload", "--threads", "1", "--parallel", "1", "--ctx-size", "2048"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed("llama-server did not start")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def answers(port):
    try:
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0).models.list()
        return True
    except openai.OpenAIError:
        return False


def refusals(client):
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png(8, 8, 1)[:40]).decode()}}
    for model, part in (("vision", broken), ("vision", sound(1, 440)), ("sound", image(8, 8, 1))):
        try:
            ask(client, model, [text("See"), part])
        except openai.BadRequestError as error:
            expect(error.param == "messages[0].content[1]", f"{model}: the error names {error.param}")
        else:
            raise Failed(f"{model}: {part['type']} was taken")
    print("ok  refusals")


def text(words):
    return {"type": "text", "text": words}


def image(width, height, shade):
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png(width, height, shade)).decode()}}


def sound(seconds, pitch):
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav(seconds, pitch)).decode(), "format": "wav"}}


def png(width, height, shade):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    wave = [bytes(int(127 + 120 * math.sin(shade + x / 9 + c + y / 13)) for x in range(width) for c in range(3)) for y in range(height)]
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in wave))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def wav(seconds, pitch):
    data = b"".join(struct.pack("<h", int(12000 * math.sin(math.tau * pitch * i / 16000))) for i in range(16000 * seconds))
    head = struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + head + b"data" + struct.pack("<I", len(data)) + data


SEEN = [
    [text("What is it? "), image(60, 40, 1)],
    [text("What is it? "), image(60, 40, 2)],
    [image(200, 150, 3), text("Say.")],
    [image(60, 40, 1), text("and"), image(160, 40, 2), text("differ?")],
]
PROMPTS = {
    "vision": SEEN,
    "grid": SEEN,
    "whole": SEEN,
    "sound": [[text("What is it? "), sound(1, 440)], [text("What is it? "), sound(1, 880)], [sound(3, 300), text("Say.")]],
}


UNSCALED = {"vision": image(112, 112, 1), "grid": image(112, 112, 1), "whole": image(224, 224, 1)}


def expect(holds, otherwise):
    if not holds:
        raise Failed(otherwise)


if __name__ == "__main__":
    try:
        main()
    except (Failed, openai.OpenAIError, OSError) as error:
        sys.exit(f"multimodal check: {error}")
