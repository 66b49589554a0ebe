"""Folder in; attacked images, one row per input, and a manifest out."""

from purifyctl.attacking.job import AttackOptions, AttackResult, attack_folder, describe

__all__ = ["AttackOptions", "AttackResult", "attack_folder", "describe"]
