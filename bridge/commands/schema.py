"""``restbridge schema``: the words of a kind of file as JSON Schema, for editors."""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel

from bridge.settingsfile import SettingsFile
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
"""Keywords whose keys are the author's."""

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
    """Prints the schema."""
    print(text(kind))
    return 0


def text(kind: Kind) -> str:
    """The schema as it is printed."""
    return json.dumps(schema(kind), indent=2, ensure_ascii=False)


def schema(kind: Kind) -> Schema:
    """JSON Schema 2020-12 of one kind of file, as ``schemas/`` holds it."""
    model = _plain(_MODELS[kind].model_json_schema())
    if kind == "tool":
        for key in ("inputSchema", "outputSchema"):
            model["properties"][key] |= _ONE | {"type": "object"}
            del model["properties"][key]["additionalProperties"]
        model["$defs"] |= {"JsonSchema": _JSON_SCHEMA, "QueryStyle": _plain(QueryStyle.model_json_schema())}
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


def _plain(node: Json) -> Json:
    """A model's schema as people write files: a key is left out, never null, and shows no Python name."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain: Schema = {
        key: {name: _plain(member) for name, member in value.items()} if key in _NAMED else _plain(value)
        for key, value in node.items()
        if key not in {"title", "discriminator"} and not _is_noise(key, value)
    }
    for word in ("anyOf", "oneOf"):
        if word in plain:
            plain = _flat(plain, word)
    if "patternProperties" in plain:
        plain["additionalProperties"] = False
    elif plain.get("additionalProperties") is False:
        plain["patternProperties"] = {"^x-": {"description": "Yours: the bridge does not look at it."}}
    if "description" in plain:
        plain["description"] = plain["description"].replace("``", "`")
    return plain


def _is_noise(key: str, value: Json) -> bool:
    return key == "default" and not (isinstance(value, bool | str) or type(value) is int)


def _flat(node: Schema, word: str) -> Schema:
    """Alternatives without null, without alternatives of alternatives; a single one is no alternative."""
    options = [
        option
        for given in node.pop(word)
        for option in (given[word] if set(given) == {word} else [given])
        if option != {"type": "null"}
    ]
    if len(options) == 1:
        return {**options[0], **node}
    if all(set(option) == {"type"} for option in options):
        return {"type": [option["type"] for option in options], **node}
    return {**node, word: options}
