"""What a notebook asks of its surroundings: is everything installed, at which scale to run, and on which model."""

from fleke_lib.course.chosen import another
from fleke_lib.course.environment import Environment, check_environment
from fleke_lib.course.scale import Scale

__all__ = ["Environment", "Scale", "another", "check_environment"]
