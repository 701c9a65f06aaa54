"""Self-supervised pre-training: images without labels."""
