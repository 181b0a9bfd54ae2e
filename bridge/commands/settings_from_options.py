"""The options of ``serve``, made of the settings model, and their merge with the settings file. Options take precedence."""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import click
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from bridge.settings import Audit, Http, Option, ServerTls, Settings, SettingsFile
from bridge.spec import SpecModel

_REQUIRED: Final[Mapping[str, tuple[type[SpecModel], str, str]]] = {
    "http": (Http, "listen", "HTTP; add --http [HOST:]PORT"),
    "http__tls": (ServerTls, "cert_file", "a certificate; add --tls-cert FILE"),
    "audit": (Audit, "file", "a file; add --audit FILE"),
}
"""Keys without a default: their model, the key below them without which the others have no effect, and the advice."""


@cache
def options() -> tuple[click.Option, ...]:
    """An option for each key of the settings file that has one. Its parameter is ``KEY``, or ``KEY__KEY`` for an inner key."""
    return tuple(_option(*marked) for marked in _marked(SettingsFile))


def _marked(model: type[SpecModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, Option]]:
    for name, field in model.model_fields.items():
        yield from ((prefix + name, field, each) for each in field.metadata if isinstance(each, Option))
        kind = _kind(field)
        if isinstance(kind, type) and issubclass(kind, SpecModel):
            yield from _marked(kind, f"{prefix}{name}__")


def _kind(field: FieldInfo) -> Any:
    """The type of a field, without ``| None`` and without annotations."""
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = get_args(kind)[0]
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _option(name: str, field: FieldInfo, option: Option) -> click.Option:
    is_list = get_origin(field.annotation) is tuple
    description = field.description or ""
    return click.Option(
        # --read-only/--no-read-only: an option can also turn off what the settings file turns on.
        [f"{option.name}/--no{option.name[1:]}" if field.annotation is bool else option.name, name],
        type=_type(field, option),
        multiple=is_list,
        callback=partial(_validated, field),
        default=None,  # not given, which differs from the default value: the settings file decides
        metavar=option.value,
        envvar=option.variable,
        show_envvar=True,
        help=f"{description.removesuffix('.')}; may be repeated." if is_list else description,
    )


def _type(field: FieldInfo, option: Option) -> "click.ParamType[Any]":
    """The type whose values ``--help`` shows."""
    kind = _kind(field)
    if kind is bool:
        return click.BOOL
    if kind is Path:
        return click.Path(path_type=Path)
    if option.seconds:
        return click.FloatRange(*option.seconds)
    return click.Choice(get_args(kind)) if get_origin(kind) is Literal else click.STRING


def _validated(field: FieldInfo, _ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """A text, or several, as the value of a field. Values that are no texts are what they should be."""
    if param.type is not click.STRING or value in (None, ()):
        return value
    kind: Any = Annotated[field.annotation, *field.metadata]
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        # ctx.error is the ValueError of our validator. pydantic's own text for it begins with "Value error,".
        raise click.BadParameter(str(error.errors()[0]["ctx"]["error"])) from None


def settings(file: SettingsFile | None, chosen: Mapping[str, Any]) -> Settings:
    """The settings of the file, overridden by the options that were chosen.

    Raises ``click.UsageError`` for an option without effect.
    """
    file = file or SettingsFile.model_construct()
    values: dict[str, Any] = {}
    for name, value in chosen.items():
        if value not in (None, ()):
            *groups, key = name.split("__")  # http__tls__cert_file: cert_file of tls of http
            inner = values
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[key] = value
    # Not validated again: the values are no longer as written, such as 2.0 for 2s.
    return Settings.model_construct(**{**dict(file), **_merged(file, values)})


def _merged(current: SpecModel | None, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values, in which those of an inner part of the settings are that part."""
    return {
        key: _overridden(prefix + key, getattr(current, key, None), value)
        if isinstance(value, dict)
        else value
        for key, value in values.items()
    }


def _overridden(group: str, current: SpecModel | None, values: dict[str, Any]) -> SpecModel | None:
    """A part of the settings with other values. None if it was, and the values are defaults."""
    if current:
        return current.model_copy(update=_merged(current, values, f"{group}__"))
    model, required, advice = _REQUIRED[group]
    if required in values:
        return model.model_construct(**_merged(None, values, f"{group}__"))
    chosen = dict(_flat(values, f"{group}__"))
    for name, field, option in _marked(SettingsFile):
        if name in chosen and chosen[name] != field.default:
            raise click.UsageError(f"{option.name} needs {advice}")
    return None


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}__")
        else:
            yield prefix + key, value
