"""Taking back what a federation was taught: from a classifier trained by averaging, and from edited language models."""
