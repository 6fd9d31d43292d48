"""`auth: azure`: a token in place of a key, asked for once, renewed in time, and never shown."""

from __future__ import annotations

import asyncio
import logging
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job import azure_token
from parquill.tasks.job.api_key import header_names, read_key
from parquill.tasks.job.azure_token import AzureKey, scope_of
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.llm.batch_service import BatchService
from parquill.tasks.llm.client import Client
from tests.fakes.identity import Identity, identity_service
from tests.tools.small_jobs import make_test_job

V1 = "https://shop.openai.azure.com/openai/v1"
CANARY = "eyJ0.canary-of-a-token"


class Credential:
    """Gives tokens that last for an hour, or fails."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.text = f"{CANARY}-{{}}"
        self.refresh_after_s: float | None = None
        self.meanwhile: Callable[[], None] = lambda: None

    def get_token_info(self, *scopes: str) -> Any:
        self.asked += scopes
        self.meanwhile()
        if self.error is not None:
            raise self.error
        refresh_on = None if self.refresh_after_s is None else int(self.now + self.refresh_after_s)
        text = self.text.format(len(self.asked))
        return SimpleNamespace(token=text, expires_on=int(self.now) + 3_600, refresh_on=refresh_on)

    def clock(self) -> float:
        return self.now


class Key(AzureKey):
    """A key whose renewals wait until the test lets them run."""

    def __init__(self, credential: Credential, **headers: str) -> None:
        self.waiting: list[Callable[[], None]] = []
        super().__init__(credential, "a-scope", headers, clock=credential.clock, start=self.waiting.append)

    @property
    def sent(self) -> str:
        return self.headers()["Authorization"]


@pytest.mark.parametrize(
    ("base_url", "scope"),
    [
        (V1, "https://ai.azure.com/.default"),
        ("https://shop.services.ai.azure.com/openai/v1", "https://ai.azure.com/.default"),
        ("https://shop.openai.azure.com/openai/deployments/d", "https://cognitiveservices.azure.com/.default"),
        ("https://shop.openai.azure.us/openai/v1", "https://ai.azure.us/.default"),
        ("https://shop.openai.azure.cn/openai/deployments/d", "https://cognitiveservices.azure.cn/.default"),
        ("https://gateway.example/openai", "https://cognitiveservices.azure.com/.default"),
    ],
)
def test_what_a_token_is_for(base_url: str, scope: str) -> None:
    """The scope follows from the address, its style and its cloud; a job may name another one."""
    assert scope_of(Endpoint.model_validate({"base_url": base_url, "auth": "azure"})) == scope
    own = {"base_url": base_url, "auth": "azure", "azure_scope": "api://gateway/.default"}
    assert scope_of(Endpoint.model_validate(own)) == "api://gateway/.default"


def test_a_token_is_renewed_before_it_ends() -> None:
    """From five minutes before its end a new token is asked for beside the requests, and then used for all later ones."""
    credential = Credential()
    key = Key(credential)
    assert (key.sent, credential.asked) == (f"Bearer {CANARY}-1", ["a-scope"])
    credential.now += 3_299
    assert (key.sent, key.waiting) == (f"Bearer {CANARY}-1", [])
    credential.now += 1
    assert key.sent == f"Bearer {CANARY}-1"  # this request does not wait for the new one
    assert key.sent == f"Bearer {CANARY}-1"
    (renew,) = key.waiting
    renew()
    assert key.sent == f"Bearer {CANARY}-2"
    assert len(key.waiting) == 1  # until that token ends
    credential.now += 3_300
    assert key.sent == f"Bearer {CANARY}-2"
    assert len(key.waiting) == 2


def test_a_token_is_renewed_when_azure_wants_it() -> None:
    """If Azure names a time from which a token may be renewed, it is renewed then."""
    credential = Credential()
    credential.refresh_after_s = 1_800
    key = Key(credential)
    credential.now += 1_801
    assert key.sent == f"Bearer {CANARY}-1"
    assert len(key.waiting) == 1


def test_a_token_that_has_ended_is_renewed_at_once() -> None:
    """After a pause of more than an hour, no request leaves with the old token, which the service would refuse."""
    credential = Credential()
    key = Key(credential)
    credential.now += 4_000
    assert (key.sent, key.waiting) == (f"Bearer {CANARY}-2", [])


def test_a_renewal_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """If the identity service fails, the old token stays in use, and every half minute a new one is asked for."""
    credential = Credential()
    key = Key(credential)
    credential.now += 3_310
    credential.error = RuntimeError(f"AADSTS90033: a fault, with {CANARY}")
    assert key.sent == f"Bearer {CANARY}-1"
    key.waiting.pop()()
    assert (key.sent, key.waiting) == (f"Bearer {CANARY}-1", [])
    credential.now += 30
    assert key.sent == f"Bearer {CANARY}-1"
    credential.now += 300
    key.waiting.pop()()
    assert key.sent == f"Bearer {CANARY}-1"  # there is no better one
    credential.error = None
    credential.now += 30
    assert key.sent == f"Bearer {CANARY}-{len(credential.asked)}"
    assert caplog.messages == [
        "Azure's identity service gave no new token (AADSTS90033); the old one is valid for another 290 s",
        *["Azure's identity service gave no new token (AADSTS90033); the old one has ended"] * 2,
    ]


def test_two_renewals_do_not_run_at_once() -> None:
    """A renewal that takes long is not begun a second time."""
    credential = Credential()
    key = Key(credential)
    credential.meanwhile = key.renew
    key.renew()
    assert credential.asked == ["a-scope"] * 2


def test_both_tokens_are_masked() -> None:
    """S1: A reply that repeats the token, also the one before it, is masked; the key is never shown or pickled."""
    credential = Credential()
    key = Key(credential, **{"X-Gateway": "another-secret-00"})
    credential.now += 3_400
    assert key.headers()["X-Gateway"] == "another-secret-00"
    key.renew()
    assert key.hide_in(f"it is {CANARY}-1, {CANARY}-2 and another-secret-00") == "it is ***, *** and ***"
    assert CANARY not in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)


@pytest.mark.parametrize("text", ["", "two words", "line\nbreak", "caf\u00e9"])
def test_a_malformed_token_is_refused(text: str) -> None:
    """S2: A token that no header can hold is not used."""
    credential = Credential()
    credential.text = text
    with pytest.raises(BadJob, match="got no token"):
        Key(credential)


def test_an_error_shows_its_code_only() -> None:
    """S2: The error for a failed login has the code of the identity service and what to do, and not its text."""
    credential = Credential()
    credential.error = ValueError(f"AADSTS7000215: Invalid client secret {CANARY}. Trace AADSTS7000215")
    with pytest.raises(BadJob) as caught:
        Key(credential)
    assert str(caught.value).startswith("`auth: azure` got no token (AADSTS7000215); sign in with `az login`, ")
    assert caught.value.__cause__ is None
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_each_request_has_the_token_of_its_moment() -> None:
    """The client of single requests and that of batches send the token as it is when a request leaves."""
    credential, sent = Credential(), []
    key = Key(credential)

    async def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["Authorization"])
        return httpx.Response(404, json={})

    job = make_test_job(
        endpoint={"base_url": V1, "auth": "azure"}, price={"usd_per_mtok_input": 1, "usd_per_mtok_output": 1}
    )
    client = Client(job, key, httpx.MockTransport(answer))
    batches = BatchService(job.endpoint, key, httpx.MockTransport(answer))

    async def send() -> None:
        await client.send("[]", None)
        with pytest.raises(Exception, match="404"):
            await batches.look("batch_1")

    asyncio.run(send())
    key.renew()
    asyncio.run(send())
    assert sent == [*[f"Bearer {CANARY}-1"] * 2, *[f"Bearer {CANARY}-2"] * 2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"api_key_env": "A_KEY"}, "`auth: azure` signs in by itself"),
        ({"api_key_block": "a-block"}, "`auth: azure` signs in by itself"),
        ({"auth": "bearer", "azure_scope": "https://a/.default"}, "`azure_scope` needs `auth: azure`"),
        ({"headers_env": {"Authorization": "A_VARIABLE"}}, "is the header of the key"),
        ({"azure_scope": "a scope"}, "pattern"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], words: str) -> None:
    """`auth: azure` has no key beside it, and only it has a scope."""
    with pytest.raises(ValueError, match=words):
        Endpoint.model_validate({"base_url": V1, "auth": "azure", **changes})


# ---- with azure-identity itself


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[Identity]:
    """Run the identity service of an app, with this process as that app."""
    azure_token._credential.cache_clear()
    with identity_service(f"{CANARY}-1") as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running
    azure_token._credential.cache_clear()


ENDPOINT = Endpoint.model_validate({"base_url": V1, "auth": "azure"})


@pytest.mark.integration
def test_a_managed_identity_signs_in(identity: Identity, caplog: pytest.LogCaptureFixture) -> None:
    """azure-identity gets the token of a managed identity, once for each scope and process; no log has it."""
    with caplog.at_level(logging.DEBUG):
        for name in ("azure", "msal", "urllib3"):
            caplog.set_level(logging.DEBUG, name)
        keys = [read_key(ENDPOINT), read_key(ENDPOINT)]
    assert [key and key.headers() for key in keys] == [{"Authorization": f"Bearer {CANARY}-1"}] * 2
    assert identity.resources == ["https://ai.azure.com"]
    assert caplog.text
    assert CANARY not in caplog.text
    assert header_names(ENDPOINT) == {"Authorization": "Azure's identity service"}


@pytest.mark.integration
def test_a_refused_login_says_what_to_do(identity: Identity, capfd: pytest.CaptureFixture[str]) -> None:
    """A login that fails is a bad job, told in one sentence."""
    identity.is_refusing = True
    with pytest.raises(BadJob, match=r"got no token.*; sign in with `az login`"):
        read_key(ENDPOINT)
    assert capfd.readouterr() == ("", "")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without azure-identity the refusal says how to install it."""
    azure_token._credential.cache_clear()
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(BadJob, match=r"pip install 'parquill\[azure\]'"):
        read_key(ENDPOINT)
