"""Training in bfloat16 inside residual blocks, and in float32 elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.codecs import small_codec
from trifocal import presets
from trifocal.errors import OptionError
from trifocal.layers import Block, ResidualBlock, branches_in
from trifocal.training import precision, train
from trifocal.training.precision import choose_precision
from trifocal.training.task import LossTask
from trifocal.training.trainer import Trainer
from trifocal.transforms.cheng import ConvolutionBlock
from trifocal.transforms.elic import Bottleneck
from trifocal.transforms.hific import NormalisedBlock
from trifocal.transforms.text_conditioned import TextConditionedBlock
from trifocal.weights import read_weights

CPU = torch.device("cpu")


def randomised(block: nn.Module) -> nn.Module:
    """The block with random weights, also where they are initially zero."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block.train()


def outputs_and_gradients(block: nn.Module, x: torch.Tensor, *more: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradient of x, and gradients of the parameters."""
    x = x.clone().requires_grad_()
    y = block(x, *more)
    block.zero_grad()
    y.square().mean().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in block.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Block(32),
        lambda: TextConditionedBlock(32, 16),
        lambda: Bottleneck(32),
        lambda: ConvolutionBlock(32),
        lambda: NormalisedBlock(32),
    ],
)
def test_block_in_bfloat16_is_close_to_float32(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    block = randomised(build())
    x, more = (
        torch.randn(2, 8, 8, 32),
        [torch.randn(2, 16)] if isinstance(block, TextConditionedBlock) else [],
    )
    whole = outputs_and_gradients(block, x, *more)
    with branches_in(torch.bfloat16, block):
        half = outputs_and_gradients(block, x, *more)
        inference = block.eval()(x, *more)
    assert all(value.dtype == torch.float32 for value in half) and len(half) == len(whole)
    assert not torch.equal(half[0], whole[0])
    for one, other, tolerance in zip(half, whole, [0.005, *[0.06] * len(whole)]):
        assert (one - other).norm() < tolerance * other.norm()
    assert torch.equal(inference, whole[0])
    assert all(
        torch.equal(a, b) for a, b in zip(outputs_and_gradients(block.train(), x, *more), whole, strict=True)
    )


def test_mode_ends_with_its_context_also_after_an_error() -> None:
    codec = small_codec()
    codec.network.analysis.requires_grad_(False)
    blocks = [block for block in codec.network.modules() if isinstance(block, ResidualBlock)]
    frozen = [block for block in codec.network.analysis.modules() if isinstance(block, ResidualBlock)]
    with pytest.raises(ZeroDivisionError), branches_in(torch.bfloat16, codec.network):
        assert {block for block in blocks if block.branch_dtype is None} == set(frozen) and frozen
        raise ZeroDivisionError
    assert all(block.branch_dtype is None for block in blocks)


def test_only_residual_blocks_are_in_bfloat16() -> None:
    """Heads, linear paths, means, scale indices and bits are float32, bits and image are nearly the same."""
    codec = small_codec().network.train()
    x, level = torch.rand(2, 3, 64, 64), torch.tensor([200, 600])
    seen: dict[str, set[torch.dtype]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, given, y: seen.setdefault(name, set()).update(
            part.dtype for part in (y if isinstance(y, tuple) else (y,))
        )

    for name, module in codec.named_modules():
        module.register_forward_hook(note(name)) if name else None
    torch.manual_seed(0)
    whole = codec(x, level)
    seen.clear()
    with branches_in(torch.bfloat16, codec):
        torch.manual_seed(0)
        half = codec(x, level)
    lower = {name for name, dtypes in seen.items() if dtypes != {torch.float32}}
    inside = (".depthwise", ".expand", ".activation", ".project")
    blocks = [name for name, module in codec.named_modules() if isinstance(module, Block)]
    assert lower == {block + part for block in blocks for part in inside}
    assert half.bits.dtype == half.x_hat.dtype == torch.float32
    assert torch.allclose(half.bits, whole.bits, rtol=0.01) and not torch.equal(half.bits, whole.bits)
    assert (half.x_hat - whole.x_hat).abs().mean() < 0.01


def test_compiled_block_follows_the_mode() -> None:
    torch.manual_seed(0)
    block, x = randomised(Block(8)), torch.randn(1, 4, 4, 8)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    whole = compiled(x)
    with branches_in(torch.bfloat16, block):
        assert torch.equal(compiled(x), block(x)) and not torch.equal(compiled(x), whole)
    assert torch.equal(compiled(x), whole)


@pytest.mark.parametrize(
    ("asked", "unit", "name", "why"),
    [
        (
            "auto",
            "AMX-BF16",
            "bfloat16",
            "Blocks train in bfloat16, the rest in float32: this processor has AMX-BF16.",
        ),
        ("auto", "", "float32", "Everything trains in float32: this processor has no bfloat16 instructions."),
        ("bfloat16", "", "bfloat16", "slowly: this processor has no bfloat16 instructions"),
        ("float32", "AMX-BF16", "float32", "as requested"),
    ],
)
def test_precision_is_chosen_by_option_and_processor(
    monkeypatch: pytest.MonkeyPatch, asked: str, unit: str, name: str, why: str
) -> None:
    monkeypatch.setattr(precision, "bfloat16_unit", lambda device: unit)
    chosen = choose_precision(asked, CPU, "Blocks")
    assert chosen.name == name and why in chosen.reason
    assert chosen.autocast_dtype == (torch.bfloat16 if name == "bfloat16" else None)


def test_bfloat16_instructions_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"avx512_bf16": True, "amx_bf16": True, "avx2": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert precision.bfloat16_unit(CPU) == "AVX-512 BF16 and AMX-BF16"
    flags.update(avx512_bf16=False, amx_bf16=False)
    assert precision.bfloat16_unit(CPU) == ""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert (
        precision.bfloat16_unit(torch.device("cuda")) == "" == precision.bfloat16_unit(torch.device("meta"))
    )


def test_precision_is_set_only_by_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="one of auto, bfloat16, float32, not 'half'"):
        choose_precision("half", CPU, "Blocks")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    choose_precision("auto", CPU, "Blocks")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(OptionError, match="choose the precision with --precision"):
        choose_precision("auto", CPU, "Blocks")


def test_bfloat16_run_gives_a_notice_and_exports_float16(
    small_preset: presets.Preset, folder: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    options: dict[str, Any] = {"steps": 3, "every": 99, "notify": said.append}
    weights = train("small", [folder], tmp_path / "half", precision="bfloat16", **options)
    other = train("small", [folder], tmp_path / "whole", precision="float32", **options)
    precisions = [line for line in said if " in bfloat16" in line or " in float32" in line]
    assert ["bfloat16" in precisions[0], "float32" in precisions[1]] == [True, True]
    records = [json.loads(path.with_suffix(".json").read_text()) for path in (weights, other)]
    assert [record["precision"] for record in records] == ["bfloat16", "float32"]
    assert records[0]["held_out"]["held_out"] == pytest.approx(records[1]["held_out"]["held_out"], rel=0.02)
    one, two = read_weights(weights), read_weights(other)
    assert {n: t.dtype for n, t in one.items()} == {n: t.dtype for n, t in two.items()}
    assert any(not torch.equal(one[name], two[name]) for name in one)


class RecordingLinear(nn.Module):
    """A matrix product that records its dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Linear(4, 1)
        self.dtypes: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.slope(x)
        self.dtypes.append(y.dtype)
        return {"error": y.square().mean()}


class Ones:
    def next(self) -> tuple[torch.Tensor]:
        return (torch.ones(2, 4),)

    def close(self) -> None: ...


class LineTask(LossTask):
    name, weights, validation_batches, warmup = "line", {"error": 1.0}, 1, 1

    def batches(self, seed: int, first: int) -> Ones:
        return Ones()

    def export(self, average: nn.Module, path: Path) -> dict[str, object]:
        raise NotImplementedError


@pytest.mark.parametrize(("asked", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_losses_are_computed_in_bfloat16_and_validated_in_float32(
    tmp_path: Path, asked: str, dtype: torch.dtype
) -> None:
    notes: list[str] = []
    task = LineTask(RecordingLinear(), Ones())
    trainer = Trainer(task, tmp_path, steps=1, precision=asked, notify=notes.append)
    trainer.fit(1.0, lambda *values: None)
    assert trainer.unwrapped.dtypes == [dtype] and trainer.average.dtypes == [torch.float32]
    assert trainer.record()["precision"] == asked and asked in notes[0]
    assert all(parameter.dtype == torch.float32 for parameter in trainer.unwrapped.parameters())
