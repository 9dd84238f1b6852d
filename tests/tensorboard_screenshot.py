"""`make screenshot RUN=DIR`: a run in TensorBoard at its defaults, in a headless browser."""

import argparse
import asyncio
import base64
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import aiohttp  # which Lightning needs as well

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
SIZE = 1280, 900
LOADED = 500  # elements, more than the page has without curves
Found = TypeVar("Found")


async def screenshot(logdir: Path, out: Path, page: str = "", size: tuple[int, int] = SIZE) -> None:
    """Write what TensorBoard shows of a folder; `page` such as "#images" is another of its tabs."""
    with ExitStack() as held, tempfile.TemporaryDirectory() as folder:
        port = await start(held, [sys.executable, "-m", "tensorboard.main"], logdir, Path(folder))
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
        ]
        options += [f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}"]
        opened(held, [str(BROWSER), *options, "about:blank"])
        lines = await until(lambda: (Path(folder) / "DevToolsActivePort").read_text().split())
        address = f"ws://127.0.0.1:{lines[0]}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http{address[2:]}/json/list") as answer:
                target = next(
                    e for e in await answer.json(content_type=None) if e["type"] == "page"
                )
            async with session.ws_connect(
                target["webSocketDebuggerUrl"], max_msg_size=0
            ) as browser:

                async def call(method: str, **params: object) -> dict:
                    await browser.send_json({"id": 1, "method": method, "params": params})
                    while "id" not in (answer := await browser.receive_json()):
                        pass
                    return answer["result"]

                view = {"width": size[0], "height": size[1], "deviceScaleFactor": 1}
                await call("Emulation.setDeviceMetricsOverride", mobile=False, **view)
                await call("Page.navigate", url=f"http://localhost:{port}/{page}")
                before = calm = 0
                while calm < 8:  # seconds in which nothing more is drawn
                    await asyncio.sleep(1)
                    expression = "document.querySelectorAll('*').length"
                    found = await call("Runtime.evaluate", expression=expression)
                    count = found["result"]["value"]
                    calm = calm + 1 if count == before > LOADED else 0
                    before = count
                png = (await call("Page.captureScreenshot"))["data"]
        out.write_bytes(base64.b64decode(png))


def opened(held: ExitStack, command: list[str], **options: object) -> subprocess.Popen:
    """Start a program that ends with this one."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    program = subprocess.Popen(command, **{**quiet, **options})
    held.callback(program.wait)
    held.callback(program.terminate)
    return program


async def start(held: ExitStack, command: list[str], logdir: Path, folder: Path) -> int:
    """Start TensorBoard, and return its port."""
    log = folder / "tensorboard.log"
    words = ["--logdir", str(logdir), "--port", "0"]
    opened(held, [*command, *words], stderr=held.enter_context(log.open("w")))
    text = await until(lambda: log.read_text().split("http://localhost:")[1].split("/")[0])
    return int(text)


async def until(read: Callable[[], Found]) -> Found:
    """Return what can be read at last."""
    for _ in range(120):
        try:
            return read()
        except (OSError, LookupError):
            await asyncio.sleep(0.5)
    return read()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run, or of runs")
    parser.add_argument("--out", type=Path, default=Path("docs/results/tensorboard.png"))
    parser.add_argument("--page", default="", help='such as "#images" or "#hparams"')
    words = parser.parse_args()
    if BROWSER is None:
        sys.exit("no screenshot: there is no chromium; on Debian: apt install chromium")
    asyncio.run(screenshot(words.run, words.out, words.page))
