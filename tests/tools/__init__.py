"""Tools for tests: jobs, disks that fail, searches, kills, and commands that repeat a measurement."""
