"""Train a purifier: a recipe and clean photographs in, a run folder with a checkpoint out.

loop              load, step, log, validate, save; the phases one after the other
phases            which steps belong to which phase, and the learning rate at each
trainer           one step: attack, update the discriminator, update the purifier
objectives/       what the purifier learns, for each kind of network
attack_sampling   which attack and budget each image gets
batches  cache    photographs in, attacked images kept
validation        held-out figures
run_folder  card  what is written, and read again by a later call
workers           several processes
gate  calibration  `train-gate`
"""

from purifyctl.training.loop import TrainResult, train, train_recipe

__all__ = ["TrainResult", "train", "train_recipe"]
