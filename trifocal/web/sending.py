"""Send an answer in pieces, so that slow clients do not keep it in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import Send

__all__ = ["send_answer"]

PIECE = 1 << 16  # bytes


async def send_answer(content: bytes, headers: Mapping[str, str], send: Send, timeout: float) -> None:
    """Send an answer with status 200. Raises TimeoutError if the client takes longer than `timeout` seconds
    to receive it.
    """
    lines = {**headers, "Content-Length": str(len(content))}
    start = [(name.lower().encode(), value.encode("latin-1")) for name, value in lines.items()]
    view = memoryview(content)
    async with asyncio.timeout(timeout):
        await send({"type": "http.response.start", "status": 200, "headers": start})
        for at in range(0, max(1, len(content)), PIECE):
            more = at + PIECE < len(content)
            piece = bytes(view[at : at + PIECE])
            await send({"type": "http.response.body", "body": piece, "more_body": more})
