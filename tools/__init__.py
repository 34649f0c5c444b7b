"""The commands behind ``make``: installation, lock file, and the runner that turns notebooks into pages."""
