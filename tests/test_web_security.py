"""`trifocal serve` under hostile requests, slow clients and many clients at once."""

import random
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

import pytest

from helpers.images import png_from_chunks
from helpers.web import connect, metric, needs_web, png, raw, served, serving_process

needs_web()
import httpx

import trifocal
from fuzzing import damage_bytes, damaged_file
from trifocal.container import Bitstream, Layer, Tag
from trifocal.web import server as server_module
from trifocal.web.operations import operations

MOST_MEMORY = 900  # MiB, of a process that works on two requests of up to 0.1 megapixels at once
EXPECTED = {100, 200, 400, 403, 404, 405, 408, 413, 422, 503, 504}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(parallel=2, max_bytes=2_000_000, max_pixels=1_000_000) as url:
        yield url


def get(url: str, path: str) -> bytes:
    return raw(url, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/pyproject.toml",
        "/static/../app.py",
        "/app.py",
        "//etc/passwd",
        "/sample.png/../../web/app.py",
        "/index.html%00.css",
        "http://other/etc/passwd",
    ],
)
def test_no_path_reaches_the_file_system(url: str, path: str) -> None:
    answer = get(url, path)
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))
    assert b"root:" not in answer and b"import" not in answer


def test_text_that_looks_like_a_path_is_only_text(url: str, tmp_path: Path) -> None:
    secret = tmp_path / "labels.txt"
    secret.write_text("person")
    for name, value in (("components", f"@{secret}"), ("text", str(secret))):
        options = {name: value, "refinement": "0"}
        answer = httpx.post(f"{url}/encode", params=options, content=png(), timeout=60)
        assert answer.status_code == 200
        assert Bitstream.from_bytes(answer.content).components == ()


opened: list[tuple[str, str]] = []  # path and mode of the files that are opened while `watching` is not empty
watching: list[bool] = []


def note_opened(event: str, details: tuple[object, ...]) -> None:
    if event == "open" and watching:
        opened.append((str(details[0]), str(details[1] or "")))


def test_requests_write_no_file_and_open_none_that_they_name(url: str) -> None:
    sys.addaudithook(note_opened)
    tri = trifocal.encode(png(), refinement=0).to_bytes()
    mark = "/tmp/marked"
    watching.append(True)
    try:
        for path, options, body in (
            ("/encode", {"refinement": "0", "components": mark, "text": mark}, png()),
            ("/encode", {"preset": mark}, png()),
            ("/decode", {"components": mark}, tri),
            ("/decode", {"format": "webp"}, tri),
            ("/compare", {"format": "jpeg", "max_bytes": "900"}, png()),
            ("/detect", {}, png()),
            ("/info", {}, tri),
            ("/info", {}, mark.encode()),
            (mark, {}, b""),
        ):
            httpx.post(f"{url}{path}", params=options, content=body, timeout=60)
        Path("/dev/null").read_bytes()
    finally:
        watching.clear()
    assert "/dev/null" in {path for path, _ in opened}  # the hook works
    assert not [path for path, mode in opened if mark in path or set(mode) & set("wax+")]


def test_every_answer_has_the_security_headers(url: str) -> None:
    for answer in (
        httpx.get(f"{url}/", timeout=60),
        httpx.get(f"{url}/nothing", timeout=60),
        httpx.post(f"{url}/encode", content=b"", timeout=60),
        httpx.post(f"{url}/info", headers={"Origin": "http://evil.example"}, timeout=60),
    ):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not any(name.startswith("access-control-") for name in answer.headers)
        assert "server" not in answer.headers


def test_pages_of_other_sites_are_refused(url: str) -> None:
    for origin in ("http://evil.example", "null", f"{url}.evil.example"):
        answer = httpx.post(f"{url}/encode", headers={"Origin": origin}, content=png(), timeout=60)
        assert answer.status_code == 403 and "other sites" in answer.json()["error"]
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert httpx.options(f"{url}/encode", headers=preflight, timeout=60).status_code == 403
    same = httpx.post(f"{url}/info", headers={"Origin": url}, content=b"x", timeout=60)
    assert same.status_code == 422


