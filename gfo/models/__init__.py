"""Frozen models of transformers: loading, families, forward passes of many candidates."""

import warnings
from importlib import import_module

with warnings.catch_warnings():
    # transformers loads tqdm, which asks for ipywidgets in a notebook; gfo shows its progress without
    warnings.filterwarnings("ignore", message="IProgress not found")
    import_module("tqdm.auto")
