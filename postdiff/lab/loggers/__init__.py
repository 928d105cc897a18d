"""Records once more on W&B and TensorBoard."""
