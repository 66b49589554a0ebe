"""How well a purifier does under attack: threat models, defences side by side, intervals, masking checks."""

from purifyctl.evaluation.evaluate import EvaluateResult, evaluate
from purifyctl.evaluation.options import EvaluateOptions

__all__ = ["EvaluateOptions", "EvaluateResult", "evaluate"]
