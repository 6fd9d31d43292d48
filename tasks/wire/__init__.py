"""Parts that talk: the endpoint, the limits, the outcomes, the sender."""
