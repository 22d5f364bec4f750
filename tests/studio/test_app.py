import re
import socket
import sys
from types import ModuleType

import gradio as gr
import pytest
from fastapi.testclient import TestClient

from almanac.runtime.errors import UserError
from almanac.runtime.services import Services, tells_errors
from almanac.studio.app import create_app, serve
from almanac.systems import SYSTEMS, System
from tests.chat import made


@pytest.fixture
def system(monkeypatch):
    """Make a system of which there is only a page: (name, its `build`) → its row in the table."""

    def make(name, build) -> System:
        package, page = ModuleType(f"almanac.{name}"), ModuleType(f"almanac.{name}.page")
        page.build = build  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, package.__name__, package)
        monkeypatch.setitem(sys.modules, page.__name__, page)
        return System(name, f"The {name} System", f"what {name} does", "arXiv 2200.00001", ("run",))

    return make


def plain_page(services: Services) -> gr.Blocks:
    with gr.Blocks() as page:
        gr.Markdown(f"computes on {services.device}")
    return page


def fails(error: Exception):
    def build(services: Services) -> gr.Blocks:
        raise error

    return build


def test_home_lists_every_system_with_its_page(tmp_path, monkeypatch):
    monkeypatch.setenv("ALMANAC_CHAT_MODEL", str(made.folder(tmp_path / "tiny")))
    client = TestClient(create_app())
    home = client.get("/").text
    for listed in SYSTEMS:
        assert listed.title in home and listed.paper in home
        assert f'href="/{listed.command}/"' in home
        assert client.get(f"/{listed.command}/").status_code == 200


def test_a_page_has_the_header_and_the_stylesheet_before_its_scripts_run(system):
    good = system("good", plain_page)
    page = TestClient(create_app(systems=(good,))).get("/good/", headers={"accept-encoding": "br, gzip"}).text
    assert page.count('href="/studio.css"') == 1
    assert page.index('class="topbar"') < page.index("<h1>The good System</h1>") < page.index("<gradio-app")


def test_a_page_without_a_slash_is_found(system):
    assert TestClient(create_app(systems=(system("good", plain_page),))).get("/good").status_code == 200


def test_a_page_that_can_not_be_built_says_why_and_the_others_work(system):
    wanting = system("wanting", fails(UserError("no weights <here>", "train some")))
    broken = system("broken", fails(RuntimeError("a defect")))
    absent = System("absent", "Absent", "has no page", "arXiv 2200.00002", ("run",))
    client = TestClient(create_app(systems=(wanting, broken, absent, system("good", plain_page))))
    page = client.get("/wanting/")
    assert page.status_code == 503
    assert "No weights &lt;here&gt;." in page.text and "Train some." in page.text
    assert "a defect" in client.get("/broken/").text and "Traceback" not in client.get("/broken/").text
    assert "Absent has no page yet." in client.get("/absent/").text
    assert "computes on auto" in client.get("/good/").text
    assert client.get("/").text.count("not available here") == 3


def test_pages_get_the_services(system):
    app = create_app(Services(device="cpu"), (system("good", plain_page),))
    assert "computes on cpu" in TestClient(app).get("/good/").text


def test_nothing_in_a_page_is_fetched_from_elsewhere(untrained):
    client = TestClient(create_app())
    for path in ("/", "/cold-diffusion/", "/studio.css", "/cold-diffusion/theme.css"):
        text = client.get(path).text
        fetched = re.findall(
            r"""(?:<script[^>]+src=|<link[^>]+href=|<img[^>]+src=|url\(|@import )["']?(https?:[^"')]+)""", text
        )
        assert not fetched, path


def test_gradio_sends_no_analytics(system):
    built = []

    def build(services: Services) -> gr.Blocks:
        built.append(plain_page(services))
        return built[0]

    create_app(systems=(system("good", build),))
    assert not built[0].analytics_enabled


def test_healthz():
    assert TestClient(create_app(systems=())).get("/healthz").json() == {"status": "ok"}


def test_an_unknown_address_answers_a_person_with_a_page_and_a_program_with_json():
    client = TestClient(create_app(systems=()))
    person = client.get("/nowhere", headers={"accept": "text/html"})
    assert person.status_code == 404 and "There is no such page" in person.text
    assert client.get("/nowhere", headers={"accept": "application/json"}).json() == {"detail": "not found"}


def test_a_taken_port_is_said_in_two_lines():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="in use"):
        serve(port=taken.getsockname()[1])


def test_a_users_error_becomes_a_message_of_two_lines():
    @tells_errors
    def handler() -> None:
        raise UserError("the seed <x> is not a number", "give a whole number")

    with pytest.raises(gr.Error) as raised:
        handler()
    assert raised.value.message == "<strong>The seed &lt;x&gt; is not a number</strong><br>Give a whole number"
    assert not raised.value.print_exception


def test_a_defect_of_ours_shows_nothing_of_its_inside(caplog):
    @tells_errors
    def handler() -> None:
        raise KeyError("secret")

    with pytest.raises(gr.Error) as raised:
        handler()
    assert "secret" not in raised.value.message and "went wrong" in raised.value.message
    assert "secret" in caplog.text


def test_what_people_upload_is_gone_when_studio_stops(system, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    def build(services: Services) -> gr.Blocks:
        with gr.Blocks() as page:
            gr.File()
        return page

    with TestClient(create_app(systems=(system("good", build),))) as client:
        sent = client.post("/good/gradio_api/upload", files={"files": ("mine.txt", b"mine")})
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert sent.status_code == 200 and [path.read_bytes() for path in kept] == [b"mine"]
    assert not kept[0].exists()
