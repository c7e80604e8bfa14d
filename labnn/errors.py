"""The one exception for mistakes that the user can mend."""


class LabError(Exception):
    """A mistake in what the user gave. Its text is one Russian sentence: what is wrong, where, and what to do."""
