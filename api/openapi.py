"""The description of the API: OpenAPI 3.1 made from the routes, and a page to read it."""

from typing import Any, Final, cast

import msgspec
from litestar import Litestar, Request, Response, Router, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.routes import HTTPRoute

from api.auth import declared_scope
from api.docs_page import render_docs
from api.problems import MEDIA_TYPE, Problem

_DESCRIPTION: Final = (
    "Usage-based subscription billing. Amounts, prices and quantities are decimal text; instants"
    " are RFC 3339 in UTC. Unknown fields of a body are an error. Every POST takes an"
    " `Idempotency-Key`, kept for 30 days. Lists take `limit` and `cursor` and answer"
    " `{data, next_cursor}`. Errors are `application/problem+json` with a stable `code` and every"
    " field at fault. A path takes an object's `id` or your own `key`."
)
_WORDS: Final = {
    400: "The request cannot be read: `malformed_json`, `invalid_parameter`, `invalid_cursor`.",
    401: "No valid API key: `missing_key`, `invalid_key`, `revoked_key`, `expired_key`.",
    403: "The key lacks the scope: `missing_scope`.",
    404: "Not there, or not yours: `not_found`.",
    409: (
        "It collides with what is there: `key_taken`, `idempotency_mismatch`,"
        " `idempotency_in_progress`."
    ),
    413: "The body is too large: `body_too_large`.",
    415: "The body is no JSON: `unsupported_media_type`.",
    422: "Fields cannot stand: `invalid_body`, with all of them in `errors`.",
    500: "A failure of ours: `internal_error`.",
    503: "The database is away or busy; send it again: `unavailable`.",
}
_TEMPLATE: Final = "#/components/schemas/{name}"


class DocsPage(OpenAPIRenderPlugin):
    """`GET /docs`: one page without scripts or other hosts."""

    def __init__(self) -> None:
        """At the root of the documentation's router."""
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page for the described routes."""
        del openapi_schema
        return render_docs(document_of(request.app))


def openapi_config() -> OpenAPIConfig:
    """What the framework is told; `document_of` completes it."""
    router = Router(
        "/docs",
        route_handlers=[],
        include_in_schema=False,
        dto=None,
        return_dto=None,
        opt={"public": True},
    )
    scheme = SecurityScheme(
        type="http", scheme="bearer", description="An API key: `usk_live_…` or `usk_test_…`."
    )
    return OpenAPIConfig(
        title="Usance",
        version="1",
        description=_DESCRIPTION,
        components=Components(security_schemes={"key": scheme}),
        openapi_router=router,
        render_plugins=[DocsPage()],
        use_handler_docstrings=True,
    )


@get("/openapi.json", include_in_schema=False, opt={"public": True}, sync_to_thread=False)
def serve_openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The description as JSON."""
    body = msgspec.json.encode(document_of(request.app))
    return Response(body, media_type="application/vnd.oai.openapi+json")


def document_of(app: Litestar) -> dict[str, Any]:
    """The whole description, made once for an application.

    Bodies and answers are described by msgspec, which is what checks them; problems, scopes and
    the Idempotency-Key are added to every route that has them. A route that reads its body itself
    describes it in `opt={"request_body": …}`, one that streams its answer in `"answer"`; further
    problems are named in `"problems": […]`.
    """
    known = getattr(app.state, "openapi_document", None)
    if known is not None:
        return cast("dict[str, Any]", known)
    document = app.openapi_schema.to_schema()
    operations = list(_operations(app, document))
    types = [wanted for handler, _ in operations for wanted in _types_of(handler)]
    found, components = msgspec.json.schema_components([*types, Problem], ref_template=_TEMPLATE)
    schemas = dict(zip(map(repr, [*types, Problem]), found, strict=True))
    document["components"]["schemas"] = components
    for handler, operation in operations:
        _complete(handler, operation, schemas)
    app.state.openapi_document = document
    return document


def _operations(
    app: Litestar, document: dict[str, Any]
) -> list[tuple[HTTPRouteHandler, dict[str, Any]]]:
    paths = cast("dict[str, Any]", document["paths"])
    return [
        (handler, paths[route.path_format][method.lower()])
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if method.lower() in paths.get(route.path_format, {})
    ]


def _types_of(handler: HTTPRouteHandler) -> list[object]:
    wanted = [_answer_of(handler)]
    if handler.parsed_data_field is not None:
        wanted.append(handler.parsed_data_field.annotation)
    return [one for one in wanted if _is_described(one)]


def _answer_of(handler: HTTPRouteHandler) -> object:
    """What it answers; a route that streams its answer says so in its options."""
    return handler.opt.get("answer", handler.parsed_fn_signature.return_type.raw)


def _is_described(wanted: object) -> bool:
    origin = getattr(wanted, "__origin__", wanted)
    return isinstance(origin, type) and issubclass(origin, msgspec.Struct)


def _complete(
    handler: HTTPRouteHandler, operation: dict[str, Any], schemas: dict[str, Any]
) -> None:
    scope = declared_scope(handler)
    answer = _answer_of(handler)
    if _is_described(answer):
        ok = operation["responses"][str(handler.status_code)]
        ok["content"] = {"application/json": {"schema": schemas[repr(answer)]}}
    statuses = [500, 503]
    data = handler.parsed_data_field
    if data is not None:
        content = {"application/json": {"schema": schemas[repr(data.annotation)]}}
        operation["requestBody"] = {"required": True, "content": content}
        statuses += [400, 409, 413, 415, 422]
    own_body = handler.opt.get("request_body")
    if own_body is not None:
        operation["requestBody"] = own_body
        statuses += [400, 413, 415, 422]
    statuses += handler.opt.get("problems", ())
    parameters = operation.get("parameters", [])
    if parameters:
        statuses += [400]
    if any(one["in"] == "path" for one in parameters):
        statuses += [404]
    if scope is not None:
        operation["security"] = [{"key": []}]
        operation["description"] = (
            f"{operation.get('description', '')}\n\nScope: `{scope.value}`.".strip()
        )
        statuses += [401, 403]
    else:
        operation["security"] = []
    if "POST" in handler.http_methods and handler.opt.get("idempotent", True) and scope:
        operation["parameters"] = [*parameters, _IDEMPOTENCY_KEY]
        statuses += [400, 409]
    for status, words in _SUCCESSES.items():
        if status in operation["responses"]:
            operation["responses"][status]["description"] = words
    for status in sorted(set(statuses)):
        operation["responses"].setdefault(str(status), {})
        operation["responses"][str(status)] = {
            "description": _WORDS[status],
            "content": {MEDIA_TYPE: {"schema": schemas[repr(Problem)]}},
        }


_SUCCESSES: Final = {
    "200": "What was asked for.",
    "201": "What was made.",
    "202": "Accepted: a worker does it.",
    "204": "Done.",
}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key answers the same request once, for 30 days.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
