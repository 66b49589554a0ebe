"""`make gpu-trial`: everything that a machine with an NVIDIA GPU can show, in eight minutes.

__main__.py   the steps, one after another, each in a process of its own with a time limit (needs Python alone)
wheels.py     what has to be installed there: gathered, cut into small parts, joined, installed (needs Python alone)
report.py     what the steps found, as JSON and as Markdown (needs Python alone)
before.py     the machine, the tests for GPUs, photographs
measures.py   engines and everything around them
training.py   the training, interrupted and resumed
"""
