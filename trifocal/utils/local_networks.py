"""A local folder of other projects' networks: CLIP, Stable Diffusion, and weights of torch's hub.

    FOLDER/clip-vit-base-patch32/       a model of transformers, by the last part of its name
    FOLDER/stable-diffusion-2-1-base/   a model of diffusers, in the same way
    FOLDER/checkpoints/*.pth            Faster R-CNN, and the backbones of LPIPS, DISTS, FID ..., by the names
                                        under which torch's hub keeps them

`trifocal --networks FOLDER COMMAND` and the environment variable TRIFOCAL_NETWORKS name it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from trifocal.errors import OptionError

__all__ = ["HOW_TO_NAME", "VARIABLE", "local_model", "networks_folder", "torch_weights"]

VARIABLE = "TRIFOCAL_NETWORKS"
HOW_TO_NAME = f"name that folder with `trifocal --networks FOLDER` or {VARIABLE}"  # in errors


def networks_folder() -> Path | None:
    """The folder that TRIFOCAL_NETWORKS names; None if it is not set.

    Raises:
        OptionError: if there is no such folder.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    if not Path(name).is_dir():
        raise OptionError(f"There is no folder {name}; {VARIABLE} and --networks name a folder of networks.")
    return Path(name).absolute()


def local_model(name: str) -> str:
    """The folder of a model of the Hugging Face Hub in the folder of networks; the name if it is not there.

    Args:
        name: such as "openai/clip-vit-base-patch32", or a folder.

    Raises:
        OptionError: as `networks_folder`.
    """
    folder = networks_folder()
    own = None if folder is None else folder / Path(name).name
    return str(own) if own is not None and own.is_dir() and not Path(name).is_dir() else name


@contextmanager
def torch_weights() -> Iterator[None]:
    """While it is open, torch's hub keeps its files in the folder of networks, if one is named, and prints to
    stderr what it downloads.

    Raises:
        OptionError: as `networks_folder`.
    """
    folder = networks_folder()
    with redirect_stdout(sys.stderr):
        if folder is None:
            yield
            return
        import torch

        before = torch.hub.get_dir()
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
