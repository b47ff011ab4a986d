#!/usr/bin/env python3
"""Holds the map to the land: every path that the documents name exists, and every source file stands on the map.

In docs/architecture.md a table row `| crates/NAME | … |` names that crate's files, without `.rs`, in backquotes: `job`, or
`jobs/submit`, or `rag/{ingest, chunker}` for several. Elsewhere a backquoted path with a known ending has to exist.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAP = ROOT / "docs/architecture.md"
DOCUMENTS = [MAP, ROOT / "README.md"]
ENDINGS = r"\.(?:rs|py|sh|md|toml|txt)"


def main():
    problems = [problem for document in DOCUMENTS for problem in missing_paths(document)]
    problems += unmapped_files()
    for problem in problems:
        print(f"docs: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def missing_paths(document):
    text = document.read_text(encoding="utf-8")
    named = re.findall(rf"`([\w./-]+/[\w.-]+{ENDINGS})`", text) + re.findall(r"\]\(([\w./-]+)\)", text)
    for path in dict.fromkeys(named):
        if not any((base / path).exists() for base in (ROOT, document.parent)):
            yield f"{document.name} names {path}, which is not there"


def unmapped_files():
    rows = re.findall(r"^\| `?crates/([\w-]+)`? \|(.*)\|$", MAP.read_text(encoding="utf-8"), re.M)
    mapped = {(crate, name) for crate, cells in rows for name in names(cells)}
    there = {source_name(path) for path in tracked_sources()} - {None}
    for crate, name in sorted(there - mapped):
        yield f"the map lacks {name} of crates/{crate}"
    for crate, name in sorted(mapped - there):
        yield f"the map has {name} in crates/{crate}, which is not there"


def names(cells):
    """The names in backquotes, folders with braces taken apart."""
    for name in re.findall(r"`([^`]+)`", cells):
        folder, braces, inner = name.partition("{")
        if braces:
            yield from (folder + part.strip() for part in inner.rstrip("}").split(","))
        elif re.fullmatch(r"[\w/-]+", name):
            yield name


def tracked_sources():
    """Without git, in an unpacked archive, whatever lies there."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "crates/*/src/*.rs"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [path for path in listed.stdout.split() if (ROOT / path).exists()]
    return [str(path.relative_to(ROOT)) for path in ROOT.glob("crates/*/src/**/*.rs")]


def source_name(path):
    """`crates/C/src/rag/mod.rs` is (C, rag); a crate's root file and tests need no mention."""
    _, crate, _, *rest = Path(path).with_suffix("").parts
    if rest[-1] == "mod":
        rest = rest[:-1]
    return None if rest in (["lib"], ["main"]) or rest[-1] == "tests" else (crate, "/".join(rest))


if __name__ == "__main__":
    main()
