"""Fast likelihoods of answers (targets) after prompts.

The naive way is one pass of the whole model for each prompt and each target. In a causal model a token's state depends
only on the tokens before it, so the common beginning of two texts needs to run only once. `plan` puts all texts into
trees with one node per distinct beginning, and a mask lets a node attend only to its ancestors. Two one-token targets
then need one run of their prompt, prompts of one relation run their first words once, and nothing is padded.

`prepare` saves layers: the states that enter the first edited layer are the same before and after an edit, so they are
kept. The vocabulary projection, the most expensive product of a small model, runs only on the states that are needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from fleke_lib.model import tokens
from fleke_lib.model.activations import LayerCalls, layer_calls, record
from fleke_lib.model.checksum import checksum
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.model.prefix_trees import Tree, grow

TOKENS_AT_ONCE = {"cpu": 256}  # nodes of one tree, by device: larger trees use a processor better but mask out more
ELSEWHERE = 2048  # on other devices
LOGITS_AT_ONCE = 2**24  # logits that are computed at a time: 64 MB in float32


def log_probs(lm: LanguageModel, prompts: Sequence[str], targets: Sequence[str]) -> Float[Tensor, " queries"]:
    """Mean log-probability per token (natural logarithm) of each target after its prompt and a space.

        log_probs[i] = 1/|o| sum_j log P(o_j | prompt, o_1 ... o_{j-1})       o: the tokens of target i

    Raises:
        ValueError: there are not as many targets as prompts, a target is empty, one text is given instead of a list, or
            a text is longer than the context.
    """
    return score(lm, plan(lm, prompts, targets)).log_prob


@dataclass(frozen=True)
class Scores:
    """A model's scores for each (prompt, target) query.

    log_prob: mean log-probability per token of the target.
    accuracy: share of the target's tokens that are the argmax, given the target's tokens before them.
        Both are nan where the model's predictions are not numbers.
    tokens: number of tokens of the target.
    """

    log_prob: Float[Tensor, " queries"]
    accuracy: Float[Tensor, " queries"]
    tokens: Int[Tensor, " queries"]

    @property
    def probability(self) -> Float[Tensor, " queries"]:
        """`exp(log_prob)`: the geometric mean of the probabilities of the target's tokens."""
        return self.log_prob.exp()

    @property
    def top1(self) -> Bool[Tensor, " queries"]:
        """Whether every token of the target is the argmax."""
        return self.accuracy == 1


