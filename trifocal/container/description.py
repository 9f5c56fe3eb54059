"""The facts about a file that `trifocal info` prints."""

from contextlib import suppress

from trifocal.container.bitstream import Bitstream
from trifocal.container.components import REST, REST_NAME, SIDE
from trifocal.container.fields import TILED_TAGS, Tag, show_header
from trifocal.container.parts import part_id
from trifocal.container.text import embedded_text
from trifocal.errors import FormatError

__all__ = ["describe", "describe_file"]


def describe_file(stream: Bitstream) -> dict[str, object]:
    """`describe`, with the file's text and, for a part of a split file, the id of the whole. Both are left
    out if they are damaged.
    """
    facts = describe(stream)
    with suppress(FormatError):
        facts |= {"text": embedded_text(stream)} if stream.layer(Tag.TEXT) else {}
    with suppress(FormatError):
        facts |= {"part of a whole": identifier.hex()} if (identifier := part_id(stream)) else {}
    return facts


def describe(stream: Bitstream) -> dict[str, object]:
    """What `trifocal info` prints, as JSON values: the header, sizes in bytes, and one entry per layer."""
    header = stream.header
    rows = [
        {"tag": int(layer.tag), "name": layer.name, "chunks": len(layer.chunks), "bytes": layer.size}
        | ({"damaged": list(layer.damaged)} if layer.damaged else {})
        | ({"absent": len(layer.absent)} if layer.absent else {})
        for layer in stream.layers
    ]
    facts = show_header(header) | {
        "quality": header.quality,
        "bytes": stream.size,
        "overhead": stream.size - sum(layer.size for layer in stream.layers),
        "bits per pixel": stream.bpp,
        "layers": rows,
    }
    with suppress(FormatError):
        if stream.components:
            facts |= {"partial": stream.is_partial, "components": describe_components(stream)}
    return facts


def describe_components(stream: Bitstream) -> list[dict[str, object]]:
    """Label, box in pixels, bytes, and absent bytes of each component; the side information and the rest have
    no box.
    """
    layout = stream.layout
    layer = next(layer for layer in stream.layers if layer.tag in TILED_TAGS)
    assert layout is not None
    size = stream.header.width, stream.header.height
    parts: dict[int, dict[str, object]] = {
        number: {"label": one.label, "box": list(one.pixels(*size))}
        for number, one in enumerate(layout.components, start=1)
    }
    parts = {SIDE: {"label": "side information"}, **parts, REST: {"label": REST_NAME}}
    rows = layer.rows
    for part, facts in parts.items():
        own = [rows[index] for (owner, _), index in layout.chunks.items() if owner == part]
        facts["bytes"] = sum(row.length for row in own if row.present)
        facts["absent bytes"] = sum(row.length for row in own if not row.present)
    return list(parts.values())
