"""Programs that try what the sandbox must stop, and what is made of their outcome; see selftest.py."""
