"""What is compared: presets, their variants, and codecs of Pillow."""
