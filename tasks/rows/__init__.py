"""Parts that read: the input files, the templates, the requests, the plan of a run."""
