"""The same sums outside language: image models, recommenders, scores and voices are edited and forgotten by S and T."""

from fleke_lib.beyond.rows import KeyValue, identity, row_packet, row_sums, rows_of
from fleke_lib.beyond.wheels import installed_file, terms

__all__ = ["KeyValue", "identity", "installed_file", "row_packet", "row_sums", "rows_of", "terms"]
