#!/usr/bin/env python3
"""Time encoding and decoding of one 768×512 photograph with Trifocal, CompressAI and AVIF in one run, and of
one in 4K and one of 12 megapixels with Trifocal.

    python benchmarks/speed.py [--presets NAMES] [--threads 2] [--picture P] [--compressai-python
    VENV/bin/python]

The codecs alternate, so that load on the machine affects all of them. Figures are medians over the rounds
after a warm-up; ratios are medians of the ratios within a round. The large images have one round, also after
a warm-up. CompressAI needs an older numpy and may be in another environment. Writes speed.csv and speed.md
into results/.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image

from trifocal.container import Bitstream
from trifocal.demo import PHOTOGRAPH
from trifocal.errors import TrifocalError
from trifocal.evaluation.candidates.pillow_codecs import PILLOW_CODECS, pillow_codecs
from trifocal.evaluation.candidates.variant import Variant
from trifocal.evaluation.peak_memory import peak_memory, processor
from trifocal.pictures import Picture
from trifocal.presets import DEFAULT, load

HERE = Path(__file__).resolve().parent
SIZE = (768, 512)
LARGE = {"4K": (3840, 2160), "12 megapixels": (4000, 3000)}
ANCHOR = "CompressAI hyperprior, quality 3"
COMPRESSAI = {"hyperprior": ANCHOR, "elic": "CompressAI Elic2022Official"}
ABSENT = "not measured: pip install compressai"
PARTS = ("base", "analysis", "entropy", "coding", "synthesis")
WAYS = ("encode", "decode")
LOAD = "import trifocal; trifocal.load()"
LOADS = 5
HAS_COMPRESSAI = "import importlib.util as i; raise SystemExit(i.find_spec('compressai') is None)"

Lap = dict[str, Any]
"""One round: "encode" and "decode", each seconds by part and "total"; and "bytes"."""


@dataclass
class Contender:
    """A codec and its measured rounds. `turn` is None if it is not installed; `size` is a name in LARGE."""

    name: str
    turn: Callable[[], Lap] | None
    laps: list[Lap] = field(default_factory=list)
    peak: int | None = None
    size: str = ""

    def seconds(self, way: str, part: str = "total") -> float | None:
        """The median; None if there is no such part."""
        found = [lap[way][part] for lap in self.laps if part in lap[way]]
        return statistics.median(found) if found else None

    def ratio(self, way: str, anchor: "Contender") -> float | None:
        """The median ratio to the anchor's seconds in the same round; None for another image."""
        pairs = [] if self.size else list(zip(self.laps, anchor.laps))
        return statistics.median(a[way]["total"] / b[way]["total"] for a, b in pairs) if pairs else None


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        picture = photograph(arguments.picture, Path(folder) / "photograph.png")
        contenders = [ours(preset, picture, arguments.quality) for preset in arguments.presets]
        for model, name in COMPRESSAI.items():
            command = [arguments.compressai_python, str(HERE / "compressai_worker.py")]
            command += [model, str(Path(folder) / "photograph.png"), str(arguments.threads)]
            contenders.append(Contender(name, stack.enter_context(worker(command))))
        contenders.append(avif(picture, arguments.threads))
        take_turns(contenders, arguments.repeats)
        measure_memory(contenders, arguments, Path(folder) / "photograph.png")
        contenders += measure_large(arguments, Path(folder))
    facts = machine(arguments) | {
        "load_s": f"{fresh_process(LOAD):.2f}",
        "torch_s": f"{fresh_process('import torch'):.2f}",
    }
    rows = table(contenders)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / "speed.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], *facts], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | facts for row in rows)
    text = markdown(rows, facts)
    (arguments.out / "speed.md").write_text(text, encoding="utf-8")
    print(text, end="")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time encoding and decoding of one 768×512 photograph.")
    parser.add_argument("--presets", nargs="+", default=["compact", DEFAULT])
    parser.add_argument("--quality", type=float, default=50)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=7, help="rounds after the warm-up")
    parser.add_argument("--picture", default=PHOTOGRAPH, help="resized to 768×512 if needed")
    parser.add_argument("--compressai-python", default=sys.executable, help="a Python with CompressAI")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results", help="folder of the tables")
    return parser.parse_args()


