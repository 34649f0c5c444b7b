"""What vectors, sums and edits give away, what members can do to each other, and what defences cost."""
