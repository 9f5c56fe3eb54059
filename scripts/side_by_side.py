#!/usr/bin/env python3
"""Draw the first figure of the README: enlarged crops of a photograph, Trifocal and AVIF at equal bytes.

    python scripts/side_by_side.py docs/side_by_side.png [--photograph FILE] [--bpp 0.4] [--crop x,y,w,h]

AVIF has the highest quality that takes no more bytes than Trifocal's file.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import trifocal
from trifocal.demo import PHOTOGRAPH
from trifocal.evaluation import ssimulacra2
from trifocal.evaluation.candidates.pillow_codecs import PILLOW_CODECS
from trifocal.evaluation.report.crops import largest_file_within
from trifocal.pictures import Picture

CAPTION = 26
GAP = 8


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a photograph beside Trifocal and AVIF at equal bytes.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--photograph", default=str(PHOTOGRAPH))
    parser.add_argument("--bpp", type=float, default=0.4)
    parser.add_argument("--crop", default="150,150,220,200", help="x,y,w,h in pixels")
    parser.add_argument("--zoom", type=int, default=2)
    arguments = parser.parse_args()
    picture = Picture.open(arguments.photograph, "colour")
    panels = [("original", picture.rgb), ours(picture, arguments.bpp), avif(picture, arguments.bpp)]
    x, y, width, height = map(int, arguments.crop.split(","))
    cut = [(text, rgb[y : y + height, x : x + width]) for text, rgb in panels]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    side_by_side(cut, arguments.zoom).save(arguments.out, optimize=True)
    print("\n".join(text for text, _ in panels))


def ours(picture: Picture, bpp: float) -> tuple[str, NDArray[np.uint8]]:
    codec = trifocal.load("compact")
    stream = codec.encode(picture, bpp=bpp)
    rgb = codec.decode(stream).picture.rgb
    return caption("Trifocal compact", stream.size, rgb, picture), rgb


def avif(picture: Picture, bpp: float) -> tuple[str, NDArray[np.uint8]]:
    data = largest_file_within(PILLOW_CODECS["avif"], picture, int(bpp * picture.width * picture.height / 8))
    if data is None:
        raise SystemExit(f"AVIF cannot code this image in {bpp:g} bits per pixel; choose a higher --bpp.")
    rgb = PILLOW_CODECS["avif"].decode(data)
    return caption("AVIF", len(data), rgb, picture), rgb


def caption(name: str, size: int, rgb: NDArray[np.uint8], picture: Picture) -> str:
    return f"{name}  {size:,} bytes  SSIMULACRA2 {ssimulacra2(rgb, picture.rgb):.1f}"


def side_by_side(panels: list[tuple[str, NDArray[np.uint8]]], zoom: int) -> Image.Image:
    """Captions above crops, enlarged by an integer factor."""
    height, width = (zoom * side for side in panels[0][1].shape[:2])
    sheet = Image.new("RGB", (len(panels) * (width + GAP) - GAP, height + CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for number, (text, rgb) in enumerate(panels):
        left = number * (width + GAP)
        sheet.paste(Image.fromarray(rgb).resize((width, height), Image.Resampling.NEAREST), (left, CAPTION))
        draw.text((left + 2, 4), text, fill="black", font=font)
    return sheet


if __name__ == "__main__":
    main()
