"""Bodies of several parts (multipart/form-data, RFC 7578): finds the few text fields that a router reads.

Called by `bodies` for uploads. Files are neither copied nor looked into, and the body is forwarded as it came. It is
strict where the router and a worker could read a body differently: no text before the first part or behind the last,
each part's head short, and each field that is read at most once.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from rbeerouter.core.errors import RouterError

_PARAMETERS = re.compile(rb"""(?:;[ \t]*+(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+=(?:"[^"\\;]*"|[^\s;,"\\]*))?[ \t]*+)*+""")
_PARAMETER = re.compile(rb"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"([^"]*)"|([^\s;,"]*))""")
"""name=value or name="value", as RFC 9110 section 5.6.6 has them; no escapes, no semicolons in quotes, no spaces around
the equals sign: there readers differ."""
_SAFE_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046 section 5.1.1."""
_MOST_HEAD_BYTES = 4096
"""The lines before a part's content: its name, its file's name and its type."""
_MOST_PARTS = 256
_DISPOSITION = re.compile(rb"(?im)^content-disposition[ \t]*:(.*)$")
_FORM_DATA = re.compile(rb"[ \t]*form-data[ \t]*;", re.IGNORECASE)
_NAME = re.compile(rb'(?:^|;)[ \t]*name[ \t]*=[ \t]*(?:"((?:[^"\\\r\n]|\\.)*)"|([^\s;"]+))[ \t]*(?=;|$)', re.IGNORECASE)
_OTHER_NAME = re.compile(rb";[ \t]*name\*", re.IGNORECASE)
_FILE = re.compile(rb";[ \t]*filename\*?[ \t]*=", re.IGNORECASE)
_ENCODING = re.compile(rb"(?im)^content-transfer-encoding[ \t]*:[ \t]*+(?!7bit|8bit|binary)")


def boundary_of(content_type: bytes) -> bytes:
    """The boundary that a Content-Type header names.

    Raises:
        RouterError: unsupported_media_type, invalid_form.
    """
    kind, _, parameters = content_type.partition(b";")
    if kind.strip().lower() != b"multipart/form-data":
        shown = kind.strip()[:100].decode("latin-1")
        raise RouterError("unsupported_media_type", f"content-type {shown}: expected multipart/form-data or JSON")
    parameters = b";" + parameters
    given = _PARAMETER.findall(parameters) if _PARAMETERS.fullmatch(parameters) else []
    found = [quoted or bare for name, quoted, bare in given if name.lower().startswith(b"boundary")]
    if len(found) != 1 or b"boundary*" in parameters.lower() or not _SAFE_BOUNDARY.fullmatch(found[0]):
        raise _broken("content-type names no usable boundary")
    return found[0]


def fields(body: bytes, boundary: bytes, wanted: Collection[str], most_chars: int) -> dict[str, str]:
    """The text fields of these names that the body has.

    Raises:
        RouterError: invalid_form, with the field it is about.
    """
    found: dict[str, str] = {}
    for name, is_file, start, end in _parts(body, boundary):
        if name not in wanted:
            continue
        if name in found:
            raise _broken(f"{name}: the body has this field twice", name)
        if is_file:
            raise _broken(f"{name}: expected a text field, got a file", name)
        if end - start > 4 * most_chars:
            raise _broken(f"{name} is longer than {most_chars} characters", name)
        try:
            found[name] = body[start:end].decode()
        except UnicodeDecodeError:
            raise _broken(f"{name}: not UTF-8 text", name) from None
    return found


def rename_model(body: bytes, model: str) -> bytes:
    """The body with the content of its field `model` replaced. It was read by `fields` before, so it is well formed."""
    boundary = body[2 : body.index(b"\r\n")].rstrip(b" \t")
    for name, _, start, end in _parts(body, boundary):
        if name == "model":
            return b"".join((body[:start], model.encode(), body[end:]))
    part = b'--%b\r\ncontent-disposition: form-data; name="model"\r\n\r\n%b\r\n' % (boundary, model.encode())
    return part + body


def _parts(body: bytes, boundary: bytes) -> list[tuple[str, bool, int, int]]:
    """(name, is it a file, start, end) of the content of each part."""
    parts: list[tuple[str, bool, int, int]] = []
    opening = b"--" + boundary
    if not body.startswith(opening):
        raise _broken("the body does not begin with the boundary that its content-type names")
    at = len(opening)
    while not _ends_at(body, at):
        if len(parts) == _MOST_PARTS:
            raise _broken(f"more than {_MOST_PARTS} parts")
        line_end = body.find(b"\r\n", at, at + 80)
        if line_end < 0 or body[at:line_end].strip(b" \t"):
            raise _broken("text behind a boundary")
        # A part without any header begins with an empty line, which then ends its head, too.
        head_end = body.find(b"\r\n\r\n", line_end, line_end + _MOST_HEAD_BYTES)
        if head_end < 0:
            raise _broken(f"a part whose head does not end within {_MOST_HEAD_BYTES} bytes")
        start = head_end + 4
        next_opening = body.find(opening, start)
        if next_opening < 0:
            raise _broken("the last part does not end with the boundary")
        end = next_opening - 2
        if end < start or body[end:next_opening] != b"\r\n" or opening in body[at:start]:
            # Some parsers see one behind a bare line feed, too.
            raise _broken("the boundary stands inside of a part")
        name, is_file = _name(body[line_end:head_end])
        parts.append((name, is_file, start, end))
        at = next_opening + len(opening)
    return parts


def _ends_at(body: bytes, at: int) -> bool:
    """Is this the end of the last boundary? Only an empty line may follow it."""
    if body[at : at + 2] != b"--":
        return False
    if len(body) - at > 80 or body[at + 2 :].strip():
        raise _broken("text behind the last part")
    return True


def _name(head: bytes) -> tuple[str, bool]:
    """The name in a part's head, and whether it is a file. Two names are read one way here and another way there."""
    dispositions = _DISPOSITION.findall(head.replace(b"\r\n", b"\n"))
    if len(dispositions) != 1 or not _FORM_DATA.match(dispositions[0]) or _OTHER_NAME.search(dispositions[0]):
        raise _broken("a part without exactly one content-disposition: form-data")
    names = [match[1] if match[1] is not None else match[2] for match in _NAME.finditer(dispositions[0])]
    if len(names) != 1:
        raise _broken("a part without exactly one name")
    if _ENCODING.search(head.replace(b"\r\n", b"\n")):
        raise _broken("a part with a content-transfer-encoding")
    return names[0].replace(b'\\"', b'"').decode("utf-8", "replace"), _FILE.search(dispositions[0]) is not None


def _broken(what: str, param: str | None = None) -> RouterError:
    return RouterError("invalid_form", what, param)
