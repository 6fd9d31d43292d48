"""The order of things: what runs after what. No arithmetic, no loop over rows."""
