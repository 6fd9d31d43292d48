"""Parts that speak with Prefect's server: what it shows, what it is asked, what it may end. No run depends on it."""
