"""Training that torchrun or accelerate starts: as many processes as asked, one report, equal parameters."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from trifocal.losses import joint_image_text
from trifocal.training import in_processes

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
WIDTH, BATCH = 6, 4
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
    """`accelerate launch --cpu --num_processes 2` starts one process, and does not tell it of the other."""
    module = ["accelerate.commands.launch", "--cpu", "--num_processes=2", "--main_process_port"]
    done = launch(module, ["train", "tiny", "--data", str(folder), "--steps", "2", "-o", "run"], tmp_path)
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    assert "accelerate launch --multi_gpu" in " ".join(done.stderr.split())


def embeddings() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Decoded images, originals and texts of a batch; the last half of the texts is missing."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(BATCH, WIDTH, generator=generator) for _ in range(3))  # type: ignore[return-value]


def gradient_of_a_process(*, report: object, notify: object) -> list[float]:
    """The joint loss and its gradient with respect to a parameter that all images share, averaged over the
    processes as in training; the second process has no texts."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    e_hat, e, text = (part.chunk(2)[rank] for part in embeddings())
    weight = torch.eye(WIDTH).requires_grad_()
    loss = joint_image_text(e_hat @ weight, e, text if rank == 0 else None)
    loss.backward()
    assert weight.grad is not None
    torch.distributed.all_reduce(weight.grad)
    with torch.no_grad():
        alone = joint_image_text(e_hat, e, text)  # no other process is waited for
    assert alone.item() != loss.item()
    return [loss.item(), *(weight.grad / 2).flatten().tolist()]


def test_the_joint_loss_of_a_process_has_its_part_of_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As below, with the embeddings of the other process in place of the process; it has no texts."""
    e_hat, e, text = embeddings()
    half, rank = BATCH // 2, 0
    whole = F.normalize(e_hat, dim=-1).requires_grad_()
    expected = joint_image_text(whole, e, None)
    expected = expected + joint_image_text(whole[:half], e[:half], text[:half], image_weight=0.0)
    (gradient,) = torch.autograd.grad(expected, whole)

    def all_gather(parts: list[torch.Tensor], own: torch.Tensor) -> None:
        texts = text.clone()
        texts[half:] = 0
        rows = torch.cat([F.normalize(e_hat, dim=-1), F.normalize(e, dim=-1), texts], dim=-1)
        assert torch.allclose(own, rows.chunk(2)[rank])
        for part, row in zip(parts, rows.chunk(2), strict=True):
            part.copy_(row)

    for name, value in {"is_initialized": True, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    for rank in (0, 1):
        own = whole.detach().chunk(2)[rank].requires_grad_()
        loss = joint_image_text(own, e.chunk(2)[rank], text[:half] if rank == 0 else None)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        (found,) = torch.autograd.grad(loss, own)
        assert torch.allclose(found, 2 * gradient.chunk(2)[rank], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_joint_loss_of_two_processes_is_that_of_the_whole_batch() -> None:
    e_hat, e, text = embeddings()
    weight = torch.eye(WIDTH).requires_grad_()
    half = BATCH // 2
    whole = joint_image_text(e_hat @ weight, e, None)
    both = joint_image_text((e_hat @ weight)[:half], e[:half], text[:half], image_weight=0.0)
    loss = whole + both
    loss.backward()
    assert weight.grad is not None
    found = in_processes(2, gradient_of_a_process)
    assert found == pytest.approx([loss.item(), *weight.grad.flatten().tolist()], rel=1e-4, abs=1e-5)
