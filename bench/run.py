#!/usr/bin/env python3
"""Measures and writes bench/RESULTS.md: `make bench`, or with names of sections only those, printed. `--rounds N`: so many, not its usual."""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import constrained  # noqa: E402
import idle  # noqa: E402
import llama  # noqa: E402
import overhead  # noqa: E402
import router  # noqa: E402
import prompts  # noqa: E402
import queues  # noqa: E402
import stall  # noqa: E402
import swap  # noqa: E402
from fusiond import Failed, executable  # noqa: E402

SECTIONS = {
    "overhead": overhead,
    "router": router,
    "idle": idle,
    "llama": llama,
    "prompts": prompts,
    "stall": stall,
    "swap": swap,
    "queues": queues,
    "constrained": constrained,
}
RESULTS = ROOT / "bench/RESULTS.md"


def main():
    if sys.platform != "linux":
        raise Failed("the benchmarks read /proc and so run on Linux only")
    options = arguments()
    chosen = options.sections or list(SECTIONS)
    parts = [header()]
    for name in chosen:
        print(f"measuring {name} …", flush=True)
        if options.rounds and hasattr(SECTIONS[name], "ROUNDS"):
            SECTIONS[name].ROUNDS = options.rounds
        parts.append(SECTIONS[name].measure())
    text = "\n".join(parts)
    print(text)
    if chosen == list(SECTIONS) and not options.rounds:
        RESULTS.write_text(text)
        print(f"written to {RESULTS.relative_to(ROOT)}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", choices=[[], *SECTIONS], help=", ".join(SECTIONS))
    parser.add_argument("--rounds", type=int, help="rounds of each section")
    return parser.parse_args()


def header():
    profile = "debug build: figures are not comparable" if executable().parent.name == "debug" else "release build"
    return f"""# Measured

Only ratios from one run count: the machine is what it is. How each figure is made stands in `bench/`.

- {time.strftime("%Y-%m-%d")}, {machine()}
- fusiond {command("git", "describe", "--always", "--dirty") or "?"} ({profile}), {command("rustc", "--version")}, Python {platform.python_version()}
- load average at the start: {os.getloadavg()[0]:.2f}
"""


def machine():
    with open("/proc/cpuinfo") as cpuinfo:
        model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{model}, {os.cpu_count()} processors, {memory:.0f} GB, Linux {platform.release()}"


def command(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


if __name__ == "__main__":
    try:
        main()
    except (Failed, OSError) as error:
        sys.exit(f"bench: {error}")
