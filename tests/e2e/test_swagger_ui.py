"""Swagger UI as a browser gets it from the edge, and a reservation made in it."""

import asyncio
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.browser import chromium, complaints
from tests.support.edge import REPOSITORY
from tests.support.rest import CREATE, body_of, wanted
from tests.support.system import Edge, System

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = "/swagger-ui.html"
SCREENSHOT = REPOSITORY / ".cache" / "artefacts" / "swagger-ui.png"
PATIENCE = 60.0  # a browser on a busy machine
FILES = {
    PAGE: ("text/html; charset=utf-8", "<title>Traffic Tacos Reservation</title>", "max-age=60"),
    "/swagger-ui/initializer.js": ("text/javascript; charset=utf-8", 'url: "/v3/api-docs"', "max-age=60"),
    "/swagger-ui/swagger-ui-bundle.js": ("text/javascript; charset=utf-8", "SwaggerUIBundle", "max-age=3600"),
    "/swagger-ui/swagger-ui.css": ("text/css; charset=utf-8", ".swagger-ui", "max-age=3600"),
    "/swagger-ui/favicon-32x32.png": ("image/png", "PNG", "max-age=3600"),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("path", FILES)
async def test_each_file_is_told_to_browsers_as_what_it_is(edge: Edge, path: str) -> None:
    answer = await edge.rest.get(path)
    kind, part, kept = FILES[path]
    assert (answer.status_code, answer.headers.get_list("content-type")) == (200, [kind])
    assert answer.headers.get_list("cache-control") == [kept]
    assert part.encode() in answer.content


async def test_the_page_alone_may_run_scripts_and_only_those_of_this_edge(edge: Edge) -> None:
    policies = {path: (await edge.rest.get(path)).headers.get_list("content-security-policy") for path in FILES}
    (page,) = policies.pop(PAGE)
    assert re.findall(r"(?:default|script|connect)-src [^;]+", page) == [
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
    ]
    assert list(policies.values()) == [["default-src 'none'; frame-ancestors 'none'"]] * len(policies)


async def test_what_is_large_comes_compressed(edge: Edge) -> None:
    compressed = {path for path in FILES if (await edge.rest.get(path)).headers.get("content-encoding") == "gzip"}
    assert compressed == {"/swagger-ui/swagger-ui-bundle.js", "/swagger-ui/swagger-ui.css"}


@pytest.mark.parametrize(
    "path", ["/swagger-ui", "/swagger-ui/", "/swagger-ui/index.html?url=https://elsewhere.example"]
)
async def test_other_usual_addresses_lead_to_the_page_and_carry_nothing_into_it(edge: Edge, path: str) -> None:
    answer = await edge.rest.get(path)
    assert answer.status_code == 302
    assert answer.headers["location"].endswith(f"{edge.rest.base_url.netloc.decode()}{PAGE}")


async def test_the_page_shows_every_operation_of_the_document_and_the_browser_complains_of_nothing(
    edge: Edge, browser: Chrome
) -> None:
    document = (await edge.rest.get("/v3/api-docs")).json()
    shown = await asyncio.to_thread(_open, browser, f"{edge.rest.base_url}{PAGE}")
    assert sorted(shown) == sorted(
        (verb, path) for path, operations in document["paths"].items() for verb in operations
    )
    assert complaints(browser) == []


async def test_a_reservation_is_made_by_try_it_out(system: System, edge: Edge, browser: Chrome) -> None:
    seats, key = system.fresh_seats(2), uuid.uuid4().hex[:12]
    status, told = await asyncio.to_thread(_try_create, browser, f"{edge.rest.base_url}{PAGE}", key, wanted(seats))
    assert (status, told["status"]) == ("201", "HOLD")
    stored = body_of(await edge.rest.get(f"{CREATE}/{told['reservationId']}"), 200)
    assert stored["seatIds"] == seats
    again = await edge.rest.post(CREATE, json=wanted(seats), headers={"idempotency-key": key})
    assert body_of(again, 201)["reservationId"] == told["reservationId"], "the key typed into the page is the one sent"
    assert complaints(browser) == []


def _open(browser: Chrome, url: str) -> list[tuple[str, str]]:
    """Verb and path of each operation that the page shows."""
    browser.get("about:blank")
    browser.get(url)
    _wait(browser, ".opblock")
    return [
        (one.text.lower(), path.get_attribute("data-path") or "")
        for block in browser.find_elements(By.CSS_SELECTOR, ".opblock")
        for one in block.find_elements(By.CSS_SELECTOR, ".opblock-summary-method")
        for path in block.find_elements(By.CSS_SELECTOR, ".opblock-summary-path")
    ]


def _try_create(browser: Chrome, url: str, key: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The status and the body of the answer, as the page shows them, which is kept as a picture."""
    _open(browser, url)
    block = "#operations-Reservations-createReservation"
    _wait(browser, f"{block} .opblock-summary-control").click()
    _type(_wait(browser, f"{block} tr[data-param-name='Idempotency-Key'] input"), key)
    _type(_wait(browser, f"{block} textarea.body-param__text"), json.dumps(body))
    _wait(browser, f"{block} button.execute").click()
    answer = f"{block} .live-responses-table tbody"
    status = _wait(browser, f"{answer} .response-col_status").text.split()[0]
    told = _wait(browser, f"{answer} .highlight-code code").text
    SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
    assert browser.get_screenshot_as_file(str(SCREENSHOT))
    return status, json.loads(told)


def _wait(browser: Chrome, selector: str) -> WebElement:
    """The first element that it selects, once it is there."""
    return WebDriverWait(browser, PATIENCE).until(lambda page: page.find_element(By.CSS_SELECTOR, selector))


def _type(field: WebElement, text: str) -> None:
    """Instead of what stands in it."""
    field.send_keys(Keys.CONTROL, "a")  # a call of its own: at its end the key is let go
    field.send_keys(text)
