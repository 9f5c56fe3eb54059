"""The base class of training objectives."""

from collections.abc import Iterator

from torch import Tensor, nn

from trifocal.losses.rate_distortion import (
    LAMBDA_RANGE,
    bits_per_pixel,
    crop_weight,
    mean_squared_error,
    quality_lambda,
)
from trifocal.types import Batch, Output
from trifocal.utils.annotations import Positive, checked


class Objective(nn.Module):
    """bpp + λ(level) · MSE, with all quality levels weighted equally. A method's objective overrides
    `losses`.

    An objective may own networks. Frozen ones, such as LPIPS, have no gradient. Those that are trained beside
    the codec, such as a discriminator, are its partners, each with an optimiser of its own.

    A recipe sets the arguments of an objective by name. They are checked against the annotations of its
    constructor, so state ranges there (`utils.annotations`).

    Args:
        lambdas: λ at the lowest and at the highest quality; two equal numbers train a single rate.

    Attributes:
        terms: the terms of the losses since it was last cleared, each a scalar: means over the batch, before
            they are weighted. A term that no image of the batch has is left out.

    Raises:
        OptionError: unless `lambdas` are two numbers above 0.
    """

    def __init__(self, lambdas: tuple[Positive, Positive] = LAMBDA_RANGE) -> None:
        super().__init__()
        self.lambdas: tuple[float, float] = checked("lambdas", lambdas, tuple[Positive, Positive])
        self.terms: dict[str, Tensor] = {}

    def keep_terms(self, **terms: Tensor) -> None:
        """Add to `terms`: the mean of each."""
        self.terms |= {name: term.detach().float().mean() for name, term in terms.items()}

    def keep_shares(self, share: Tensor, **terms: Tensor) -> None:
        """Add to `terms`: the mean of each, [B], weighted by the share of each image in it, [B] in 0..1;
        nothing if all shares are 0.
        """
        total = share.sum()
        if total > 0:
            self.keep_terms(**{name: (share * term.detach()).sum() / total for name, term in terms.items()})

    def auxiliary_networks(self) -> dict[str, nn.Module]:
        """Networks that are trained beside the codec, by the name of their turn; none here."""
        return {}

    def description(self) -> dict[str, object]:
        """Facts for the record of a run: the class, and the title of each network."""
        titles = {name: getattr(part, "title", None) for name, part in self.named_children()}
        return {"objective": type(self).__name__, "lambdas": list(self.lambdas)} | {
            name: title for name, title in titles.items() if title
        }

    def notices(self) -> list[str]:
        """Notices for the user before a run: which network replaces another, and why."""
        notices = [getattr(part, "notice", "") for part in self.children()]
        return [notice for notice in notices if notice]

    def held_out_metrics(
        self, codec: nn.Module, x: Tensor, level: Tensor, output: Output
    ) -> dict[str, Tensor]:
        """Metrics of held-out images for the log, each [B], besides rate and squared error; none here.

        Args:
            codec: called as `codec(x, level, condition)`.
            x: images, [B, 3, H, W] in 0..1.
            level: [B].
            output: of the codec without a condition.
        """
        return {}

    def losses(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        """The losses of one step: the part that is updated ("codec" or the name of a partner), and the loss,
        a scalar.

        The optimiser step of a part is done before the next loss is computed.

        Args:
            codec: called as `codec(x, level, condition)`, with `partial` for batches that have it; returns an
                Output. It may be wrapped for several processes.
            batch: crops, quality levels, condition and missing components.
            step: steps done before this one, in all sessions of the run.
        """
        output = batch.run(codec)
        yield "codec", self.rate_and_error(output, batch).mean()

    def rate_and_error(self, output: Output, batch: Batch) -> Tensor:
        """bpp + λ · MSE, with all quality levels weighted equally, [B]."""
        bpp, error = bits_per_pixel(output, batch.x), mean_squared_error(output.x_hat, batch.x)
        self.keep_terms(bpp=bpp, mse=error)
        cost = bpp + quality_lambda(batch.level, self.lambdas) * error
        return cost * crop_weight(batch.level, self.lambdas, batch.partial)
