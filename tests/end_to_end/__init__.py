"""Tests of whole runs through Prefect and over a real socket: a job file and Parquet in, Parquet and costs out."""
