"""Folder in; attacked images, one row per input, and a manifest out."""

from purifyctl.attacking.folder import AttackOptions, AttackResult, attack_folder
from purifyctl.attacking.success import describe

__all__ = ["AttackOptions", "AttackResult", "attack_folder", "describe"]
