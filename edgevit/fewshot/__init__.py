"""Few-shot adaptation: heads on frozen features, transduction with an unlabelled pool, and fine-tuning."""
