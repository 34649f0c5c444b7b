"""Choose a model's edited layers, clamp and lambdas, and write them as its preset: `python -m fleke_lib.tune MODEL`.

`load_model` finds the preset from then on, in the model's folder or in the user's cache. `docs/another_model.md`
describes the procedure.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fleke_lib.facts.loading import TUNED_ON, load_facts
from fleke_lib.model.language_model import load_model
from fleke_lib.model.preset_files import place_for, write_preset
from fleke_lib.model.presets import preset_for
from fleke_lib.storage.files import user_path
from fleke_lib.tune.choosing import choose


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fleke_lib.tune", description=__doc__)
    parser.add_argument("model", help="a name, a folder or a GGUF file, as load_model takes it")
    parser.add_argument(
        "--facts",
        default="atlas",
        help=f"a data set's name or a file; of the atlas only the first {TUNED_ON}, which no table reports (default)",
    )
    parser.add_argument("--limit", type=int, help="read only the first facts")
    parser.add_argument("--traced", type=int, default=16, help="facts to trace (default: 16)")
    parser.add_argument("--tried", type=int, default=32, help="facts to edit at each trial (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample of facts (default: 0)")
    parser.add_argument("--fast", action="store_true", help="MKVs in at most eight steps over two contexts each")
    parser.add_argument("--device", default="cpu", help="where to run (default: cpu)")
    parser.add_argument("--out", type=Path, help="where to write the preset; by default where load_model looks for it")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 when a preset was written, 2 for a wrong call, 130 after Ctrl-C."""
    options = parse(arguments)
    try:
        limit = options.limit or (TUNED_ON if options.facts == "atlas" else None)
        facts = load_facts(options.facts, limit)
        lm = load_model(options.model, device=options.device)
        tuning = choose(
            lm, facts, traced=options.traced, tried=options.tried, seed=options.seed, fast=options.fast, told=_say
        )
        path = write_preset(user_path(options.out or place_for(options.model, tuning.preset)), tuning.preset)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped by hand; the MKVs that were computed are kept", file=sys.stderr)
        return 130
    preset = tuning.preset
    _say(
        f"layers {' '.join(map(str, preset.layers))}, clamp {preset.memit.clamp:g}, lambda {preset.memit.lam:g}, "
        f"of the closed form {preset.trajectory_lam:g}: written to {path}"
    )
    if preset_for(lm.name, preset.size, lambda: preset.weights[0]).weights:
        _say(f"{lm.name} has a built-in preset, which stays in force: use this one with replace(lm, preset=...)")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
