"""Visitors' cookies and tokens, and the origin check of their requests."""

from __future__ import annotations

import time

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from itsdangerous import TimestampSigner, URLSafeTimedSerializer

from adapters.http.origins import Origins
from adapters.web.visitors import COOKIE, COOKIE_SECONDS, TOKEN_SECONDS, Visitors
from bot.errors import NotAllowed, NotAuthenticated

SHOP = "https://shop.example"
visitors = Visitors("a secret", secure_cookie=False)
origins = Origins((SHOP,), "https://chat.example/base")


def request(method: str = "GET", **headers: str) -> web.Request:
    return make_mocked_request(
        method,
        "/api/chat",
        {"Host": "own.example", **{name.replace("_", "-"): value for name, value in headers.items()}},
    )


def with_token(token: str, method: str = "POST", **headers: str) -> web.Request:
    return request(method, Authorization=f"Bearer {token}", **headers)


def cookie_of(visitor: str, made_by: Visitors = visitors) -> str:
    response = web.Response()
    made_by.set_cookie(response, visitor)
    return response.cookies[COOKIE].value


def aged(salt: str, value: object, seconds: float) -> str:
    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(time.time() - seconds)

    return str(URLSafeTimedSerializer("a secret", salt=salt, signer=Signer).dumps(value))


# --- visitors ---


def test_a_new_visitor_is_known_by_their_token() -> None:
    visitor, token = visitors.welcome(request("POST"))
    assert visitors.identify(with_token(token)) == visitor
    assert visitors.identify(with_token(token, "GET")) == visitor


def test_two_new_visitors_are_two() -> None:
    assert visitors.welcome(request("POST"))[0] != visitors.welcome(request("POST"))[0]


def test_a_known_visitor_stays_who_they_are() -> None:
    visitor, token = visitors.welcome(request("POST"))
    assert visitors.welcome(with_token(token))[0] == visitor
    by_cookie = request("POST", Cookie=f"{COOKIE}={cookie_of(visitor)}", Origin="http://own.example")
    assert visitors.welcome(by_cookie)[0] == visitor


def test_a_cookie_is_enough_to_read_and_with_an_origin_to_write() -> None:
    cookie = f"{COOKIE}={cookie_of('somebody')}"
    assert visitors.identify(request("GET", Cookie=cookie)) == "somebody"
    assert visitors.identify(request("POST", Cookie=cookie, Origin="http://own.example")) == "somebody"
    with pytest.raises(NotAuthenticated):
        visitors.identify(request("POST", Cookie=cookie))


def test_a_token_works_where_it_was_given_and_without_an_origin() -> None:
    visitor, token = visitors.welcome(request("POST", Origin=SHOP))
    assert visitors.identify(with_token(token, Origin=SHOP)) == visitor
    assert visitors.identify(with_token(token)) == visitor
    with pytest.raises(NotAuthenticated):
        visitors.identify(with_token(token, Origin="https://other.example"))


def test_a_token_without_an_origin_works_anywhere() -> None:
    visitor, token = visitors.welcome(request("POST"))
    assert visitors.identify(with_token(token, Origin=SHOP)) == visitor


def test_a_secret_of_another_installation_is_worth_nothing() -> None:
    other = Visitors("another secret", secure_cookie=False)
    _, token = other.welcome(request("POST"))
    with pytest.raises(NotAuthenticated):
        visitors.identify(with_token(token))
    with pytest.raises(NotAuthenticated):
        visitors.identify(request(Cookie=f"{COOKIE}={cookie_of('somebody', other)}"))


def test_credentials_expire() -> None:
    claims = {"visitor": "somebody", "origin": ""}
    for seconds, good in [(TOKEN_SECONDS - 60, True), (TOKEN_SECONDS + 60, False)]:
        asking = with_token(aged("myna.visitor.token", claims, seconds))
        if good:
            assert visitors.identify(asking) == "somebody"
        else:
            with pytest.raises(NotAuthenticated):
                visitors.identify(asking)
    old = aged("myna.visitor.cookie", "somebody", COOKIE_SECONDS + 60)
    with pytest.raises(NotAuthenticated):
        visitors.identify(request(Cookie=f"{COOKIE}={old}"))


TOKENS = {"empty": "", "x": "x", "points": "a.b.c", "ÿ": "ÿ", "long": "x" * 5_000, "cookie": cookie_of("somebody")}


# Named, as a cookie is another in each second, and tests that run side by side must have the same names.
@pytest.mark.parametrize("token", TOKENS.values(), ids=list(TOKENS))
def test_a_malformed_token_is_refused(token: str) -> None:
    with pytest.raises(NotAuthenticated):
        visitors.identify(with_token(token))


def test_a_token_is_not_a_cookie() -> None:
    _, token = visitors.welcome(request("POST"))
    with pytest.raises(NotAuthenticated):
        visitors.identify(request(Cookie=f"{COOKIE}={token}"))


@pytest.mark.parametrize("secure", [True, False])
def test_the_cookie_is_hidden_from_scripts_and_from_other_sites(secure: bool) -> None:
    response = web.Response()
    Visitors("a secret", secure_cookie=secure).set_cookie(response, "somebody")
    cookie = response.cookies[COOKIE]
    assert cookie["httponly"] is True
    assert cookie["samesite"] == "Lax"
    assert cookie["path"] == "/"
    assert bool(cookie["secure"]) is secure


# --- origins ---


@pytest.mark.parametrize("origin", ["http://own.example", "https://chat.example", SHOP])
def test_our_own_pages_and_listed_sites_may_write(origin: str) -> None:
    origins.check(request("POST", Origin=origin))


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "https://shop.example.evil.com",
        "https://evilshop.example",
        "https://a.shop.example",
        "http://shop.example",
        "https://shop.example:444",
        "https://shop.example/",
        "https://chat.example/base",
        "https://own.example",
        "http://own.example:8080",
        "https://sh\u043ep.example",
    ],
)
def test_an_origin_is_compared_whole(origin: str) -> None:
    asking = request("POST", Origin=origin)
    with pytest.raises(NotAllowed):
        origins.check(asking)
    assert "Access-Control-Allow-Origin" not in origins.cors_headers(asking)


def test_programs_send_no_origin_and_may_write() -> None:
    origins.check(request("POST"))


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
def test_a_browser_that_says_it_is_not_cross_site_may_write(site: str) -> None:
    origins.check(request("POST", Sec_Fetch_Site=site))


def test_a_cross_site_request_without_its_origin_may_not() -> None:
    with pytest.raises(NotAllowed):
        origins.check(request("POST", Sec_Fetch_Site="cross-site"))


def test_only_a_listed_sites_scripts_may_read() -> None:
    assert origins.cors_headers(request(Origin=SHOP))["Access-Control-Allow-Origin"] == SHOP
    for headers in [origins.cors_headers(request(Origin=SHOP)), origins.cors_headers(request())]:
        assert headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in headers
    assert "Access-Control-Allow-Origin" not in origins.cors_headers(request(Origin="http://own.example"))
