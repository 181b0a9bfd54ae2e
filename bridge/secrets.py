"""References to secrets, ``${env:…}`` and ``${file:…}``: resolves them in upstream and settings files.

No message and no log shows a resolved value.
"""

import json
import os
import re
import stat
from base64 import b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256
from ipaddress import ip_address, ip_network
from pathlib import PurePath
from typing import Final, assert_never
from urllib.parse import SplitResult, quote, unquote, urlsplit

from bridge.diagnostics import Findings, Route, did_you_mean
from bridge.egress import host_refusal
from bridge.resolved_upstream import Upstream
from bridge.spec import ApiKeyAuth, Auth, BasicAuth, BearerAuth, NoAuth, OAuth2, Scalar, Tls, UpstreamSpec

_MAX_FILE_BYTES: Final = 1024**2

# Group 2 is empty if } is missing: then all of the rest is group 1. $${ is a literal ${.
_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE: Final = re.compile(r"(?a)([A-Za-z_]\w*)(?::-(.*))?", re.DOTALL)
_SHELL_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")
"""Names that a shell variable would have. Messages show no other part of a mistaken reference: it may be a secret."""
_MISTAKEN_REFERENCE: Final = re.compile(
    rf"(?:\S+ )?(\$\(?({_SHELL_NAME.pattern})\)?|\{{?env:([A-Za-z_]\w*)\}}?|<[A-Za-z_ -]+>)"
)
"""A variable in another notation (``$KEY``, ``{env:KEY}``), or a placeholder such as ``<your key>``; perhaps after a scheme."""
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_TEXT: Final = (re.compile(r"[^\x00-\x1f\x7f-\x9f]+"), "a text without control characters")
_FORMATS: Final = {
    "text": _TEXT,
    "query": _TEXT,  # percent-encoded when it is sent
    "bearer": (
        re.compile(r"[\x21-\x7e]+"),
        "only the token, ASCII without blanks and without the word Bearer",
    ),
    "header": (  # RFC 9110 5.5, without obs-text
        re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?"),
        "a text of ASCII characters without blanks at its ends",
    ),
    "cookie": (  # cookie-octet of RFC 6265 4.1.1
        re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+"),
        "a cookie's value, ASCII without blanks, quotes, comma, semicolon and backslash",
    ),
}


class Sources:
    """The sources of secrets: the environment of the process, and files.

    If a file disappears, its last text is used, and its path is in ``missing``. ``read`` returns the text of a file. It
    raises ``OSError`` if the file cannot be read, and ``ValueError`` with a message if its content is unsuitable.
    """

    def __init__(self, environ: Mapping[str, str], read: Callable[[str], str] | None = None) -> None:
        self.environ = environ
        self.missing: set[str] = set()
        self._read = read or read_file
        self._last_texts: dict[str, str | None] = {}

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that was requested, also absent ones: a poll checks these for changes."""
        return tuple(sorted(self._last_texts))

    def file(self, path: str) -> str:
        """The current text of a file, or the last one that could be read."""
        last = self._last_texts.setdefault(path, None)  # its key makes an absent file one of ``files``
        try:
            text = self._last_texts[path] = self._read(path)
        except OSError:
            if last is None:
                raise
            # Perhaps the file is just replaced: its tools stay served, with a warning.
            self.missing.add(path)
            return last
        self.missing.discard(path)
        return text


def read_file(path: str) -> str:
    """The text of a regular file, at most 1 MiB of UTF-8. Another kind of file (a pipe, a device) never blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO without a writer would block
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is not a regular file")
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise ValueError("is larger than 1 MiB")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def resolve(name: str, spec: UpstreamSpec, sources: Sources) -> Upstream:
    """The upstream with every ``${…}`` replaced, and its proxy chosen. Values are not searched for further ``${…}``.

    Raises ``InvalidSpec``: ``unset-secret`` for an absent variable or file, ``bad-secret`` for an unsuitable value,
    ``bad-proxy`` and ``bad-url``. No message contains a value.
    """
    references = _References(sources)
    base_url = references.resolve(spec.base_url, "baseUrl")
    auth = references.auth(spec.auth)
    headers = {key: references.header(value, key) for key, value in spec.headers.items()}
    tls, certificates = references.tls(spec.tls)
    proxy = references.proxy(spec.proxy, base_url)
    references.findings.raise_errors()
    update = {"base_url": base_url, "auth": auth, "headers": headers, "tls": tls, "proxy": proxy}
    secrets, files = (tuple(dict.fromkeys(found)) for found in (references.secrets, references.files))
    warnings = tuple(references.findings)  # no errors are left
    return Upstream(name, spec.model_copy(update=update), secrets, files, certificates, warnings)


