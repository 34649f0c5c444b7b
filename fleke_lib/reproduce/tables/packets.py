"""What a packet's bytes are worth: score and top-1 of a dense edit from packets of several compressions.

On the facts that opponents are tuned on, so that no table reports what chose the default.
"""

from collections.abc import Callable
from pathlib import Path

from fleke_lib.edit.disturbance import within_budget
from fleke_lib.edit.moments import second_moments
from fleke_lib.evaluation.metrics import evaluate, prepare_evaluation
from fleke_lib.evaluation.results import Evaluation
from fleke_lib.federation import Compression, pack
from fleke_lib.model.language_model import LanguageModel
from fleke_lib.reproduce.scenarios.scenario import Scenario
from fleke_lib.reproduce.tables.tuning import BATCH, SIZES, asked_of, tuning_facts

TAGS = {"question": "0" * 64, "answer": "0" * 64}  # an edit of vectors needs no tags
TRIED = (
    *(Compression(axes, "int4") for axes in (0, 1, 2, 3, 4)),
    *(Compression(axes, "int8") for axes in (1, 2)),
)
Measured = tuple[Compression, int, Evaluation]


def compressions(
    lm: LanguageModel, file: Path | None, progress: Callable[[str], None], size: int = SIZES[-1]
) -> tuple[list[Measured], Evaluation]:
    """For each of `TRIED` the bytes of a packet and the evaluation of the edit; and that of whole trajectories."""
    asked = asked_of(facts := tuning_facts(lm, file, size))
    scenario, prepared = Scenario(lm, facts, second_moments(lm), batch=BATCH), prepare_evaluation(lm, asked)

    def found(name: str, contributions: list) -> Evaluation:
        with within_budget(lm, contributions, scenario.moments).applied(lm):
            here = evaluate(lm, asked, prepared=prepared)
        progress(f"{name:<40} score {here.score:.3f}, top-1 {here.top1:.3f}")
        return here

    whole, measured = found("whole trajectories", scenario.paths), []
    for compression in TRIED:
        pairs = zip(scenario.paths, scenario.mkvs, strict=True)
        packets = [pack(path, mkv, "client", i, TAGS, compression) for i, (path, mkv) in enumerate(pairs)]
        name = f"{compression.axes} axes, {compression.precision}, {len(packets[0].data):,} bytes"
        measured.append((compression, len(packets[0].data), found(name, packets)))
    return measured, whole
