"""The command line: one file per command, which parses, calls one function, and prints. Heavy imports happen inside
the commands.
"""

# importing a module registers its command: `purifyctl --help` lists them in this order
from purifyctl.cli import run, demo, doctor, report, merge, train, train_gate, build_engine, inspect, bench  # noqa: I001
from purifyctl.cli import attack, evaluate
from purifyctl.cli.app import app, main

__all__ = [
    "app",
    "attack",
    "bench",
    "build_engine",
    "demo",
    "doctor",
    "evaluate",
    "inspect",
    "main",
    "merge",
    "report",
    "run",
    "train",
    "train_gate",
]  # fmt: skip
