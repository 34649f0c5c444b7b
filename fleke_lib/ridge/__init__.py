"""Linear algebra of an edit: the ridge solves and the two sums S and T. Knows no language model and no text."""
