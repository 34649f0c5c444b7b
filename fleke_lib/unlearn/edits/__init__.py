"""Taking edits back: exact withdrawal by replay, its approximations, the audit, the search for bytes, the certificate."""

from fleke_lib.unlearn.edits.withdrawal import downdate, withdraw

__all__ = ["downdate", "withdraw"]
