"""A memory beside the weights: a gated table of keys and residuals, made from the same packets as the closed form.

Row i holds a fact's mean key k_i at the first edited layer, scaled to length one, and its residual r_i = z_i - h_i. At
every token that the model reads, with its key k at the first edited layer and its state h after the last one,

    i = argmax_j cos(k, k_j),        h <- h + r_i    if cos(k, k_i) > threshold,    else h stays as it is

No weight changes, and nothing is solved: a fact is added or withdrawn as a row. In the closed form, facts share the
weights of a layer, and the more there are, the worse each of them is recalled. Here only the nearest row counts. The
costs are the table, which grows with the facts, and one product with it for every token. The result is a program beside
the model: it has no form as weights or as an adapter.

The first edited layer is the only one where a trajectory's keys are those of the base model. It is also a low layer,
whose key at a subject's last token depends on the subject's words and little on the text around them. Facts of one
subject therefore have nearly the same key, and the nearest of them is recalled whatever the question is about.

GRACE (arXiv 2211.11031) and WISE (arXiv 2405.14768) also keep edits beside the weights behind a gate, and train them
one after the other; NeuralDB (arXiv 2507.18028) gates MEMIT's residuals by the cosine of keys, as here, at the edited
layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from fleke_lib.model.activations import entering, layer_calls, record, rewrite
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.ridge.sums import Contribution
from fleke_lib.storage.files import half_made, user_path

FORMAT = "fleke-memory-1"
CELLS = 1 << 24  # cosines in memory at once, 64 MB

# The threshold was chosen on 306 of atlas facts 0 to 110 and CounterFact records 1000 to 1999, with all 1108 in one
# table: 0.63 recalls the right row at 96% of paraphrases, any row in 5.7% of neighbours and at 0.24% of 5000 tokens of
# the sample text; 0.69 has 95%, 4.8% and 0.1%. By benchmarks/memory.py, 60 of atlas facts 111 to 590 have the scores
# 0.980, 0.977 and 0.966 in tables of 100, 480 and 10,000 rows, and 0.950 and 0.921 in closed forms of 100 and 480. A
# token takes 1.08 times as long with 1000 rows and 1.21 times with 10,000, which are 84 MB, on one processor.
THRESHOLD = 0.65


@dataclass(frozen=True, eq=False)
class Memory:
    """A table of facts that is read at every token; `memory` makes one.

    keys: of length one, `(facts, d_mlp)`. values: the residuals, `(facts, d_model)`. Both in float32.
    threshold: the cosine above which the nearest row is recalled.
    layers: the layer whose keys are compared, and the layer after which the residual is added.
    fingerprint: of the model that keys and residuals were computed on, with its edited layers `edited`.

    Rows are sorted by their content. The same facts in any order are therefore the same memory, bit for bit.
    """

    keys: Float[Tensor, "facts d_mlp"]
    values: Float[Tensor, "facts d_model"]
    threshold: float
    edited: tuple[int, ...]
    fingerprint: str

    def __post_init__(self) -> None:
        """Raises ValueError if keys or values are not finite, or are not as many, or the threshold is no cosine."""
        if len(self.keys) != len(self.values) or not (self.keys.isfinite().all() and self.values.isfinite().all()):
            raise ValueError(
                f"a memory has {len(self.keys)} keys and {len(self.values)} values: give as many, all finite numbers."
            )
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}: give a cosine, from -1 to 1.")

    @property
    def layers(self) -> tuple[int, int]:
        return self.edited[0], self.edited[-1]

    @property
    def size(self) -> int:
        """Bytes of the table."""
        return sum(part.numel() * part.element_size() for part in (self.keys, self.values))

    def __len__(self) -> int:
        return len(self.keys)

    def nearest(self, keys: Float[Tensor, "tokens d_mlp"]) -> tuple[Float[Tensor, " tokens"], Int[Tensor, " tokens"]]:
        """For each key, the cosine of the nearest row and its number; the first of equal ones."""
        queries, table = normalize(keys.float(), dim=1), self.keys.to(keys.device)
        blocks = [(block @ table.T).max(1) for block in queries.split(max(1, CELLS // len(self)))]
        return torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks])

    def recall(self, keys: Float[Tensor, "... d_mlp"]) -> Float[Tensor, "... d_model"]:
        """What is added to the state of each token: the value of the nearest row behind the gate, or zero."""
        flat = keys.flatten(0, -2)
        change = self.values.new_zeros(len(flat), self.values.shape[1], device=keys.device)
        if len(self):
            cosine, row = self.nearest(flat)
            fires = cosine > self.threshold
            change[fires] = self.values.to(keys.device)[row[fires]]
        return change.unflatten(0, keys.shape[:-1])

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[LanguageModel]:
        """Read the memory at every token in a `with` block; yields the model, whose weights stay as they are.

        Raises:
            ValueError: the memory is of another model, or of this one without the edits that are applied now; or, when
                the model runs, only layers above the one where the keys are read.
        """
        if self.fingerprint != lm.fingerprint(self.edited):
            raise ValueError(
                f"this memory was made on another model than {lm.name}, or on this one with other edits applied than "
                "now (the fingerprints differ): load that model, and apply the memory to it before any edit."
            )
        at, after = self.layers
        table = replace(self, keys=self.keys.to(lm.device), values=self.values.to(lm.device))
        read: list[Tensor] = []  # the changes of this pass, between the two layers

        def enter(module, args, kwargs):
            read[:] = [table.recall(entering(args, kwargs).detach())]

        def leave(hidden: Tensor) -> Tensor:
            if not read or read[0].shape != hidden.shape:
                raise ValueError(
                    f"the memory reads its keys at layer {at}, but only higher layers run now: prepare the evaluation "
                    f"with below={at} or less."
                )
            return hidden + read.pop().to(hidden)

        entry = Beside(self)
        with ExitStack() as stack:
            stack.callback(lm.projection(at).register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.enter_context(rewrite({lm.layers[after]: leave}))
            lm.edits.append(entry)
            stack.callback(lm.edits.remove, entry)
            yield lm

    def without(self, fact: Contribution) -> "Memory":
        """The memory without a fact: the same bits as if it had been made from the others.

        Raises:
            ValueError: the memory has no such row.
        """
        key, value = _row(fact, self.edited[0])
        same = (self.keys == key).all(1) & (self.values == value).all(1)
        if not same.any():
            raise ValueError(f"none of the {len(self)} rows is this fact's: give a fact that the memory was made from.")
        kept = torch.arange(len(self)) != int(same.int().argmax())
        return replace(self, keys=self.keys[kept], values=self.values[kept])

    def save(self, path: str | Path) -> Path:
        """Write the memory as one safetensors file."""
        about = {"format": FORMAT, "fingerprint": self.fingerprint, "threshold": repr(self.threshold)}
        about["edited"] = " ".join(map(str, self.edited))
        path = user_path(path)
        with half_made(path) as half:
            save_file({"keys": self.keys.contiguous(), "values": self.values.contiguous()}, half, metadata=about)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Memory":
        """Read a memory that `save` wrote.

        Raises:
            ValueError: the file is not such a memory, or has entries that are not finite.
        """
        try:
            with safe_open(user_path(path), "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a whole safetensors file ({error}): give one that Memory.save wrote."
            ) from None
        if about.get("format") != FORMAT:
            raise ValueError(f"{path} is not a memory of this library: give a file that Memory.save wrote.")
        edited = tuple(int(layer) for layer in about["edited"].split())
        try:
            return cls(tensors["keys"], tensors["values"], float(about["threshold"]), edited, about["fingerprint"])
        except ValueError as error:
            raise ValueError(f"{path} holds no usable memory, since {error}") from None

    def __repr__(self) -> str:
        at, after = self.layers
        return (
            f"Memory({len(self)} facts, keys of layer {at}, residuals after layer {after}, threshold {self.threshold}, "
            f"{self.size / 1e6:.1f} MB)"
        )


@dataclass(frozen=True, eq=False)
class Beside:
    """A memory's entry in `lm.edits`, so that nothing of the base model is computed while the memory is applied.

    originals: the weights that it has changed, none.
    """

    edit: Memory
    originals: dict[int, Tensor] = field(default_factory=dict)


def memory(contributions: Sequence[Contribution], threshold: float = THRESHOLD) -> Memory:
    """The memory of these facts; no model and no text is needed.

    Args:
        contributions: packets, or trajectories.
        threshold: the cosine above which the nearest row is recalled; the default was chosen for the default model.

    Raises:
        ValueError: there are no contributions, they are of several models or layers, or vectors have entries that are
            not finite.
    """
    if not contributions:
        raise ValueError("there are no contributions to remember: give at least one trajectory or packet.")
    kinds = {(one.fingerprint, tuple(sorted(one.shares))) for one in contributions}
    if len(kinds) > 1:
        raise ValueError("these contributions are of several models or layers: give contributions of one model.")
    ((fingerprint, edited),) = kinds
    rows = sorted((_row(one, edited[0]) for one in contributions), key=_content)
    keys, values = (torch.stack(part) for part in zip(*rows, strict=True))
    return Memory(keys, values, threshold, edited, fingerprint)


@torch.no_grad()
def similarities(lm: LanguageModel, memory: Memory, texts: Sequence[str]) -> Float[Tensor, " tokens"]:
    """The cosine of the nearest row at every token of ordinary texts; the share above a threshold are false alarms.

    A quantile of it is a threshold for a wanted rate of false alarms, which needs no text of any fact.
    """
    found, at = [], memory.edited[0]
    with record(inputs={"k": lm.projection(at)}) as seen:
        for text in texts:
            layer_calls(lm, torch.tensor([lm.tokenizer(text).input_ids]), start=at, stop=at + 1)
            found.append(memory.nearest(seen["k"][0])[0].cpu())
    return torch.cat(found)


def _row(fact: Contribution, layer: int) -> tuple[Tensor, Tensor]:
    """A fact's unit key and its residual, in float32."""
    return normalize(fact.mean(layer), dim=0).float().cpu(), fact.residual.float().cpu()


def _content(row: tuple[Tensor, Tensor]) -> bytes:
    return b"".join(part.numpy().tobytes() for part in row)
