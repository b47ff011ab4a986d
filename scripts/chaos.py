#!/usr/bin/env python3
"""Clients hand in jobs while servers and stores are killed; then whether every promise about jobs was kept.

Each case runs clients that submit jobs under keys of their own and ask again until they are told an id, whatever happens in between.
Afterwards no acknowledged job may be missing or unfinished, none may have ended twice, no key may stand for two jobs, the change log
must be dense and in order, and each job's callback must have come at least once.

  FUSIOND_BIN    the executable; the fake engine lies beside it
"""

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

from fusiond import Failed, Server  # noqa: E402

CLIENTS = 6
SETTLE_SECONDS = 180
DATABASE = "fusiond.sqlite"
# Of a worker that is not heard of any more.
LEASE_SECONDS = 15
MODEL = 'options = { tokens = "3", delay_ms = "2", resident_mb = "5", estimate_mb = "5" }'
SLOW_MODEL = 'options = { tokens = "20", delay_ms = "50", resident_mb = "5", estimate_mb = "5" }'


def main():
    options = arguments()
    failures = 0
    outside = tempfile.gettempdir()
    for name in options.cases:
        began = time.monotonic()
        print(f"{name}: ", end="", flush=True)
        try:
            # Whatever a case makes there goes with it.
            with tempfile.TemporaryDirectory(prefix="fusiond-chaos-", dir=outside) as tempfile.tempdir:
                told = CASES[name](options)
        except Skipped as why:
            print(f"SKIPPED: {why}")
            continue
        except Failed as problem:
            failures += 1
            print(f"FAILED: {problem}")
            continue
        print(f"{told} ({time.monotonic() - began:.0f} s)")
    sys.exit(1 if failures else 0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of: {', '.join(CASES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="kills of the cases that kill repeatedly (default: 5)")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    options.cases = options.cases or list(CASES)
    random.seed(options.seed)
    return options


class Skipped(Exception):
    """Why a case can't run here."""


# --- the cases ---


def crash_recovery(options):
    """One kill -9 under load."""
    return kills(1)


def repeated_kills(options):
    """Kill after kill, at any moment from the start on."""
    return kills(options.rounds)


def power_loss(options):
    """The same on a disk that loses what was not synced."""
    return kills(options.rounds, disk=Disk())


def lying_disk(options):
    """A disk that says it synced and didn't: if that goes unnoticed, the other cases prove nothing."""
    try:
        kills(2, disk=Disk(lies=True), at_least=100)
    except Lost as loss:
        return f"noticed: {loss}"
    raise Failed("acknowledged jobs must be gone, and none was missed")


def kills(rounds, disk=None, at_least=5):
    with Callbacks() as callbacks, fake_server(disk) as server, Clients(lambda: server, callbacks) as clients:
        for _ in range(rounds):
            time.sleep(random.uniform(0.05, 1.0))
            clients.wait_for_more(at_least)
            server.process.kill()
            server.process.wait()
            server.port = None
            if disk:
                disk.lose_unsynced(server)
            server.start()
        clients.stop()
        told = check(server, clients, callbacks)
    return f"{rounds} kills, {told}"


def store_restart(options):
    """The database is killed and comes back, and the servers with it never noticed more than a pause."""
    with Mongo() as mongo, on(mongo) as (server, clients, callbacks):
        for _ in range(min(options.rounds, 5)):
            clients.wait_for_more(10)
            mongo.kill()
            time.sleep(random.uniform(0.1, 3))
            mongo.start()
        clients.stop()
        return f"{min(options.rounds, 5)} restarts, {check(server, clients, callbacks)}"


def connection_kill(options):
    """Every connection to the database is cut, again and again."""
    with Mongo() as mongo, Proxy(mongo.port) as proxy, on(proxy) as (server, clients, callbacks):
        for _ in range(options.rounds):
            clients.wait_for_more(3)
            proxy.cut()
        clients.stop()
        return f"{options.rounds} times cut, {check(server, clients, callbacks)}"


def pool_exhaustion(options):
    """Two connections to the database for many clients."""
    with Mongo() as mongo, on(mongo, "?maxPoolSize=2", count=32) as (server, clients, callbacks):
        clients.wait_for_more(40)
        clients.stop()
        return check(server, clients, callbacks)


def flushall(options):
    """Redis forgets everything, and once is killed: it was a hint only."""
    with Mongo() as mongo, Redis() as redis, on(mongo, redis=redis) as (server, clients, callbacks):
        for round in range(options.rounds):
            clients.wait_for_more(5)
            redis.flush()
            if round == options.rounds // 2:
                redis.kill()
                clients.wait_for_more(5)
                redis.start()
        clients.stop()
        return f"{options.rounds} times forgotten, {check(server, clients, callbacks)}"


def two_nodes(options):
    """Two servers on one MongoDB and one Redis, of which one is killed at a time."""
    with nodes({}, {}) as (servers, clients, callbacks):
        return f"{options.rounds} kills, {kill_in_turn(options.rounds, servers, clients, callbacks)}"


def clock_off(options):
    """The same where one server's clock is ten minutes behind, and the other's as far ahead."""
    library = compiled("clock_off.c")
    clocks = [{"LD_PRELOAD": str(library), "CLOCK_OFF_SECONDS": str(off)} for off in (-600, 600)]
    rounds = max(1, min(options.rounds // 2, 5))
    with nodes(*clocks) as (servers, clients, callbacks):
        for server in servers:
            off = parsedate_to_datetime(server.headers("/health")["date"]).timestamp() - time.time()
            if not 590 < abs(off) < 610:
                raise Failed(f"a server's clock is only {off:.0f} s off")
            wait_for(lambda: reachable(server) == 2, "each server knows of the other")
        return f"{rounds} kills, {kill_in_turn(rounds, servers, clients, callbacks)}"


def kill_in_turn(rounds, servers, clients, callbacks):
    for round in range(rounds):
        clients.wait_for_more(10)
        victim = servers[round % 2]
        victim.process.kill()
        victim.process.wait()
        clients.wait_for_more(10)
        victim.port = None
        victim.start()
    clients.stop()
    return check(servers[0], clients, callbacks)


def zombie(options):
    """A server is stopped in the middle of its work until others have taken it over, and then goes on with it."""
    rounds = max(1, min(options.rounds // 5, 3))
    with nodes({}, {}, model=SLOW_MODEL) as (servers, clients, callbacks):
        for round in range(rounds):
            victim = servers[round % 2]
            clients.wait_for_more(10)
            wait_for(lambda: running(victim) >= 2, "the server has work")
            os.kill(victim.process.pid, signal.SIGSTOP)
            time.sleep(LEASE_SECONDS + 5)
            os.kill(victim.process.pid, signal.SIGCONT)
        clients.stop()
        told = check(servers[0], clients, callbacks)
        refused = sum(metric(server, "fusiond_job_stale_writes_total") for server in servers)
        lost = sum(metric(server, "fusiond_job_leases_lost_total") for server in servers)
    if refused + lost == 0:
        raise Failed("nothing that a stopped server had was taken over")
    return f"{rounds} times stopped, {refused:.0f} late writes refused, {lost:.0f} leases found lost, {told}"


CASES = {
    case.__name__: case
    for case in [
        crash_recovery, repeated_kills, power_loss, lying_disk, store_restart, connection_kill, pool_exhaustion, flushall, two_nodes,
        zombie, clock_off,
    ]
}


# --- what happens in them ---


def compiled(name):
    """The library of a C source beside this file."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or not compiler:
        raise Skipped("it needs Linux and a C compiler")
    source = Path(__file__).resolve().parent / name
    library = Path(tempfile.mkdtemp(prefix="fusiond-library-")) / f"{source.stem}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


class Disk:
    """What a disk would still have after a power cut: see drops_unsynced.c."""

    def __init__(self, lies=False):
        self.folder = Path(tempfile.mkdtemp(prefix="fusiond-synced-"))
        self.synced = self.folder / "synced"
        self.synced.mkdir()
        self.environment = {"LD_PRELOAD": str(compiled("drops_unsynced.c")), "SYNCED_FOLDER": str(self.synced)}
        if lies:
            self.environment["SYNC_LIES"] = "1"

    def lose_unsynced(self, server):
        data = server.folder / "data"
        for file in data.glob(f"{DATABASE}*"):
            file.unlink()
        for file in self.synced.iterdir():
            if file.suffix != ".draft":
                shutil.copy(file, data / file.name)


@contextmanager
def on(database, options="", redis=None, count=CLIENTS):
    """A server on the database with clients."""
    environment = {"MONGO_URI": database.uri + options}
    if redis:
        environment["REDIS_URI"] = redis.uri
    with Callbacks() as callbacks, fake_server(environment=environment) as server:
        with Clients(lambda: server, callbacks, pace=0.1, count=count) as clients:
            yield server, clients, callbacks


@contextmanager
def nodes(*environments, model=MODEL):
    """Servers on one MongoDB and one Redis, with clients that ask any of them."""
    with ExitStack() as stack:
        mongo, redis, callbacks = (stack.enter_context(part) for part in (Mongo(), Redis(), Callbacks()))
        shared = {"MONGO_URI": mongo.uri, "REDIS_URI": redis.uri}
        servers = [stack.enter_context(fake_server(environment=shared | own, model=model)) for own in environments]
        yield servers, stack.enter_context(Clients(lambda: random.choice(servers), callbacks, pace=0.1)), callbacks


def running(server):
    """Requests that the server's model works on."""
    return server.call("GET", "/v1/models/echo/info")["active_requests"]


def reachable(server):
    """How many servers it would pass requests on to, itself included."""
    return sum(node["is_reachable"] for node in server.call("GET", "/internal/nodes")["nodes"])


def metric(server, name):
    """The sum over its labels; 0 where it was never counted."""
    _, text = server.request("GET", "/metrics")
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def wait_for(holds, what):
    deadline = time.monotonic() + SETTLE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise Failed(f"waited in vain until {what}")
        time.sleep(0.01)


class Store:
    """A database of its own, which keeps its port and its files when it is killed and started again."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="fusiond-chaos-"))
        self.port = free_port()
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self):
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder
        )
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise Failed("the database did not start") from None
                time.sleep(0.05)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Mongo(Store):
    def command(self):
        program = Path(os.environ.get("FUSIOND_TEST_MONGOD") or Path.home() / ".cache/fusiond/secantus/venv/bin/secantusd-py")
        if not program.exists():
            raise Skipped("no MongoDB server to test with: scripts/test_servers.sh installs one")
        command = [program, "--host", "127.0.0.1", "--port", str(self.port), "--storage-path", self.folder / "data"]
        return [*command, "--log-level", "ERROR", "--cache-size", "256M"]

    @property
    def uri(self):
        return f"mongodb://127.0.0.1:{self.port}/"


class Redis(Store):
    def command(self):
        if not shutil.which("redis-server"):
            raise Skipped("no redis-server to test with: scripts/test_servers.sh installs one")
        return ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]

    @property
    def uri(self):
        return f"redis://127.0.0.1:{self.port}/"

    def flush(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            if connection.recv(64) != b"+OK\r\n":
                raise Failed("Redis did not forget")


class Proxy:
    """Stands before a database, and cuts all connections at once when told to."""

    def __init__(self, target):
        self.target = target
        self.open = set()
        self.lock = threading.Lock()

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"mongodb://127.0.0.1:{self.listener.getsockname()[1]}/"
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.cut()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                database = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            with self.lock:
                self.open |= {client, database}
            for pair in [(client, database), (database, client)]:
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with self.lock:
                self.open.discard(end)
            end.close()

    def cut(self):
        with self.lock:
            ends = list(self.open)
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fake_server(disk=None, environment=None, model=MODEL):
    models = Path(tempfile.mkdtemp(prefix="fusiond-chaos-models-"))
    (models / "echo").write_text("not a real model")
    configuration = f'[jobs]\nparallel = 32\n[[model]]\nid = "echo"\npath = "echo"\ntype = "lm"\nengine = "fake-engine"\n{model}\n'
    settings = {"OUTGOING_ALLOW": "127.0.0.0/8", "WEBHOOK_SECRET": "chaos", "FUSIOND_LOG_LEVEL": "error"}
    if disk:
        settings |= disk.environment
    return Server(settings | (environment or {}), models, configuration)


class Callbacks:
    """Counts the calls of each job."""

    def __enter__(self):
        self.heard = Counter()
        lock, heard = threading.Lock(), self.heard

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    heard[body["job"]["job_id"]] += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_):
                """A server that is killed in the middle of a call is what this is about."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Clients:
    """Hand in jobs, each under its key until an id is told. `server` says whom to ask next."""

    def __init__(self, server, callbacks, pace=0.005, count=CLIENTS):
        self.server, self.callbacks, self.pace = server, callbacks, pace
        self.acknowledged = {}
        self.wrong = []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()

    def stop(self):
        """What is under way is carried on until it is acknowledged."""
        self.ended.set()
        for thread in self.threads:
            thread.join(SETTLE_SECONDS)
            if thread.is_alive():
                raise Failed("a client was not told an id in time")

    def wait_for_more(self, count):
        wanted = len(self.acknowledged) + count
        deadline = time.monotonic() + SETTLE_SECONDS
        while len(self.acknowledged) < wanted:
            if time.monotonic() > deadline:
                raise Failed("no more jobs are acknowledged")
            time.sleep(0.005)

    def work(self, number):
        job = 0
        while not self.ended.is_set():
            job += 1
            self.submit(f"{number}-{job}")
            time.sleep(self.pace)

    def submit(self, key):
        body = {
            "operation": "chat", "model_id": "echo", "input": {"messages": [{"role": "user", "content": key}]},
            "callback_url": self.callbacks.url, "idempotency_key": key, "max_attempts": 20,
        }
        while True:
            try:
                status, answer = self.server().request("POST", "/api/mcp/jobs", json.dumps(body))
            except (OSError, TypeError, http.client.HTTPException):
                # Nobody there, or cut off in the middle: whether it was kept is what asking again tells.
                time.sleep(0.02)
                continue
            if status == 202:
                with self.lock:
                    self.acknowledged[key] = answer["job_id"]
                return
            if status not in (429, 500, 503, 504):
                self.wrong.append(f"submit answered {status}: {answer}")
                return
            time.sleep(0.02)


# --- what must be true afterwards ---


class Lost(Failed):
    """An acknowledged job is not there."""


def check(server, clients, callbacks):
    if clients.wrong:
        raise Failed("; ".join(clients.wrong[:3]))
    ids = clients.acknowledged
    if len(set(ids.values())) != len(ids):
        raise Failed("two keys stand for one job")
    settle(server, ids)
    for key, id in ids.items():
        clients.submit(key)
        if clients.acknowledged[key] != id:
            raise Lost(f"the key of job {id} stands for another job now")
    events = change_log(server)
    for id in ids.values():
        ended = [event for event in events[id] if event in ("job.completed", "job.failed", "job.cancelled")]
        if len(ended) != 1:
            raise Failed(f"job {id} ended {len(ended)} times: {events[id]}")
        if events[id][0] != "job.queued" or events[id][-1] not in ended:
            raise Failed(f"job {id} has an odd history: {events[id]}")
    deadline = time.monotonic() + SETTLE_SECONDS
    while missing := [id for id in ids.values() if not callbacks.heard[id]]:
        if time.monotonic() > deadline:
            raise Failed(f"{len(missing)} jobs were never called back, such as {missing[0]}")
        time.sleep(0.1)
    twice = sum(callbacks.heard[id] > 1 for id in ids.values())
    return f"{len(ids)} jobs kept, each ended once and called back ({twice} oftener)"


def settle(server, ids):
    deadline = time.monotonic() + SETTLE_SECONDS
    for id in ids.values():
        while True:
            status, job = server.request("GET", f"/api/mcp/jobs/{id}?wait_ms=5000")
            if status == 404:
                raise Lost(f"job {id} was acknowledged and is gone")
            if status == 200 and job["status"] == "completed":
                break
            if status == 200 and job["status"] in ("failed", "cancelled"):
                raise Failed(f"job {id} is {job['status']}: {job.get('error')}")
            if time.monotonic() > deadline:
                raise Failed(f"job {id} is not finished: {status} {job}")


def change_log(server):
    events, cursor = defaultdict(list), 0
    while True:
        page = server.call("GET", f"/api/mcp/sync?since={cursor}&limit=1000")
        for event in page["events"]:
            if event["seq"] != cursor + 1:
                raise Failed(f"the change log goes from {cursor} to {event['seq']}")
            cursor = event["seq"]
            events[event["job"]["job_id"]].append(event["event"])
        if not page["more"]:
            return events


if __name__ == "__main__":
    try:
        main()
    except (Failed, KeyboardInterrupt) as problem:
        print(problem or "stopped", file=sys.stderr)
        sys.exit(1)
