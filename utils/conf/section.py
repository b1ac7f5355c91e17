"""What every section of conf.yaml is."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of conf.yaml: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
