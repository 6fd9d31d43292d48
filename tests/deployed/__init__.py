"""Deployments on a real Prefect server with a real worker: `make e2e` runs the core, `make nightly` the rest."""
