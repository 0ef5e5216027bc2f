"""Alice opens the page of a gateway in her browser: bob, carol and erin host layers, dave drafts."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace
from selenium.webdriver.common.keys import Keys

from dsdnode.engine.fake import FakeTextEngine, fake_text
from dsdnode.gateway import watched
from dsdnode.gateway.doors import Rules
from dsdnode.gateway.page import FILES, FOLDER
from dsdnode.gateway.port import Swarm
from dsdnode.gateway.server import Gateway
from dsdnode.node.ledger import Given, GivenInAll
from dsdnode.node.status import NodeStatus, Sessions
from dsdnode.swarm.info import PeerInfo
from tests.gateway.chromium import Browser, needs_chromium
from tests.gateway.conftest import MODEL, WAIT, ScriptedSwarm
from tests.gateway.test_metrics import NODE
from tests.node.swarm import DRAFT, TARGET, FakeSwarm, fake_swarm

pytestmark = pytest.mark.slow
MAX_PAGE_BYTES = 150_000
SLOW_S, VERY_SLOW_S = 0.02, 0.1
"""Each stage takes so long for a pass: a reply can be stopped before its end, or a stage killed."""
NOBODY = Sessions()
LONG = 150
"""Tokens of a reply that is long enough for that."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.quit()


@contextlib.asynccontextmanager
async def serving(swarm: Swarm, rules: Rules | None = None, here: NodeStatus | None = None) -> AsyncIterator[str]:
    gateway = Gateway("127.0.0.1", 0, rules or Rules())

    async def status() -> NodeStatus | None:
        return here

    running = asyncio.create_task(gateway.run(swarm, status))
    try:
        yield gateway.url
    finally:
        gateway.stop()
        gateway.stop()
        await running


@dataclass
class Page:
    browser: Browser
    url: str

    def open(self) -> None:
        self.browser.look(1300, 850)
        self.browser.driver.get(f"{self.url}/")
        self.browser.until(lambda: "ready" in self.state() or "model" in self.state())

    def state(self) -> str:
        return self.browser.find("#state").text

    def keys(self, *keys: str) -> None:
        """To whatever has the focus."""
        self.browser.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        script = "return document.activeElement.textContent || document.activeElement.id"
        return str(self.browser.driver.execute_script(script))

    def tab_to(self, words: str) -> None:
        for _ in range(40):
            if self.focused() == words:
                return
            self.keys(Keys.TAB)
        raise AssertionError(f"{words!r} is not reached by Tab")

    def press(self, words: str) -> None:
        self.tab_to(words)
        self.keys(Keys.ENTER)

    def reply(self) -> str:
        return str(self.browser.all(".message.assistant .body")[-1].get_property("textContent"))

    def is_over(self) -> bool:
        return self.browser.find("#send").is_displayed() and not self.browser.all(".message.busy")

    def stats(self) -> str:
        return self.browser.all(".message.assistant .stats")[-1].text


async def said(prompt: str, num_tokens: int) -> list[int]:
    """What the whole model says to it, decoded alone."""
    rendered = await FakeTextEngine(DRAFT).render([("user", prompt)])
    return fake_text(TARGET, rendered, num_tokens)


async def _prompts(*, longer: bool) -> AsyncIterator[tuple[str, str]]:
    """With replies that end by themselves before LONG tokens, or do not; and these."""
    for number in range(1000):
        prompt = f"What is {number}?"
        tokens = await said(prompt, LONG)
        end = tokens.index(0) if 0 in tokens else LONG
        if end == LONG if longer else 8 < end < 40:
            reply = tokens[:end]
            yield prompt, "".join(chr(32 + token) for token in reply)


async def _first(num: int, *, longer: bool) -> AsyncIterator[tuple[str, str]]:
    async for one in _prompts(longer=longer):
        yield one
        num -= 1
        if not num:
            return


@contextlib.asynccontextmanager
async def town(folder: Path, slow_s: float = SLOW_S) -> AsyncIterator[tuple[FakeSwarm, str]]:
    async with fake_swarm(folder, cost=lambda positions: slow_s) as swarm:
        await swarm.add("bob", layers=(0, 2))
        await swarm.add("carol", layers=(2, 4))
        await swarm.add("erin", layers=(2, 4))
        await swarm.add("dave", drafts=True)
        async with serving(await swarm.client()) as url:
            yield swarm, url


