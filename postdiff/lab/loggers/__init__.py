"""Records once more on W&B, TensorBoard, and loggers of one's own (`POSTDIFF_PATH/loggers/NAME.py`)."""

__all__ = ["SHIPPED"]

# {logger: what it is}; each is chosen by a key of its own, those of one's own by `logger.names`.
SHIPPED = {
    "tensorboard": "numbers, images and settings of each row for TensorBoard, below outputs/tensorboard",
    "wandb": "numbers, images and settings of each row on Weights & Biases, or offline below outputs/wandb",
}
