"""The CompressAI process of speed.py, for a Python with CompressAI; does not import Trifocal.

For each line on stdin it writes a line of JSON: seconds of each part of encoding and decoding, and bytes.
Networks have random weights, which take the same time. Time outside analysis, synthesis and the entropy
model's networks is coding.
"""

import json
import sys
import time
import warnings
from functools import partial

warnings.simplefilter("ignore")

import numpy as np
import torch
from compressai.models import Elic2022Official
from compressai.zoo import bmshj2018_hyperprior
from PIL import Image

MODELS = {
    "hyperprior": lambda: bmshj2018_hyperprior(quality=3, pretrained=False),
    "elic": Elic2022Official,
}
PARTS = {"g_a": "analysis", "g_s": "synthesis"}


class Stopwatch:
    """Adds up the seconds of a model's networks with hooks: g_a, g_s, and all other layers (`entropy`)."""

    def __init__(self, model):
        self.seconds = {}
        for name, module in model.named_modules():
            part = PARTS.get(name)
            if part is None and name.split(".")[0] not in PARTS and not list(module.children()):
                part = "entropy"
            if part is not None:
                self.watch(module, part)

    def watch(self, module, part):
        begun = []

        def start(*_):
            begun.append(time.perf_counter())

        def stop(*_):
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begun.pop()

        module.register_forward_pre_hook(start)
        module.register_forward_hook(stop)

    def lap(self, work):
        self.seconds = {}
        begun = time.perf_counter()
        result = work()
        total = time.perf_counter() - begun
        return result, self.seconds | {"coding": total - sum(self.seconds.values()), "total": total}


def count(strings):
    """The bytes in CompressAI's nested lists."""
    return len(strings) if isinstance(strings, bytes) else sum(map(count, strings))


def peak():
    """The peak resident memory in bytes on Linux; None elsewhere."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None


def main(name, path, threads):
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    model.update()
    watch = Stopwatch(model)
    pixels = np.array(Image.open(path).convert("RGB"))
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    print("ready", flush=True)
    for _ in sys.stdin:
        with torch.inference_mode():
            coded, encode = watch.lap(partial(model.compress, x))
            _, decode = watch.lap(partial(model.decompress, coded["strings"], coded["shape"]))
        answer = {"encode": encode, "decode": decode, "bytes": count(coded["strings"]), "peak": peak()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
