"""Markup that would keep a parser busy for longer than any page is worth: both of ours compare each attribute of a tag with all before it,
so that a tag with a hundred thousand takes them twenty seconds. It is found before they see it."""

import re

MOST_ATTRIBUTES = 2_000
"""Of one tag, with names of their own; 2,000 take a parser 10 ms."""
_ATTRIBUTE = r"[\s/]*+([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:\"[^\"]*+\"?|'[^']*+'?|[^\s>\"'][^\s>]*+)?)?+"
_TAG = re.compile(rf"<[a-zA-Z][^\s/>]*+((?:{_ATTRIBUTE})*+)")
"""As HTML's tokenizer reads it (13.2.5); what is no tag but looks like one, in a script, does no harm. It takes all that it has looked at,
so that any text is read once."""
_NAME = re.compile(_ATTRIBUTE)


def is_crowded(html: str) -> bool:
    """Whether a tag has more attributes than `MOST_ATTRIBUTES`."""
    long = (tag[1] for tag in _TAG.finditer(html) if len(tag[1]) > 2 * MOST_ATTRIBUTES)
    return any(len({name.lower() for name in _NAME.findall(tag)}) > MOST_ATTRIBUTES for tag in long)
