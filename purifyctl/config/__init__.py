"""Settings as frozen dataclasses, read from TOML recipes. Unknown keys fail.

A recipe is refused before any time is spent: types, ranges and combinations are checked when it is read.
"""

from purifyctl.config.attacks import (
    ATTACKS,
    Attack,
    AttackConfig,
    AttackKind,
)
from purifyctl.config.backends import (
    AHEAD_OF_TIME,
    BACKENDS,
    DEFAULT_BACKEND,
    REFERENCE_BACKEND,
    Backend,
    BackendName,
    EnginePrecision,
)
from purifyctl.config.engine import EngineConfig
from purifyctl.config.gate import GateConfig
from purifyctl.config.network import NetworkConfig
from purifyctl.config.reading import (
    from_dict,
    read_recipe,
    to_dict,
)
from purifyctl.config.training import (
    ClassifierConfig,
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
    parse_share,
)
from purifyctl.config.weights import with_classifier_weights

__all__ = [
    "AHEAD_OF_TIME",
    "ATTACKS",
    "BACKENDS",
    "DEFAULT_BACKEND",
    "REFERENCE_BACKEND",
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
    "parse_eps",
    "parse_list",
    "parse_percent",
    "parse_share",
    "read_recipe",
    "to_dict",
    "with_classifier_weights",
]