def resolve_text(text: str, sources: Sources, findings: Findings, *route: str | int) -> str:
    """A text of the settings file with each ``${…}`` replaced; errors are added to ``findings``."""
    references = _References(sources, consequence="nobody has this key")
    value = references.resolve(text, *route, secret=True)
    findings.extend(references.findings)
    return value


def client_credentials(client_id: str, secret: str) -> str:
    """The credentials of ``client_secret_basic``, after the word Basic (RFC 6749 2.3.1).

    A blank becomes %20: some servers do not decode a + as a blank.
    """
    return b64encode(f"{quote(client_id, safe='')}:{quote(secret, safe='')}".encode()).decode()


class _References:
    """Resolves the references of one file; collects secrets, files and findings. Messages state ``consequence``."""

    def __init__(
        self, sources: Sources, consequence: str = "the tools of this upstream are not served"
    ) -> None:
        self._sources = sources
        self._consequence = consequence
        self.findings = Findings()
        self.secrets: list[str] = []
        self.files: list[str] = []

    def resolve(self, text: str, *route: str | int, secret: bool = False) -> str:
        """The text with each ``${…}`` replaced by its value, and ``$${`` by ``${``."""

        def replace(reference: re.Match[str]) -> str:
            if reference[0] == "$${":
                return "${"
            value = self._value(reference, route)
            if secret:
                self.secrets.append(value)
            return value

        return _REFERENCE.sub(replace, text)

    def auth(self, auth: Auth) -> Auth:
        match auth:
            case BearerAuth():
                credentials = self._secret(auth.credentials, "credentials", "bearer")
                return auth.model_copy(update={"credentials": credentials})
            case BasicAuth():
                # Replies often contain our user name: it is a secret only if the operator writes it as a reference.
                username = self.resolve(auth.username, "auth", "username", secret=True)
                self._check(username, "text", "auth", "username")
                password = self._secret(auth.password, "password", "text")
                # As it is sent: an API that echoes its headers shows neither part, but this.
                self.secrets.append(b64encode(f"{username}:{password}".encode()).decode())
                return auth.model_copy(update={"username": username, "password": password})
            case ApiKeyAuth():
                name = self.resolve(auth.name, "auth", "name")
                value = self._secret(auth.value, "value", auth.in_)
                return auth.model_copy(update={"name": name, "value": value})
            case OAuth2():
                update = {"token_url": self.resolve(auth.token_url, "auth", "tokenUrl")}
                update["client_id"] = self.resolve(auth.client_id, "auth", "clientId", secret=True)
                self._check(update["client_id"], "text", "auth", "clientId")
                if auth.client_secret is not None:
                    secret = update["client_secret"] = self._secret(
                        auth.client_secret, "clientSecret", "text"
                    )
                    self.secrets += [quote(secret, safe=""), client_credentials(update["client_id"], secret)]
                return auth.model_copy(update=update)
            case NoAuth():
                return auth
            case _:
                assert_never(auth)

    def header(self, scalar: Scalar, name: str) -> str:
        text = scalar if isinstance(scalar, str) else json.dumps(scalar)  # true, not True
        value = self.resolve(text, "headers", name, secret=True)
        if value != text:  # what is written in the file is checked by the compiler
            self._check(value, "header", "headers", name)
        return value

    def tls(self, tls: Tls) -> tuple[Tls, str]:
        """The resolved settings, and a digest of the content of their files. OpenSSL reads the files again."""
        paths: dict[str, str] = {}
        digest = sha256()
        for key, path, route in (
            ("ca_file", tls.ca_file, "caFile"),
            ("cert_file", tls.cert_file, "certFile"),
            ("key_file", tls.key_file, "keyFile"),
        ):
            if path is not None:
                paths[key] = self.resolve(path, "tls", route)
                if not self._has_error("tls", route):  # otherwise the path is not complete
                    digest.update(self._file(paths[key], ("tls", route), None).encode())
        return tls.model_copy(update=paths), digest.hexdigest() if paths else ""

    def proxy(self, written: str | None, base_url: str) -> str | None:
        """The proxy of the file (empty for none), otherwise that of the environment."""
        if written is None:
            route, text = "baseUrl", _environment_proxy(self._sources.environ, base_url)
        else:
            route, text = "proxy", self.resolve(written, "proxy")
        if not text:
            return None
        parts = _proxy_parts(text)
        # unquote: percent-encoding must not hide an address, as in %31%36%39.254.169.254.
        if parts is None or (what := host_refusal(unquote(parts.hostname or ""))):
            message = "the proxy is not of the form http://[user:password@]host:port; write it so"
            if parts is not None:
                message = f"the proxy has {what}, which is never contacted; write another"
            if written is None:
                message = (
                    f"HTTP_PROXY or HTTPS_PROXY of the environment: {message}, or set proxy in this file"
                )
            self.findings.error("bad-proxy", message, route)
            return None
        if (host := _host(base_url)) and not host_refusal(host) and host_refusal(host, is_proxied=True):
            message = (
                f"some proxies resolve {host} to a cloud metadata service, so it is never sent to a proxy;"
                " write the full name of the host, or proxy: '' for no proxy"
            )
            self.findings.error("bad-url", message, "baseUrl")
        if parts.username is not None:
            # As they are meant, as they are written, and as they are sent (RFC 7617).
            pair = [unquote(parts.username), unquote(parts.password or "")]
            self.secrets += [
                *pair,
                parts.netloc.rpartition("@")[0],
                b64encode(":".join(pair).encode()).decode(),
            ]
        return f"http://{parts.netloc}"

    def _secret(self, text: str, key: str, format_name: str) -> str:
        if almost := _MISTAKEN_REFERENCE.fullmatch(text):
            name = almost[2] or almost[3] or "NAME"
            message = f"{almost[1]} would be sent literally; write ${{env:{name}}}"
            self.findings.error("bad-secret", message, "auth", key)
            return ""
        value = self.resolve(text, "auth", key, secret=True)
        self.secrets.append(value)  # the whole text, too: it may hold no reference, or several
        self._check(value, format_name, "auth", key)
        return value

    def _check(self, value: str, format_name: str, *route: str) -> None:
        pattern, expected = _FORMATS[format_name]
        if not pattern.fullmatch(value) and not self._has_error(*route):
            self.findings.error("bad-secret", f"expected {expected}; correct the value", *route)

    def _has_error(self, *route: str) -> bool:
        """Whether this text has an error already: one is enough."""
        return any(finding.route == route for finding in self.findings.errors)

    def _value(self, reference: re.Match[str], route: Route) -> str:
        """The value of ``${…}``; empty, with a finding, if there is none."""
        source, _, rest = reference[1].partition(":")
        offset = reference.start()
        if not reference[2]:
            message = "${ is never closed; write } after the name, or $${ for the text ${"
        elif source == "env":
            if match := _VARIABLE.fullmatch(rest):
                return self._variable(match[1], match[2], route, offset)
            message = (
                "${env:…} names no variable; write letters, digits and _, as in ${env:API_KEY}, "
                "and a default as in ${env:API_KEY:-none}"
            )
        elif source == "file":
            if PurePath(rest).is_absolute():
                return self._file(rest, route, offset)
            message = (
                "${file:…} names no absolute path; write it from the root, as in ${file:/run/secrets/key}"
            )
        elif _SHELL_NAME.fullmatch(reference[1]):
            message = f"${{{source}}} names no source of secrets; write ${{env:{source}}}"
        else:
            near = did_you_mean(source.lower(), ("env", "file"))
            message = f"${{…}} names no source of secrets; write ${{env:NAME}} or ${{file:/path}}{near}"
        self.findings.error("bad-secret", message, *route, offset=offset)
        return ""

    def _variable(self, name: str, default: str | None, route: Route, offset: int) -> str:
        set_to = self._sources.environ.get(name)
        value = set_to or default  # the default also replaces an empty value, as :- does in a shell
        if value is None:
            advice = f"set it: until then {self._consequence}"
            message = f"the variable {name} is not set, or empty; {advice}"
            self.findings.error("unset-secret", message, *route, offset=offset)
            return ""
        what = f"the variable {name}" if set_to else f"the default of {name}"
        return self._checked(value, what, route, offset)

    def _file(self, path: str, route: Route, offset: int | None) -> str:
        self.files.append(path)
        try:
            text = self._sources.file(path)
        except OSError as error:
            message = (
                f"the file {path} cannot be read ({error.strerror}); create it, readable for this process"
            )
            self.findings.error("unset-secret", message, *route, offset=offset)
            return ""
        except ValueError as error:
            self.findings.error("bad-secret", f"the file {path} {error}; correct it", *route, offset=offset)
            return ""
        if path in self._sources.missing:
            message = f"the file {path} is gone, so its last content is still used; restore it"
            self.findings.warn("lost-secret", message, *route, offset=offset)
        if offset is None:  # a PEM file: only its digest is needed
            return text
        # Editors and echo end a file with a line break. It is no part of the secret.
        return self._checked(text.removesuffix("\n").removesuffix("\r"), f"the file {path}", route, offset)

    def _checked(self, value: str, what: str, route: Route, offset: int) -> str:
        if _CONTROL_CHARACTER.search(value):
            message = f"{what} holds a control character, such as a line break; take it out"
            self.findings.error("bad-secret", message, *route, offset=offset)
            return ""
        return value


