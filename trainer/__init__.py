"""What runs in the training process: attach, control, learning rate, keep-best, journal, checkpoints."""
