"""Frozen models of transformers: loading, families, forward passes of many candidates."""

import logging
import warnings
from importlib import import_module

with warnings.catch_warnings():
    # transformers loads tqdm, which asks for ipywidgets in a notebook; gfo shows its progress without
    warnings.filterwarnings("ignore", message="IProgress not found")
    import_module("tqdm.auto")


def _tells_more(record: logging.LogRecord) -> bool:
    """Whether it is more than torchao's notes, which transformers imports, on what it lacks on a machine."""
    text = record.getMessage()
    return not ("Failed to load" in text or "natively supported by torch.compile" in text)


for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).addFilter(_tells_more)
