#!/usr/bin/env python3
"""Encode the frames of a video or camera, and send the base layer of each first.

    pip install ".[video]"
    python examples/camera.py VIDEO -o FOLDER [--every 25] [--quality 30] [--base-only]

The base layer of a frame (000025-base.tri) is written as soon as it is coded, so that `trifocal detect` can
read it while the enhancement (000025-enh.tri) is still computed. `trifocal merge` joins the two. To send them
elsewhere, replace `send`.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from rich.progress import Progress

import trifocal

BT709, BT601 = 1, (5, 6)  # FFmpeg's AVCOL_SPC_BT709, AVCOL_SPC_BT470BG and AVCOL_SPC_SMPTE170M
FULL_RANGE = 2  # AVCOL_RANGE_JPEG


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode the frames of a video, base layers first.")
    parser.add_argument("video", help="a file, or a camera such as /dev/video0")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the .tri files")
    parser.add_argument("--every", type=int, default=25, help="encode every n-th frame")
    parser.add_argument("--quality", type=float, default=30)
    parser.add_argument("--base-only", action="store_true", help="no enhancement")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    options = trifocal.EncodeOptions(quality=arguments.quality, base_only=arguments.base_only)
    encoder = trifocal.Encoder(options=options)  # loads the networks once
    with Progress(transient=True) as bar:
        task = bar.add_task(Path(arguments.video).name, total=None)
        for number, picture in frames(arguments.video, arguments.every):
            if arguments.base_only:
                send(encoder(picture), f"{number:06}-base", arguments.out)
            else:
                for name, part in zip(("base", "enh"), encoder.in_parts(picture)):
                    send(part, f"{number:06}-{name}", arguments.out)
            bar.advance(task)


def frames(video: str, every: int) -> Iterator[tuple[int, trifocal.Picture]]:
    """Every n-th frame with its number."""
    convert: trifocal.FrameConverter | None = None
    with av.open(video) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % every:
                continue
            width, height = frame.width // 2 * 2, frame.height // 2 * 2
            if convert is None or (convert.width, convert.height) != (width, height):
                is_bt601 = frame.colorspace in BT601 or (frame.colorspace != BT709 and height < 720)
                full_range = frame.color_range == FULL_RANGE
                convert = trifocal.FrameConverter(
                    width, height, "i420", "bt601" if is_bt601 else "bt709", full_range
                )
            planes = frame.reformat(width, height, "yuv420p").to_ndarray()
            yield number, convert(planes.astype(np.uint8, copy=False))


def send(part: trifocal.Bitstream, name: str, folder: Path) -> None:
    """Hand over a part of a frame: here to a folder."""
    part.save(folder / f"{name}.tri")


if __name__ == "__main__":
    try:
        main()
    except (trifocal.TrifocalError, OSError) as error:
        sys.exit(str(error))
