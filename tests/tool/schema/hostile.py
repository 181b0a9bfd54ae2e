"""Random schemas, and random values that are slow to validate against them; a seed repeats them."""

import random
from typing import Final

from bridge.spec import Json

CLASSES: Final = [
    "a",
    "b",
    "9",
    "[ab]",
    "[a-z]",
    r"\w",
    r"\d",
    ".",
    r"\p{Lu}",
    "[^a]",
    r"\S",
    "[a-z0-9-]",
    "é",
]
COUNTS: Final = ["", "", "", "", "", "*", "+", "?", "{2}", "{1,20}", "{3,}", "{0,60}"]
TEXTS: Final = ["a", "ab", "abc-", "é", "aé", "1a", " ", "a b", "中", "xyz9", '"', "\\"]
KEYWORDS: Final = [
    "type", "pattern", "length", "enum", "const", "bounds", "multipleOf", "format", "items", "prefixItems",
    "contains", "uniqueItems", "properties", "patternProperties", "additionalProperties", "propertyNames",
    "required", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas", "ref", "unevaluated",
]  # fmt: skip
FORMATS: Final = [
    "date",
    "date-time",
    "email",
    "idn-hostname",
    "uri",
    "uri-template",
    "regex",
    "duration",
    "uuid",
]
NAMES: Final = ["a", "b", "c", "d", "é"]
DEFINITIONS: Final = ["x", "y", "z"]


def pattern(dice: random.Random, depth: int = 1) -> str:
    pieces = []
    for _ in range(dice.randint(1, 3)):
        piece = dice.choice(CLASSES)
        if depth and dice.random() < 0.15:
            inner = "|".join(pattern(dice, depth - 1) for _ in range(dice.randint(1, 3)))
            piece = f"{dice.choice(['(', '(?:'])}{inner})"
        pieces.append(piece + dice.choice(COUNTS))
    start, end = (
        dice.choice(["", "^"]) if depth == 1 else "",
        dice.choice(["", "$", "9"]) if depth == 1 else "",
    )
    return start + "".join(pieces) + end


def schema(dice: random.Random) -> dict[str, Json]:
    """A schema of arguments: an object with three properties, and definitions that may refer to each other."""
    return {
        "type": "object",
        "properties": {name: _schema(dice, 3) for name in NAMES[:3]},
        "$defs": {name: _schema(dice, 2) for name in DEFINITIONS},
    }


def _schema(dice: random.Random, depth: int) -> dict[str, Json]:
    generated: dict[str, Json] = {}
    for keyword in dice.sample(KEYWORDS, dice.randint(1, 3)):
        generated |= _keyword(dice, keyword, depth)
    return generated


def _keyword(dice: random.Random, keyword: str, depth: int) -> dict[str, Json]:  # noqa: C901, PLR0911, PLR0912 - a table
    def inner() -> Json:
        return _schema(dice, depth - 1) if depth else dice.choice([{}, {"type": "string"}, {"const": 1.5}])

    def several(maximum: int = 4) -> list[Json]:
        return [inner() for _ in range(dice.randint(1, maximum))]

    match keyword:
        case "type":
            return {
                "type": dice.choice(["string", "array", "object", "number", ["string", "array", "object"]])
            }
        case "pattern":
            return {"pattern": pattern(dice)}
        case "length":
            return {"maxLength": dice.choice([1, 100, 10**6]), "minLength": dice.choice([0, 1])}
        case "enum":
            return {"enum": [scalar(dice) for _ in range(dice.choice([1, 5, 50]))] + [[1.5, {"a": [2**70]}]]}
        case "const":
            return {"const": value(dice, 100)}
        case "bounds":
            return {"minimum": dice.choice([0, -(10**30), 1.5]), "maximum": dice.choice([10**4000, 1e300])}
        case "multipleOf":
            return {"multipleOf": dice.choice([1, 7, 0.01, 1e-9, 2.5])}
        case "format":
            return {"format": dice.choice(FORMATS)}
        case "items" | "contains" | "additionalProperties" | "not":
            return {keyword: inner()}
        case "prefixItems" | "allOf" | "anyOf" | "oneOf":
            return {keyword: several(30 if dice.random() < 0.1 else 4)}
        case "uniqueItems":
            return {"uniqueItems": True}
        case "properties" | "dependentSchemas":
            return {keyword: {name: inner() for name in dice.sample(NAMES, dice.randint(1, 4))}}
        case "patternProperties":
            return {keyword: {pattern(dice): inner() for _ in range(dice.randint(1, 5))}}
        case "propertyNames":
            return {keyword: {"pattern": pattern(dice)}}
        case "required":
            return {"required": dice.sample(NAMES, dice.randint(0, 2))}
        case "if":
            return {"if": inner(), "then": inner(), "else": inner()}
        case "ref":
            return {"$ref": f"#/$defs/{dice.choice(DEFINITIONS)}"}
    return {dice.choice(["unevaluatedProperties", "unevaluatedItems"]): dice.choice([False, {}])}


def scalar(dice: random.Random) -> Json:
    text = dice.choice(TEXTS) * dice.choice([1, 5, 200])
    long = 2**63 + dice.randint(0, 99)
    return dice.choice([None, True, 0, dice.randint(0, 99), dice.random(), 1e-300, long, 10**4000, text])


def value(dice: random.Random, size: int, depth: int = 0) -> Json:  # noqa: PLR0911 - a table
    """A value of about ``size`` bytes as JSON."""
    if size < 50 or depth > 50:
        return (
            scalar(dice) if size > 5000 or dice.random() < 0.2 else dice.choice([1, 1.5, "a", 2**64 + size])
        )
    match dice.randint(0, 6):
        case 0 | 1:
            text = dice.choice(TEXTS)
            if dice.random() < 0.3:
                return "".join(dice.choices("ab1é -", k=min(size, 10_000))) * (size // 10_000 + 1)
            return text * (size // len(text.encode()))
        case 2:
            same = dice.choice([1, 0.07, "a", "", [], {}, {"a": 1}, [[]], True])
            return [same] * (size // 6)
        case 3:
            start = dice.choice([0, 0.5, 2**64])
            return [start + number for number in range(size // 20)]
        case 4:
            return {f"{dice.choice(TEXTS)}{number}": 1 for number in range(size // 15)}
        case 5:
            parts = dice.randint(1, 5)
            return [value(dice, size // parts, depth + 1) for _ in range(parts)]
    names = dice.sample(NAMES, dice.randint(1, len(NAMES)))
    return {name: value(dice, size // len(names), depth + 1) for name in names}


def arguments(dice: random.Random, size: int) -> dict[str, Json]:
    return {name: value(dice, size // 3) for name in NAMES[:3]}
