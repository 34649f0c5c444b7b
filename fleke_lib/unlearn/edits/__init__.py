"""Taking edits back: exact withdrawal, its approximations, an audit, the search for bytes, a certificate."""

from fleke_lib.unlearn.edits.withdrawal import downdate, withdraw

__all__ = ["downdate", "withdraw"]
