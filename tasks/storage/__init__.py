"""Bytes that last: disk, journal, folders, locks, the index of answers, Parquet with checksums, object stores."""
