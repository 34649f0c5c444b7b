"""Mediator knowledge vectors: their optimisation, their storage on disk, and starting points for the optimisation."""

from fleke_lib.mkv.edit_map import EditMap, MapSums, bare_states, shipped_map, shipped_sums, teach
from fleke_lib.mkv.mkv import Mkv, compute_mkvs
from fleke_lib.mkv.pmet import pmet_mkvs
from fleke_lib.mkv.store import shipped_mkvs, stored_mkvs

__all__ = [
    "EditMap",
    "MapSums",
    "Mkv",
    "bare_states",
    "compute_mkvs",
    "pmet_mkvs",
    "shipped_map",
    "shipped_mkvs",
    "shipped_sums",
    "stored_mkvs",
    "teach",
]