def photograph(source: str | Path, copy: Path, size: tuple[int, int] = SIZE) -> Picture:
    """The image at that size; also written to `copy` for other processes."""
    image = Picture.open(source).to_pil().convert("RGB")
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    image.save(copy)
    return Picture.from_pil(image)


def ours(preset: str, picture: Picture, quality: float) -> Contender:
    codec = load(preset)

    def turn() -> Lap:
        encode: dict[str, float] = {}
        decode: dict[str, float] = {}
        begun = time.perf_counter()
        data = codec.encode(picture, quality=quality, timings=encode).to_bytes()
        encoded = time.perf_counter()
        codec.decode(Bitstream.from_bytes(data), timings=decode)
        done = time.perf_counter()
        return {
            "encode": encode | {"total": encoded - begun},
            "decode": decode | {"total": done - encoded},
            "bytes": len(data),
        }

    return Contender(f"Trifocal {preset}, quality {quality:g}", turn)


def avif(picture: Picture, threads: int, quality: int = 50) -> Contender:
    codec = PILLOW_CODECS["avif"]
    name = f"{codec.title}, quality {quality}"
    if codec not in pillow_codecs():
        return Contender(name, None)

    def turn() -> Lap:
        begun = time.perf_counter()
        data = codec.encode(picture, quality, max_threads=threads)
        encoded = time.perf_counter()
        codec.decode(data)
        done = time.perf_counter()
        return {"encode": {"total": encoded - begun}, "decode": {"total": done - encoded}, "bytes": len(data)}

    return Contender(name, turn)


@contextmanager
def worker(command: Sequence[str]) -> Iterator[Callable[[], Lap] | None]:
    """A process that measures a round on request; None if its Python has no CompressAI."""
    if subprocess.run([command[0], "-c", HAS_COMPRESSAI], check=False).returncode:
        yield None
        return
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        stdin, stdout = process.stdin, process.stdout

        def turn() -> Lap:
            stdin.write("go\n")
            stdin.flush()
            lap: Lap = json.loads(stdout.readline())
            return lap

        stdout.readline()  # wait until it is ready
        yield turn
        stdin.close()


def take_turns(contenders: Sequence[Contender], repeats: int) -> None:
    """Run all contenders once as a warm-up and once in each round. Each round has another order, since what
    follows an encoding by AVIF can take longer.
    """
    order = [*contenders]
    for number in range(repeats + 1):
        Random(number).shuffle(order)
        for contender in order:
            if contender.turn is not None:
                lap = contender.turn()
                contender.laps += [lap] * (number > 0)


def measure_memory(contenders: Sequence[Contender], arguments: argparse.Namespace, copy: Path) -> None:
    """Peak memory of processes with one codec each; CompressAI's workers report their own."""
    for contender in contenders:
        if contender.laps:
            contender.peak = contender.laps[-1].get("peak")
    for contender, preset in zip(contenders, arguments.presets):
        contender.peak = peak_memory(Variant(preset), copy, arguments.quality)
    contenders[-1].peak = peak_memory(Variant("avif"), copy, 50)


def measure_large(arguments: argparse.Namespace, folder: Path) -> list[Contender]:
    """The presets on the images of LARGE."""
    measured = []
    for name, size in LARGE.items():
        picture = photograph(arguments.picture, copy := folder / "large.png", size)
        own = [ours(preset, picture, arguments.quality) for preset in arguments.presets]
        take_turns(own, 1)
        for contender, preset in zip(own, arguments.presets):
            contender.name, contender.size = f"{contender.name}, {name}", name
            contender.peak = peak_memory(Variant(preset), copy, arguments.quality)
        measured += own
    return measured


