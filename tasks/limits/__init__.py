"""How fast requests may leave: meters of one process, and shares of a limit between processes."""
