"""Parts that count: tokens, prices, usage, estimates, the budget. They import no Prefect."""
