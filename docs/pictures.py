"""The pictures of the README, from a trial's pages: docs/report.png, alignment.png and explore.png (`make pictures`).

Needs Chromium on the machine, and the development requirements."""

import io
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from PIL import Image  # matplotlib's own dependency
from playwright.sync_api import Page, sync_playwright

from utils.common.errors import UserError, run_command
from utils.explore.page import PAGE
from utils.report.report import REPORT
from utils.trial.directory import trial_from_command

FOLDER = Path(__file__).parent
COLOURS = 96  # of a picture: a third of the bytes
WIDTH = 1300  # CSS pixels
EXPLORED = (900, 780)
QUERY = "thunder rumbles while a sirn wails"


def main() -> None:
    trial = trial_from_command(__doc__).path
    report, explore = trial / "report" / REPORT, trial / "explore" / PAGE
    for path, script in ((report, "3_report.py"), (explore, "5_explore.py")):
        if not path.is_file():
            raise UserError(f"{path}: no such file; run postprocessing/{script} first")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise UserError("no Chromium on this machine; install it, to take pictures")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        page.goto(report.resolve().as_uri())
        take_report(page)
        page.close()
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000}, device_scale_factor=2)
        page.goto(report.resolve().as_uri())
        take_alignment(page)
        page = browser.new_page(viewport=dict(zip(("width", "height"), EXPLORED, strict=True)))
        page.goto(explore.resolve().as_uri())
        take_explore(page)
        browser.close()


def take_report(page: Page) -> None:
    """The head of the report, from its title to the end of the training curves."""
    end = page.locator("#ranks").bounding_box()["y"]
    page.set_viewport_size({"width": WIDTH, "height": round(end)})
    page.wait_for_timeout(500)  # ms; pictures load as they come into view
    save(page.screenshot(), "report.png")


def take_alignment(page: Page) -> None:
    """The first relevant result of the first query: its log-mel above the similarities of its words."""
    picture = page.locator(".card.relevant img").first
    picture.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    save(picture.screenshot(), "alignment.png")


def take_explore(page: Page) -> None:
    """The live page's first hits."""
    page.type("#query", QUERY)
    page.wait_for_timeout(500)
    save(page.screenshot(), "explore.png")


def save(png: bytes, name: str) -> None:
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS)
    picture.save(FOLDER / name, optimize=True)
    print(f"-> {FOLDER / name} ({(FOLDER / name).stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    run_command(main)
