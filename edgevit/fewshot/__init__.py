"""Few-shot adaptation: heads on frozen features, label propagation through a pool, careful fine-tuning."""
