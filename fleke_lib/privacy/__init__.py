"""What vectors, sums and edits give away, and what members can do to each other."""
