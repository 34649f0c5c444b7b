"""Command lines for who works without notebooks: one module a command, and `python -m` of a room to call them."""
