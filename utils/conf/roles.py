"""What a setting decides: declared once, at its field in the schema, for all that goes by it."""

from enum import Enum


class Role(Enum):
    """What a setting decides. A section's role holds for all below it that has none of its own."""

    RESULTS = "what comes out"
    SEED = "which of its draws an experiment takes"
    DURATION = "how far a run goes"
    EVALUATION = "what a trial is measured on: training does not see it"
    RUNTIME = "where things are, and what stands around a run: it decides no number"

    @property
    def may_change_on_resume(self) -> bool:
        return self in (Role.DURATION, Role.EVALUATION, Role.RUNTIME)

    @property
    def may_change_afterwards(self) -> bool:
        """Whether a trial can be scored, measured and shown with another value than it was trained with."""
        return self in (Role.EVALUATION, Role.RUNTIME)

    @property
    def tells_experiments_apart(self) -> bool:
        """Whether trials that differ in it are two rows of a comparison, whose trials are all measured on the same."""
        return self in (Role.RESULTS, Role.DURATION)

    @property
    def decides_numbers(self) -> bool:
        """Whether it may differ within a sweep, and counts for the provenance of what a step writes."""
        return self in (Role.RESULTS, Role.SEED, Role.DURATION)
