"""The steps (one Prefect task a file) and the parts they are made of.

`rows` reads, `money` counts, `wire` talks, `disk` lasts; these import no Prefect, so that an estimate on the command
line answers at once. `server` is all that speaks with Prefect's server.
"""
