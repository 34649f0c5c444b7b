"""What a notebook needs to know about the machine: whether everything is installed, and at which scale to run."""

from fleke_lib.course.environment import Environment, check_environment
from fleke_lib.course.scale import Scale

__all__ = ["Environment", "Scale", "check_environment"]
