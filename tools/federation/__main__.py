"""Called by ``make federation``: hospitals as real processes on this machine, and the same federation in one process.

One SuperLink and a SuperNode for each hospital run on loopback, under TLS with certificates that are made for this run,
and every SuperNode has a key of its own. The weights of every hospital are compared, bit for bit, with those of
`run_fedit` in one process. Everything that was started is stopped at the end, also after Ctrl-C.
"""

import argparse
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
from fleke_lib.federation import Rules
from fleke_lib.federation.flower.bounds import save_rules
from fleke_lib.model import shipped
from tools.federation.comparison import compared
from tools.federation.files import prepare
from tools.federation.hospitals import Hospitals
from tools.federation.processes import Processes, environment

POLICY = "everyone"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the federation both ways; 0 if all weights are equal, 1 if not or if it failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", type=int, default=4, help="how many (4)")
    parser.add_argument("--slots", type=int, default=2, help="how many (2)")
    parser.add_argument("--facts", type=int, default=2, help="facts of a hospital in a slot (2)")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds to wait for the replies to a turn (600)")
    parser.add_argument("--model", default=shipped.NAME, help=f"a hub name or a folder ({shipped.NAME})")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this new folder, and keep it")
    options = parser.parse_args(arguments)
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="fleke-federation-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for kind in (signal.SIGINT, signal.SIGTERM):  # a shell's background process ignores the first one otherwise
        signal.signal(kind, signal.default_int_handler)
    processes = Processes(folder, environment(folder))
    try:
        torch.set_num_threads(1)
        lm = load_model(options.model)
        second_moments(lm)  # once, into the cache that all hospitals read
        save_rules(Rules.of(lm), folder / "rules.json")
        parts, secret = prepare(folder, options.hospitals, options.facts, options.slots)
        begin = time.monotonic()
        hospitals = Hospitals(folder, processes, parts, POLICY, options.model)
        hospitals.start()
        print(f"{len(parts)} hospitals have started after {time.monotonic() - begin:.0f} s", flush=True)
        hospitals.run(options.slots, options.patience, options.patience * (2 * options.slots + 2))
        seconds = time.monotonic() - begin
        processes.stop()
        same, alone = compared(folder, lm, parts, secret, POLICY)
        print(f"{same} of {len(parts)} hospitals have the weights of the run in one process, bit for bit")
        print(f"{seconds:.0f} s over processes, {alone:.0f} s in one process")
        return 0 if same == len(parts) else 1
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


if __name__ == "__main__":
    sys.exit(main())
