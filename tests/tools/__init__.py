"""What tests use: jobs, disks that fail, searches, kills, and the commands that repeat a measurement."""
