"""Called by ``make federation``: hospitals as real processes on this machine, and the same federation in one process.

A server and a node for each hospital run on loopback, under TLS with certificates that are made for this run, and every
node has a key of its own. They edit, share, retrieve and edit again, slot after slot. Then the last hospital withdraws,
and all others edit again without its packets. After both, the weights of every hospital are compared, bit for bit, with
those in one process: of `run_fedit`, and of `unlearn.withdraw`. With `--protection summed` no packet leaves a hospital:
all hospitals get the edit of their masked sums. Everything that was started is stopped at the end, also after Ctrl-C.
"""

import argparse
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from fleke_lib import load_model
from fleke_lib.edit.moments import second_moments
from fleke_lib.model import shipped
from fleke_lib.storage.files import user_path
from fleke_lib.unlearn.edits import withdraw
from tools.federation.comparison import edits_of, equal, table
from tools.federation.files import prepare, shares
from tools.federation.hospitals import Hospitals, said
from tools.federation.processes import Processes, environment
from tools.federation.ways import MaskedSums, Packets, Way


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        "python -m tools.federation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hospitals", type=int, default=4, help="how many (4)")
    parser.add_argument("--slots", type=int, default=2, help="how many (2)")
    parser.add_argument("--facts", type=int, default=2, help="facts of a hospital in a slot (2)")
    parser.add_argument("--protection", choices=("sealed", "summed"), default="sealed", help="of packets (sealed)")
    parser.add_argument("--policy", help="sealed: by which hospitals adopt (top:2)")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds to wait for the replies to a turn (600)")
    parser.add_argument("--model", default=shipped.NAME, help=f"a hub name or a folder ({shipped.NAME})")
    parser.add_argument("--keep", type=user_path, metavar="FOLDER", help="work in this new folder, and keep it")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the federation both ways; 0: all weights are equal, 1: not, or it failed, 2: a wrong call, 130: Ctrl-C."""
    options = arguments_of(arguments)
    if options.keep and options.keep.exists():
        print(f"{options.keep} exists, and keys in it would be written over: give a new folder.", file=sys.stderr)
        return 2
    if options.protection == "summed" and (options.policy or options.hospitals < 3):
        print("--protection summed has no policy, and needs 3 hospitals at least.", file=sys.stderr)
        return 2
    way = MaskedSums() if options.protection == "summed" else Packets(options.policy or "top:2")
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="fleke-federation-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for kind in (signal.SIGINT, signal.SIGTERM):  # a shell's background process ignores the first one otherwise
        signal.signal(kind, signal.default_int_handler)
    processes = Processes(folder, environment())
    try:
        torch.set_num_threads(1)
        return 0 if _both_ways(way, options, folder, processes) else 1
    except KeyboardInterrupt:
        print("\nstopped by hand", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        processes.stop()
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _both_ways(way: Way, options: argparse.Namespace, folder: Path, processes: Processes) -> bool:
    """Whether all weights are equal, before and after the withdrawal."""
    lm, parts = load_model(options.model), shares(options.hospitals, options.facts, options.slots)
    moments = second_moments(lm)  # once, into the cache that all hospitals read
    way.write_rules(lm, moments, parts, folder / "rules.json")
    secret, leaver = prepare(folder, parts), parts[-1].name
    hospitals = Hospitals(folder, processes, parts, way.policy, options.model, summed=way.summed)
    longest = options.patience * way.turns(lm, options.slots)
    begin = time.monotonic()
    hospitals.start()
    said(f"{len(parts)} hospitals, {way.about}, {sum(len(part.facts) for part in parts)} facts to edit")
    lines = hospitals.run(options.slots, options.patience, longest)
    seconds = time.monotonic() - begin
    said(f"{seconds:.0f} s over processes; {_bytes(lines)}")
    before = edits_of(folder, hospitals.names)
    if stays := len(parts) > 1:
        said(f"{leaver} withdraws")
        hospitals.withdraw(leaver)
        lines, again = hospitals.run(options.slots, options.patience, 2 * longest), time.monotonic()
        said(f"{again - begin - seconds:.0f} s for the withdrawal; {_bytes(lines)}")
    processes.stop()
    begin = time.monotonic()
    run = way.in_one_process(folder, lm, parts, secret)
    here, alone = way.edits(run, moments), time.monotonic() - begin
    good = _said(equal(before, here), run.clients, f"the run in one process, which took {alone:.0f} s")
    if stays:
        after = edits_of(folder, [name for name in hospitals.names if name != leaver])
        never = way.edits(withdraw(run, client=leaver), moments)
        good &= _said(equal(after, never), list(after), "the run that the one that withdrew never joined")
        nothing, words = way.kept(folder / "hub", leaver)
        said(words)
        good &= nothing
    for line in table(lm, parts, {"over processes": before, "in one process": here}):
        said(line)
    return good


def _said(same: Sequence[str], all_: Sequence[str], of: str) -> bool:
    said(f"{len(same)} of {len(all_)} hospitals have, bit for bit, the weights of {of}")
    return len(same) == len(all_)


def _bytes(lines: Sequence[str]) -> str:
    """What has crossed by the last line."""
    found = re.search(r"\d+ bytes from nodes, \d+ to nodes", lines[-1] if lines else "")
    return found[0] if found else "no bytes"


if __name__ == "__main__":
    sys.exit(main())
