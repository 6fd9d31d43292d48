"""From Parquet to a plan of requests: input, templates, requests, shards, redo, planner, run."""
