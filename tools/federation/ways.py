"""The two ways in which hospitals share: sealed packets, of which each adopts some, or sums under masks.

A way says what the rules are, what the same federation gives in one process, and what a registry must not have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fleke_lib.edit import Edit
from fleke_lib.edit.moments import Moments
from fleke_lib.federation import ClientConfig, Part, Rules, Sealing, StoredProvider, run_fedit, weights
from fleke_lib.federation.flower.bounds import SumRules, load_sum_rules, save_rules
from fleke_lib.federation.retrieval.named import policy_named
from fleke_lib.federation.retrieval.policies import Nobody
from fleke_lib.federation.rounds import Run
from fleke_lib.federation.sealing.store import SealedStore
from fleke_lib.federation.summing import Summing, total
from fleke_lib.model.language_model import LanguageModel


class Way(Protocol):
    """How hospitals share. policy: by which they adopt. summed: packets stay at home. about: the way in words."""

    policy: str
    summed: bool
    about: str

    def write_rules(self, lm: LanguageModel, moments: Moments, parts: Sequence[Part], file: Path) -> None:
        """Write what the server and all nodes agree on."""
        ...

    def turns(self, lm: LanguageModel, slots: int) -> int:
        """The turns of one run of the server."""
        ...

    def in_one_process(self, folder: Path, lm: LanguageModel, parts: Sequence[Part], secret: bytes) -> Run:
        """The run in this process; its vectors are computed here, and kept in the folder."""
        ...

    def edits(self, run: Run, moments: Moments) -> dict[str, Edit]:
        """The edits of a run in one process, by client."""
        ...

    def kept(self, hub: Path, leaver: str) -> tuple[bool, str]:
        """Whether the server's registry has nothing of a hospital that has withdrawn, and the same in words."""
        ...


@dataclass(frozen=True)
class Packets:
    """Sealed packets: the server stores them, and every hospital adopts by a policy and solves for itself."""

    policy: str
    summed: bool = False

    @property
    def about(self) -> str:
        return f"sealed packets, policy {self.policy}"

    def write_rules(self, lm: LanguageModel, moments: Moments, parts: Sequence[Part], file: Path) -> None:
        save_rules(Rules.of(lm), file)

    def turns(self, lm: LanguageModel, slots: int) -> int:
        return 2 * slots + 2

    def in_one_process(self, folder: Path, lm: LanguageModel, parts: Sequence[Part], secret: bytes) -> Run:
        config, provider = ClientConfig(policy_named(self.policy)), StoredProvider(lm, folder / "one-process")
        return run_fedit(lm, parts, config, provider=provider, secret=secret, protection=Sealing())

    def edits(self, run: Run, moments: Moments) -> dict[str, Edit]:
        return {name: weights.cumulative(run, name, moments) for name in run.clients}

    def kept(self, hub: Path, leaver: str) -> tuple[bool, str]:
        with SealedStore(hub / "registry.db") as store:
            left, pending = sum(number for name, _, number in store.counts() if name == leaver), store.pending()
        words = f"the registry holds {left} packets of {leaver}; {len(pending)} requests are pending"
        return not left and not pending, words


@dataclass(frozen=True)
class MaskedSums:
    """Sums under masks: packets stay at home, the server adds up numbers that look random, and all have one edit."""

    policy: str = "nobody"
    summed: bool = True
    about: str = "sums under masks"

    def write_rules(self, lm: LanguageModel, moments: Moments, parts: Sequence[Part], file: Path) -> None:
        rules, most = Rules.of(lm), max(len(part.facts) for part in parts)
        save_rules(rules, file, SumRules.of(lm, rules, moments, len(parts), most))

    def turns(self, lm: LanguageModel, slots: int) -> int:
        return 3 + 4 * len(lm.preset.layers)  # advertise, share, learn; two steps a layer, of two turns each

    def in_one_process(self, folder: Path, lm: LanguageModel, parts: Sequence[Part], secret: bytes) -> Run:
        config, provider = ClientConfig(Nobody()), StoredProvider(lm, folder / "one-process")
        protection = Summing(load_sum_rules(folder / "rules.json").scales)
        return run_fedit(lm, parts, config, provider=provider, secret=secret, protection=protection)

    def edits(self, run: Run, moments: Moments) -> dict[str, Edit]:
        return dict.fromkeys(run.clients, total(run, moments).edit)

    def kept(self, hub: Path, leaver: str) -> tuple[bool, str]:
        found = [path.name for path in hub.rglob("*") if path.name.startswith("registry")]
        return not found, f"the server has {', '.join(found) or 'no registry'}"
