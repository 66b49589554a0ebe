"""How well a purifier does under attack: threat models, defences side by side, intervals, masking checks."""

from purifyctl.config.evaluate import EvaluateOptions
from purifyctl.evaluation.evaluate import EvaluateResult, evaluate

__all__ = ["EvaluateOptions", "EvaluateResult", "evaluate"]
