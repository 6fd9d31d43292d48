"""The steps (one Prefect task a file) and the parts they are made of.

`rows` reads, `money` counts, `wire` talks, `disk` lasts. The parts import no Prefect, so that an estimate on the
command line answers at once.
"""
