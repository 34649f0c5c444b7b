"""The registry: admission rules, one SQLite file whose deletions leave no bytes behind, exact search, tombstones."""

from fleke_lib.federation.registry.admission import Refused, Rules
from fleke_lib.federation.registry.budget import Budget
from fleke_lib.federation.registry.leverage import Leverage
from fleke_lib.federation.registry.registry import Registry
from fleke_lib.federation.registry.tombstones import WithdrawalRequest

__all__ = ["Budget", "Leverage", "Refused", "Registry", "Rules", "WithdrawalRequest"]
