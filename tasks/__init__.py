"""The six steps of a run, one Prefect task each, and the rooms that they are built from.

A file imports only from its left:

    data <- errors, records <- storage <- job <- money <- prompts <- limits <- llm <- results <- orchestration
        <- the six steps <- the four flows <- flows/cli

`storage` keeps bytes, `job` is what the user asks for, `money` prices requests and books costs, `prompts` turns Parquet
into a plan of requests, `limits` paces them, `llm` sends them, `results` is what the user gets, and `orchestration`
connects them to Prefect. Everything before it works without Prefect, so that an estimate on the command line answers at
once. `tests/tasks/test_rooms.py` checks the order.
"""
