"""Files on disk: downloads that are checked, results that are written whole or not at all."""
