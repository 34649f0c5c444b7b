"""Write the list of members from their public files, or a new one when somebody joins or leaves.

    group --to group.json --dealer bern bern.member genf.member zug.member
    group --to group-1.json --from group.json --leaves zug
    group --to group-2.json --from group.json chur.member

Everybody needs the same list. When a member leaves, a new epoch begins and its keys are refused for good: start a new
registry and new folders of nodes with the new list, as docs/deploy.md says.
"""

import argparse

from fleke_lib.federation.flower.settings import load_group, save_group
from fleke_lib.federation.sealing.keys import Group
from fleke_lib.storage.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `group`."""
    parser.add_argument("members", nargs="*", type=user_path, metavar="FILE", help="files that `identity` wrote")
    parser.add_argument("--to", type=user_path, required=True, metavar="FILE", help="where the list is written")
    parser.add_argument("--dealer", metavar="NAME", help="the member that deals the group's key; needed in a new list")
    parser.add_argument("--from", dest="before", type=user_path, metavar="FILE", help="the list before")
    parser.add_argument("--leaves", metavar="NAME", help="who leaves the list before")


def main(arguments: argparse.Namespace) -> int:
    """Write the list, and say who is on it."""
    if arguments.to.exists():
        raise ValueError(f"{arguments.to} exists: a list is not written over, since others have it; give a new file.")
    if (arguments.before is None) == (arguments.dealer is None):
        raise ValueError("a new list needs a dealer, and a changed one the list before: give --dealer or --from.")
    lists = [load_group(path) for path in arguments.members]
    new = {name: member for one, _ in lists for name, member in one.members.items()}
    if arguments.before:
        group, keys = load_group(arguments.before)
    elif arguments.dealer in new:
        group, keys = Group({arguments.dealer: new.pop(arguments.dealer)}, arguments.dealer), {}
    else:
        raise ValueError(f"no file is of {arguments.dealer!r}: give the dealer's, too, which `identity` wrote.")
    for member in new.values():
        group = group.joined(member)
    for _, theirs in lists:
        keys |= theirs
    if arguments.leaves:
        group = group.left(arguments.leaves)
        keys.pop(arguments.leaves)
    save_group(group, keys, arguments.to)
    print(f"{arguments.to}: epoch {group.epoch}, {', '.join(sorted(group.members))}; {group.dealer} deals the key")
    return 0
