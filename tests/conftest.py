"""For all tests: on a shared machine an example may take any time, and none may fail for it."""

from hypothesis import settings

settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")
