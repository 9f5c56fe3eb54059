"""The interface of training tasks: module, batches, losses, validation and export."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trifocal.errors import OptionError
from trifocal.training.optimisers import adamw_and_muon, cosine_schedule

__all__ = ["SEED", "BatchSource", "LossTask", "Notify", "Report", "TrainingTask", "Update", "move", "silent"]

SEED = 1
Report = Callable[[float, str], None]
"""Called with the fraction of the run that is done, 0..1, and a line of text."""
Notify = Callable[[str], object]
"""Called with a sentence for the user."""


def silent(*values: object) -> None:
    """Ignores its arguments: the default of `report` and `notify`."""


class BatchSource(Protocol):
    """An endless sequence of batches."""

    def next(self) -> Any:
        """The next batch."""

    def close(self) -> None:
        """Stop background work. `next` must not be called afterwards."""


@dataclass(frozen=True)
class Update:
    """One backward pass and optimiser step within a training step.

    Attributes:
        part: the network that is updated: the task's name, or the name of an auxiliary network.
        loss: a scalar.
        terms: values for the log, scalars by name.
    """

    part: str
    loss: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


class TrainingTask(ABC):
    """Defines a training run: network, batches, losses, validation and export.

    Attributes:
        name: of the module in updates and in the checkpoint.
        module: the network that is trained, averaged and exported.
        file_name: of the exported weights, in the folder of the run.
        seed: of batches and noise.
        learning_rate: the peak learning rate.
        ema: decay of the averaged weights, which are validated and exported.
        clip: largest norm of a gradient.
        bfloat16_operations: which operations `autocast` computes in bfloat16, in the plural, for the notice
            to the user.
        batch: images in a step, in all processes together.
        processes: that share the batch.
        unused_parameters: whether a step may leave parameters without a gradient.
        device: of the run.
    """

    name: str
    module: nn.Module
    file_name: str
    seed = SEED
    learning_rate: float
    ema: float
    clip: float
    bfloat16_operations = "Convolutions and matrix products"
    batch = 1
    processes = 1
    unused_parameters = True
    device = torch.device("cpu")

    def auxiliary_networks(self) -> dict[str, nn.Module]:
        """Networks that are trained beside the module, such as a discriminator, by name."""
        return {}

    def to(self, device: torch.device) -> None:
        """Use a device for batches, and move the networks of the task other than `module` there."""
        self.device = device

    def use_processes(self, count: int) -> None:
        """Share the batch among so many processes. Raises OptionError if it cannot be divided among them."""
        if self.batch % count:
            raise OptionError(
                f"A batch of {self.batch} cannot be shared by {count} processes; choose a multiple of "
                f"{count} with --batch, which is the total."
            )
        self.processes = count

    @property
    def process_batch(self) -> int:
        """Images in a step of this process."""
        return self.batch // self.processes

    def batch_notice(self) -> str:
        """How many processes train, on how many images in a step."""
        if self.processes == 1:
            return f"One process trains on a batch of {self.batch}."
        return (
            f"{self.processes} processes train on a total batch of {self.batch}, {self.process_batch} each."
        )

    @abstractmethod
    def optimisers(self) -> dict[str, list[Optimizer]]:
        """The optimisers of the module and of each auxiliary network. Each parameter group has a `factor` of
        the learning rate.
        """

    @abstractmethod
    def schedule(self, step: int, fraction: float) -> float:
        """The factor of the learning rate at a step, 0..1; `fraction` of the run is completed."""

    def autocast(
        self, module: nn.Module, device: torch.device, dtype: torch.dtype | None
    ) -> AbstractContextManager[object]:
        """The context in which losses are computed; None is float32."""
        return torch.autocast(device.type, dtype, enabled=dtype is not None)

    @abstractmethod
    def batches(self, seed: int, first: int) -> BatchSource:
        """Training batches of this process.

        Args:
            seed: differs between processes.
            first: number of the first batch: steps that are done already.
        """

    @abstractmethod
    def losses(self, module: nn.Module, batch: Any, step: int, fraction: float) -> Iterator[Update]:
        """The updates of one step. The optimiser step of an update is done before the next one is computed.

        Args:
            module: `self.module`, possibly wrapped for several processes.
            batch: from `batches`, not yet on the device of the run.
            step: steps done before this one, in all sessions of the run.
            fraction: of the run that is done, 0..1.
        """

    @abstractmethod
    def validate(self, average: nn.Module) -> dict[str, float]:
        """Values on held-out data for the log. `average` has the averaged weights."""

    @abstractmethod
    def export(self, average: nn.Module, path: Path) -> dict[str, object]:
        """Write the weights, and return facts for the record beside them. Called in the main process only."""

    def record(self) -> dict[str, object]:
        """Settings of the run for the record beside the weights."""
        return {}

    def notices(self) -> list[str]:
        """Sentences for the user before the first step."""
        return []

    def state(self) -> dict[str, Any]:
        """What the checkpoint keeps of the task besides its networks: plain values only."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; empty for checkpoints of earlier versions."""


