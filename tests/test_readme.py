"""The README is wrong when the program is not what it says."""

from __future__ import annotations

import re
from pathlib import Path

from parquill.flows.cli.starter import STARTER
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.load import make_job, parse_yaml
from parquill.tasks.job.settings import BudgetSettings, Job, LimitSettings, PromptSettings, RetrySettings

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_told() -> None:
    """The table of settings has every setting of a job, and no other."""
    table = README.split("| setting | meaning |")[1].split("\n\n")[0]
    names = {
        name for line in table.splitlines()[2:] for name in re.findall(r"`([a-z_]+)(?:\.[a-z]+)?`", line.split("|")[1])
    }
    assert names == set(Job.model_fields)
    inner = {name for line in table.splitlines()[1:] for name in re.findall(r"`([a-z_]+)`", line)}
    groups = (Endpoint, BudgetSettings, LimitSettings, RetrySettings)
    later = {"approval_usd"}  # refused until they are built
    assert {name for group in groups for name in group.model_fields} - later <= inner
    assert set(PromptSettings.model_fields) == {"system", "user"}


def test_the_starter_is_a_job() -> None:
    """What `init` writes is valid as it stands, and with every commented setting switched on."""
    make_job(parse_yaml(STARTER, "starter"))
    bare = re.sub(r"^( *)# (?=[a-z_]+: )", r"\1", STARTER, flags=re.MULTILINE)
    switched = parse_yaml(bare.replace("# A Parquill job.", "#"), "starter")
    make_job(switched)
    assert {"for_each", "vars", "response_format", "tolerate", "labels", "price"} <= switched.keys()
