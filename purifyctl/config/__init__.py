"""Recipes and the options of commands as frozen dataclasses. Light to import: no torch, no numpy.

A recipe or an option that cannot work is refused before any time is spent: types, ranges and combinations are checked
when the dataclass is made.

attacks.py, backends.py              the list of attacks, and the list of backends
engine.py, training.py               what recipes hold
devices.py                           the option --device, and what is chosen
run.py, attack.py, evaluate.py, ...  the options of each command; options.py: what a field says about its flag
values.py, reading.py, recipes.py    how values are written; TOML; the recipes that come with purifyctl
"""

from purifyctl.config.attack_config import AttackConfig
from purifyctl.config.attacks import (
    ATTACKS,
    Attack,
    AttackKind,
)
from purifyctl.config.backends import (
    AHEAD_OF_TIME,
    BACKENDS,
    DEFAULT_BACKEND,
    GPU_BACKENDS,
    REFERENCE_BACKENDS,
    Backend,
    BackendName,
    EnginePrecision,
    is_bf16,
    is_int8,
)
from purifyctl.config.classifier import ClassifierConfig
from purifyctl.config.engine import EngineConfig
from purifyctl.config.gate import GateConfig
from purifyctl.config.network import NetworkConfig
from purifyctl.config.reading import (
    from_dict,
    read_recipe,
    to_dict,
)
from purifyctl.config.training import (
    ObjectiveConfig,
    Phase,
    TrainConfig,
    TrainingAttack,
)
from purifyctl.config.values import (
    EpsSpace,
    LabelsFrom,
    eps_scale,
    format_eps,
    grey_levels,
    parse_eps,
    parse_list,
    parse_percent,
    parse_shard,
)
from purifyctl.config.weights import with_classifier_weights

__all__ = [
    "AHEAD_OF_TIME",
    "ATTACKS",
    "BACKENDS",
    "DEFAULT_BACKEND",
    "GPU_BACKENDS",
    "REFERENCE_BACKENDS",
    "Attack",
    "AttackConfig",
    "AttackKind",
    "Backend",
    "BackendName",
    "ClassifierConfig",
    "EngineConfig",
    "EnginePrecision",
    "EpsSpace",
    "GateConfig",
    "LabelsFrom",
    "NetworkConfig",
    "ObjectiveConfig",
    "Phase",
    "TrainConfig",
    "TrainingAttack",
    "eps_scale",
    "format_eps",
    "from_dict",
    "grey_levels",
    "is_bf16",
    "is_int8",
    "parse_eps",
    "parse_list",
    "parse_percent",
    "parse_shard",
    "read_recipe",
    "to_dict",
    "with_classifier_weights",
]
