"""Words that settings and options about data may take."""

STRESS_SIGNS = ("tension", "compression")
POLICIES = ("stop", "skip")
SPLIT_UNITS = ("frame", "file", "composition", "blocks")
# Contiguous blocks of a trajectory that a file is cut into.
SPLIT_BLOCKS = 10
