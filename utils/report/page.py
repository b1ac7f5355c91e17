"""A page and the files beside it, for reports, comparisons and live pages."""

import shutil
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.common.errors import UserError
from utils.report import figures
from utils.report.figures import Line, Picture
from utils.report.numbers import plain, shown, signed

TEMPLATES = Path(__file__).with_name("templates")
DIRECTIONS = {"text_to_audio": "Text-to-audio", "audio_to_text": "Audio-to-text"}

# Panels of training curves: title, key in metrics.jsonl, whether the axis is logarithmic.
PANELS = (
    ("Training loss", "train_loss", False),
    ("Validation objective", "val_obj", False),
    ("Gap between positives and negatives", "negative_gap", False),
    ("Negatives scored above the positive", "negatives_above", False),
    ("Hubness of the negatives", "hubness", False),
    ("Effective number of negatives", "effective_negatives", False),
    ("Learning rate", "lr", True),
    ("Validation mAP, text-to-audio", "val_map_text_to_audio", False),
    ("Validation mAP, audio-to-text", "val_map_audio_to_text", False),
    ("Standard deviation of validation scores", "score_std", True),
)


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


def panels_of(*histories: list[dict[str, float]]) -> list[tuple[str, str, bool]]:
    """The PANELS for which any of these trials has values."""
    keys = {key for history in histories for results in history for key in results}
    return [panel for panel in PANELS if panel[1] in keys]


def line_of(history: list[dict[str, float]], name: str, key: str, style: int = 0, faint: bool = False) -> Line:
    """A trial's values of a key by epoch, as a line of a panel."""
    points = [(results["epoch"], results[key]) for results in history if key in results]
    epochs, values = zip(*points, strict=True) if points else ((), ())
    return Line(name, epochs, values, style, faint)
