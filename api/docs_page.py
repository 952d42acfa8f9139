"""The API's description as one plain page: no script, no other host."""

from html import escape
from typing import Any, Final, cast

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222}
code,pre{font:13px/1.45 ui-monospace,monospace;background:#f4f4f6;border-radius:4px}
code{padding:.1em .3em}pre{padding:.8rem;overflow:auto}
details{border:1px solid #ddd;border-radius:6px;margin:.5rem 0;padding:.5rem .9rem}
summary{cursor:pointer}.method{display:inline-block;min-width:4.2rem;font-weight:700}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.25rem .6rem;
border-bottom:1px solid #eee}h2{margin-top:2.2rem}
@media(prefers-color-scheme:dark){body{background:#16161a;color:#ddd}code,pre{background:#24242b}
details{border-color:#333}td,th{border-color:#2a2a30}a{color:#8ab4ff}}
"""


def render_docs(document: dict[str, Any]) -> bytes:
    """HTML for an OpenAPI document, grouped by tag."""
    groups: dict[str, list[str]] = {}
    for path, methods in sorted(document["paths"].items()):
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["Others"])[0]
            groups.setdefault(tag, []).append(_operation(method.upper(), path, operation))
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(parts)}" for tag, parts in groups.items())
    schemas = "".join(
        _schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())
    )
    info = document["info"]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}'
        f' API</title><meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"</head><body><h1>{escape(info['title'])} API</h1><p>{_prose(info['description'])}</p>"
        '<p>For programs: <a href="/openapi.json">openapi.json</a>.</p>'
        f"{sections}<h2>Shapes</h2>{schemas}</body></html>"
    )
    return page.encode()


def _prose(text: str) -> str:
    parts = escape(text).split("`")
    return "".join(
        f"<code>{part}</code>" if index % 2 else part.replace("\n\n", "<br>")
        for index, part in enumerate(parts)
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['in'])}</td>"
        f"<td>{_type(one.get('schema', {}))}</td><td>{_prose(one.get('description', ''))}</td></tr>"
        for one in operation.get("parameters", [])
    )
    table = f"<table><tr><th>parameter<th>in<th>type<th></tr>{rows}</table>" if rows else ""
    body = operation.get("requestBody")
    sent = f"<p>Body: {_content(body)}</p>" if body else ""
    answers = "".join(
        f"<tr><td>{status}</td><td>{_content(one)}</td>"
        f"<td>{_prose(one.get('description', ''))}</td></tr>"
        for status, one in sorted(operation["responses"].items())
    )
    return (
        f'<details id="{escape(operation.get("operationId", ""))}"><summary>'
        f'<span class="method">{method}</span><code>{escape(path)}</code> '
        f"{escape(operation.get('summary', ''))}</summary>"
        f"<p>{_prose(operation.get('description', ''))}</p>{table}{sent}"
        f"<table><tr><th>status<th>body<th></tr>{answers}</table></details>"
    )


def _content(holder: dict[str, Any]) -> str:
    return ", ".join(
        _type(cast("dict[str, Any]", one).get("schema", {}))
        for one in holder.get("content", {}).values()
    )


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code>{'' if field in required else ' (optional)'}</td>"
        f"<td>{_type(one)}</td></tr>"
        for field, one in schema.get("properties", {}).items()
    )
    choices = ", ".join(f"<code>{escape(str(one))}</code>" for one in schema.get("enum", ()))
    inside = f"<table>{rows}</table>" if rows else f"<p>{choices}</p>"
    said = _prose(schema.get("description", ""))
    return (
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"<p>{said}</p>{inside}</details>"
    )


def _type(schema: dict[str, Any]) -> str:
    reference = schema.get("$ref")
    if reference is not None:
        name = escape(str(reference).rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(one) for one in schema[key])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " | ".join(f"<code>{escape(str(one))}</code>" for one in values)
    if "items" in schema and isinstance(schema["items"], dict):
        return f"list of {_type(cast('dict[str, Any]', schema['items']))}"
    kind = str(schema.get("format", schema.get("type", "any")))
    pattern = schema.get("pattern")
    return escape(kind) + (f" <code>{escape(str(pattern))}</code>" if pattern else "")
