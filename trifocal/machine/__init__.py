"""image | latent → answer: what machines see."""