@needs_chromium
async def test_alice_chats_with_nothing_but_a_keyboard(browser: Browser, tmp_path: Path) -> None:
    short, shorter = [one async for one in _first(2, longer=False)]
    long = await anext(_prompts(longer=True))

    def asks_and_has_it_tinted() -> None:
        page.open()
        page.press("Settings")
        browser.find("[name=tint]").send_keys(Keys.SPACE)
        page.keys(Keys.ESCAPE)
        page.tab_to("prompt")
        page.keys(short[0], Keys.ENTER)
        browser.until(page.is_over)
        assert page.reply() == short[1]
        assert browser.all("mark") and "accepted" in page.stats() and "plain" in page.stats()

    def stops() -> None:
        page.press("New chat")
        page.keys(long[0], Keys.ENTER)
        browser.until(lambda: len(page.reply()) > 3)
        page.keys(Keys.ESCAPE)
        browser.until(page.is_over)
        assert page.stats().endswith("stopped") and long[1].startswith(page.reply())

    def asks_otherwise_and_again() -> None:
        page.press("Edit")
        page.keys(Keys.CONTROL, "a")
        page.keys(Keys.NULL, shorter[0], Keys.ENTER)
        browser.until(page.is_over)
        assert page.reply() == shorter[1]
        page.press("Retry")
        browser.until(page.is_over)
        assert page.reply() == shorter[1] and len(browser.all(".message")) == 2

    def comes_back() -> None:
        browser.driver.refresh()
        page.press("History")
        page.press(short[0])
        assert page.reply() == short[1]

    async with town(tmp_path) as (swarm, url):
        page = Page(browser, url)
        for story in (asks_and_has_it_tinted, stops, asks_otherwise_and_again, comes_back):
            await browser.do(story)
        async with asyncio.timeout(20):
            while any(member.node.status().sessions != NOBODY for member in swarm.members.values()):  # noqa: ASYNC110 (no event tells it)
                await asyncio.sleep(0.1)


@needs_chromium
async def test_alice_sees_on_the_map_where_her_reply_flows_and_who_is_gone(browser: Browser, tmp_path: Path) -> None:
    prompt, _ = await anext(_prompts(longer=True))

    def flows() -> str:
        """By which stages, of the reply that is on its way, or the last one."""
        return str(browser.driver.execute_script("return document.querySelector('.flow')?.dataset.route ?? ''"))

    def begin() -> None:
        page.open()
        browser.until(lambda: len(browser.all("#map [data-peer]")) == 4)
        assert "all layers are there" in browser.find("#summary").text
        assert "bob" in browser.find("#peers").text and not browser.all("rect.hole")
        browser.find("#prompt").send_keys(prompt, Keys.ENTER)
        browser.until(lambda: browser.all(".flow.live") and len(flows().split()) == 2)

    def another(gone: str) -> None:
        browser.until(lambda: len(flows().split()) == 2 and gone not in flows())
        browser.until(lambda: browser.all(f".box.gone[data-peer='{gone}']"))
        page.keys(Keys.ESCAPE)

    async with town(tmp_path, VERY_SLOW_S) as (swarm, url):
        page = Page(browser, url)
        ids = {name: member.node.peer_id.hex()[:12] for name, member in swarm.members.items()}
        await browser.do(begin)
        route = await browser.do(flows)
        judge = next(name for name in ("carol", "erin") if ids[name] in route)
        await swarm.kill(judge)
        await browser.do(lambda: another(ids[judge]))
        await swarm.kill("erin" if judge == "carol" else "carol")
        await browser.do(lambda: browser.until(lambda: browser.all("rect.hole")))
        assert "2:4" in await browser.do(lambda: browser.find("#summary").text)


HOSTILE = """<img src=x onerror="hit=1"><script>hit=1</script> **bold** [go](javascript:hit=1) ![p](http://evil.example/p.png)

```html
<b onclick="hit=1">code</b>
```

- one <svg onload="hit=1">
"""


@needs_chromium
async def test_words_of_strangers_are_words(browser: Browser) -> None:
    name = "<img src=x onerror=hit=1>\u202e"
    swarm = ScriptedSwarm(script=[*HOSTILE.splitlines(keepends=True), "stop"])
    swarm.others = [PeerInfo("ab" * 32, (), ("shard",), (0, 8), "demo", 1, 1.0, 0.0, name, "direct")]

    def story() -> None:
        page.open()
        browser.find("#prompt").send_keys("hello", Keys.ENTER)
        browser.until(page.is_over)
        assert "<img src=x" in page.reply() and "<b onclick" in browser.find(".message .code").text
        assert [one.text for one in browser.all(".message strong")] == ["bold"]
        assert browser.all(".message li") and not browser.all(
            "#log img, #log script, #log svg, #map img, #log a[href^=java]"
        )
        assert name[:-1] in browser.find("#peers").text and "\u202e" not in browser.find("#peers").text
        assert browser.driver.execute_script("return window.hit") is None
        assert browser.complaints() == []

    async with serving(swarm) as url:
        browser.asked(), browser.complaints()  # of the tests before
        page = Page(browser, url)
        await browser.do(story)
        assert {one[: len(url) + 1] for one in browser.asked() if not one.startswith(("data:", "chrome:"))} == {
            f"{url}/"
        }


