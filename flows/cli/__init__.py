"""The terminal: the `parquill` command."""
