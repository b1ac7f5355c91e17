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
        for name, path, take, width, height, scale in (
            ("report.png", report, report_head, WIDTH, 1000, 1),
            ("alignment.png", report, first_alignment, WIDTH, 1000, 2),
            ("explore.png", explore, first_hits, 900, 780, 1),
        ):
            page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
            page.goto(path.resolve().as_uri())
            save(take(page), FOLDER / name)
        browser.close()


def report_head(page: Page) -> bytes:
    """The head of the report, from its title to the end of the training curves."""
    end = page.locator("#ranks").bounding_box()["y"]
    page.set_viewport_size({"width": WIDTH, "height": round(end)})
    page.wait_for_timeout(500)  # ms; pictures load as they come into view
    return page.screenshot()


def first_alignment(page: Page) -> bytes:
    """The first relevant result of the first query: its log-mel above the similarities of its words."""
    picture = page.locator(".card.relevant img").first
    picture.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    return picture.screenshot()


def first_hits(page: Page) -> bytes:
    """The live page's first hits."""
    page.type("#query", QUERY)
    page.wait_for_timeout(500)
    return page.screenshot()


def save(png: bytes, path: Path) -> None:
    Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    print(f"-> {path} ({path.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    run_command(main)
