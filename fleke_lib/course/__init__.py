"""What a notebook asks of the machine: whether everything is installed, and how large it should run."""

from fleke_lib.course.environment import Environment, check_environment
from fleke_lib.course.scale import Scale

__all__ = ["Environment", "Scale", "check_environment"]
