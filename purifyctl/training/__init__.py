"""Train a purifier: a recipe and clean photographs in, a run folder with a checkpoint out."""

from purifyctl.training.job import TrainResult, train, train_recipe

__all__ = ["TrainResult", "train", "train_recipe"]
