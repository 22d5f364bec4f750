"""The mini web and the measurement on it: of made pages packed as the real ones are, and of the real archive's nine sites."""

import io
import tarfile
from gzip import decompress
from pathlib import Path

from almanac.youchat.data import mini_web
from almanac.youchat.data.mini_web import Web
from almanac.youchat.evaluate.measure_crawl import measure


def archive(folder: Path, pages: int) -> Path:
    """Two sites of pages in a chain of threes, one page that nothing links to, and the folder of licences."""
    path = folder / "pages.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        for site in ("one", "two"):
            for number in range(pages):
                links = "".join(
                    f"<a href='/p/{n}.html#x'>{n}</a>" for n in range(3 * number + 1, 3 * number + 4) if n < pages
                )
                name = "index.html" if number == 0 else f"p/{number}.html"
                _put(tar, f"./{site}/{name}", f"<html><body><p>page {number} of {site}</p>{links}</body></html>")
            _put(tar, f"./{site}/alone.html", "<p>nobody links here")
        _put(tar, "./copyright/one", "free")
    return path


def _put(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text.encode())
    tar.addfile(member, io.BytesIO(text.encode()))


def test_the_measurement_on_a_small_web(tmp_path: Path):
    figures = measure(tmp_path / "crawls", archive(tmp_path, 60), lawful_seconds=2.5)
    assert figures.pages == 120 and figures.found_share == 1.0
    assert figures.disallowed_fetches == figures.noindex_stored == 0
    assert figures.largest_rate <= 1.0 and figures.lawful_requests >= 2 * 3
    assert (
        figures.refetched_share < 0.1
    )  # two sites, so two pages may be under way at the kill, after 60 requests for pages and traps
    assert figures.warcio_records == figures.fastwarc_records >= 120
    assert 0 < figures.made_pages < 2 * 100


def test_the_real_sites_are_served(needs_data):
    needs_data("pages")
    sites = mini_web.sites()
    assert len(sites) == 9 and sum(map(len, sites.values())) > 3_500
    with Web({name: mini_web.serve(pages) for name, pages in sites.items()}) as web:
        import httpx

        for name in sites:
            first = httpx.get(web.url(name), trust_env=False)
            again = httpx.get(web.url(name), headers={"If-None-Match": first.headers["ETag"]}, trust_env=False)
            assert first.status_code == 200 and "<" in first.text and again.status_code == 304
        page = httpx.get(web.url("python3.11", "/library/os.html"), trust_env=False)
        assert page.content == decompress(sites["python3.11"]["/library/os.html"])
        assert httpx.get(web.url("git", "/missing.html"), trust_env=False).status_code == 404
