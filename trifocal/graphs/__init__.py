"""ONNX graphs that ship without weights, run with the weights of a .safetensors file."""
