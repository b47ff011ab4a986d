"""A server that is nobody's in particular: it answers the OpenAI routes in ways that ours don't. Standard library only."""

import http.server
import json
import os
import sys
import time

MODEL, PORT, SLOTS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
STARTED = time.monotonic()
BUSY = 0


class Handler(http.server.BaseHTTPRequestHandler):
    # HTTP/1.0: every answer ends its connection.

    def do_GET(self):
        # Not at once, so that it has to be asked again.
        ready = time.monotonic() - STARTED > 0.2
        self.answer(200 if ready and self.path == "/well" else 503, {"environment": dict(os.environ)})

    def do_POST(self):
        global BUSY
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("model") != f"name-of-{MODEL}":
            return self.answer(404, {"detail": f"no model {body.get('model')}"})
        if self.path == "/v1/embeddings":
            return self.embed(body)
        BUSY += 1
        try:
            self.chat(body)
        finally:
            BUSY -= 1

    def embed(self, body):
        if body["encoding_format"] != "float":
            return self.answer(400, {"error": "only floats"})
        data = [{"index": index, "embedding": [len(text), 0.5]} for index, text in enumerate(body["input"])]
        self.answer(200, {"data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})

    def chat(self, body):
        said = body["messages"][-1]["content"]
        if said == "fail":
            return self.answer(400, {"error": {"code": 400, "message": "no, thanks", "type": "invalid"}})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.comment()
        self.event({"choices": [{"index": 0, "finish_reason": None, "delta": {"role": "assistant", "content": None}}], "id": 7})
        environment = " ".join(sorted(os.environ))
        for word in (environment if said == "environment" else "one two three").split():
            # As many as it is good for run at full speed.
            time.sleep(0.005 * max(1, BUSY / SLOTS))
            self.comment()
            self.event({"choices": [{"index": 0, "delta": {"content": f"{word} ", "tool_calls": None}, "logprobs": None}]})
            if said == "die":
                os._exit(3)
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "eos_token"}], "created": 1.5})
        self.wfile.write(b"data: [DONE]\n\n")

    def comment(self):
        self.wfile.write(b": keepalive\n\n")

    def event(self, event):
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\r\n\r\n")

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
