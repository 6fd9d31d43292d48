"""Parts that last: journals, the index of answers, atomic writes, the folders of a run."""
