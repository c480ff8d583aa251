"""Memory of merging 4 whole checkpoints: the model, a module, and less of the files than one checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys

# large tensors go back to the system at once, so that what is measured is what is held
ALLOCATOR = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}
MEASURED = """
import json, sys, threading, time
from pathlib import Path
import numpy as np, psutil, torch, transformers
import gfo
from gfo.testing.tiny import draw_weights, tiny_model, token_ids

folder, number = Path(sys.argv[1]), 4
tokenizer = tiny_model().tokenizer
shape = dict(hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=8,
             num_key_value_heads=8, vocab_size=len(tokenizer), max_position_embeddings=256)
module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **token_ids()))
for i in range(number):
    draw_weights(module, i)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.1)
    module.save_pretrained(folder / str(i))
model = gfo.freeze(module, tokenizer, check=False)
rows = [{"text": "a great joy", "label": "a"}, {"text": "a waste", "label": "b"}]
task = gfo.Classification(rows, template="{text} It was", labels={"a": " good", "b": " bad"})
gfo.LocalEvaluator(model, task, gfo.Scaling(model, 2))(np.zeros((2, 2)), 0)  # what any evaluation takes

space = gfo.Merge(model, [folder / str(i) for i in range(number)], method="ties", groups=2)

def merge():
    z = np.random.default_rng(0).standard_normal((2, space.dim))
    assert np.isfinite(gfo.LocalEvaluator(model, task, space)(z, 0).loss).all()

def hold_all():
    from safetensors.torch import load_file
    held = [load_file(folder / str(i) / "model.safetensors") for i in range(number)]
    sum(float(tensor.sum()) for tensors in held for tensor in tensors.values())

def more(run):
    process, peak, done = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss
    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(0.001)
    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return peak[0] - before

found = {"merge": more(merge), "control": more(hold_all)}
found["module"] = max(p.nbytes for name, p in module.named_parameters() if "layers" in name)
found["model"] = sum(p.nbytes for p in module.parameters())
print(json.dumps(found))
"""


def test_four_checkpoints_never_stand_in_memory_at_once(tmp_path):
    """Beside the model: a module and one checkpoint's pages are the bound."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURED, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | ALLOCATOR,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["merge"] < found["module"] + found["model"], found
    assert found["control"] > 3 * found["model"], found