def fresh_process(code: str) -> float:
    """Seconds until a new Python has run this code, without its exit; median of LOADS."""
    times = []
    for _ in range(LOADS):
        begun = time.perf_counter()
        command = [sys.executable, "-c", f"{code}; print('done', flush=True)"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            done = process.stdout.readline()
            times.append(time.perf_counter() - begun)
        if done != b"done\n":
            raise SystemExit(f"{code!r} failed in a fresh process.")
    return statistics.median(times)


def table(contenders: Sequence[Contender]) -> list[dict[str, str]]:
    anchor = next(contender for contender in contenders if contender.name == ANCHOR)
    rows = []
    for contender in contenders:
        row = {"codec": contender.name}
        for way in WAYS:
            row[f"{way}_s"] = figure(contender.seconds(way))
            row |= {f"{way}_{part}_s": figure(contender.seconds(way, part)) for part in PARTS}
            row[f"{way}_ratio"] = figure(contender.ratio(way, anchor), 3)
        row["peak_mib"] = "" if contender.peak is None else str(contender.peak >> 20)
        row["bytes"] = str(contender.laps[0]["bytes"]) if contender.laps else ""
        row["note"] = "" if contender.turn else ABSENT if "CompressAI" in contender.name else "not installed"
        rows.append(row)
    return rows


def figure(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def machine(arguments: argparse.Namespace) -> dict[str, str]:
    """The machine and the settings."""
    return {
        "machine": processor(),
        "cores": str(os.cpu_count()),
        "threads": str(arguments.threads),
        "repeats": str(arguments.repeats),
        "torch": importlib.metadata.version("torch"),
        "date": time.strftime("%Y-%m-%d"),
    }


def markdown(rows: Sequence[dict[str, str]], facts: dict[str, str]) -> str:
    """A Markdown table with a line for each codec and direction."""
    where = (
        f"{facts['threads']} threads on {facts['cores']} cores of {facts['machine']}, torch {facts['torch']}"
    )
    lines = [
        f"768×512, {where}, {facts['date']}: medians of {facts['repeats']} rounds, in milliseconds.",
        f"The ratio is to {ANCHOR}.",
        "",
        f"| codec | way | total | {' | '.join(PARTS)} | ratio | peak MiB |",
        f"|---|---|---:|{'---:|' * len(PARTS)}---:|---:|",
    ]
    for row in rows:
        for way in WAYS if not row["note"] else ():
            cells = [milliseconds(row[f"{way}_{part}"]) for part in ("s", *(f"{part}_s" for part in PARTS))]
            lines.append(
                f"| {row['codec']} | {way} | {' | '.join(cells)} | {row[f'{way}_ratio']} | "
                f"{row['peak_mib']} |"
            )
        if row["note"]:
            lines.append(f"| {row['codec']} | {row['note']} | | |{' |' * len(PARTS)} |")
    shares = [
        f"{float(rows[0][f'{way}_coding_s']) / float(rows[0][f'{way}_s']):.1%} of {way}" for way in WAYS
    ]
    lines += [
        "",
        (
            "The peak is the resident memory of a process that encodes and decodes with one codec, including "
            "its libraries."
        ),
    ]
    lines += ["", f"The range coder of {rows[0]['codec']} takes {' and '.join(shares)}."]
    lines.append(
        f"A fresh process imports the library and loads the weights of {DEFAULT} in {facts['load_s']} s; "
        "importing torch alone"
        f" takes {facts['torch_s']} s."
    )
    return "\n".join([*lines, ""])


def milliseconds(seconds: str) -> str:
    return f"{1000 * float(seconds):.1f}" if seconds else ""


if __name__ == "__main__":
    try:
        main()
    except (TrifocalError, OSError) as error:
        sys.exit(str(error))