@needs_chromium
async def test_two_tabs_that_go_on_with_one_conversation_keep_both(browser: Browser) -> None:
    def asks(words: str) -> None:
        browser.find("#prompt").send_keys(words, Keys.ENTER)
        browser.until(page.is_over)

    def story() -> None:
        page.open()
        browser.driver.execute_script("localStorage.clear()")
        asks("one")
        first = browser.driver.current_window_handle
        browser.driver.switch_to.new_window("tab")
        page.open()
        browser.find("#open-history").click()
        browser.find("#conversations .title").click()
        asks("two")
        asks("three")
        browser.driver.close()
        browser.driver.switch_to.window(first)
        asks("four")
        told = str(browser.driver.execute_script("return localStorage.getItem('dsdnode.conversations')"))
        said = [[one["content"] for one in kept["messages"][::2]] for kept in json.loads(told)]
        assert said == [["one", "four"], ["one", "two", "three"]]

    async with serving(ScriptedSwarm()) as url:
        page = Page(browser, url)
        await browser.do(story)


REFUSES = (
    "for (const kind of ['localStorage', 'sessionStorage']) Object.defineProperty(window, kind, {get() { throw 1; }})"
)


@needs_chromium
@pytest.mark.parametrize("keeps", [True, False])
async def test_a_key_is_asked_for_and_kept_by_the_tab_alone(browser: Browser, keeps: bool) -> None:
    """And by the page, in a browser that lets no page keep anything."""

    def story() -> None:
        script = {"source": "" if keeps else REFUSES}
        script = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
        chats()
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)

    def chats() -> None:
        browser.driver.get(f"{page.url}/")
        browser.until(lambda: browser.find("#settings").is_displayed())
        assert "key" in browser.find("#key-note").text and page.focused() == "key"
        page.keys("open sesame", Keys.ENTER)
        browser.until(lambda: page.state() == "ready")
        browser.find("#prompt").send_keys("hello", Keys.ENTER)
        browser.until(page.is_over)
        assert page.reply() == "Hello"
        if keeps:
            assert "sesame" not in str(browser.driver.execute_script("return JSON.stringify(localStorage)"))

    async with serving(ScriptedSwarm(), Rules("open sesame")) as url:
        page = Page(browser, url)
        await browser.do(story)


@needs_chromium
async def test_alice_follows_a_long_reply_until_it_breaks_off(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the model that she has chosen is asked again when it is back, not another one."""
    monkeypatch.setattr(watched, "SEEN_S", 0.0)
    other = replace(MODEL, name="other", model_id="cd" * 32)
    swarm = ScriptedSwarm([f"{line}\n\n" for line in range(400)] + [WAIT], known=[MODEL, other])
    gateway = Gateway("127.0.0.1", 0, Rules())
    running = asyncio.create_task(gateway.run(swarm))
    page = Page(browser, gateway.url)
    left = "const log = document.getElementById('log'); return log.scrollHeight - log.scrollTop - log.clientHeight"

    def follows() -> None:
        page.open()
        browser.find("#model option[value=other]").click()
        browser.find("#prompt").send_keys("word " * 100, Keys.ENTER)
        browser.until(lambda: "399" in page.reply() and browser.driver.execute_script(left) < 1)

    def breaks_off() -> None:
        browser.until(page.is_over)
        assert page.stats().endswith("The reply broke off.")
        browser.until(lambda: browser.driver.execute_script(left) < 1)
        browser.until(lambda: "(gone)" in browser.find("#model").text)
        assert browser.find("#model").get_property("value") == "other"

    await browser.do(follows)
    assert swarm.asked[0].model == "other"
    swarm.known = [MODEL]
    assert gateway._server is not None
    for connection in list(gateway._server.server_state.connections):
        connection.transport.abort()
    await browser.do(breaks_off)
    gateway.stop()
    gateway.stop()
    await running


@needs_chromium
async def test_it_fits_a_phone_by_night(browser: Browser) -> None:
    def story() -> None:
        page.open()
        browser.look(360, 640, dark=True)
        browser.until(lambda: "a <b>game</b>" in str(browser.find("#own").get_attribute("textContent")))
        assert "1 token of 2 replies, 3.0 kB up, 4 B down" in str(browser.find("#own").get_attribute("textContent"))
        for view in ("chat", "swarm", "node"):
            browser.driver.execute_script(f"location.hash = '{view}'")
            browser.until(browser.find(f"#{view}").is_displayed)
            assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= 360
            assert browser.driver.execute_script("return document.documentElement.scrollHeight") <= 640
        back = browser.find("body").value_of_css_property("background-color")
        assert sum(map(int, back.removeprefix("rgba(").split(",")[:3])) < 150

    gave = GivenInAll(Given(), Given(1, 2, 3000, 4), Given(5, 6, 7, 8))
    peer = PeerInfo("", (), ("shard",), (0, 8), "demo", 1, 1.0, 0.0, model_ids=(MODEL.model_id,))
    swarm = ScriptedSwarm(others=[replace(peer, peer_id=f"{one:012x}") for one in range(20)])
    async with serving(swarm, here=replace(NODE, resting="a <b>game</b>", given=gave)) as url:
        page = Page(browser, url)
        await browser.do(story)


def test_it_is_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in FILES) <= MAX_PAGE_BYTES
