"""Faults that were found once, each with the promise that it broke."""