def _host(base_url: str) -> str:
    """Empty for an invalid URL: ``compile_upstream`` reports it."""
    try:
        return urlsplit(base_url).hostname or ""
    except ValueError:
        return ""


def _environment_proxy(environ: Mapping[str, str], base_url: str) -> str:
    """HTTP_PROXY or HTTPS_PROXY (lower case first, like curl), unless NO_PROXY or a loopback host excludes it."""
    try:
        url = urlsplit(base_url)
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    except ValueError:  # an invalid URL is reported by compile_upstream
        return ""

    def variable(name: str) -> str:
        return (environ.get(name.lower()) or environ.get(name) or "").strip()

    proxy = variable(f"{url.scheme.upper()}_PROXY")
    if not proxy or _bypasses_proxy(host, port, variable("NO_PROXY")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _bypasses_proxy(host: str, port: int, no_proxy: str) -> bool:
    """NO_PROXY in the syntax of curl and Go: names with their subdomains, addresses, networks, ``host:port``, ``*``."""
    if host == "localhost" or _is_within(host, "127.0.0.0/8") or _is_within(host, "::1"):
        return True  # as in Go's httpproxy; on the proxy they would be another machine
    for entry in no_proxy.lower().replace(" ", "").split(","):
        name = entry.removesuffix(f":{port}").strip("[]").removeprefix("*").removeprefix(".")
        if entry == "*" or _is_within(host, name):
            return True
        if name and (host == name or host.endswith(f".{name}")):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _proxy_parts(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        is_usable = parts.port != 0 and bool(parts.hostname)
    except ValueError:
        return None
    is_origin = re.fullmatch(r"http://[\x21-\x7e]+?/?", text) and not (parts.path.strip("/") or parts.query)
    return parts if is_usable and is_origin and not parts.fragment else None