class LossTask(TrainingTask):
    """A task whose module returns its loss terms: AdamW, with Muon for matrices, and a cosine schedule.

    Attributes:
        weights: of each term in the loss.
        matrix_rate: learning rate of Muon, which then trains all matrices (Jordan et al. 2024, "Muon: an
            optimizer for hidden layers in neural networks"; scaled as in Liu et al. 2025, arXiv 2502.16982,
            section 2.2). None trains them by AdamW.
        weight_decay: of weights; biases have none.
        warmup: steps in which the learning rate rises.
        validation_batches: number of held-out batches.

    Args:
        module: called with a batch's parts; returns scalar terms by name, means over the batch.
        held_out: source of the validation batches; it is closed here.
        learning_rate: replaces the attribute; `matrix_rate` is scaled along.
    """

    weights: Mapping[str, float]
    learning_rate = 1e-3
    matrix_rate: float | None = None
    weight_decay = 0.05
    warmup = 100
    ema = 0.998
    clip = 2.0
    validation_batches = 12

    def __init__(self, module: nn.Module, held_out: BatchSource, learning_rate: float | None = None) -> None:
        self.module = module
        if learning_rate is not None:
            if self.matrix_rate is not None:
                self.matrix_rate *= learning_rate / self.learning_rate
            self.learning_rate = learning_rate
        self.validation = [held_out.next() for _ in range(self.validation_batches)]
        held_out.close()

    def factor(self, name: str) -> float:
        """The learning rate of the parameter of that name, relative to the others."""
        return 1.0

    def optimisers(self) -> dict[str, list[Optimizer]]:
        rates = self.learning_rate, self.matrix_rate
        return {self.name: adamw_and_muon(self.module, *rates, self.weight_decay, self.factor)}

    def schedule(self, step: int, fraction: float) -> float:
        return cosine_schedule(step, fraction, self.warmup)

    def terms(self, module: nn.Module, batch: Any, fraction: float) -> dict[str, Tensor]:
        """The loss terms of a batch by name."""
        terms: dict[str, Tensor] = module(*move(batch, self.device))
        return terms

    def losses(self, module: nn.Module, batch: Any, step: int, fraction: float) -> Iterator[Update]:
        terms = {name: term.float() for name, term in self.terms(module, batch, fraction).items()}
        loss = sum((self.weights[name] * term for name, term in terms.items()), torch.zeros(()))
        yield Update(self.name, loss, terms)

    def validate(self, average: nn.Module) -> dict[str, float]:
        """The mean of each loss term over the held-out batches, as `held_out_NAME`."""
        average.train()  # torchvision's detectors return losses in training mode only
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            rows = [self.terms(average, batch, 1.0) for batch in self.validation]
        return {f"held_out_{n}": round(float(np.mean([float(r[n]) for r in rows])), 4) for n in rows[0]}

    def record(self) -> dict[str, object]:
        return {
            "learning_rate": self.learning_rate,
            "matrix_rate": self.matrix_rate,
            "weight_decay": self.weight_decay,
            "ema": self.ema,
            "terms": dict(self.weights),
            "seed": self.seed,
        }


def move(batch: Any, device: torch.device) -> Any:
    """The batch on a device: tensors, objects with a method `to`, and tuples and lists of them."""
    if device.type == "cpu" or batch is None:
        return batch
    if isinstance(batch, tuple | list):
        return type(batch)(move(part, device) for part in batch)
    return batch.to(device)
