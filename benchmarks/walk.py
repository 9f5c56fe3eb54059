#!/usr/bin/env python3
"""Time the stages of encoding and decoding one 768×512 photograph on the ONNX engine, without torch.

    python benchmarks/walk.py [--presets compact dual-layer-compact] [--threads 2] [--repeats 9]

A stage's time excludes the stages that it calls. Prints a Markdown table of medians in milliseconds; presets
and directions alternate, so that load on the machine affects all of them.
"""

import argparse
import importlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

SIZE = (768, 512)
NETWORKS = "trifocal.entropy.numpy_networks"
MODEL = "trifocal.entropy.numpy_model"
STAGES = {
    "transforms (ONNX Runtime)": [("trifocal.graphs.session", "Graphs.run")],
    "integer networks: linear layers": [(NETWORKS, "threaded_linear"), (NETWORKS, "threaded_placed_linear")],
    "integer networks: depthwise layers": [(NETWORKS, "threaded_depthwise")],
    "integer networks: the rest": [
        (NETWORKS, "Prior.__call__"),
        (NETWORKS, "HyperSynthesis.__call__"),
        (MODEL, "predict"),
    ],
    "range coder": [
        ("trifocal.entropy.coder", "Writer._write"),
        ("trifocal.entropy.coder", "Reader._read"),
        ("trifocal.entropy.coder", "_runs"),
    ],
    "quantisation": [("trifocal.entropy.coder", "symbols_at"), ("trifocal.entropy.coder", "rows_at")],
    "order of the passes": [(MODEL, "take"), (MODEL, "put")],
    "gain": [(MODEL, "latent_gain"), (MODEL, "NumpyCodingNetworks.scale")],
}
REST = "the rest"


class Stages:
    """Seconds by stage, each without those of the stages that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[float] = []  # seconds of the stages that each open stage has called

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            self._open.append(0.0)
            begun = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                elapsed = time.perf_counter() - begun
                self.seconds[stage] += elapsed - self._open.pop()
                if self._open:
                    self._open[-1] += elapsed

        return run

    def install(self) -> None:
        """Replace the functions of STAGES by timed ones, before networks are built from them."""
        for stage, places in STAGES.items():
            for module, name in places:
                owner: Any = importlib.import_module(module)
                *classes, attribute = name.split(".")
                for part in classes:
                    owner = getattr(owner, part)
                setattr(owner, attribute, self.timed(stage, getattr(owner, attribute)))


def main() -> None:
    arguments = parse()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # `utils.threads` reads it at each call
    from PIL import Image

    import trifocal
    from trifocal.demo import PHOTOGRAPH

    stages = Stages()
    stages.install()
    image = trifocal.Picture.open(PHOTOGRAPH).to_pil().convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    picture = trifocal.Picture.from_pil(image)
    rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(arguments.repeats + 1):
        for preset in arguments.presets:
            codec = trifocal.load(preset, engine="onnx") if number == 0 else codecs[preset]
            codecs = {**(codecs if number or rounds else {}), preset: codec}
            options = {"refinement": 0} if preset == "dual-layer-compact" else {}
            encode = stages.timed(REST, lambda: codec.encode(picture, quality=arguments.quality, **options))
            stream = measure(stages, encode, rounds[f"{preset} encode"])
            measure(stages, stages.timed(REST, lambda: codec.decode(stream)), rounds[f"{preset} decode"])
    print(table({column: laps[1:] for column, laps in rounds.items()}))


def measure(stages: Stages, run: Callable[[], Any], laps: list[dict[str, float]]) -> Any:
    stages.seconds.clear()
    result = run()
    laps.append(dict(stages.seconds))
    return result


def table(rounds: dict[str, Sequence[dict[str, float]]]) -> str:
    lines = [f"| stage | {' | '.join(rounds)} |", f"|---|{'---:|' * len(rounds)}"]
    totals = [statistics.median(sum(lap.values()) for lap in laps) for laps in rounds.values()]
    for stage in (*STAGES, REST):
        medians = [statistics.median(lap.get(stage, 0.0) for lap in laps) for laps in rounds.values()]
        cells = [f"{1000 * m:.1f} ({m / total:.0%})" for m, total in zip(medians, totals, strict=True)]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    lines.append(f"| total | {' | '.join(f'{1000 * total:.1f}' for total in totals)} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the stages of encoding and decoding on ONNX Runtime.")
    parser.add_argument("--presets", nargs="+", default=["compact", "dual-layer-compact"])
    parser.add_argument("--quality", type=float, default=50)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=9, help="rounds after the warm-up")
    return parser.parse_args()


if __name__ == "__main__":
    main()
