"""The four flows: the order of the steps. No arithmetic, no loop over rows."""
