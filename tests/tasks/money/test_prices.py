"""Prices are exact, dated, rounded once, and never guessed."""

from __future__ import annotations

import timeit
from dataclasses import asdict
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any

import orjson
import pytest
from genai_prices import Usage as PublicUsage
from genai_prices.data_snapshot import get_snapshot
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job
from parquill.tasks.job.price_settings import CHEAPEST_USD_PER_MTOK
from parquill.tasks.job.settings import Job
from parquill.tasks.money.amounts import femto_to_nano, format_column, format_usd, nano_to_usd, usd_to_nano
from parquill.tasks.money.model_price import ModelPrice, PriceBand, ServiceTier
from parquill.tasks.money.prices import _prices_of_the_day, find_price, price_of
from parquill.tasks.records import Usage

DAY = date(2026, 11, 23)
OPENAI = "https://api.openai.com/v1"
LOCAL = "http://localhost:8089/v1"
MTOK = Decimal(1_000_000)
NANO = Decimal("1e-9")

TOKENS = st.integers(0, 10_000_000)
USD_PER_MTOK = st.decimals(0, 10_000, allow_nan=False, allow_infinity=False, places=9)


def _job(**changes: Any) -> Job:
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini"}
    return make_job({**least, "max_output_tokens": 100, **changes})


def _own(full: Decimal, cached: Decimal | None, written: Decimal | None, output: Decimal) -> ModelPrice:
    assume(not 0 < max(full, cached or 0, written or 0, output) < CHEAPEST_USD_PER_MTOK)  # these are refused
    price = {
        "usd_per_mtok_input": full,
        "usd_per_mtok_cached": cached,
        "usd_per_mtok_cache_write": written,
        "usd_per_mtok_output": output,
    }
    return price_of(_job(price=price), DAY)


SHARES = st.tuples(st.integers(0, 1_000), st.integers(0, 1_000), st.integers(0, 1_000))


def _parts(prompt: int, shares: tuple[int, int, int]) -> tuple[int, int]:
    """Return the cached and the written tokens of a prompt, by shares of the three kinds of input."""
    whole = sum(shares) or 1
    return prompt * shares[0] // whole, prompt * shares[1] // whole


