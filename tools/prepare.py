"""What every notebook and many tests need is computed once, before any of them runs: ``python -m tools.prepare``.

The model is converted if it is the default one, and C of its edited layers is measured; both then come from the user's
cache. ``FLEKE_MODEL`` names another model than the default one.
"""

import sys

import fleke_lib as fleke


def main() -> int:
    """Fill the cache; the exit status is 0."""
    lm = fleke.load_model()
    moments = fleke.second_moments(lm)
    print(f"{lm.name} and C of its layers {sorted(moments)} are in the cache", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
