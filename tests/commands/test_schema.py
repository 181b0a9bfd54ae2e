import json
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from bridge import spec
from bridge.cli import main
from bridge.commands.schema import Kind, schema

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "tools.d").glob("*.yaml"))
TOOL = {"description": "d", "request": {"method": "GET", "url": "/x"}}
UPSTREAM = {"baseUrl": "http://shop.example", "auth": {"type": "none"}}


def problems(kind: Kind, document: object) -> list[str]:
    validator = jsonschema_rs.Draft202012Validator(schema(kind))
    return ["/".join(map(str, error.instance_path)) for error in validator.iter_errors(document)]


def keys(node: object) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(keys, node))
    if not isinstance(node, dict):
        return set()
    own = set(node.get("properties", {}))
    return own.union(*map(keys, node.values()))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_schemas_holds_what_the_command_prints(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind]) == 0
    assert (ROOT / f"schemas/{kind}.schema.json").read_text("utf-8") == capsys.readouterr().out


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_schema_is_valid_and_shows_no_python(kind: Kind) -> None:
    assert jsonschema_rs.meta.is_valid(schema(kind))
    assert not {"null", "discriminator"} & set(json.dumps(schema(kind)["properties"]).split('"'))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_sample_fits_its_schema_and_names_it(path: Path) -> None:
    kind: Kind = "upstream" if path.name.endswith(".upstream.yaml") else "tool"
    modeline = path.read_text("utf-8").splitlines()[0]
    assert modeline == f"# yaml-language-server: $schema=../schemas/{kind}.schema.json"
    document = json.loads(json.dumps(YAML(typ="safe", pure=True).load(path)))
    assert problems(kind, document) == []


@pytest.mark.parametrize(
    "model",
    [
        model
        for model in vars(spec).values()
        if isinstance(model, type) and issubclass(model, spec.SpecModel) and model is not spec.SpecModel
    ],
)
def test_every_key_of_the_spec_has_a_description_in_a_schema(model: type[BaseModel]) -> None:
    shown = keys(schema("tool")) | keys(schema("upstream"))
    assert {field.alias for field in model.model_fields.values()} <= shown
    assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize(
    "more",
    [
        {"x-owner": {"team": "shop"}},
        {"timeout": "30s"},
        {"timeout": {"total": "1.5s"}},
        {"response": {"maxBytes": "100kB", "validStatus": [404, "2xx"], "x-note": 1}},
        {"errors": {"404": "No.", "5xx": {"message": "Later.", "upstream": False}}},
        {"inputSchema": {"properties": {"a": {"type": ["string", "null"], "x-widget": "area"}}}},
    ],
)
def test_what_the_bridge_accepts_is_valid_under_the_schema(more: dict[str, Any]) -> None:
    assert problems("tool", TOOL | more) == []


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"pagination": {}}, ""),
        ({"descripton": "d"}, ""),
        ({"title": None}, "title"),
        ({"timeout": 30}, "timeout"),
        ({"request": {"method": "GTE", "url": "/x"}}, "request/method"),
        ({"request": {"method": "GET"}}, "request"),
        ({"request": {"method": "GET", "url": "/x", "query": {"q": {"valu": 1}}}}, "request/query/q"),
        ({"response": {"maxBytes": "10 GB"}}, "response/maxBytes"),
        ({"errors": {"6xx": "No."}}, "errors"),
        ({"inputSchema": {"properties": {"a": {"type": "strng"}}}}, "inputSchema/properties/a/type"),
    ],
)
def test_a_mistake_in_a_tool_file_is_shown_where_it_is(more: dict[str, Any], where: str) -> None:
    assert problems("tool", TOOL | more) == [where]


@pytest.mark.parametrize(
    ("document", "wrong"),
    [
        (UPSTREAM, []),
        (UPSTREAM | {"auth": {"type": "http", "scheme": "basic", "username": "u", "password": "p"}}, []),
        (UPSTREAM | {"auth": {"type": "http", "scheme": "basic"}}, ["auth"]),
        (UPSTREAM | {"auth": {"type": "apiKey", "in": "body", "name": "k", "value": "v"}}, ["auth"]),
        ({"baseUrl": "http://shop.example"}, [""]),
        (UPSTREAM | {"limits": {"rate": "20/s"}}, ["limits"]),
    ],
)
def test_an_upstream_file_is_checked_likewise(document: object, wrong: list[str]) -> None:
    assert problems("upstream", document) == wrong
