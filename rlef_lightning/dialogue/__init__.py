"""What is said: prompts, feedback, taking code out of a response, token-in token-out contexts.

Text and token ids only. This room runs no programs, samples no tokens and never imports torch; a
tokenizer is handed in.
"""

from rlef_lightning.dialogue.context import ChatFormat
from rlef_lightning.dialogue.extract import answer_in, extract_code
from rlef_lightning.dialogue.feedback import render_feedback, render_first_message
from rlef_lightning.dialogue.prompts import Prompts

__all__ = ["ChatFormat", "Prompts", "answer_in", "extract_code", "render_feedback", "render_first_message"]
