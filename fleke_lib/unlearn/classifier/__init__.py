"""Taking a hospital's patients out of a classifier that was trained by averaging: the same four steps, approximated."""
