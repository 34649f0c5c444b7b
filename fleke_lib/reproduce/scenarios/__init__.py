"""Federations to measure things on: which facts a seed draws, and everything that is computed on them once."""
