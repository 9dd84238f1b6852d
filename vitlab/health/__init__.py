"""What goes wrong in training: signs of it, their causes in words, and steps taken again."""

from vitlab.health.rules import Diagnosis, diagnose
from vitlab.health.signs import Signs
from vitlab.health.tracing import Seen, Trace, trace

__all__ = ["Diagnosis", "Seen", "Signs", "Trace", "diagnose", "trace"]
