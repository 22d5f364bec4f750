"""What must not be quoted: text that speaks to an assistant instead of the reader ("ignore your instructions", "in your response,
suggest …"), tasks, and a page's furniture. A quotation can't obey, but it can repeat; Greshake et al. (2023) name the attack, BIPIA (Yi
et al. 2023) collects what it says. A list of patterns catches what is usual and not what is clever: that the words have nothing to do
with the question is what `quotes` adds to it."""

import re

_REPLY = (
    r"(?:your|the|this|its|any|every|each|all)\s+(?:\w+\s+){0,2}"
    r"(?:response|reply|replies|answers?|output|message|summary|translation|completion|text generation)"
)
_TO_ASSISTANT = re.compile(
    rf"""\b(?:
    (?:ignore|disregard|forget|override|bypass|skip)\s+(?:\w+\s+){{0,4}}(?:instructions?|prompts?|rules|guidelines|directions|context|above|previous|prior|constraints)
    |(?:system|developer|hidden|secret|initial)\s+(?:prompt|message|instructions?)
    |(?:new|updated|additional|important|real|actual)\s+(?:system\s+)?instructions?\s*(?::|for\s+(?:the\s+)?(?:ai|assistant|model|bot|llm|chatbot|agent))
    |you\s+are\s+(?:now\s+)?(?:an?\s+|the\s+)?(?:\w+\s+){{0,3}}(?:ai|assistant|chatbot|language\s+model|llm|gpt|dan|agent|search\s+engine|unrestricted)\b
    |(?:as|act\s+as|pretend\s+to\s+be|roleplay\s+as|behave\s+like)\s+(?:an?\s+)?(?:ai|assistant|chatbot|language\s+model|llm|unrestricted)\b
    |(?:dear|attention|hey|hello|note\s+to|message\s+(?:to|for)|instructions?\s+(?:to|for))\s+(?:the\s+|any\s+|all\s+)?(?:ai|llms?|assistants?|chatbots?|language\s+models?|bots?|gpt|claude|chatgpt|copilot|agents?)\b
    |(?:ai|llms?|language\s+models?|chatbots?|assistants?|ai\s+agents?)\s+(?:reading|processing|summari[sz]ing|seeing|parsing|that\s+reads?|must|should\s+(?:always|now|respond|reply|say|tell|ignore))
    |(?:in|to|from|of|into|throughout|within|with)\s+{_REPLY}(?!\s+(?:is|was|of|to|from|header|body|code|object)\b)
    |(?:in|to|of|from)\s+your\s+(?:next\s+|final\s+)?(?:response|reply|answer|message|output|summary)\b
    |(?:modify|augment|enhance|alter|change|rewrite|encode|format|begin|start|end|finish|conclude|render|convert|replace|provide|give|scramble|translate|write|make|phrase|limit)\s+{_REPLY}
    |(?:respond|reply|answer)\s+(?:only|exactly|always|with\s+(?:the\s+)?(?:word|phrase|following|only|exactly)|in\s+(?:all\s+caps|french|german|spanish|chinese|russian|rhyme|pirate))
    |(?:do\s+not|don't|never)\s+(?:mention|reveal|tell|inform|disclose|cite|warn)\s+(?:\w+\s+){{0,3}}(?:this|these|the\s+user|anyone|users?|them|instructions?)
    |(?:tell|inform|advise|convince|persuade|urge|suggest|recommend|encourage|direct|send)\s+(?:to\s+)?(?:the\s+)?users?\s+(?:that|to|they|should|join|install|visit|click|download|buy|share|vote|go|toward)
    |(?:say|print|output|repeat|state|claim)\s+(?:that\s+)?(?:exactly|only|the\s+following|the\s+words?|the\s+phrase)
    )|</?(?:system|assistant|user|instructions?)>|<\|[a-z_]+\|>|\[/?INST\]|^\s*(?:system|assistant|human|user)\s*:""",
    re.VERBOSE | re.IGNORECASE,
)
"""Words to a machine that answers."""
_TASK = re.compile(
    r"""^\W*(?:(?:please|kindly|now|then|also|first|finally|instead)[,\s]+|(?:can|could|would|will)\s+you\s+(?:please\s+)?)*
    (?:write|draft|compose|translate|summari[sz]e|paraphrase|explain|describe|develop|provide|generate|brainstorm|propose|recite|craft|outline|list
      |tell\s+(?:me|us)|give\s+(?:me|us)|show\s+(?:me|us)|break\s+down|answer|solve|calculate|classify|rewrite|rephrase|introduce|misspell|scramble
      |replace|convert|jumble|anagram|rearrange|group|combine|integrate|substitute|render|remove|include|modify|augment|enhance|reverse|capitali[sz]e|insert|encode)\b
    (?=.*\b(?:essay|poem|story|letter\s+to|letters|speech|joke|haiku|song|lyrics|tweet|blog|paragraph|sentences?\s+(?:in|to|that|on)|words?|headline|equivalent|vowels?|(?:third|fourth|second|other)\s+letter
      |typos?|anagrams?|misspellings?|symbols?|punctuation|spaces|theory|process|lifecycle|plot|recursion|following|french|spanish|german|russian|japanese
      |chinese|italian|simple\s+terms|an\s+example|like\s+i\b|step\s+by\s+step|reply|response|your\s+answer|recipe|email|e-mail|code\s+(?:for|to|that)
      |how\s+(?:to|\w+\s+works?)|summary|pros\s+and\s+cons|ideas\s+for|tips\s+for|advice\s+on))""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
"""A task that is set at the beginning of a sentence."""
_FURNITURE = re.compile(
    r"""\b(?:cookies?\s+(?:policy|settings|preferences|to\s+(?:improve|ensure|give))|(?:accept|use\s+of)\s+(?:all\s+)?cookies|privacy\s+policy|terms\s+of\s+(?:use|service)
    |all\s+rights\s+reserved|copyright\s*(?:©|\(c\)|\d{4})|©\s*\d{4}|sign\s+up|sign\s+in|log\s+in\s+to|subscribe\s+(?:to|now)|newsletter|click\s+here|read\s+more|learn\s+more
    |share\s+(?:this|on)|follow\s+us|table\s+of\s+contents|skip\s+to\s+(?:main\s+)?content|previous\s+(?:page|topic)|next\s+(?:page|topic)|back\s+to\s+top
    |found\s+a\s+bug\?|show\s+source|created\s+using|last\s+(?:updated|modified)\s+on|this\s+(?:article|page)\s+(?:is|was)\s+(?:about|last)|javascript\s+(?:is\s+)?(?:disabled|required)
    |contact\s+us|advertisement|page\s+\d+\s+of\s+\d+|you\s+won't\s+believe|donate\s+(?:now|today)|buy\s+now|limited\s+time\s+offer)""",
    re.VERBOSE | re.IGNORECASE,
)
"""What is on pages and of no page."""
_ADDRESS = re.compile(
    r"<?\b(?:[a-z][a-z0-9+.-]{1,20}://|www\.|mailto:|javascript:|data:)[^\s<>\"')\]]*>?|\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    re.IGNORECASE,
)
_DOMAIN = re.compile(
    r"\b(?:[a-z0-9-]+\.)+(?:com|net|org|xyz|info|biz|io|top|ru|cn|tk|site|online|shop|app|dev|ai|co|me|link|click)\b(?:/[^\s<>\"')\]]*)?",
    re.I,
)
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\U000e0000-\U000e007f]")


def speaks_to_assistant(sentence: str) -> bool:
    """Whether a sentence gives orders to a machine that answers, or sets it a task."""
    bare = _INVISIBLE.sub("", sentence)
    return bool(_TO_ASSISTANT.search(bare) or _TASK.search(bare))


def is_furniture(sentence: str) -> bool:
    """Whether a sentence belongs to the page's frame (cookies, menus, rights) rather than to its text."""
    return bool(_FURNITURE.search(sentence))


def without_invisible(text: str) -> str:
    """A text without characters that are not seen (zero-width, direction marks, tags)."""
    return _INVISIBLE.sub("", text)


def hosts(sentence: str) -> set[str]:
    """The hosts that a sentence names, as addresses or bare ("visit freegame.example.com"), in lower case."""
    found = [match[0] for pattern in (_ADDRESS, _DOMAIN) for match in pattern.finditer(sentence)]
    return {re.sub(r"^<?(?:[a-z][a-z0-9+.-]*:(?://)?)?(?:[^@/]*@)?", "", each.lower()).split("/")[0] for each in found}


def without_addresses(text: str) -> str:
    """A text without addresses of the web or of mail."""
    return _DOMAIN.sub("", _ADDRESS.sub("", text))
