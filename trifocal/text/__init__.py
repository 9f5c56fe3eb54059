"""Words → Condition: text towers."""

from trifocal.text.encoder import TextEncoder, load_text_encoder

__all__ = ["TextEncoder", "load_text_encoder"]
