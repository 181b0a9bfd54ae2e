"""``restbridge schema``: prints the JSON Schema of a kind of file, for editors."""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel

from bridge.settings import SettingsFile
from bridge.spec import Json, QueryStyle, ToolSpec, UpstreamSpec

Kind = Literal["tool", "upstream", "settings"]
Schema = dict[str, Any]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_MODELS: Final[Mapping[str, type[BaseModel]]] = {
    "tool": ToolSpec,
    "upstream": UpstreamSpec,
    "settings": SettingsFile,
}
_NAMED: Final = frozenset({"properties", "$defs"})
"""Keywords whose keys are names, not keywords."""

_TYPES: Final = ["array", "boolean", "integer", "null", "number", "object", "string"]
_ONE: Final[Schema] = {"$ref": "#/$defs/JsonSchema"}
_MAP: Final[Schema] = {"type": "object", "additionalProperties": _ONE}
_LIST: Final[Schema] = {"type": "array", "minItems": 1, "items": _ONE}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_TEXT: Final[Schema] = {"type": "string"}

_JSON_SCHEMA: Final[Schema] = {
    "description": "JSON Schema 2020-12: the keywords that tool files use most; every other one is allowed.",
    "type": ["object", "boolean"],
    "properties": {
        "type": {
            "description": "One JSON type, or a list of them.",
            "anyOf": [{"enum": _TYPES}, {"type": "array", "items": {"enum": _TYPES}}],
        },
        "description": _TEXT | {"description": "What the model reads about it."},
        "properties": _MAP | {"description": "Members of the object: name → schema."},
        "required": {
            "type": "array",
            "items": _TEXT,
            "description": "Names of the members that must be there.",
        },
        "additionalProperties": _ONE | {"description": "Schema of all other members; false for none."},
        "items": _ONE | {"description": "Schema of every item of the array."},
        "enum": {"type": "array", "minItems": 1, "description": "The only values."},
        "const": {"description": "The only value."},
        "default": {"description": "Filled in where the argument is left out."},
        "examples": {"type": "array", "description": "Values that show how it is meant."},
        "minimum": {"type": "number"},
        "maximum": {"type": "number"},
        "exclusiveMinimum": {"type": "number"},
        "exclusiveMaximum": {"type": "number"},
        "multipleOf": {"type": "number", "exclusiveMinimum": 0},
        "minLength": _COUNT,
        "maxLength": _COUNT,
        "pattern": _TEXT | {"description": "A regular expression; write ^ and $ to match all of the text."},
        "format": _TEXT | {"description": "Such as date, date-time, email, uri, uuid."},
        "minItems": _COUNT,
        "maxItems": _COUNT,
        "uniqueItems": {"type": "boolean"},
        "anyOf": _LIST,
        "oneOf": _LIST,
        "allOf": _LIST,
        "not": _ONE,
        "$ref": {"type": "string", "pattern": "^#", "description": "Within this schema: #/$defs/NAME."},
        "$defs": _MAP | {"description": "Schemas to refer to."},
    },
}


def run(kind: Kind) -> int:
    """Print the schema."""
    print(text(kind))
    return 0


def text(kind: Kind) -> str:
    """The schema as it is printed."""
    return json.dumps(schema(kind), indent=2, ensure_ascii=False)


def schema(kind: Kind) -> Schema:
    """JSON Schema 2020-12 of one kind of file, as ``schemas/`` holds it."""
    # In the model these keys hold any object. What may be in them is checked by other code, and added here.
    model = _simplify(_MODELS[kind].model_json_schema())
    if kind == "tool":
        for key in ("inputSchema", "outputSchema"):
            model["properties"][key] |= _ONE | {"type": "object"}
            del model["properties"][key]["additionalProperties"]
        model["$defs"] |= {
            "JsonSchema": _JSON_SCHEMA,
            "QueryStyle": _simplify(QueryStyle.model_json_schema()),
        }
        model["$defs"]["RequestSpec"]["properties"]["query"]["additionalProperties"] = {
            "anyOf": [
                {"type": ["array", "boolean", "null", "number", "string"]},
                {"$ref": "#/$defs/QueryStyle"},
            ]
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"restbridge {kind} file",
        **{key: model.pop(key) for key in ("description", "type", "required", "properties") if key in model},
        **model,
    }


def _simplify(node: Json) -> Json:
    """A schema of pydantic, fit for people who write files: without null, Python names and titles."""
    if isinstance(node, list):
        return [_simplify(item) for item in node]
    if not isinstance(node, dict):
        return node
    simple: Schema = {
        key: {name: _simplify(member) for name, member in value.items()}
        if key in _NAMED
        else _simplify(value)
        for key, value in node.items()
        if key not in {"title", "discriminator"} and not _is_noise(key, value)
    }
    for keyword in ("anyOf", "oneOf"):
        if keyword in simple:
            simple = _flatten(simple, keyword)
    if "patternProperties" in simple:
        simple["additionalProperties"] = False
    elif simple.get("additionalProperties") is False:
        simple["patternProperties"] = {"^x-": {"description": "Yours: the bridge does not look at it."}}
    if "description" in simple:
        simple["description"] = simple["description"].replace("``", "`")
    return simple


def _is_noise(key: str, value: Json) -> bool:
    # Defaults that a file cannot hold in this form, such as 2.0 for 2s, and null: the key is left out.
    return key == "default" and not isinstance(value, str | int)


def _flatten(node: Schema, keyword: str) -> Schema:
    """Flatten nested alternatives and drop null. A single alternative is merged into ``node``."""
    options = [
        option
        for given in node.pop(keyword)
        for option in (given[keyword] if set(given) == {keyword} else [given])
        if option != {"type": "null"}
    ]
    if len(options) == 1:
        return {**options[0], **node}
    if all(set(option) == {"type"} for option in options):
        return {"type": [option["type"] for option in options], **node}
    return {**node, keyword: options}
