"""Write the weights of a checkpoint: `trifocal export RUN`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trifocal.errors import OptionError
from trifocal.training.checkpoint import restore
from trifocal.training.run import CHECKPOINT, read_options
from trifocal.training.task import Notify, Report, silent
from trifocal.training.tasks.base_layer import train_base_layer
from trifocal.training.tasks.codec import train
from trifocal.training.tasks.detector import train_detector
from trifocal.training.tasks.text_categories import train_text_categories
from trifocal.training.tasks.text_image import train_text_image

__all__ = ["OTHER_TRAININGS", "export_run"]

OTHER_TRAININGS: dict[str, Callable[..., Path]] = {
    "towers": train_text_image,
    "categories": train_text_categories,
    "detector": train_detector,
    "base": train_base_layer,
}
"""What is trained besides presets."""


def export_run(
    run: str | Path, data: Sequence[str | Path] = (), *, report: Report = silent, notify: Notify = silent
) -> Path:
    """Write the weights of a run's checkpoint, without a further step. The run itself may go on.

    Args:
        run: folder of the run.
        data: training images for the frequency tables; those of the run by default.
        report, notify: as for `train`.

    Returns:
        The weights, beside the checkpoint.

    Raises:
        OptionError: if there is no checkpoint, or it is of an earlier version, which kept no options.
    """
    folder = Path(run)
    options = read_options(folder)
    if not options:
        raise OptionError(
            f"The checkpoint in {folder} does not name what it trains; write its weights with `trifocal "
            f"train PRESET --data DATA -o {folder} --resume --steps 1`, which makes no further step."
        )
    subject, done = options["subject"], restore(folder / CHECKPOINT, "")["progress"]["step"]
    more: dict[str, Any] = {"steps": done, "resume": True, "report": report, "notify": notify}
    if subject in OTHER_TRAININGS:
        return OTHER_TRAININGS[subject](data, folder, **more)
    return train(subject, data, folder, **more)
