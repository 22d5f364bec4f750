"""What a page says to a crawler: where its links lead, which address it calls its own, and what may be done with it (`directives`). And
how addresses are written so that one page has one. Whether a link is followed is for others to say."""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit, urlunsplit

import idna
import lxml.etree
import lxml.html

from almanac.youchat.documents import Fetched
from almanac.youchat.text import charset
from almanac.youchat.text.directives import NAMES, Directives, directives

HTML = ("text/html", "application/xhtml+xml")
"""Content types that may hold links."""
_LONGEST = 2_000
"""Characters of an address; sitemaps allow 2,048, and what is longer is a trap or a session."""
_NOISE = re.compile(r"utm_[a-z_]+|[a-z]*clk?id|mc_[ce]id|phpsessid|jsessionid|_ga|_gl|igshid", re.IGNORECASE)
"""Parameters that name a visitor or a campaign and not a page."""
_SESSION = re.compile(r";(?:jsessionid|phpsessid)=[^/?#;]*", re.IGNORECASE)
_REFRESH = re.compile(r"\s*\d*[^;,]*[;,]\s*url\s*=\s*['\"]?([^'\"]+)", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?")
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})|([^!-~]|[\"<>\\^`{|}%])", re.ASCII)
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NOT_TEXT = re.compile(
    r"\.(?:7z|apk|avi|avif|bin|bmp|bz2|css|deb|dmg|doc[xm]?|eot|exe|flac|flv|gif|gz|ico|iso|jar|jpe?g|js|json|m4[av]|mjs|mkv|mov|mp[34]|mpe?g"
    r"|msi|og[agv]|opus|otf|pkg|png|pp[ts]x?|ps|rar|rpm|rss|svgz?|swf|tar|tgz|tiff?|tt[cf]|wav|web[mp]|whl|wm[av]|woff2?|xlsx?|xz|zip|zst)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Links:
    """What a page says to a crawler."""

    addresses: tuple[str, ...]
    """Where its links lead, normalised, each once, in their order; none of them where they may not be followed."""
    canonical: str
    """The address that it calls its own; empty where it names none."""
    directives: Directives
    """Of its head and its response."""


def read(page: Fetched) -> Links:
    """The links and directives of a page. Of what is not HTML, only its response's headers speak."""
    header = page.headers.get("x-robots-tag", "")
    if page.content_type.partition(";")[0].strip().lower() not in HTML:
        return Links((), "", directives(header))
    base, canonical, found, metas = "", "", [], []
    for element in _elements(page):
        address = element.get("href") or element.get("src") or ""
        if element.tag == "base":
            base = base or _join(page.url, address.strip()) or ""
        elif element.tag == "meta":
            content = element.get("content") or ""
            if (element.get("name") or "").strip().lower() in NAMES:
                metas.append(content)
            refresh = (
                _REFRESH.match(content) if (element.get("http-equiv") or "").strip().lower() == "refresh" else None
            )
            if refresh and (target := normalise(refresh[1], base or page.url)):
                found.append(target)
        elif address and (target := normalise(address, base or page.url)):
            relations = set((element.get("rel") or "").lower().split())
            if element.tag != "link":
                found += [target] if "nofollow" not in relations and may_be_text(target) else []
            elif "canonical" in relations:
                canonical = canonical or target
            elif relations & {"next", "prev"}:
                found.append(target)
    allowed = directives(header, metas)
    return Links(tuple(dict.fromkeys(found)) if allowed.follow else (), canonical, allowed)


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
    joined = _join(base, address.strip())
    if not joined or len(joined) > _LONGEST:
        return None
    try:
        parts = urlsplit(joined)
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
    query = "&".join(pair for pair in parts.query.split("&") if pair and not _NOISE.fullmatch(pair.partition("=")[0]))
    written = urlunsplit((parts.scheme, host, path, _escaped(query), ""))
    return written if len(written) <= _LONGEST else None


def origin(url: str) -> str:
    """The scheme, host and port of a normalised address: what one robots.txt speaks for."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def host_of(url: str) -> str:
    """Whom a normalised address troubles: its host, with the port where it is not the scheme's own."""
    return urlsplit(url).netloc


def may_be_text(address: str) -> bool:
    """Whether an address is worth a request: its path does not end like a picture, a programme or an archive."""
    return not _NOT_TEXT.fullmatch(posixpath.splitext(urlsplit(address).path)[1])


def _elements(page: Fetched) -> Iterator[lxml.html.HtmlElement]:
    """The elements that speak to crawlers, in the page's order. By lxml: 22 ms for 883 links, where resiliparse takes 3.8 s, because it
    searches the page anew for each step through a collection."""
    text = charset.decode(page.body, page.content_type).replace("\0", "")
    try:
        root = lxml.html.document_fromstring(
            text.encode("utf-8", "replace"), parser=lxml.html.HTMLParser(encoding="utf-8")
        )
    except lxml.etree.ParserError:  # there is nothing in it
        return
    yield from root.iter("a", "area", "base", "frame", "iframe", "link", "meta")


def _join(base: str, address: str) -> str | None:
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
