"""Locating a fact: causal traces of single facts, their averages, and the critical layers that follow from them."""

from fleke_lib.locate.averages import TraceAverage, average_traces, critical_layers, mediated
from fleke_lib.locate.tracing import CLASSES, KINDS, CausalTrace, causal_trace, default_window, token_classes

__all__ = [
    "CLASSES",
    "KINDS",
    "CausalTrace",
    "TraceAverage",
    "average_traces",
    "causal_trace",
    "critical_layers",
    "default_window",
    "mediated",
    "token_classes",
]
