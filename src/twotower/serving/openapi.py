"""The OpenAPI 3.1 document of the service, generated from its endpoints and structs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import msgspec

from twotower.docstrings import documented, introduction
from twotower.serving.answers import ErrorAnswer
from twotower.serving.endpoints import Endpoint
from twotower.serving.settings import MAX_TEXT_LENGTH
from twotower.version import VERSION

OPENAPI = "3.1.0"
REFERENCE = "#/components/schemas/{name}"


def description(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document.

    Args:
        endpoints: The endpoints to describe.
    """
    kinds = [kind for endpoint in endpoints for kind in (endpoint.body, endpoint.answer) if kind is not None]
    kinds = list(dict.fromkeys([*kinds, ErrorAnswer]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    for struct in set().union(*map(_structs, kinds)):
        _describe(components[struct.__name__], struct)
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        path = endpoint.path.replace(":path}", "}")
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, path, schema_of)
    return {
        "openapi": OPENAPI,
        "info": {"title": "twotower", "version": VERSION, "description": "Recommendations from one bundle."},
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
            **{str(status): {"description": "An error.", "content": error} for status in statuses},
        },
        # `{}` makes the token optional: it is required only if the service has one.
        "security": [{}, {"token": []}] if endpoint.guarded else [],
    }
    if endpoint.body is not None:
        content = {"application/json": {"schema": schema_of[endpoint.body]}}
        found["requestBody"] = {"required": True, "content": content}
    if taken := _parameters(endpoint, path):
        found["parameters"] = taken
    return found


def _parameters(endpoint: Endpoint, path: str) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_LENGTH}
    taken: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "description": f"Id of the {endpoint.id_of}: read as a number or as text, whichever these ids are.",
            "required": True,
            "schema": text,
        }
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    says = documented(endpoint.parameters)
    schemas = msgspec.json.schema_components([endpoint.parameters])[1][endpoint.parameters.__name__]["properties"]
    for name, schema in schemas.items():
        taken.append(
            {"name": name, "in": "query", "description": says.get(name, ""), "required": False, "schema": schema}
        )
    return taken


def _describe(schema: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    """Adds the descriptions in a struct's docstring to its schema and to the schemas of its fields."""
    says = documented(kind)
    schema["description"] = introduction(kind)
    for name, own in schema["properties"].items():
        own["description"] = says.get(name, "")


def _structs(kind: Any) -> set[type[msgspec.Struct]]:
    """The structs that a type consists of: itself, those in its fields, and so on."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {kind}.union(*map(_structs, get_type_hints(kind).values()))
    return set().union(*map(_structs, get_args(kind)))
