#!/usr/bin/env python3
"""Time the stages of encoding and decoding one 768×512 photograph on the ONNX engine, without torch.

    python benchmarks/walk.py [--presets compact dual-layer-compact] [--arithmetics 1 2] [--threads 2]

A stage's time excludes the stages that it calls. Prints a Markdown table of medians in milliseconds. Presets,
arithmetics and directions alternate, so that load on the machine affects all of them; the base layer is not
refined.
"""

import argparse
import copy
import importlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

SIZE = (768, 512)
ENTROPY = "trifocal.entropy"
INTEGER, FIXED = f"{ENTROPY}.numpy_networks", f"{ENTROPY}.fixed_point"
STAGES = {
    "transforms (ONNX Runtime)": ["trifocal.graphs.session:Graphs.run"],
    "exact networks: linear layers": [
        f"{INTEGER}:threaded_linear",
        f"{INTEGER}:threaded_placed_linear",
        f"{FIXED}:Linear.__call__",
    ],
    "exact networks: depthwise layers": [f"{INTEGER}:threaded_depthwise", f"{FIXED}:Depthwise.__call__"],
    "exact networks: blocks of arithmetic 2": [f"{FIXED}_networks:Block.__call__"],
    "exact networks: the rest": [
        f"{ENTROPY}.numpy_model:NumpyCodingNetworks.{name}"
        for name in ("prior", "hyper_synthesis", "predict")
    ],
    "range coder": [f"{ENTROPY}.coder:{name}" for name in ("Writer._write", "Reader._read", "_runs")],
    "quantisation": [f"{ENTROPY}.coder:{name}" for name in ("symbols_at", "rows_at")],
    "order of the passes": [f"{ENTROPY}.numpy_model:{name}" for name in ("take", "put")],
}
REST = "the rest"


class Stages:
    """Seconds by stage, each without those of the stages that it calls."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[float] = []  # seconds of the stages that each open stage has called

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            self._open.append(0.0)
            begun = self.clock()
            try:
                return function(*arguments, **options)
            finally:
                elapsed = self.clock() - begun
                self.seconds[stage] += elapsed - self._open.pop()
                if self._open:
                    self._open[-1] += elapsed

        return run

    def install(self) -> None:
        """Replace the functions of STAGES by timed ones, before networks are built from them."""
        for stage, places in STAGES.items():
            for place in places:
                module, _, name = place.partition(":")
                owner: Any = importlib.import_module(module)
                *classes, attribute = name.split(".")
                for part in classes:
                    owner = getattr(owner, part)
                setattr(owner, attribute, self.timed(stage, getattr(owner, attribute)))

    def of(self, run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
        """The result of a call, and its seconds by stage."""
        self.seconds.clear()
        result = self.timed(REST, run)()
        return result, dict(self.seconds)


def main() -> None:
    arguments = parse()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # `utils.threads` reads it at each call
    stages = Stages(time.process_time if arguments.processor_time else time.perf_counter)
    stages.install()
    rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
    columns = [(preset, number) for preset in arguments.presets for number in arguments.arithmetics]
    codecs = {column: codec_in(*column) for column in columns}
    picture = photograph()
    for _ in range(arguments.repeats + 1):
        for (preset, number), codec in codecs.items():
            seconds = lap(stages, codec, picture, arguments.quality)
            for way, found in seconds.items():
                rounds[f"{preset}, arithmetic {number}, {way}"].append(found)
    print(table({column: laps[1:] for column, laps in rounds.items()}))


def codec_in(preset: str, arithmetic: int) -> Any:
    """A codec on the ONNX engine that writes files in an arithmetic."""
    import trifocal

    codec: Any = trifocal.load(preset, engine="onnx")
    codec.runtime = runtime = copy.copy(codec.runtime)  # all codecs of a preset share one
    codec.tiles = codec.tile_coder(runtime)
    runtime.arithmetics = (arithmetic,)
    if hasattr(runtime, "base"):
        runtime.base = copy.copy(runtime.base)
        runtime.base.arithmetics = (arithmetic,)
    return codec


def photograph() -> Any:
    from PIL import Image

    from trifocal.demo import PHOTOGRAPH
    from trifocal.pictures import Picture

    image = Picture.open(PHOTOGRAPH).to_pil().convert("RGB")
    return Picture.from_pil(image.resize(SIZE, Image.Resampling.LANCZOS))


def lap(stages: Stages, codec: Any, picture: Any, quality: float) -> dict[str, dict[str, float]]:
    """Seconds by stage, of encoding and of decoding."""
    options = {"refinement": 0} if hasattr(codec.runtime, "base") else {}
    stream, encoding = stages.of(lambda: codec.encode(picture, quality=quality, **options))
    _, decoding = stages.of(lambda: codec.decode(stream))
    return {"encode": encoding, "decode": decoding}


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
    parser.add_argument("--arithmetics", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--quality", type=float, default=50)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=9, help="rounds after the warm-up")
    parser.add_argument(
        "--processor-time", action="store_true", help="of all threads; load on the machine changes it less"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
