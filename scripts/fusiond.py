"""A fusiond process and its HTTP interface, for the demo, the benchmarks and the client check. Standard library only."""

import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

from models import models_folder

READY_SECONDS = 60
DRAIN_SECONDS = 60
ANSWER_SECONDS = 600


class Failed(Exception):
    """What went wrong, in one sentence for the person who started the program."""


class Refused(Failed):
    """An error in the contract's shape."""

    def __init__(self, what, status, body):
        error = body.get("error", {}) if isinstance(body, dict) else {}
        self.status, self.code = status, error.get("code")
        super().__init__(f"{what} was answered with {status} {self.code or ''}: {error.get('message') or body}")


def executable():
    path = Path(os.environ.get("FUSIOND_BIN") or "target/release/fusiond").resolve()
    if not path.is_file():
        raise Failed(f"{path} is not there: run make build first, or name another in FUSIOND_BIN")
    return path


class Server:
    """`fusiond serve` on a free port with a data folder of its own, on embedded defaults but for what is asked here."""

    def __init__(self, environment=None, models_dir=None, configuration=""):
        self.configuration = configuration
        self.models_dir = models_dir or models_folder()
        # The models folder alone: what else this machine has would change from one to the next.
        self.environment = {**os.environ, "FUSIOND_SEARCH_KNOWN_FOLDERS": "false", **(environment or {})}
        self.folder = Path(tempfile.mkdtemp(prefix="fusiond-"))
        self.log = self.folder / "log"
        self.process = None
        self.port = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        """Returns once `/health/ready` answers 200."""
        command = [str(executable()), "serve", "--port", "0", "--data-dir", str(self.folder / "data")]
        # Instead of the user's own configuration file.
        file = self.folder / "fusiond.toml"
        file.write_text(self.configuration)
        command += ["--models-dir", str(self.models_dir), "--config", str(file)]
        with open(self.log, "wb") as log:
            # A process group of its own: Ctrl-C in the terminal reaches this program, which then ends the server.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None:
                raise Failed(f"fusiond ended at start with exit code {self.process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise Failed(f"fusiond was not ready after {READY_SECONDS} s:\n{self.log_tail()}")
            time.sleep(0.002)

    def is_ready(self):
        """The server picks its port and prints its address."""
        if self.port is None:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", self.log.read_text(errors="replace"))
            if not found:
                return False
            self.port = int(found[1])
        try:
            return self.request("GET", "/health/ready")[0] == 200
        except OSError:
            return False

    def stop(self):
        """Asks it to drain and end; returns its exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def log_tail(self, lines=20):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) or "(nothing was logged)"

    # --- HTTP ---

    def request(self, method, path, body=None, content_type="application/json"):
        """Status and body, JSON parsed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, path, body, {"Content-Type": content_type} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, parsed(answer.read())
        finally:
            connection.close()

    def headers(self, path):
        """Of the answer to a GET, by names in small letters."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", path)
            return {name.lower(): value for name, value in connection.getresponse().getheaders()}
        finally:
            connection.close()

    def call(self, method, path, body=None):
        """The JSON answer; an error status is raised."""
        status, answer = self.request(method, path, None if body is None else json.dumps(body))
        if status >= 400:
            raise Refused(f"{method} {path}", status, answer)
        return answer

    def upload(self, path, fields, files):
        """A multipart form; `files` are paths."""
        boundary = "fusiond-form-boundary-7f3c1d"
        parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
        parts += [(f'name="files"; filename="{file.name}"', file.read_bytes()) for file in files]
        body = b"".join(
            f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n" for head, value in parts
        )
        body += f"--{boundary}--\r\n".encode()
        status, answer = self.request("POST", path, body, f"multipart/form-data; boundary={boundary}")
        if status >= 400:
            raise Refused(f"POST {path}", status, answer)
        return answer

    def stream(self, path, body):
        """The events of an SSE answer, JSON parsed, without the closing [DONE], which must be there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status >= 400:
                raise Refused(f"POST {path}", answer.status, parsed(answer.read()))
            for line in answer:
                if not line.startswith(b"data: "):
                    continue
                data = line[len(b"data: ") :].strip()
                if data == b"[DONE]":
                    return
                event = json.loads(data)
                if "error" in event:
                    raise Refused(f"POST {path}", answer.status, event)
                yield event
            raise Failed(f"the stream of POST {path} ended without [DONE]")
        finally:
            connection.close()


def quoted(segment):
    """A path segment, such as a document's id."""
    return urllib.parse.quote(segment, safe="")


def parsed(body):
    try:
        return json.loads(body) if body else {}
    except ValueError:
        return body.decode(errors="replace")
