"""The promises that Parquill keeps when things go wrong: one file for each heading, and each docstring is a promise."""
