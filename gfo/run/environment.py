"""Versions, hardware and memory, for every result."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from gfo import __version__
from gfo.run.callbacks import Callback, Run

PACKAGES = ("torch", "transformers", "numpy", "scipy", "cma", "nevergrad", "peft", "scikit-learn")
PRODUCTS = "float32_products"  # in records, where they are not computed in full


def versions() -> dict[str, str]:
    """Versions of Python, gfo and what its numbers depend on."""
    found = {"python": platform.python_version(), "gfo": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def threads() -> int | str:
    """How many threads computations are spread over, on which their last bits may depend."""
    torch = sys.modules.get("torch")
    return os.environ.get("OMP_NUM_THREADS", "") if torch is None else int(torch.get_num_threads())


def hardware(device: Any = None) -> dict[str, Any]:
    """Processor, cores, memory in GiB, torch's threads and the GPU, as far as they can be told.

    Args:
        device: of the model, of torch: which GPU; None for the one that torch would take.
    """
    import psutil

    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name(device if _on_gpu(device) else None)
    return found | reduced_products(device)


def reduced_products(device: Any = None) -> dict[str, str]:
    """What float32 products are rounded to, where they are, because the process or its environment says so.

    Args:
        device: of the model, of torch; None for the CPU.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    from gfo.models.precision import reduced_to

    reduced = reduced_to(torch.device("cpu") if device is None else device)
    return {} if reduced is None else {PRODUCTS: reduced}


class PeakMemory(Callback):
    """The most memory that the process held during a run, as `memory` in a record.

    Of a model on a GPU the tensors' bytes on that one; else the process's resident bytes, as Linux counts
    them. Where their highest mark cannot be reset it is that of the process so far, and `whole_process`
    says so. Compare runs in new processes: freed memory is not always given back.

    Args:
        record: gets {"start_bytes", "peak_bytes", "device", "whole_process"} in the end.
        device: where the model is, of torch; None for no model.
    """

    def __init__(self, record: dict[str, Any], device: Any = None) -> None:
        self._record, self._device = record, device
        self._facts: dict[str, Any] = {}

    def start(self, run: Run) -> None:
        """Begin a new highest mark."""
        if _on_gpu(self._device):
            cuda = sys.modules["torch"].cuda
            cuda.reset_peak_memory_stats(self._device)
            held = cuda.memory_allocated(self._device)
            self._facts = {"start_bytes": held, "device": str(self._device), "whole_process": False}
            return
        import psutil

        held = psutil.Process().memory_info().rss
        self._facts = {"start_bytes": held, "device": "cpu", "whole_process": not _reset_peak()}

    def end(self, run: Run) -> None:
        """Write the highest mark down."""
        if not self._facts:
            return
        gpu = _on_gpu(self._device)
        peak = sys.modules["torch"].cuda.max_memory_allocated(self._device) if gpu else _peak()
        self._record["memory"] = {**self._facts, "peak_bytes": int(peak)}


def _on_gpu(device: Any) -> bool:
    return getattr(device, "type", None) == "cuda"


def _reset_peak() -> bool:
    """Set the highest mark of resident bytes to those now; whether that can be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak() -> int:
    """The highest mark of resident bytes."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
