"""Training that torchrun or accelerate starts: as many processes as asked, one report, equal parameters."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = """
import json
import os
from pathlib import Path

from helpers.presets import small_codec_preset
from dataclasses import replace


def preset():
    from trifocal.training.trainer import Trainer

    fit = Trainer.fit

    def fit_and_note(self, *given):
        fit(self, *given)
        sums = [float(p.detach().double().sum()) for p in self.unwrapped.parameters()]
        Path(f"{os.environ['RANK']}.json").write_text(json.dumps(sums))

    Trainer.fit = fit_and_note
    return replace(small_codec_preset(), name="tiny", id=48)
"""
LAUNCHERS = {
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port"],
    "torchrun": ["torch.distributed.run", "--nproc_per_node=2", "--master_port"],
}


def launch(module: list[str], words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE PORT -m trifocal WORDS`, with a package that has the preset `tiny`."""
    (folder / "tiny.py").write_text(PACKAGE)
    installed = folder / "tiny-0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 0.1\n")
    (installed / "entry_points.txt").write_text("[trifocal.presets]\ntiny = tiny:preset\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-m", *module, port, "-m", "trifocal", *words]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_start_as_many_processes_as_asked(launcher: str, folder: Path, tmp_path: Path) -> None:
    words = ["train", "tiny", "--data", str(folder), "--steps", "2", "-o", "run", "--threads", "2"]
    done = launch(LAUNCHERS[launcher], words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["run/tiny.safetensors"]
    for sentence in ("2 processes train on a total batch of 2, 1 each.", "Read 48 images"):
        assert done.stderr.count(sentence) == 1, done.stderr
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == two and len(one) > 10
    assert json.loads((tmp_path / "run" / "tiny.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_accelerate_with_too_few_processes_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process, and does not say how many were asked."""
    module = ["accelerate.commands.launch", "--cpu", "--num_processes=2", "--main_process_port"]
    done = launch(module, ["train", "tiny", "--data", str(folder), "--steps", "2", "-o", "run"], tmp_path)
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    assert "accelerate launch --multi_gpu" in " ".join(done.stderr.split())
