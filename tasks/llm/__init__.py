"""Requests and replies: protocol, client, outcomes, sender, pilot."""
