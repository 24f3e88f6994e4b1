"""HTTP server: routes, middleware, error responses, health and metrics."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web

from adapters.http.openapi import (
    BOOLEAN,
    INTEGER,
    OBJECT,
    TEXT,
    Documented,
    Fragment,
    about,
    answer,
    assemble,
    const,
    error_answer,
    operation,
    record,
    ref,
)
from adapters.http.origins import CORS, Origins
from adapters.http.requests import MAX_BODY_BYTES
from bot import errors
from bot.metrics import Metrics
from storage.database import StorageUnavailable
from storage.values import new_id

log = logging.getLogger("myna.web")

RouteHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Ready = Callable[[], Awaitable[dict[str, bool]]]
ErrorBody = Callable[[errors.MynaError], dict[str, Any]]

_STATUS: dict[type[errors.MynaError], int] = {
    errors.InvalidInput: 400,
    errors.NotAuthenticated: 401,
    errors.KeyRefused: 401,
    errors.NotAllowed: 403,
    errors.NotFound: 404,
    errors.UnknownModel: 404,
    errors.Conflict: 409,
    errors.RefusedByGate: 409,
    errors.TooLarge: 413,
    errors.QuotaExceeded: 429,
    errors.Unavailable: 503,
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class Api(Protocol):
    """A group of routes."""

    def routes(self) -> list[web.RouteDef]: ...


def make_app(
    apis: Sequence[Api], origins: Origins, metrics: Metrics, ready: Ready, error_bodies: Mapping[str, ErrorBody]
) -> web.Application:
    """Build the application from its APIs.

    `error_bodies` map a path prefix to the error format of its API, where that is not the common one.
    """
    document = assemble([*(api.document() for api in apis if isinstance(api, Documented)), DOCUMENT])
    site = _Site(origins, metrics, ready, error_bodies, document)
    app = web.Application(middlewares=[site.every_request], client_max_size=MAX_BODY_BYTES)
    for api in apis:
        app.add_routes(api.routes())
    app.add_routes(
        [
            web.get("/openapi.json", site.openapi),
            web.get("/healthz", site.healthz),
            web.get("/readyz", site.readyz),
            web.get("/metrics", site.metrics),
        ]
    )
    return app


class _Site:
    def __init__(
        self,
        origins: Origins,
        metrics: Metrics,
        ready: Ready,
        error_bodies: Mapping[str, ErrorBody],
        document: dict[str, Any],
    ) -> None:
        self._document = json.dumps(document, ensure_ascii=False, indent=2).encode()
        self._error_bodies = error_bodies
        self._origins = origins
        self._metrics = metrics
        self._ready = ready

    @web.middleware
    async def every_request(self, request: web.Request, handler: RouteHandler) -> web.StreamResponse:
        """Give each request an id, turn errors into JSON, and set the security headers."""
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id()
        cors = self._origins.cors_headers(request) if request.path.startswith("/api/") else {}
        request[CORS] = cors | {"X-Request-Id": request_id}
        try:
            response = await self._answer(request, handler)
        except web.HTTPException as error:
            response = self._http_error(error, request, request_id)
        except errors.MynaError as error:
            response = self._refusal(error, request, request_id)
        except StorageUnavailable as error:
            log.error("request %s: %s", request_id, error)
            response = self._refusal(errors.Unavailable(), request, request_id)
        except Exception:
            log.exception("request %s failed", request_id)
            response = self._refusal(errors.MynaError(), request, request_id)
        if not response.prepared:
            response.headers.update(request[CORS])
            if request.path.startswith(("/api/", "/v1/", "/admin/api/")):
                response.headers.setdefault("Cache-Control", "no-store")
            response.headers.setdefault("X-Content-Type-Options", "nosniff")
            response.headers.setdefault("Referrer-Policy", "no-referrer")
        return response

    async def _answer(self, request: web.Request, handler: RouteHandler) -> web.StreamResponse:
        if request.method == "OPTIONS" and request.path.startswith("/api/"):
            return self._preflight(request)
        if request.method not in ("GET", "HEAD"):
            self._origins.check(request)
        return await handler(request)

    def _preflight(self, request: web.Request) -> web.Response:
        if "Access-Control-Allow-Origin" not in request[CORS]:
            self._origins.refuse(request)
        allowed = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers=allowed)

    def _refusal(self, error: errors.MynaError, request: web.Request, request_id: str) -> web.Response:
        status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)
        headers = {}
        if isinstance(error, errors.Unavailable | errors.QuotaExceeded):
            headers["Retry-After"] = str(max(round(error.retry_after), 1))
        return self._error(status, error, request, request_id, headers)

    def _http_error(self, error: web.HTTPException, request: web.Request, request_id: str) -> web.StreamResponse:
        if error.status < 400:
            return error
        message = {
            404: "There is nothing at this address.",
            405: f"This address does not take {getattr(error, 'method', 'this method')}.",
        }.get(error.status, f"{error.reason}.")
        found = errors.MynaError(message)
        found.code = re.sub(r"[^a-z]+", "_", error.reason.lower())
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return self._error(error.status, found, request, request_id, allow)

    def _error(
        self, status: int, error: errors.MynaError, request: web.Request, request_id: str, headers: dict[str, str]
    ) -> web.Response:
        self._metrics.refused.labels(error.code).inc()
        own_form = next((body for path, body in self._error_bodies.items() if request.path.startswith(path)), None)
        body = _own_error_body(error, request_id) if own_form is None else own_form(error)
        if error.hint is not None and request.path.startswith("/admin/api/"):
            body["error"]["hint"] = error.hint  # for staff; the admin page words it
        return web.json_response(body, status=status, headers=headers)

    async def openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json", headers={"Cache-Control": "no-cache"})

    async def healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def readyz(self, _: web.Request) -> web.Response:
        checks = await self._ready()
        return web.json_response({"ready": all(checks.values()), **checks}, status=200 if all(checks.values()) else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _own_error_body(error: errors.MynaError, request_id: str) -> dict[str, Any]:
    details = {name: value for name in ("field", "limit") if (value := getattr(error, name, None)) is not None}
    return {"error": {"code": error.code, "message": error.message, "requestId": request_id, **details}}


def _site_operation(operation_id: str, summary: str, *answers: dict[str, Any]) -> dict[str, Any]:
    """Build an operation for operators. The second answer, if any, has status 503."""
    by_status = dict(zip((200, 503), answers, strict=False))
    return operation(operation_id, "operation", summary, by_status, {500: "Failed"}, security=[])


DOCUMENT = Fragment(
    tags={"operation": "For operators of the server"},
    operations={
        "GET /healthz": _site_operation(
            "isAlive", "Liveness check", answer("The process runs.", record({"ok": const(True)}))
        ),
        "GET /readyz": _site_operation(
            "isReady",
            "Readiness check",
            answer("Messages are accepted and answered.", ref("Readiness")),
            answer("Messages are not accepted or answered; the parts that are false say why.", ref("Readiness")),
        ),
        "GET /metrics": _site_operation(
            "getMetrics", "Counters in Prometheus' text format", answer("The counters.", TEXT, "text/plain")
        ),
        "GET /openapi.json": _site_operation(
            "getOpenapi", "This document", answer("This document.", OBJECT | {"required": ["openapi", "info", "paths"]})
        ),
    },
    headers={
        "RequestId": {
            "description": "Id of this request in the server's log. Taken from the request if it sent a valid one.",
            "required": True,
            "schema": TEXT | {"pattern": "^[A-Za-z0-9_-]{1,64}$"},
        },
        "RetryAfter": {
            "description": "Seconds to wait before trying again.",
            "required": True,
            "schema": INTEGER | {"minimum": 0},
        },
    },
    responses={
        "BadRequest": error_answer("The request is not valid; `field` says where.", "Error"),
        "NotAllowed": error_answer("The origin of the requesting page is not allowed.", "Error"),
        "TooLarge": error_answer("The message or the request is too large; `limit` is the maximum.", "Error"),
        "Failed": error_answer("Something went wrong; the request id finds it in the log.", "Error"),
        "Unavailable": error_answer(
            "Temporarily unavailable. Nothing was stored; try again.", "Error", retry_after=True
        ),
    },
    schemas={
        "Readiness": OBJECT
        | {"required": ["ready", "database", "model", "accepting"], "additionalProperties": BOOLEAN},
        "Error": record(
            {
                "error": record(
                    {
                        "code": about(TEXT, "For programs.") | {"pattern": "^[a-z_]+$"},
                        "message": about(TEXT, "For people.") | {"minLength": 1},
                        "requestId": TEXT,
                    },
                    {
                        "field": about(TEXT, "The part of the request that is not valid."),
                        "limit": about(INTEGER, "The maximum that was exceeded."),
                    },
                    closed=True,
                )
            },
            closed=True,
        ),
    },
)
