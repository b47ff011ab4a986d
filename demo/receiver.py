"""A small webhook receiver that checks the signature of whatever arrives, as any receiver should."""

import base64
import hashlib
import hmac
import json
import queue
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE_SECONDS = 300


class Receiver:
    """Listens on a free port of 127.0.0.1; what arrived is taken from `arrivals` as (event, problem or None)."""

    def __init__(self, secret):
        self.key = signing_key(secret)
        self.arrivals = queue.Queue()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def handler(self):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                problem = signature_problem(receiver.key, self.headers, body)
                self.send_response(401 if problem else 204)
                self.end_headers()
                receiver.arrivals.put((json.loads(body), dict(self.headers.items()), problem))

            def log_message(self, *_):
                pass

        return Handler


def signing_key(secret):
    """A whsec_ secret is Base64; any other is its own bytes."""
    prefix = "whsec_"
    return base64.b64decode(secret[len(prefix) :]) if secret.startswith(prefix) else secret.encode()


def signature_problem(key, headers, body):
    """None for a genuine, recent message. Both signatures are checked: the standard one and the older one."""
    id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    signed = hmac.digest(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    expected = "v1," + base64.b64encode(signed).decode()
    if not any(hmac.compare_digest(expected, given) for given in headers.get("webhook-signature", "").split(" ")):
        return "webhook-signature does not match"
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return "webhook-timestamp is not recent"
    older = "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(older, headers.get("x-webhook-signature", "")):
        return "X-Webhook-Signature does not match"
    return None
