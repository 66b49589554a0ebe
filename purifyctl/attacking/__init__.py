"""Folder in; attacked images, one row per input, and a manifest out."""

from purifyctl.attacking.folder import AttackResult, attack_folder
from purifyctl.attacking.success import describe
from purifyctl.config.attack import AttackOptions

__all__ = ["AttackOptions", "AttackResult", "attack_folder", "describe"]
