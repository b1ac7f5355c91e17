"""A page and the files beside it, for reports, comparisons and live pages."""

import shutil
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.common.errors import UserError
from utils.report import figures
from utils.report.figures import Picture
from utils.report.numbers import plain, shown, signed

TEMPLATES = Path(__file__).with_name("templates")
DIRECTIONS = {"text_to_audio": "Text-to-audio", "audio_to_text": "Audio-to-text"}


class Page:
    """A page and the files beside it.

    Args:
        folder: a new folder for them.
        templates: where the page's own templates are; it may extend those of reports.
    """

    def __init__(self, folder: Path, templates: Path = TEMPLATES):
        self.folder, self.templates = folder, templates
        self.pictures = 0

    def picture(self, picture: Picture) -> dict[str, object]:
        """Write a figure. Returns the attributes of its <img>."""
        self.pictures += 1
        source = f"figures/{self.pictures:03d}.svg"
        self._path(source).write_text(picture.svg, encoding="utf-8")
        return {"src": source, "alt": picture.alt, "width": picture.width, "height": picture.height}

    def clip(self, path: Path, fid: str) -> str:
        """Copy a clip under a name that needs no quoting. Returns the copy's path from the page."""
        if not path.is_file():
            raise UserError(f"{path}: no such audio file; put it back")
        source = f"clips/{fid}{path.suffix.lower()}"
        if not self._path(source).exists():
            shutil.copyfile(path, self.folder / source)
        return source

    def render(self, template: str, name: str, **content: object) -> None:
        """Fill a template with content, all of it escaped, and write it as the page `name`."""
        environment = Environment(
            loader=FileSystemLoader([self.templates, TEMPLATES]), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        environment.filters |= {"plain": plain}
        environment.globals |= {"shown": shown, "signed": signed, "colours": figures.colour_variables(":root")}
        (self.folder / name).write_text(environment.get_template(template).render(content), encoding="utf-8")

    def _path(self, source: str) -> Path:
        path = self.folder / source
        path.parent.mkdir(exist_ok=True)
        return path
