"""Generates the reference of the HTTP service from its OpenAPI description."""

from __future__ import annotations

import json
from typing import Any

from command_line import cell

from twotower.serving.openapi import description
from twotower.serving.routes import ENDPOINTS


def http_page() -> str:
    """Every endpoint with its parameters, body and response."""
    document = description(ENDPOINTS)
    parts = [
        "# HTTP",
        "Generated from the description that `GET /openapi.json` returns. [Serve](../how-to/serve.md) is the guide.",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method.upper(), path, operation)
    parts.append("## Bodies and answers")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += [f"### {name}", cell(schema.get("description", ""))]
        if rows := [_field(key, one, schema) for key, one in schema.get("properties", {}).items()]:
            parts.append("\n".join(["| field | type | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _operation(method: str, path: str, operation: dict[str, Any]) -> list[str]:
    parts = [f"## {method} {path}", operation["summary"]]
    if taken := operation.get("parameters"):
        rows = [
            f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {cell(one['description'])} |" for one in taken
        ]
        parts.append("\n".join(["| parameter | in | type | meaning |", "|---|---|---|---|", *rows]))
    if "requestBody" in operation:
        parts.append(f"Body: {_content(operation['requestBody'])}.")
    answer = _content(operation["responses"]["200"])
    refusals = ", ".join(code for code in operation["responses"] if code != "200")
    return [*parts, f"Answer: {answer}. Errors: {refusals}."]


def _content(holder: dict[str, Any]) -> str:
    return next(_type(one["schema"]) for one in holder["content"].values())


def _field(name: str, schema: dict[str, Any], parent: dict[str, Any]) -> str:
    required = ", required" if name in parent.get("required", []) else ""
    default = f", default `{json.dumps(schema['default'])}`" if "default" in schema else ""
    return f"| `{name}` | {_type(schema)}{required}{default} | {cell(schema.get('description', ''))} |"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    if schema.get("type") == "array":
        items = schema.get("items")
        return f"list of {_type(items)}" if items else f"[{', '.join(map(_type, schema.get('prefixItems', [])))}]"
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "≥"), ("maximum", "≤")) if key in schema]
    return " ".join([str(schema.get("type", "any value")), *bounds])
