"""Files on disk: downloads that are verified, and writes that are atomic."""
