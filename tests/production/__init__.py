"""Deployments on a real Prefect server with a real worker: `make e2e`."""
