"""image | latent → answer: what machines see."""

from trifocal.machine.tower import ImageFeatures, ImageTower, load_image_tower

__all__ = ["ImageFeatures", "ImageTower", "load_image_tower"]
