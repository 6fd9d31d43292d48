"""One of several endpoints: an endpoint with its share of the rows, and what differs there from the job's settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field

from parquill.tasks.job.base import Number, OneLine
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.limit_settings import EndpointLimits
from parquill.tasks.job.price_settings import PriceSettings

MAX_ENDPOINTS = 32


class WeightedEndpoint(Endpoint):
    """One of several endpoints that share the rows of a job."""

    weight: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False), Number] = Field(
        1.0, description="Its share of the rows, in proportion to the other weights"
    )
    model: Annotated[str, OneLine] | None = Field(
        None, min_length=1, description="The model's name at this endpoint; default: the job's `model`"
    )
    price: PriceSettings | None = Field(
        None, description="What its model costs there; default: the job's `price`, or the public price of its `model`"
    )
    limits: EndpointLimits | None = Field(
        None, description="Its own limits; what is left out is as in the job's `limits`"
    )

    def one_part(self, parts: int) -> Self:
        """Return the endpoint as one of several processes uses it: all together keep its `max_at_once`."""
        if self.limits is None or self.limits.max_at_once is None:
            return self
        limits = self.limits.model_copy(update={"max_at_once": self.limits.max_at_once // parts})
        return self.model_copy(update={"limits": limits})

    @property
    def alone(self) -> Endpoint:
        """The endpoint by itself, without its share and what differs there."""
        return Endpoint.model_construct(**{name: getattr(self, name) for name in Endpoint.model_fields})


def check_endpoints(endpoints: Sequence[WeightedEndpoint]) -> None:
    """Raise ValueError for endpoints that cannot share the rows of one job."""
    apis = sorted({endpoint.api for endpoint in endpoints})
    if len(apis) > 1:
        raise ValueError(f"`endpoints` must have one `api`, not {' and '.join(apis)}")
    seen: dict[tuple[object, ...], int] = {}
    for number, each in enumerate(endpoints):
        key = each.api_key_env or each.api_key_block
        what = each.url(""), key, tuple(sorted(each.headers_env.items())), each.model
        # promise: endpoints: an endpoint that is listed twice is refused, since its limits would be exceeded
        if what in seen:
            raise ValueError(
                f"`endpoints.{seen[what]}` and `endpoints.{number}` have the same address, key and model: list one of "
                "them, with a larger `weight`"
            )
        seen[what] = number


def labels_of(endpoints: Sequence[WeightedEndpoint]) -> list[str]:
    """Return what people call each of several endpoints; all labels differ.

    A name or a host if these differ; else the host with the name of the key's variable, with the model, or a number.
    """
    hosts = [urlsplit(each.base_url).netloc for each in endpoints]
    keys = [each.api_key_env or each.api_key_block or "no key" for each in endpoints]
    forms = (
        [each.label for each in endpoints],
        hosts,
        [f"{host} ({key})" for host, key in zip(hosts, keys, strict=True)],
        [f"{host} ({each.model or key})" for host, key, each in zip(hosts, keys, endpoints, strict=True)],
    )
    for form in forms:
        if max(Counter(form).values()) == 1:
            return form
    return [f"{host} #{number}" for number, host in enumerate(hosts, start=1)]
