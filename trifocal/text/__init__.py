"""Text encoders, captions, and the grounding of text in an image."""

from trifocal.text.encoder import TextEncoder, load_text_encoder

__all__ = ["TextEncoder", "load_text_encoder"]
