"""Tokens, prices, usage, estimates, the budget and the ledger. Nothing here imports Prefect."""
