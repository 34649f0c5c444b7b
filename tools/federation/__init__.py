"""Hospitals as real processes on this machine: what `make federation` calls, and tests of faults use."""
