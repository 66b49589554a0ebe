"""The command line: parse, call one function, print. Heavy imports happen inside the commands."""

# importing a module registers its commands, in this order
from purifyctl.cli import train, engines, run, attack, look  # noqa: F401, I001
from purifyctl.cli.app import app, main

__all__ = ["app", "main"]
