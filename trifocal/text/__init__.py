"""Words → Condition: text towers."""

from trifocal.text.encoder import Tower, load_tower

__all__ = ["Tower", "load_tower"]