@cache
def bombs() -> dict[str, bytes]:
    """Small files of very large images or metadata."""
    side = 30_000
    head = (side.to_bytes(4, "big") * 2) + bytes([1, 0, 0, 0, 0])
    row = zlib.compress(bytes(1 + side // 8) * 4)
    profile = b"x\0\0" + zlib.compress(bytes(40_000_000), 9)
    small = trifocal.encode(png(), "compact")
    text = zlib.compressobj(9, wbits=-15)
    long_text = b"\1" + text.compress(bytes(20_000_000)) + text.flush()
    parts = [(b"IHDR", head), (b"IDAT", row), (b"IEND", b"")]
    tiny = [(b"IHDR", (1).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])), (b"IDAT", zlib.compress(b"\0\0"))]
    exif = Layer(Tag.EXIF, (zlib.compress(bytes(40_000_000), 9),))
    return {
        "pixels.png": png_from_chunks(parts),
        "profile.png": png_from_chunks([tiny[0], (b"iCCP", profile), tiny[1], (b"IEND", b"")]),
        "pixels.tri": replace(small, header=replace(small.header, width=65_535, height=65_535)).to_bytes(),
        "text.tri": small.with_layer(Layer(Tag.TEXT, (long_text,))).to_bytes(),
        "exif.tri": small.with_layer(exif).to_bytes(),
    }


@pytest.mark.parametrize("path", ["/encode", "/decode", "/detect", "/info", "/estimate"])
def test_decompression_bombs_are_refused_cheaply(url: str, path: str) -> None:
    before = resident(url)
    for name, data in bombs().items():
        began = time.monotonic()
        answer = httpx.post(f"{url}{path}", content=data, timeout=60)
        refused = name.startswith("pixels") and path != "/info"
        assert answer.status_code in ((422,) if refused else (200, 422))
        assert len(answer.content) < 100_000
        assert time.monotonic() - began < 20
    assert resident(url) - before < 200 << 20


def resident(url: str) -> float:
    return metric(httpx.get(f"{url}/metrics", timeout=60).text, "process_resident_memory_bytes")


def test_connections_without_a_complete_header_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEADER_SECONDS", 0.3)
    with served("compact", parallel=1) as url:
        for start in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "):
            with connect(url) as connection:
                connection.sendall(start)
                assert ended(connection)
        whole = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        with connect(url) as connection:  # the second request of a connection is slow
            connection.sendall(whole)
            assert received(connection, until=b"}").startswith(b"HTTP/1.1 200")
            connection.sendall(whole[:20])
            assert ended(connection)


def ended(connection: socket.socket) -> bool:
    """Whether the server closes the connection."""
    try:
        return connection.recv(4096) == b""
    except ConnectionError:
        return True


def received(connection: socket.socket, until: bytes) -> bytes:
    """What the server sends up to these bytes, or until it closes the connection."""
    answer = b""
    while until not in answer and (piece := connection.recv(4096)):
        answer += piece
    return answer


def test_slow_bodies_are_refused_and_do_not_stop_others() -> None:
    head = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    with served("compact", parallel=1, timeout=1.5) as url:
        slow = [connect(url) for _ in range(20)]
        for connection in slow:
            connection.sendall(head + b"slow")
        assert httpx.post(f"{url}/encode", content=png(32, 32), timeout=60).status_code == 200
        for connection in slow:
            with connection:
                answer = received(connection, until=b"}")  # head and body may come apart
                assert answer.startswith(b"HTTP/1.1 408") and b"1.5 seconds" in answer


def test_clients_that_do_not_read_are_dropped() -> None:
    with served("compact", parallel=1, timeout=1.5) as url:
        tri = trifocal.encode(png(512, 400), "compact", quality=0).to_bytes()
        head = f"POST /decode HTTP/1.1\r\nHost: x\r\nContent-Length: {len(tri)}\r\n\r\n".encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            connection.sendall(head + tri)
            end = time.monotonic() + 60
            while metric(httpx.get(f"{url}/metrics", timeout=60).text, "trifocal_accepted_requests") == 0:
                assert time.monotonic() < end
            while metric(httpx.get(f"{url}/metrics", timeout=60).text, "trifocal_accepted_requests") > 0:
                assert time.monotonic() < end
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200


