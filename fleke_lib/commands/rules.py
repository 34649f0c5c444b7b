"""Write what packets must be like, as it follows from the model, for a server that has no model.

    rules --to rules.json
    rules --to rules.json --protection summed --members 8 --facts 100

With --protection summed no packet leaves its node: nodes add up their sums under masks. The file then also has the
fixed point for it. It must be the same at the server and at all nodes, as the list of members.
"""

import argparse

from fleke_lib.edit.moments import second_moments
from fleke_lib.federation.flower.bounds import SumRules, save_rules
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.model import shipped
from fleke_lib.model.language_model import load_model
from fleke_lib.storage.files import user_path

LEAST = 3  # members of a federation that adds up sums


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rules`."""
    parser.add_argument("--to", type=user_path, required=True, metavar="FILE", help="where they are written")
    parser.add_argument(
        "--model", default=shipped.NAME, metavar="NAME", help=f"a hub name or a folder ({shipped.NAME})"
    )
    parser.add_argument("--protection", choices=("sealed", "summed"), default="sealed", help="of packets (sealed)")
    parser.add_argument("--members", type=int, metavar="N", help="summed: how many members there are, from 3")
    parser.add_argument("--facts", type=int, metavar="N", help="summed: the greatest number of facts of one member")


def main(arguments: argparse.Namespace) -> int:
    """Write the rules, and say of which model they are."""
    summed = arguments.protection == "summed"
    if {arguments.members is not None, arguments.facts is not None} != {summed}:
        raise ValueError("--members and --facts are for --protection summed: give all three, or none.")
    if summed and (arguments.members < LEAST or arguments.facts < 1):
        raise ValueError(
            f"--members is {arguments.members} and --facts {arguments.facts}: give {LEAST} members at least, since two "
            "know each other's sums from the total, and one fact."
        )
    lm = load_model(arguments.model)
    rules = Rules.of(lm)
    agreed = SumRules.of(lm, rules, second_moments(lm), arguments.members, arguments.facts) if summed else None
    save_rules(rules, arguments.to, agreed)
    print(f"{arguments.to}: model {rules.fingerprint[:12]}, layers {[*rules.layers]}, at most {rules.limit} bytes")
    if summed:
        print(f"sums are added up, of {arguments.members} members with {arguments.facts} facts each at most")
    return 0
