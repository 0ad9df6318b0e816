"""The description of the service in OpenAPI 3.1, made of the routes and structs that answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from twotower.serving.endpoints import Endpoint
from twotower.serving.messages import ErrorAnswer, NoParameters
from twotower.serving.settings import LONGEST_TEXT
from twotower.version import VERSION

OPENAPI = "3.1.0"
REFERENCE = "#/components/schemas/{name}"


def description(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document.

    Args:
        endpoints: All that are described.
    """
    kinds = [kind for endpoint in endpoints for kind in (endpoint.body, endpoint.answer) if kind is not None]
    kinds = list(dict.fromkeys([*kinds, ErrorAnswer]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        path = endpoint.path.replace(":path}", "}")
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, path, schema_of)
    return {
        "openapi": OPENAPI,
        "info": {"title": "twotower", "version": VERSION, "description": "Recommendations of one bundle."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, path: str, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    error = {"application/json": {"schema": schema_of[ErrorAnswer]}}
    statuses = sorted({*endpoint.refusals, 400, 408, 421, 503} | ({401} if endpoint.guarded else set()))
    answer = (
        {"text/plain": {"schema": {"type": "string"}}}
        if endpoint.answer is None
        else {"application/json": {"schema": schema_of[endpoint.answer]}}
    )
    found: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "responses": {
            "200": {"description": "The answer.", "content": answer},
            **{str(status): {"description": "A refusal.", "content": error} for status in statuses},
        },
        # With `{}` beside it: a token is asked for only where the service has one.
        "security": [{}, {"token": []}] if endpoint.guarded else [],
    }
    if endpoint.body is not None:
        content = {"application/json": {"schema": schema_of[endpoint.body]}}
        found["requestBody"] = {"required": True, "content": content}
    if taken := _parameters(endpoint, path):
        found["parameters"] = taken
    return found


def _parameters(endpoint: Endpoint, path: str) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT}
    taken = [{"name": name, "in": "path", "required": True, "schema": text} for name in re.findall(r"\{(\w+)\}", path)]
    if endpoint.parameters is not NoParameters:
        fields = msgspec.json.schema_components([endpoint.parameters])[1][endpoint.parameters.__name__]["properties"]
        for name, schema in fields.items():
            taken.append({"name": name, "in": "query", "required": False, "schema": schema})
    return taken