PATHS = ("/encode", "/decode", "/detect", "/info", "/estimate", "/compare")
OTHER_PATHS = (*PATHS, "/", "/metrics", "/config", "/x", "/%ff%00", "*", "x", "http://[/")
METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "CONNECT", "\0")
VALUES = (
    *("", "0", "-1", "1e999", "nan", "99999999999999999999", "true", "a" * 3000, "\0", "'; --", "<script>"),
    *(
        "../..",
        "\ud7ff",
        "0,0,1,1",
        "-1,0,5,5",
        "person",
        "detection",
        "avif",
        "png",
        "all",
        "0.5",
        "compact",
    ),
)
LINES = (
    *("Transfer-Encoding: chunked", "Expect: 100-continue", "Origin: null", f"X: {'a' * 9000}", ": x"),
    *("Upgrade: websocket", "Content-Length: 3", "Content-Encoding: gzip", "Host: y", "Connection: upgrade"),
)


def hostile_request(number: int, files: list[bytes], streams: list[Bitstream]) -> bytes:
    """A request that is wrong in one or several ways; a number always gives the same."""
    rng = random.Random(number)
    bodies = (
        damage_bytes(rng, rng.choice(files)),
        damaged_file(rng, streams),
        rng.choice(files),
        rng.randbytes(rng.choice((0, 1, 10, 5000))),
    )
    body = rng.choice(bodies)
    names = sorted({one.name for operation in operations("compact") for one in operation.parameters})
    query = [(rng.choice(names), rng.choice(VALUES)) for _ in range(rng.choice((0, 0, 0, 1, 1, 3)))]
    plain = rng.random() < 0.8
    method, path = ("POST", rng.choice(PATHS)) if plain else (rng.choice(METHODS), rng.choice(OTHER_PATHS))
    wrong = (0, len(body) // 2, len(body) + 5, 10**15, -1)
    length = len(body) if rng.random() < 0.9 else rng.choice(wrong)
    lines = [f"{method} {path}?{urlencode(query)} HTTP/1.1", "Host: x", f"Content-Length: {length}"]
    lines += ["Connection: close", *([rng.choice(LINES)] if rng.random() < 0.1 else [])]
    request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    return damage_bytes(rng, request[:200]) + request[200:] if rng.random() < 0.1 else request


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_hostile_requests_crash_nothing(count: int) -> None:
    image = png(48, 32)
    objects = [trifocal.Component("person", (0, 0, 2, 2))]
    streams = [
        trifocal.encode(image, "compact"),
        trifocal.encode(image, refinement=0),
        trifocal.encode(image, components=objects, refinement=0),
        trifocal.encode(image, "ug-icm-compact"),
    ]
    files = [image, *(stream.to_bytes() for stream in streams)]
    before = trifocal.encode(image, "compact").to_bytes()
    with served("compact", parallel=2, timeout=3, max_bytes=200_000, max_pixels=100_000) as url:

        def send(number: int) -> bytes:
            return raw(url, hostile_request(number, files, streams), hang_up=number % 10 == 0)

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(send, range(count)))
        statuses = [int(answer[9:12]) for answer in answers if answer]
        assert set(statuses) <= EXPECTED, sorted(set(statuses) - EXPECTED)
        assert len(statuses) > 0.7 * count and {200, 404, 405, 422} <= set(statuses)
        text = httpx.get(f"{url}/metrics", timeout=60).text
        assert 'status="500"' not in text
        assert metric(text, "trifocal_body_bytes") == metric(text, "trifocal_uploads") == 0
        assert httpx.post(f"{url}/encode", content=image, timeout=60).content == before


@pytest.mark.parametrize("clients", [8, pytest.param(32, marks=pytest.mark.slow)])
def test_many_clients_get_right_answers_or_503(clients: int) -> None:
    images = [png(256 + 16 * (number % 3), 192) for number in range(clients)]
    right = {image: trifocal.encode(image, refinement=0).to_bytes() for image in set(images)}
    with serving_process("--parallel", "2") as (url, process):

        def work(image: bytes) -> list[int]:
            statuses = []
            with httpx.Client(base_url=url, timeout=300) as client:
                for _ in range(2):
                    answer = client.post("/encode", params={"refinement": 0}, content=image)
                    statuses.append(answer.status_code)
                    if answer.status_code == 200:
                        assert answer.content == right[image]
                    else:
                        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
            return statuses

        with ThreadPoolExecutor(clients) as pool:
            statuses = [status for found in pool.map(work, images) for status in found]
        assert statuses.count(200) >= 10  # as many as the server accepts at the same time
        status = Path(f"/proc/{process.pid}/status")
        if status.exists():
            peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            assert int(peak.split()[1]) >> 10 < MOST_MEMORY, peak
