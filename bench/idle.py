"""What the server costs when it does nothing: time to ready, resident memory, size on disk."""

import statistics
import time

from fusiond import Server, executable

STARTS = 15
SETTLE_SECONDS = 2


def measure():
    """Markdown of the section."""
    starts = [one_start() for _ in range(STARTS)]
    ready = [seconds * 1e3 for seconds, _ in starts]
    resident = [size / 1e6 for _, size in starts]
    binaries = ", ".join(
        f"{name} {(executable().parent / name).stat().st_size / 1e6:.1f} MB"
        for name in ("fusiond", "fusiond-llama", "fusiond-tensor")
        if (executable().parent / name).is_file()
    )
    return f"""## Idle server, no model loaded

| figure | median of {STARTS} starts | least – most | target |
|---|---|---|---|
| start to ready (exec to the first 200 of `/health/ready`, fresh data folder) | {statistics.median(ready):.0f} ms | {min(ready):.0f} – {max(ready):.0f} | ≤ 100 ms |
| resident memory {SETTLE_SECONDS} s after | {statistics.median(resident):.1f} MB | {min(resident):.1f} – {max(resident):.1f} | ≤ 40 MB |

Executables: {binaries}.
"""


def one_start():
    started = time.perf_counter()
    with Server() as server:
        seconds = time.perf_counter() - started
        time.sleep(SETTLE_SECONDS)
        return seconds, resident_bytes(server.process.pid)


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
