"""The one exception for mistakes that the user can mend."""


class LabError(Exception):
    """A mistake in what the user gave. Its text is one Russian sentence: what is wrong, where, and what to do."""


class Diverged(LabError):
    """A training whose loss is no longer a number: its settings are at fault, the data and the program are not."""
