"""Data out of installed wheels: found without an import, checked by its hash, and refused in one sentence."""

import sys
from importlib.metadata import distribution

import pytest

from fleke_lib.beyond.wheels import installed_file, terms
from fleke_lib.storage.files import sha256

VERSION = distribution("scikit-learn").version
WHEEL, NAME = f"scikit-learn=={VERSION}", "sklearn/datasets/data/iris.csv"


def digest() -> str:
    return sha256(distribution("scikit-learn").locate_file(NAME))


def test_a_file_is_found_without_importing_its_package():
    before = set(sys.modules)
    path = installed_file(WHEEL, NAME, digest())
    assert path.read_text().startswith("150,4")
    assert set(sys.modules) == before


def test_terms_name_the_licence():
    assert "BSD" in terms(WHEEL) and WHEEL in terms(WHEEL)


@pytest.mark.parametrize(
    ("wheel", "name", "said"),
    [
        ("no-such-wheel==1.0", NAME, "is not installed: run `pip install --no-deps no-such-wheel==1.0`"),
        ("scikit-learn==0.0.1", NAME, "is installed instead of 0.0.1"),
        (WHEEL, "sklearn/none.csv", "without its file"),
        (WHEEL, NAME, "instead of 000000000000"),
    ],
)
def test_what_is_not_the_expected_file_is_refused(wheel, name, said):
    with pytest.raises(ValueError, match=said):
        installed_file(wheel, name, "0" * 64)