@settings(max_examples=200)
@given(
    prices=st.tuples(USD_PER_MTOK, USD_PER_MTOK, USD_PER_MTOK, USD_PER_MTOK), prompt=TOKENS, shares=SHARES, out=TOKENS
)
def test_a_cost_is_exact_and_rounded_once(
    prices: tuple[Decimal, Decimal, Decimal, Decimal], prompt: int, shares: tuple[int, int, int], out: int
) -> None:
    """A cost equals that of Decimal arithmetic to the last digit, and is rounded half to even once, at the end."""
    full, cached, written, output = prices
    read, wrote = _parts(prompt, shares)
    exact = ((prompt - read - wrote) * full + read * cached + wrote * written + out * output) / MTOK
    femto = _own(full, cached, written, output).femto(Usage(prompt, read, wrote, out, out // 2))
    assert Decimal(femto).scaleb(-15) == exact
    assert nano_to_usd(femto_to_nano(femto)) == exact.quantize(NANO, ROUND_HALF_EVEN)


@settings(max_examples=200)
@given(st.integers(0, 10**24))
def test_rounding_is_that_of_decimal(femto: int) -> None:
    """Femto-dollars are rounded to nano-dollars as Decimal rounds half to even."""
    assert nano_to_usd(femto_to_nano(femto)) == Decimal(femto).scaleb(-15).quantize(NANO, ROUND_HALF_EVEN)


@pytest.mark.parametrize(
    ("femto", "nano"),
    [(0, 0), (499_999, 0), (500_000, 0), (500_001, 1), (1_500_000, 2), (2_500_000, 2), (2_500_001, 3), (999_999, 1)],
)
def test_halves_go_to_even(femto: int, nano: int) -> None:
    """Half a nano-dollar is rounded to the even side, so that sums of many rows do not drift."""
    assert femto_to_nano(femto) == nano


@settings(max_examples=150)
@given(full=USD_PER_MTOK, output=USD_PER_MTOK, prompt=TOKENS, room=TOKENS)
def test_the_worst_case_is_rounded_up(full: Decimal, output: Decimal, prompt: int, room: int) -> None:
    """A reservation is rounded up, so that it is never a fraction of a nano-dollar too small."""
    exact = (prompt * full + room * output) / MTOK
    assert nano_to_usd(_own(full, None, None, output).worst_nano(prompt, room)) == exact.quantize(NANO, ROUND_CEILING)


FEMTO = st.integers(0, 50).map(
    lambda micro: micro * 1_000_003
)  # from a nano-dollar a token up, so that rounding hides nothing
BANDS = st.lists(
    st.builds(PriceBand, st.integers(1, 1_000), *[FEMTO] * 4), max_size=3, unique_by=lambda band: band.above
)


@settings(max_examples=300)
@given(first=st.builds(PriceBand, st.just(0), *[FEMTO] * 4), more=BANDS, fee=st.integers(0, 10**9),
       most=st.integers(0, 1_500), used=st.floats(0, 1), shares=SHARES, room=st.integers(0, 100))  # fmt: skip
def test_no_usage_within_the_reservation_costs_more(
    first: PriceBand, more: list[PriceBand], fee: int, most: int, used: float, shares: tuple[int, int, int], room: int
) -> None:
    """M1: a request that stays within its reservation never costs more than was reserved.

    This holds for input read from a cache or written to one, for every price band, and with the fee.
    """
    price = ModelPrice("m", (first, *sorted(more, key=lambda band: band.above)), None, "a test", "", request=fee)
    prompt = int(most * used)
    really = price.femto(Usage(prompt, *_parts(prompt, shares), room))
    worst = price.worst_nano(most, room)
    assert really <= worst * 1_000_000
    # A reservation that is too large refuses runs, so it equals the most expensive such usage, rounded up.
    edges = {most, *(band.above for band in price.bands[1:] if band.above <= most)}
    kinds = [(0, 0), (1, 0), (0, 1)]
    most_expensive = max(price.femto(Usage(edge, edge * c, edge * w, room)) for edge in edges for c, w in kinds)
    assert worst == -(-most_expensive // 1_000_000)


@settings(max_examples=100)
@given(st.integers(-(10**18), 10**18))
def test_dollars_and_nano_dollars_are_one(nano: int) -> None:
    """Nano-dollars become dollars with nine decimals and back, without loss."""
    assert usd_to_nano(nano_to_usd(nano)) == nano
    assert nano_to_usd(nano).as_tuple().exponent == -9


def test_the_jobs_own_price_counts_first() -> None:
    """A job's `price` is used even if the model has a public one; by default, cached input costs as much as input."""
    price = price_of(_job(price={"usd_per_mtok_input": 3, "usd_per_mtok_output": 5}), DAY)
    assert price.femto(Usage(1_000_000, 400_000, 300_000)) == 3 * 10**15
    assert price.femto(Usage(completion=1_000_000)) == 5 * 10**15
    assert price.source == "the job's `price`"
    free = price_of(_job(model="nobody-knows", price={"usd_per_mtok_input": 0, "usd_per_mtok_output": 0}), DAY)
    assert free.femto(Usage(9, 3, 3, 9)) == 0


@pytest.mark.parametrize(
    ("model", "day", "usd_per_mtok", "window"),
    [
        ("gpt-3.5-turbo", "2023-03-01", 2, 4096),
        ("gpt-3.5-turbo", "2023-06-12", 2, 4096),
        ("gpt-3.5-turbo-0301", "2023-03-01", 2, 4096),
        ("gpt-3.5-turbo-0301", "2024-09-12", 2, 4096),
        ("text-davinci-003", "2022-11-28", 20, 4097),
        ("text-davinci-003", "2024-01-03", 20, 4097),
    ],
)
def test_prices_of_2023(model: str, day: str, usd_per_mtok: int, window: int) -> None:
    """1,000 tokens of ChatGPT cost $0.002 and of davinci $0.02, from the first day to the last before the change."""
    price = find_price(model, OPENAI, date.fromisoformat(day))
    assert price.femto(Usage(1_000)) == price.femto(Usage(completion=1_000)) == usd_per_mtok * 10**12
    assert price.window == window
    assert price.source.startswith("data/prices.toml, OpenAI")


@pytest.mark.parametrize(
    ("model", "day"),
    [("gpt-3.5-turbo", "2023-02-28"), ("gpt-3.5-turbo", "2023-06-13"), ("gpt-3.5-turbo", "2026-11-23")],
)
def test_an_override_ends_with_its_dates(model: str, day: str) -> None:
    """Before `from`, and from `until` on, the public price is used."""
    price = find_price(model, OPENAI, date.fromisoformat(day))
    assert price.source == "genai-prices, openai"
    assert price.femto(Usage(1_000_000)) < 2 * 10**15


def test_the_price_of_the_cheapest_chat_model() -> None:
    """A million tokens of gpt-4o-mini cost $0.15, cached $0.075 and output $0.60; the price names its source."""
    price = find_price("gpt-4o-mini", OPENAI, DAY)
    used = (Usage(1), Usage(1, 1), Usage(completion=1))
    assert [price.femto(usage) for usage in used] == [150_000_000, 75_000_000, 600_000_000]
    assert (price.source, price.window) == ("genai-prices, openai", 128_000)
    assert str(DAY) in price.version


def test_a_proxy_is_priced_as_openai() -> None:
    """At an address that no provider owns, OpenAI's models have OpenAI's prices."""
    assert find_price("gpt-4o-mini", LOCAL, DAY) == find_price("gpt-4o-mini", OPENAI, DAY)


@pytest.mark.parametrize(
    ("model", "near"), [("gpt-4o-mni", "gpt-4o-mini"), ("gpt4o", "gpt-4o"), ("gpt-3.5-trubo", "gpt-3.5-turbo")]
)
def test_an_unknown_model_names_the_nearest(model: str, near: str) -> None:
    """A model without a price is refused with the nearest names and the way to set a price; nothing is guessed."""
    with pytest.raises(BadJob) as caught:
        find_price(model, OPENAI, DAY)
    message = str(caught.value)
    assert message.startswith(f"no price is known for the model {model!r}; the nearest known are ")
    assert near in message
    assert "usd_per_mtok_input" in message


def test_a_model_like_no_other_is_refused() -> None:
    """A model that resembles no other is refused without a guess."""
    with pytest.raises(BadJob, match=r"no price is known for the model 'zzzzzz'\. To use it anyway"):
        find_price("zzzzzz", LOCAL, DAY)


def test_a_tier_counts_for_the_whole_request() -> None:
    """Above 200,000 prompt tokens all tokens of a request cost the higher price, and not one token earlier."""
    price = find_price("gemini-2.5-pro", None, DAY)
    assert [band.above for band in price.bands] == [0, 200_000]
    low, high = price.femto(Usage(200_000, 0, 0, 1_000)), price.femto(Usage(200_001, 0, 0, 1_000))
    assert Decimal(low).scaleb(-15) == (200_000 * Decimal("1.25") + 1_000 * Decimal(10)) / MTOK
    assert Decimal(high).scaleb(-15) == (200_001 * Decimal("2.5") + 1_000 * Decimal(15)) / MTOK


SOL = find_price("gpt-5.6-sol", OPENAI, DAY)


def test_the_forty_replies_of_a_model_with_cache_writes() -> None:
    """M1, M6: forty replies that write 2,611 of 2,631 tokens to a cache cost $0.5294, as in genai-prices.

    $0.5302 is reserved for them.
    """
    usage = Usage(2_631, 0, 2_611, 5)
    public = get_snapshot().find_provider_model("gpt-5.6-sol", None, None, OPENAI)[1]
    prices = public.get_prices(datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC))
    exact = prices.calc_price(PublicUsage(input_tokens=2_631, cache_write_tokens=2_611, output_tokens=5))["total_price"]
    assert 40 * Decimal(SOL.femto(usage)).scaleb(-15) == 40 * exact == Decimal("0.5294")
    assert 40 * nano_to_usd(SOL.worst_nano(2_631, 5)) == Decimal("0.5302")


@pytest.mark.parametrize(
    ("tier", "prompt", "usd_per_mtok"),
    [
        *[
            (tier, 1_000, (4, "0.4", 5, 20))
            for tier in (None, "", "default", "standard", "auto", "on_demand", "Default")
        ],
        ("flex", 1_000, (2, "0.2", "2.5", 10)),
        *[(tier, 1_000, (8, "0.8", 10, 40)) for tier in ("priority", "fast")],
        ("default", 272_001, (8, "0.8", 10, 30)),
        ("priority", 272_001, (16, "1.6", 20, 60)),
        *[(tier, 1_000, (8, "0.8", 10, 40)) for tier in ("ultrafast", "scale", "nobody-knows")],  # the most expensive
    ],
)
def test_the_tier_of_a_reply_decides_its_price(tier: str | None, prompt: int, usd_per_mtok: tuple[Any, ...]) -> None:
    """M6: each tier of a model has its prices for input, cached input, cache writes and output, in each band."""
    full, cached, written, output = map(Decimal, usd_per_mtok)
    usage = Usage(prompt, 100, 200, 30)
    exact = ((prompt - 300) * full + 100 * cached + 200 * written + 30 * output) / MTOK
    assert Decimal(SOL.femto(usage, tier)).scaleb(-15) == exact
    assert SOL.knows_tier(tier) is (tier not in {"ultrafast", "scale", "nobody-knows"})


def test_a_tier_without_a_price_costs_as_the_most_expensive_and_is_known_as_such() -> None:
    """M6: an unknown tier costs as much as the most expensive one, and is reported as not known.

    gpt-4o-mini has no flex price: flex costs the standard price, never more. A job's own price is used for every tier.
    """
    mini = find_price("gpt-4o-mini", OPENAI, DAY)
    usage = Usage(1_000, 0, 0, 100)
    assert mini.femto(usage, "flex") == mini.femto(usage)
    assert mini.femto(usage, "ultrafast") == mini.femto(usage, "priority") > mini.femto(usage)
    assert [mini.knows_tier(tier) for tier in ("flex", "ultrafast", "priority")] == [False, False, True]
    own = price_of(_job(price={"usd_per_mtok_input": 3, "usd_per_mtok_output": 5}), DAY)
    assert own.femto(usage, "priority") == own.femto(usage)
    assert not own.knows_tier("priority")


def test_a_lane_has_the_price_of_its_tier() -> None:
    """M1, M6: with `lane: flex`, expectation and worst case are at the flex price, of which cache writes cost most.
    A reply at another tier costs that tier's price.
    """
    flex = price_of(_job(model="gpt-5.6-sol", lane="flex"), DAY)
    assert flex.source == "genai-prices, openai, flex"
    for price, times in ((SOL, 2), (flex, 1)):
        assert Decimal(price.expected_femto(1_000, 0, 0, 100)).scaleb(-15) == times * Decimal("0.003")
        assert nano_to_usd(price.worst_nano(1_000, 100)) == times * Decimal("0.0035")
    usage = Usage(1_000, 100, 200, 30)
    for tier in (None, "default", "flex", "priority", "ultrafast"):
        assert flex.femto(usage, tier) == SOL.femto(usage, tier)
    dear = [tier for tier in (None, "default", "flex", "priority", "ultrafast") if flex.exceeds_asked(tier)]
    assert dear == [None, "default", "priority", "ultrafast"]
    assert [tier for tier in (None, "flex", "priority") if SOL.exceeds_asked(tier)] == ["priority"]
    assert ModelPrice.from_json(orjson.loads(orjson.dumps(asdict(flex)))) == flex


@pytest.mark.parametrize(
    ("model", "url"), [("gpt-4o-mini", OPENAI), ("mistral-large-latest", "https://api.mistral.ai")]
)
def test_a_lane_without_a_price_is_refused(model: str, url: str) -> None:
    """M2: If a model has no flex price at its address, a job with `lane: flex` is refused with what to do."""
    with pytest.raises(
        BadJob, match=r"has no flex price .*: use `lane: live`, a model with a flex price, or set `price`"
    ):
        price_of(_job(model=model, lane="flex", endpoint={"base_url": url}), DAY)


def test_batches_have_their_own_price() -> None:
    """M1, M6: With `lane: batch`, worst case and expectation are at the batch price, half of the standard one.
    A request that is sent by itself, as in a pilot, costs the standard price.
    """
    batch = price_of(_job(model="gpt-5.6-sol", lane="batch"), DAY)
    assert batch.source == "genai-prices, openai, batch"
    assert 2 * batch.worst_nano(1_000, 100) == SOL.worst_nano(1_000, 100) == batch.worst_nano(1_000, 100, "")
    usage = Usage(1_000, 100, 200, 30)
    assert 2 * batch.femto(usage, "batch") == SOL.femto(usage) == batch.femto(usage, "default")
    assert batch.knows_tier("batch")
    assert batch.exceeds_asked("default")


@pytest.mark.parametrize(
    ("model", "url"),
    [
        ("claude-haiku-4-5", "https://api.anthropic.com/v1"),
        ("gemini-2.5-flash", "https://generativelanguage.googleapis.com/v1beta/openai"),
        ("mistral-small-latest", "https://api.mistral.ai/v1"),
    ],
)
def test_batches_are_sold_where_their_api_is_openais(model: str, url: str) -> None:
    """M2: A seller whose batches have an API of their own sells none that `lane: batch` could buy."""
    assert price_of(_job(model=model, endpoint={"base_url": url}), DAY).bands
    with pytest.raises(BadJob, match="has no batch price"):
        price_of(_job(model=model, lane="batch", endpoint={"base_url": url}), DAY)


def test_a_jobs_own_price_is_that_of_its_lane() -> None:
    """If a job sets `price`, that is what it pays in its lane, and a reply at the lane's tier is not odd."""
    own = price_of(_job(lane="flex", price={"usd_per_mtok_input": 3, "usd_per_mtok_output": 5}), DAY)
    assert own.femto(Usage(1_000, 0, 0, 100), "flex") == 1_000 * 3_000_000_000 + 100 * 5_000_000_000
    assert own.worst_nano(1_000, 100) == 3_500_000
    assert own.knows_tier("flex")
    assert not own.exceeds_asked("flex")


def test_a_price_survives_the_plan() -> None:
    """The price of a run, with its tiers and its fee, is read back from its plan unchanged."""
    fee = ModelPrice("m", SOL.bands, 5, "a", "b", 7, (ServiceTier("flex", SOL.bands),))
    for price in (SOL, find_price("gpt-4o-mini", OPENAI, DAY), fee):
        assert ModelPrice.from_json(orjson.loads(orjson.dumps(asdict(price)))) == price


def test_prices_that_depend_on_the_hour_are_the_highest_of_the_day() -> None:
    """M1: DeepSeek's peak prices are reserved and booked all day, since the hour of an answer is not known before."""
    price = find_price("deepseek-v4-pro", "https://api.deepseek.com/v1", DAY)
    assert price.bands == (PriceBand(0, 1_320_000_000, 44_000_000, 1_320_000_000, 3_960_000_000),)
    assert price.version.endswith("the highest prices of the day")


@pytest.mark.parametrize(
    ("model", "host", "percent"),
    [
        ("gpt-6-luna", "api.openai.com", 100),
        ("gpt-6-luna", "eu.api.openai.com", 110),
        ("gpt-5.6-sol", "us.api.openai.com", 110),
        ("gpt-4o-mini", "eu.api.openai.com", 100),
        ("gpt-5", "jp.api.openai.com", 100),
    ],
)
def test_an_address_of_a_region_has_its_uplift(model: str, host: str, percent: int) -> None:
    """M6: OpenAI's regional addresses cost a tenth more for models from March 2026 on, at every tier."""
    plain, here = find_price(model, OPENAI, DAY), find_price(model, f"https://{host}/v1", DAY)
    usage = Usage(1_000, 100, 100, 100)
    for tier in ("default", "priority"):
        assert here.femto(usage, tier) * 100 == plain.femto(usage, tier) * percent


def test_a_model_of_several_sellers_has_its_makers_price() -> None:
    """At an address that no provider owns, a model that several providers sell has its maker's price."""
    assert find_price("claude-sonnet-4-5", LOCAL, DAY).source == "genai-prices, anthropic"


def test_a_model_with_several_prices_is_refused() -> None:
    """If several sellers have a model and none is its maker, the refusal names the sellers, and none is chosen."""
    with pytest.raises(BadJob, match=r"several prices, those of novita, openrouter, together: set `endpoint"):
        find_price("Gryphe/MythoMax-L2-13b", LOCAL, DAY)


@pytest.mark.nightly  # it measures time
@pytest.mark.parametrize("model", ["gpt-4o-mini", "gemini-2.5-pro"])
def test_pricing_a_row_is_fast(model: str) -> None:
    """A row is priced in under 5 microseconds, with one price or with tiers: prices are compiled once per model."""
    price = find_price(model, None, DAY)
    rows = 2_000
    usage = Usage(250_000, 1_000, 0, 777)
    work = timeit.Timer(lambda: femto_to_nano(price.femto(usage, "default")))
    assert min(work.repeat(repeat=20, number=rows)) / rows < 5e-6


def _public() -> list[tuple[str, Any, ModelPrice]]:
    """Return every public model that is priced by tokens alone, at an address of its provider."""
    found = []
    for provider in get_snapshot().providers:
        if provider.id not in {"openai", "anthropic", "google", "mistral", "groq", "deepseek"}:
            continue
        for model in provider.models:
            of_the_day = _prices_of_the_day(model, DAY, None)
            prices = of_the_day[0]
            if prices.input_mtok is None or prices.output_mtok is None or len(of_the_day) > 1:
                continue
            try:
                price = find_price(model.id, None, DAY)
            except BadJob:
                continue
            if price.source == f"genai-prices, {provider.id}" and price.model == model.id:
                found.append((model.id, prices, price))
    return found


def test_prices_agree_with_genai_prices() -> None:
    """For every model of the large providers, tiers and caching included, a cost equals what genai-prices computes."""
    public = _public()
    assert len(public) > 150
    assert sum(len(price.bands) > 1 for _, _, price in public) > 5
    for name, prices, price in public:
        for prompt in {1, 1_234, *(band.above + more for band in price.bands for more in (0, 1))}:
            counts = {"input_tokens": prompt, "cache_read_tokens": prompt // 3, "output_tokens": 777}
            written = prompt // 4 if prices.cache_write_mtok is not None else 0
            used = PublicUsage(**counts, **({"cache_write_tokens": written} if written else {}))
            expected = prices.calc_price(used)["total_price"]
            assert Decimal(price.femto(Usage(prompt, prompt // 3, written, 777))).scaleb(-15) == expected, name


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1_500_000_000, "$1.50"),
        (4_000_000_000, "$4.00"),
        (75_150, "$0.000075"),
        (12_345_678_901_234, "$12,345.68"),
        (123_400_000, "$0.12"),
        (6_999_747_000, "$7.00"),
        (4_200_000, "$0.0042"),
        (50_000_000, "$0.05"),
        (999_000_000, "$1.00"),
        (123, "$0.00000012"),
        (12, "$0.00000001"),
        (1, "<$0.00000001"),
    ],
)
def test_dollars_for_people(nano: int, text: str) -> None:
    """An amount has cents from a dollar up, else two significant digits, never nine decimals.

    An amount above zero is never shown as zero.
    """
    assert format_usd(nano) == text


@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=6))
def test_amounts_of_one_table(amounts: list[int]) -> None:
    """Amounts that are shown together have the same number of decimals, and each is close to its true value."""
    shown = format_column(amounts)
    assert len({len(text.partition(".")[2]) for text in shown}) == 1
    for nano, text in zip(amounts, shown, strict=True):
        if not text.startswith("<"):
            assert abs(Decimal(text.strip("$").replace(",", "")) - nano_to_usd(nano)) <= Decimal("0.005")
        assert nano == 0 or any(digit in text for digit in "123456789")


def test_a_job_without_a_price_has_the_public_one() -> None:
    """A job without a price has the public price of its model, at its address and on its day."""
    assert price_of(_job(), DAY) == find_price("gpt-4o-mini", OPENAI, DAY)
    assert price_of(_job(model="gpt-3.5-turbo"), date(2023, 4, 1)).source.startswith("data/prices.toml")


@pytest.mark.parametrize("model", ["text-embedding-3-small", "whisper-1", "tts-1"])
def test_a_model_without_a_price_by_tokens_is_refused(model: str) -> None:
    """A model that is billed by the hour, by characters or for input alone is refused: no budget could hold it."""
    with pytest.raises(BadJob, match=r"no price per token|has a price"):
        find_price(model, OPENAI, DAY)
