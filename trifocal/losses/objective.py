"""What a training step minimises."""

from collections.abc import Iterator

from torch import Tensor, nn

from trifocal.losses.rate_distortion import balance, rate_distortion
from trifocal.types import Batch, Output


class Objective(nn.Module):
    """bpp + λ(level) · MSE, each quality weighing alike. A method's objective overrides `turns`.

    An objective may own networks: those that judge and stay as they are have no gradient; those that train beside the
    codec (a discriminator) are its partners, each with an optimiser of its own.
    """

    def partners(self) -> dict[str, nn.Module]:
        """Networks that train beside the codec, by the name of their turn; none here."""
        return {}

    def description(self) -> dict[str, object]:
        """What the record of a run says of it: its class, and the title of each network that judges."""
        titles = {name: getattr(part, "title", None) for name, part in self.named_children()}
        return {"objective": type(self).__name__} | {name: title for name, title in titles.items() if title}

    def notes(self) -> list[str]:
        """Sentences to be said before a run: which network judges in the place of another, and why."""
        said = [getattr(part, "note", "") for part in self.children()]
        return [note for note in said if note]

    def held_out_metrics(
        self, codec: nn.Module, x: Tensor, level: Tensor, output: Output
    ) -> dict[str, Tensor]:
        """What a run's log says of held-out pictures besides rate and error, each [B]; here nothing. `output` is the codec's without a
        condition."""
        return {}

    def turns(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        """The losses of one step, in turn: the part that learns from it ("codec" or a partner's name), and the loss.

        The part's optimiser steps on a loss before the next is asked for.

        Args:
            codec: called as `codec(x, level, condition)`, which gives an Output; it may be wrapped for many GPUs.
            batch: crops, levels, and what steers.
            step: optimiser steps that were done before this one, over all sessions of the run.
        """
        output = codec(batch.x, batch.level, batch.condition)
        yield "codec", (rate_distortion(output, batch.x, batch.level) * balance(batch.level)).mean()
