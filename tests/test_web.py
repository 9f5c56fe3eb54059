"""The HTTP API of `trifocal serve`: answers equal the library's, and errors are its sentences."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import pytest
from PIL import Image

from helpers.cli import is_one_sentence, run
from helpers.web import ROOT, metric, needs_web, png, served, serving_process

needs_web()
import httpx

import trifocal
from trifocal.options import DecodeOptions, EncodeOptions
from trifocal.web import limits as limits_module
from trifocal.web import operations as operations_module
from trifocal.web.operations import operations

FAST = {"refinement": 0}
BUSY = {"parallel": 1, "timeout": 60.0}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with served() as url, httpx.Client(base_url=url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def tri(client: httpx.Client) -> bytes:
    return client.post("/encode", params=FAST, content=png()).content


def check_error(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()
    assert set(error) == {"error", "type"} and is_one_sentence(error["error"])
    assert all(word in error["error"] for word in words), error["error"]


def test_encode_gives_the_bytes_of_the_library(client: httpx.Client, tri: bytes) -> None:
    assert tri == trifocal.encode(png(), refinement=0).to_bytes()
    answer = client.post("/encode", params={"preset": "compact", "max_bytes": 700}, content=png())
    expected = trifocal.encode(png(), "compact", max_bytes=700)
    assert answer.content == expected.to_bytes()
    assert answer.headers["content-type"] == "image/x-trifocal"
    assert answer.headers["trifocal-quality"] == f"{expected.header.quality:g}"


def test_decode_gives_the_image_of_the_library(client: httpx.Client, tri: bytes) -> None:
    answer = client.post("/decode", content=tri)
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.tobytes() == trifocal.decode(tri).picture.rgb.tobytes()
    for options, size in (
        ({"region": "8,4,32,16", "format": "webp"}, (32, 16)),
        ({"base_only": "1"}, (64, 48)),
    ):
        with Image.open(io.BytesIO(client.post("/decode", params=options, content=tri).content)) as image:
            assert image.size == size


def test_decode_takes_a_preference_and_components(client: httpx.Client) -> None:
    file = client.post("/encode", params={"preset": "ug-icm-compact"}, content=png()).content
    images = [client.post("/decode", params={"preference": p}, content=file).content for p in (0, 1)]
    assert images[0] != images[1]
    objects = [trifocal.Component("person", (0, 0, 2, 2)), trifocal.Component("dog", (2, 1, 4, 3))]
    parted = trifocal.encode(png(), components=objects, refinement=0)
    answer = client.post("/decode", params={"components": "dog"}, content=parted.to_bytes())
    with pytest.warns(trifocal.TrifocalWarning):
        expected = trifocal.decode(parted.only("dog")).picture
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.tobytes() == expected.rgb.tobytes()
    assert "person" in json.loads(answer.headers["trifocal-notices"])[0]
    check_error(client.post("/decode", params={"components": "cat"}, content=parted.to_bytes()), 422, "dog")


def test_detect_and_info_are_those_of_the_command_line(client: httpx.Client, tmp_path: Any) -> None:
    tri = client.post("/encode", params=FAST, content=png(320, 240)).content
    path = tmp_path / "photo.tri"
    path.write_bytes(tri)
    for command, words in (("detect", ("--threshold", "0.2")), ("info", ("--json",))):
        printed = json.loads(run(command, path, *words).stdout)
        params = {"threshold": 0.2} if command == "detect" else {}
        answer = client.post(f"/{command}", params=params, content=tri).json()
        for facts in (printed, answer):
            facts.pop("file", None), facts.pop("bytes read", None)
        assert answer == printed
    assert client.post("/detect", params={"threshold": 0.2}, content=png(320, 240)).json()["objects"]


def test_estimate_is_close_to_the_size(client: httpx.Client) -> None:
    sizes = client.post("/estimate", content=png(128, 96)).json()["sizes"]
    assert [one["quality"] for one in sizes] == [0, 25, 50, 75, 100]
    for one in sizes:
        true = trifocal.encode(png(128, 96), quality=one["quality"], refinement=0).size
        assert abs(one["bytes"] - true) < 0.25 * true
    assert sizes[2]["bytes"] == trifocal.encode(png(128, 96), quality=50, refinement=0).size


@pytest.mark.parametrize("name", ["avif", "webp", "jpeg"])
def test_compare_stays_within_the_bytes(client: httpx.Client, name: str) -> None:
    answer = client.post("/compare", params={"format": name, "max_bytes": 3000}, content=png(128, 96))
    assert 1000 < len(answer.content) <= 3000
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (128, 96) and image.format == name.upper()
    check_error(client.post("/compare", params={"format": name}, content=png()), 422, "max_bytes")


@pytest.mark.parametrize(
    ("path", "params", "words"),
    [
        ("/encode", {"quality": "101"}, ("quality", "0 to 100")),
        ("/encode", {"quality": "nan"}, ("quality",)),
        ("/encode", {"quality": "50", "bpp": "1"}, ("only one of",)),
        ("/encode", {"preset": "nonsense"}, ("compact",)),
        ("/encode", {"refinement": "1000000"}, ("refinement",)),
        ("/encode", {"speed": "3"}, ("no parameter 'speed'", "quality")),
        ("/encode", [("quality", "3"), ("quality", "4")], ("twice",)),
        ("/encode", {"send_text": "perhaps"}, ("true or false",)),
        ("/encode", {"preset": "compact", "text": "a dog"}, ("compact takes no text",)),
        ("/encode", {"preset": "compact", "max_bytes": "20"}, ("needs at least",)),
        ("/decode", {"region": "1,2,3"}, ("x,y,width,height",)),
        ("/decode", {}, ("not a Trifocal file",)),
        ("/detect", {"threshold": "2"}, ("threshold",)),
        ("/info", {}, ("not a Trifocal file",)),
    ],
)
def test_errors_are_sentences(client: httpx.Client, path: str, params: Any, words: tuple[str, ...]) -> None:
    check_error(client.post(path, params=params, content=png()), 422, *words)


def test_unknown_paths_and_methods_are_errors_in_json(client: httpx.Client) -> None:
    check_error(client.get("/nothing"), 404, "/openapi.json")
    check_error(client.get("/encode"), 405, "GET")
    check_error(client.post("/encode", content=b""), 422, "empty")
    check_error(client.post("/decode", content=b"\xf3TF"), 422)


def test_notices_come_with_the_answer(client: httpx.Client) -> None:
    buffer = io.BytesIO()
    Image.new("I;16", (32, 32), 40_000).save(buffer, "PNG")
    answer = client.post("/encode", params={"preset": "compact"}, content=buffer.getvalue())
    assert "16 bits per channel were reduced to 8." in json.loads(answer.headers["trifocal-notices"])


def test_openapi_describes_every_operation_and_parameter(client: httpx.Client) -> None:
    page = client.get("/openapi.json").json()
    declared = {one.path: one for one in operations("compact")}
    assert {path for path, methods in page["paths"].items() if "post" in methods} == set(declared)
    for path, methods in page["paths"].items():
        assert client.request("GET", path).status_code == (405 if "post" in methods else 200)
    for path, operation in declared.items():
        listed = {one["name"]: one for one in page["paths"][path]["post"]["parameters"]}
        assert list(listed) == [parameter.name for parameter in operation.parameters]
        assert all(one["description"].endswith(".") for one in listed.values())
    quality = next(one for one in page["paths"]["/encode"]["post"]["parameters"] if one["name"] == "quality")
    assert quality["schema"] == {"type": "number", "minimum": 0, "maximum": 100}


def test_parameters_have_the_names_of_the_options() -> None:
    for path, options, others in (
        ("/encode", EncodeOptions, {"preset"}),
        ("/decode", DecodeOptions, {"format", "components"}),
    ):
        operation = next(one for one in operations("compact") if one.path == path)
        names = {parameter.name for parameter in operation.parameters}
        assert names - others <= {field.name for field in fields(options)}


def test_health_config_and_metrics(client: httpx.Client, tri: bytes) -> None:
    assert client.get("/health").json() == {"status": "ok", "version": trifocal.__version__}
    config = client.get("/config").json()
    assert config["preset"] == "dual-layer-compact" and {"avif", "jpeg"} <= set(config["comparisons"])
    assert {one["name"] for one in config["presets"] if one["preference"]} == {"ug-icm-compact"}
    before = client.get("/metrics").text
    client.post("/info", content=tri)
    client.post("/info", content=b"nonsense")
    after = client.get("/metrics").text
    assert metric(after, "trifocal_requests_total") - metric(before, "trifocal_requests_total") == 3
    received = metric(after, "trifocal_received_bytes_total") - metric(
        before, "trifocal_received_bytes_total"
    )
    assert received == len(tri) + 8
    assert 'trifocal_requests_total{path="/info",status="422"}' in after
    assert metric(after, "trifocal_accepted_requests") == metric(after, "trifocal_body_bytes") == 0


def test_limits_of_bytes_and_pixels() -> None:
    limits = {"max_bytes": 20_000, "max_pixels": 3_000}
    with served("compact", **limits) as url, httpx.Client(base_url=url, timeout=60) as client:
        check_error(client.post("/encode", content=bytes(20_001)), 413, "20,000", "--max-bytes")
        chunks = (bytes(5000) for _ in range(5))
        check_error(client.post("/encode", content=chunks), 413, "20,000")
        check_error(client.post("/encode", content=png(64, 48)), 422, "64 x 48", "3000")
        check_error(
            client.post("/decode", content=trifocal.encode(png(), "compact").to_bytes()), 422, "64 x 48"
        )
        assert client.post("/encode", params={"preset": "compact"}, content=png(48, 48)).status_code == 200


class Hold:
    """Replaces an operation: waits until `release` is called, and calls its progress meanwhile."""

    def __init__(self) -> None:
        self.started, self.go, self.stopped = threading.Semaphore(0), threading.Event(), threading.Event()

    def __call__(self, body: bytes, options: dict[str, Any], progress: Any) -> Any:
        self.started.release()
        try:
            while not self.go.wait(0.01):
                progress(0.5)
        except limits_module.Abandoned:
            self.stopped.set()
            raise
        return operations_module.as_json({"held": True})


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Hold:
    hold = Hold()
    monkeypatch.setattr(operations_module, "info", hold)
    return hold


def test_full_server_answers_503_and_recovers(hold: Hold) -> None:
    with served("compact", **BUSY) as url, httpx.Client(base_url=url, timeout=60) as client:
        with ThreadPoolExecutor(5) as pool:
            held = [pool.submit(client.post, "/info", content=b"x") for _ in range(5)]
            assert hold.started.acquire(timeout=60)
            while metric(client.get("/metrics").text, "trifocal_accepted_requests") < 5:
                pass
            busy = client.post("/decode", content=b"x")
            check_error(busy, 503, "busy")
            assert int(busy.headers["retry-after"]) > 0
            hold.go.set()
            assert [one.result().status_code for one in held] == [200] * 5
        check_error(client.post("/decode", content=b"x"), 422)


def test_work_that_takes_too_long_is_stopped(hold: Hold) -> None:
    with served("compact", parallel=1, timeout=0.3) as url, httpx.Client(base_url=url, timeout=60) as client:
        check_error(client.post("/info", content=b"x"), 504, "0.3 seconds", "--timeout")
        assert hold.stopped.wait(60)
        check_error(client.post("/decode", content=b"x"), 422)


def test_work_stops_when_the_client_leaves(hold: Hold) -> None:
    with served("compact", **BUSY) as url, httpx.Client(base_url=url, timeout=60) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/info", content=b"x", timeout=0.3)
        assert hold.stopped.wait(60)
        check_error(client.post("/decode", content=b"x"), 422)
        assert 'status="499"' in client.get("/metrics").text


def test_a_bug_is_an_answer_and_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(body: bytes, options: dict[str, Any], progress: Any) -> Any:
        raise KeyError("secret")

    monkeypatch.setattr(operations_module, "info", fail)
    with served("compact") as url:
        answer = httpx.post(f"{url}/info", content=b"x", timeout=60)
        check_error(answer, 500, "bug")
        assert "secret" not in answer.text and "secret" in caplog.text


def test_operations_need_no_torch() -> None:
    code = """
