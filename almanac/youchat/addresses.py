"""How addresses of the web are written, so that one page has one, and what they say. Whether one is asked for is for others to say."""

import re
from urllib.parse import urljoin, urlsplit, urlunsplit

import idna

_LONGEST = 2_000
"""Characters of an address; sitemaps allow 2,048, and what is longer is a trap or a session."""
_NOISE = re.compile(
    r"(?:utm_[a-z_]+|[a-z]*clk?id|mc_[ce]id|(?:php|j|asp)?sess(?:ion)?_?id[a-z]*|cfid|cftoken|oscsid|zenid|_ga|_gl|igshid)(?:=.*)?"
    r"|sid=[a-z0-9]{16,}",
    re.IGNORECASE | re.DOTALL,
)
"""Parameters that name a visitor or a campaign and not a page; `sid` only where its value looks drawn by lot."""
_SESSION = re.compile(r";(?:jsessionid|phpsessid)=[^/?#;]*", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?")
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})|([^!-~]|[\"<>\\^`{|}%])", re.ASCII)
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def normalise(address: str, base: str = "") -> str | None:
    """An address in the one spelling that all of ours have.

    Args:
        address: as a person or a page wrote it.
        base: the address that a relative one starts from.

    Returns:
        Scheme and host in lower case, the host in ASCII (IDNA), the scheme's own port left out, `.` and `..` resolved, escapes in capitals
        and only where they are needed, without a fragment and without parameters that name a visitor or a campaign; None where it
        is not an address of the web.
    """
    whole = joined(base, address.strip())
    if not whole or len(whole) > _LONGEST:
        return None
    try:
        parts = urlsplit(whole)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or not host:
        return None
    host = f"[{host}]" if ":" in host else _ascii_host(host).rstrip(".")
    if not host:
        return None
    if port is not None and port != (80 if parts.scheme == "http" else 443):
        host = f"{host}:{port}"
    path = _without_dots(_escaped(_SESSION.sub("", parts.path)) or "/")
    query = "&".join(pair for pair in parts.query.split("&") if pair and not _NOISE.fullmatch(pair))
    written = urlunsplit((parts.scheme, host, path, _escaped(query), ""))
    return written if len(written) <= _LONGEST else None


def origin(url: str) -> str:
    """The scheme, host and port of a normalised address: what one robots.txt speaks for."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def host_of(url: str) -> str:
    """Whom a normalised address troubles: its host, with the port where it is not the scheme's own."""
    return urlsplit(url).netloc


def joined(base: str, address: str) -> str | None:
    """An address as it is meant where it is written; None of what is none."""
    try:
        return address if "://" in address.partition("?")[0] else urljoin(base, address)
    except ValueError:  # "http://[" and the like
        return None


def _ascii_host(host: str) -> str:
    """A host's name in ASCII and lower case; empty where it can't be one."""
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError:
            return ""
    return host if _HOST.fullmatch(host) and ".." not in host else ""


def _escaped(text: str) -> str:
    """Escapes in capitals; escapes of plain characters undone; what has to be escaped, escaped as UTF-8."""
    return _ESCAPE.sub(_rewritten, text)


def _rewritten(match: re.Match[str]) -> str:
    if match[1]:
        character = chr(int(match[1], 16))
        return character if character in _PLAIN else "%" + match[1].upper()
    return "".join(f"%{byte:02X}" for byte in match[2].encode("utf-8", "replace"))


def _without_dots(path: str) -> str:
    """`.` and `..` resolved (RFC 3986, 5.2.4)."""
    kept: list[str] = []
    parts = path.split("/")[1:]
    for part in parts:
        if part == "..":
            del kept[-1:]
        elif part != ".":
            kept.append(part)
    if parts and parts[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
