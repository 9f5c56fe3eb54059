"""Image ⇄ latent: the analysis, synthesis and hyper transforms."""

from trifocal.transforms.analysis import Analysis
from trifocal.transforms.hyper import HyperAnalysis, HyperSynthesis
from trifocal.transforms.synthesis import Synthesis

__all__ = ["Analysis", "HyperAnalysis", "HyperSynthesis", "Synthesis"]
