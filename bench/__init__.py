"""Measurements of the operations against peers and against the machine's floor: `python -m bench`."""
