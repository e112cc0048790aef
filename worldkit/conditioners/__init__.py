"""Conditioners: actions, language, goal images -> `Condition`. Importing this package registers the built-in ones."""

from . import action as action
from . import goal_image as goal_image
from . import language as language
from .base import Conditioner, ConditionerConfig, ModelView, stand_in

__all__ = ["Conditioner", "ConditionerConfig", "ModelView", "stand_in"]
