"""Write what packets must be like, as it follows from the model, for a server that has no model.

rules --to rules.json
"""

import argparse

from fleke_lib.federation.flower.bounds import save_rules
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.model import shipped
from fleke_lib.model.language_model import load_model
from fleke_lib.storage.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rules`."""
    parser.add_argument("--to", type=user_path, required=True, metavar="FILE", help="where they are written")
    parser.add_argument(
        "--model", default=shipped.NAME, metavar="NAME", help=f"a hub name or a folder ({shipped.NAME})"
    )


def main(arguments: argparse.Namespace) -> int:
    """Write the rules, and say of which model they are."""
    rules = Rules.of(load_model(arguments.model))
    save_rules(rules, arguments.to)
    print(f"{arguments.to}: model {rules.fingerprint[:12]}, layers {[*rules.layers]}, at most {rules.limit} bytes")
    return 0
