#!/usr/bin/env python3
"""Runs a database server for a test, for as long as its own standard input stays open.

    test_server.py mongo|redis [--port N]

Prints one line: `ready URI` once the server takes connections, or `missing WHY` where it can't be had. The server listens on
loopback alone, keeps its files in a folder of its own, and ends with whoever started this, however that ends.
"""

import argparse
import ctypes
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

# A process of its own, never linked: made by scripts/test_servers.sh.
MONGO = pathlib.Path.home() / ".cache/fusiond/secantus/venv/bin/secantusd-py"
STARTS_WITHIN = 60
ENDS_WITHIN = 5


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kind", choices=["mongo", "redis"])
    arguments.add_argument("--port", type=int, default=0)
    arguments = arguments.parse_args()
    port = arguments.port or free_port()
    with tempfile.TemporaryDirectory(prefix="fusiond-test-") as folder:
        command, uri = COMMANDS[arguments.kind](port, folder)
        if command is None:
            print("missing", uri, flush=True)
            return
        with open(pathlib.Path(folder) / "log", "wb") as log:
            server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, preexec_fn=end_with_parent
            )
        try:
            print("ready" if listens(server, port) else "missing", uri, flush=True)
            sys.stdin.buffer.read()
        finally:
            end(server)


def mongo(port, folder):
    program = os.environ.get("FUSIOND_TEST_MONGOD", str(MONGO))
    if not pathlib.Path(program).exists():
        return None, "no MongoDB server to test with: scripts/test_servers.sh installs one"
    data = pathlib.Path(folder) / "data"
    command = [program, "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(data), "--log-level", "ERROR"]
    return command + ["--cache-size", "256M"], f"mongodb://127.0.0.1:{port}/"


def redis(port, folder):
    program = shutil.which("redis-server")
    if program is None:
        return None, "no redis-server to test with: scripts/test_servers.sh installs one"
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
    return command, f"redis://127.0.0.1:{port}/"


COMMANDS = {"mongo": mongo, "redis": redis}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_with_parent():
    """On Linux the kernel ends the server also when this program is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def listens(server, port):
    until = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def end(server):
    server.terminate()
    try:
        server.wait(ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


main()
