"""What is measured: one number per image, or per set of images."""
