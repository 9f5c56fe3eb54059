"""Stable Diffusion as a decoder: frozen networks, a control module, and sampling."""
