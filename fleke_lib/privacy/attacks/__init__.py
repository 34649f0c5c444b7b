"""Attacks, one file for each thing attacked; its docstring is the threat model."""
