"""Uses the operator page as a person does: in a real browser, by mouse and keyboard."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

from browser import Browser
from PIL import Image

from vla.bags.writer import BagWriter
from vla.page.episodes import PAGE

# Width and height of a telephone and of a large screen [px].
SIZES = {"narrow": (390, 844), "wide": (1920, 1080)}
PATIENCE = 180.0
# Key, code and text of what the keyboard sends.
KEYS = {"Space": (" ", 32, " "), "Enter": ("Enter", 13, "\r")}
# The name of the first episode in the list.
FIRST = "document.querySelector('#episodes td')"
# A command's answer, good or bad.
ANSWERED = "document.getElementById('reply').textContent.match(/^{}: (?!sent)/)"
# Controls that a screen reader could not name.
NAMELESS = """
[...document.querySelectorAll('button, input, select, canvas, video, [role]')]
  .filter((e) => !e.hidden && !e.closest('[hidden]') && !['status', 'alert'].includes(e.role))
  .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim()
    || (e.labels && e.labels.length)))
  .map((e) => e.outerHTML)
"""


class OperatorPageBrowser:
    """The page in a browser."""

    def __init__(self, browser: Browser, url: str, wait: Callable[[float], None] = time.sleep):
        """wait: lets that many seconds go by, as a test's graph does while it handles messages."""
        self.browser, self._wait = browser, wait
        browser.call("Page.navigate", url=url)
        browser.wait("Page.loadEventFired")

    def resize(self, width: int, height: int) -> None:
        """Gives the window a size [px]."""
        self.browser.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def until(self, expression: str, what: str) -> None:
        """Waits until an expression holds."""
        deadline = time.monotonic() + PATIENCE
        while not self.browser.value(f"Boolean({expression})"):
            said = self.browser.value("document.body.innerText")
            assert time.monotonic() < deadline, f"no {what}; the page says:\n{said}"
            self._wait(0.1)

    def click(self, selector: str) -> None:
        """Clicks the middle of an element, which must be there to be clicked."""
        found = json.dumps(selector)
        self.until(f"!document.querySelector({found}).disabled", f"usable {selector}")
        # Again where the page has moved between the look and the click.
        for _ in range(5):
            x, y, hit = self.browser.value(
                f"""(() => {{
                  const element = document.querySelector({found});
                  window.clicked = false;
                  element.addEventListener("click", () => {{ window.clicked = true; }});
                  element.scrollIntoView({{ block: "center" }});
                  const box = element.getBoundingClientRect();
                  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                  const hit = document.elementFromPoint(x, y);
                  return [x, y, hit === element || element.contains(hit)];
                }})()"""
            )
            assert hit, f"something covers {selector}"
            for kind in ("mousePressed", "mouseReleased"):
                self.browser.call(
                    "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
                )
            if self.browser.value("window.clicked"):
                return
        raise AssertionError(f"{selector} cannot be clicked")

    def take_control(self) -> None:
        """Becomes the operator; again where the link was being made at that moment."""
        while not self.browser.value("state !== null && state.operator === viewer.number"):
            self.browser.value("document.getElementById('reply').textContent = ''")
            self.click("#take")
            self.until(ANSWERED.format("take"), "answer to who wants control")
            self._wait(0.5)

    def write(self, selector: str, text: str) -> None:
        """Types a text into a field, in place of what is there."""
        found = json.dumps(selector)
        self.browser.value(f"document.querySelector({found}).select()")
        self.browser.type(text)

    def replies(self, start: str, good: bool = True) -> None:
        """Waits for the answer to a command."""
        self.until(
            f"document.getElementById('reply').textContent.startsWith({json.dumps(start)}) && "
            f"document.getElementById('reply').className === '{'good' if good else 'bad'}'",
            f"answer '{start}'",
        )

    def press(self, name: str) -> None:
        """Presses Space or Enter, wherever the focus is."""
        key, number, text = KEYS[name]
        about = {"key": key, "code": name, "windowsVirtualKeyCode": number}
        self.browser.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.browser.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def require_usable(self) -> None:
        """Fails where something lies outside of the window, has no name, or the stop is hidden."""
        overflow = self.browser.value("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, f"the page is {overflow} px wider than the window"
        assert self.browser.value(NAMELESS) == []
        for place in ("0", "document.body.scrollHeight"):
            self.browser.value(f"scrollTo(0, {place})")
            shown = self.browser.value(
                """(() => {
                  const box = document.getElementById("emergency_stop").getBoundingClientRect();
                  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                  const hit = document.elementFromPoint(x, y);
                  return hit !== null && hit.closest("#emergency_stop") !== null
                    && box.height >= 44 && box.right <= innerWidth;
                })()"""
            )
            assert shown, "the emergency stop is not to be seen"

    def picture(self, path: Path) -> None:
        """Saves what the window shows as PNG of 256 colours, which makes it small."""
        self.browser.value("scrollTo(0, 0)")
        data = self.browser.call("Page.captureScreenshot", format="png")["data"]
        image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


def add_older_episodes(directory: Path) -> None:
    """Puts as many bags without messages into the recorder's folder as one list shows."""
    for index in range(PAGE):
        BagWriter(directory / f"episode_2020_{index:02}", {}).close()


def use_every_control(page: OperatorPageBrowser, adapter: str) -> None:
    """Uses each control of the page once, on a running graph whose policy may do anything.

    The recorder's folder has older episodes. adapter: folder of one that the policy can load; "" to
    have a wrong one refused.
    """
    page.until("state && state.alive", "graph")
    page.take_control()
    page.click("#record_start")
    page.replies("record start: recording")
    page.until("state.recording.episode", "recording")
    page.write("#subtask", "reach for it")
    page.click("#mark button")
    page.replies("record mark: marked")
    page.click("input[value=act]")
    page.write("#text", "pick up the green can")
    page.click("#instruct button")
    page.replies("instruct:")
    page.until("state.policy.instruction === 'pick up the green can'", "instruction")
    page.until("state.policy.state === 'executing'", "motion")
    page.click("#stop")
    page.replies("stop:")
    page.until("state.policy.state === 'stopped'", "stop")
    page.click("#resume")
    page.replies("resume:")
    page.until("state.policy.state !== 'stopped'", "motion again")
    page.click("input[value=think]")
    page.write("#text", "pick up the red block")
    page.click("#instruct button")
    page.until("state.answers.some((answer) => answer.prompt.includes('red block'))", "a plan")
    page.browser.value("document.activeElement.blur()")
    page.press("Space")
    page.replies("emergency stop:")
    page.until("state.policy.state === 'emergency stopped'", "emergency stop")
    page.click("#reset_emergency_stop")
    page.replies("reset emergency stop:")
    page.click("#emergency_stop")
    page.until("state.policy.state === 'emergency stopped'", "emergency stop by the button")
    page.click("#reset_emergency_stop")
    page.until("state.policy.state !== 'emergency stopped'", "reset")
    page.click("input[value=ask]")
    page.write("#text", "is the drawer open?")
    page.click("#instruct button")
    page.replies("instruct:")
    page.until("state.answers[0].prompt.includes('drawer')", "an answer")
    page.write("#note", "with the page")
    page.browser.value("document.getElementById('outcome').value = 'success'")
    page.click("#record_stop")
    page.replies("record stop:")
    page.until("!state.recording.episode", "end of the recording")
    page.browser.value("document.getElementById('outcome').value = 'failure'")
    page.click("#record_label")
    page.replies("record label: labelled")
    page.click("#record_start")
    page.replies("record start: recording")
    page.click("#record_discard")
    page.replies("record stop:")
    page.click("#record_recent")
    page.replies("record recent:", good=False)
    page.click("#older")
    page.until(f"{FIRST}.textContent.startsWith('episode_2020')", "older episodes")
    page.click("#refresh")
    page.until(f"{FIRST}.nextSibling.textContent === 'failure'", "the episode with its label")
    page.click("#episodes button")
    page.until("document.getElementById('video').currentTime > 0", "a video that plays")
    page.browser.value("document.getElementById('video').pause()")
    page.write("#path", adapter or "/nothing/here")
    page.click("#load_adapter button")
    page.replies("load adapter:", good=bool(adapter))
    page.click("#drop_adapter")
    page.until(
        "document.getElementById('reply').textContent.match(/drop adapter: (?!sent)/)", "answer"
    )
    page.click("#recover")
    page.until(ANSWERED.format("recover"), "answer")
    page.click("#diagnostics summary")
    page.until("document.querySelector('#diagnostics dd')", "figures of a node")
    page.click("#give")
    page.until("state.operator === null", "nobody in control")
