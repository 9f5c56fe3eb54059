"""Text encoders, captions, and where an image shows what a text names."""

from trifocal.text.encoder import TextEncoder, load_text_encoder

__all__ = ["TextEncoder", "load_text_encoder"]
