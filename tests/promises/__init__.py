"""One file a heading of what Parquill promises when things go wrong; a test's docstring is the promise."""