@dataclass(frozen=True)
class Query:
    """One (prompt, target) pair: its tree, the nodes that predict the target's tokens, and these tokens' ids."""

    tree: int
    nodes: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The trees to run, and the place of each query in them."""

    trees: tuple[Tree, ...]
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Prepared:
    """A plan whose trees have already run through the layers below `below`.

    scores: the model's scores when the queries were prepared.
    below: the layer at which the `calls`, one for each tree, start.
    checksum: of the embeddings and of the layers below `below`, and of memories that are read there.
    """

    plan: Plan
    scores: Scores
    below: int
    checksum: str
    calls: tuple[LayerCalls, ...]

    def check(self, lm: LanguageModel) -> None:
        """Raises ValueError if a weight below layer `below`, or a memory that is read there, has changed since."""
        if _checksum(lm, self.below) != self.checksum:
            raise ValueError(
                f"{lm.name} has changed below layer {self.below} since the evaluation was prepared: prepare it again, "
                "with below= the first edited layer."
            )


def plan(lm: LanguageModel, prompts: Sequence[str], targets: Sequence[str]) -> Plan:
    """Put every query into trees. All tokens of a query run except the last one, which is only predicted.

    Raises:
        ValueError: there are not as many targets as prompts, a target is empty, one text is given instead of a list, or
            a text is longer than the context.
    """
    prompts, targets = tokens.listed(prompts, "prompts"), tokens.listed(targets, "targets")
    if len(prompts) != len(targets):
        raise ValueError(f"there are {len(prompts)} prompts and {len(targets)} targets: give one target per prompt.")
    if not all(targets):
        raise ValueError(f"target {list(targets).index('')} is empty: give the text that should follow its prompt.")
    pairs = list(zip(prompts, targets, strict=True))
    encoded = {pair: tokens.encode_for(lm, *pair) for pair in dict.fromkeys(pairs)}
    size = TOKENS_AT_ONCE.get(lm.device.type, ELSEWHERE)
    trees, places = grow({coded.ids[:-1] for coded in encoded.values()}, size, _window(lm))

    def query(coded: tokens.Encoded) -> Query:
        tree, path = places[coded.ids[:-1]]
        return Query(tree, path[coded.target - 1 :], coded.target_ids)

    queries = {pair: query(coded) for pair, coded in encoded.items()}
    return Plan(tuple(trees), tuple(queries[pair] for pair in pairs))


@torch.no_grad()
def prepare(lm: LanguageModel, prompts: Sequence[str], targets: Sequence[str], below: int) -> Prepared:
    """Score every query, and keep the states that enter layer `below` for later `score` calls on edited models.

    Args:
        below: the first layer that an edit may change. Keeps `tokens * d_model` numbers in memory.

    Raises:
        ValueError: as for `plan`, or the model has no layer `below`.
    """
    lm.check_layer(below)
    queries, noted = plan(lm, prompts, targets), []

    def states(i: int) -> Tensor:
        noted.append(layer_calls(lm, *_inputs(lm, queries.trees[i]), start=below))
        return noted[-1].run(lm)

    scores = _score(lm, queries, states)
    return Prepared(queries, scores, below, _checksum(lm, below), tuple(noted))


@torch.no_grad()
def score(lm: LanguageModel, queries: Plan | Prepared) -> Scores:
    """Score every query with the model as it is now; for a `Prepared` plan only the upper layers run.

    Raises:
        ValueError: a prepared layer has changed since `prepare`.
    """
    if isinstance(queries, Prepared):
        queries.check(lm)
        return _score(lm, queries.plan, lambda i: queries.calls[i].run(lm))
    return _score(lm, queries, lambda i: _last_states(lm, queries.trees[i]))


def _score(lm: LanguageModel, queries: Plan, states: Callable[[int], Tensor]) -> Scores:
    """Scores from the last layer's output, `states(i)` of tree i.

    `wanted` has a row per target token: its query, its tree, the node that predicts it, and its id.
    """
    wanted = torch.tensor(
        [(i, q.tree, *pair) for i, q in enumerate(queries.queries) for pair in zip(q.nodes, q.target, strict=True)],
        dtype=torch.long,
    ).reshape(-1, 4)
    query, tree, node, target = wanted.unbind(1)
    log_prob, hit = torch.zeros(len(wanted)), torch.zeros(len(wanted))
    for i in tqdm(range(len(queries.trees)), desc="scoring", unit="tree", leave=False, delay=2):
        here = torch.nonzero(tree == i).squeeze(1)
        nodes, which = node[here].unique(return_inverse=True)
        log_prob[here], hit[here] = _read(lm, states(i)[0, nodes.to(lm.device)], which, target[here])
    count = torch.zeros(len(queries.queries)).index_add_(0, query, torch.ones(len(wanted)))
    mean = [torch.zeros_like(count).index_add_(0, query, value) / count for value in (log_prob, hit)]
    return Scores(*mean, count.long())


def _read(lm: LanguageModel, hidden: Tensor, which: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of token `target[i]` after state `hidden[which[i]]`, and whether it is the argmax."""
    log_prob, hit = torch.empty(len(which)), torch.empty(len(which))
    piece = max(1, LOGITS_AT_ONCE // len(lm.embeddings.weight))
    for first in range(0, len(hidden), piece):
        logits = lm.logits(hidden[first : first + piece]).float()
        here = torch.nonzero((which >= first) & (which < first + piece)).squeeze(1)
        row, token = (which[here] - first).to(lm.device), target[here].to(lm.device)
        log_prob[here] = (logits[row, token] - logits.logsumexp(1)[row]).cpu()
        hits = (logits.argmax(1)[row] == token).float().cpu()
        hit[here] = hits.where(~log_prob[here].isnan(), log_prob[here])
    return log_prob, hit


def _last_states(lm: LanguageModel, tree: Tree) -> Float[Tensor, "1 nodes d_model"]:
    ids, mask, positions = _inputs(lm, tree)
    with record(outputs={"last": lm.layers[-1]}) as seen:
        lm.body(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    return seen["last"]


def _inputs(lm: LanguageModel, tree: Tree) -> tuple[Tensor, Tensor | None, Tensor]:
    mask = tree.mask(lm.model.dtype)
    rows = (torch.tensor([part], device=lm.device) for part in (tree.ids, tree.depths))
    return next(rows), None if mask is None else mask.to(lm.device), next(rows)


def _window(lm: LanguageModel) -> float:
    """How many tokens back every layer can attend to."""
    return getattr(lm.config, "sliding_window", None) or float("inf")


def _checksum(lm: LanguageModel, below: int) -> str:
    """Of the weights of the embeddings and of the layers below `below`, and of memories that are read there."""
    beside = [applied.edit for applied in lm.edits if not applied.originals and min(applied.edit.layers) < below]
    tables = [(f"memory {i}", table) for i, memory in enumerate(beside) for table in (memory.keys, memory.values)]
    return checksum([*lm.embeddings.named_parameters(), *lm.layers[:below].named_parameters(), *tables])
