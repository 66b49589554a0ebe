"""The headings that `purifyctl --help` lists commands under."""

EVERYDAY, TRAINING, ENGINES, EVALUATION = "Everyday", "Training", "Engines", "Evaluation"
