"""The codecs that are measured: presets, their variants, and Pillow's formats."""
