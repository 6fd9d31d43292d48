"""Whole runs: a job file and Parquet in, Parquet and money out, through Prefect and over a real socket."""