import signal
import sys
from helpers.web import png
from trifocal.web.app import create_app
from trifocal.web.operations import operations
create_app("dual-layer-compact")
run = {one.path: one.run for one in operations("dual-layer-compact")}
tri = run["/encode"](png(), {"components": "detection"}, print).content
for path in ("/decode", "/detect", "/info"):
    run[path](tri, {}, print)
run["/estimate"](png(), {}, print)
run["/compare"](png(), {"format": "avif", "max_bytes": 900}, print)
print({"torch"} & {*sys.modules})
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    line = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["set()"], done.stderr


def test_command_serves_and_stops() -> None:
    with serving_process("--preset", "compact", "--parallel", "1") as (url, process):
        assert httpx.get(f"{url}/health", timeout=60).json()["status"] == "ok"
        port = url.rpartition(":")[2]
        taken = run("serve", "--port", port, "--preset", "compact")
        assert taken.exit_code == 1 and is_one_sentence(taken.stderr) and "--port" in taken.stderr
    ignored = (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    )  # by a shell's background job, as pytest may be
    assert process.returncode == (0 if ignored else 130)  # of Ctrl+C


def test_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("trifocal.web.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    result = run("serve", "--port", "0")
    assert result.exit_code == 1 and 'pip install "trifocal[web]"' in result.stderr


def test_dockerfile_copies_what_exists_and_runs_the_command() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    sources = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert {"trifocal", "pyproject.toml"} <= {*sources}
    assert all((ROOT / name).exists() for name in sources if not name.startswith(("-", "/")))
    words = json.loads(next(line for line in lines if line.startswith("CMD ")).removeprefix("CMD "))
    assert run(*words[1:], "--help").exit_code == 0


@pytest.mark.parametrize("option", ["max_pixels", "max_bytes", "parallel", "timeout"])
def test_limits_are_checked(option: str) -> None:
    with pytest.raises(trifocal.errors.OptionError, match=option):
        limits_module.Limits(**{option: 0})
