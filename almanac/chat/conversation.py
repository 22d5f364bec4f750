"""A conversation with its branches: what was edited or answered anew stays beside what took its place. Plain JSON, so that a browser
can keep it."""

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

Node = dict[str, Any]
"""id, parent (None: none), role, content, and `made`: how an answer came to be."""
Conversation = dict[str, Any]
"""id, title, time (s since 1970), system (what the model is told first), nodes by id, and the `leaf` that is shown."""


def new(system: str = "") -> Conversation:
    """One in which nothing is said."""
    return {"id": secrets.token_hex(8), "title": "", "time": time.time(), "system": system, "nodes": {}, "leaf": None}


def path(conversation: Conversation) -> list[Node]:
    """What is shown: from the first message to the leaf."""
    found, node = [], conversation["nodes"].get(conversation["leaf"])
    while node is not None:
        found.append(node)
        node = conversation["nodes"].get(node["parent"])
    return found[::-1]


def messages(conversation: Conversation, until: str | None = None) -> list[dict[str, str]]:
    """What a model is given.

    Args:
        conversation: of which.
        until: the last message's id; None: the leaf's.
    """
    shown = path({**conversation, "leaf": until or conversation["leaf"]})
    told = [{"role": "system", "content": conversation["system"]}] if conversation["system"] else []
    return told + [{"role": node["role"], "content": node["content"]} for node in shown]


def say(
    conversation: Conversation,
    role: str,
    content: str,
    parent: str | None = None,
    made: Mapping[str, Any] | None = None,
) -> Conversation:
    """The conversation with another message, which is then the leaf.

    Args:
        conversation: stays as it is.
        role: user or assistant.
        content: what is said.
        parent: the message that it answers; None: it begins.
        made: how an answer came to be.
    """
    node = {"id": secrets.token_hex(8), "parent": parent, "role": role, "content": content, "made": dict(made or {})}
    title = conversation["title"] or " ".join(content.split())[:60]
    nodes = {**conversation["nodes"], node["id"]: node}
    return {**conversation, "nodes": nodes, "leaf": node["id"], "title": title, "time": time.time()}


def changed(conversation: Conversation, node: str, **fields: Any) -> Conversation:
    """The conversation with other fields of a message."""
    nodes = conversation["nodes"]
    return {**conversation, "nodes": {**nodes, node: {**nodes[node], **fields}}}


def versions(conversation: Conversation, node: str) -> list[str]:
    """A message and those that were said in its place, in the order in which they were."""
    parent = conversation["nodes"][node]["parent"]
    return [each["id"] for each in conversation["nodes"].values() if each["parent"] == parent]


def turn_to(conversation: Conversation, node: str) -> Conversation:
    """Show another version, with what was said last after it."""
    leaf, children = node, list(_children(conversation, node))
    while children:
        leaf = children[-1]["id"]
        children = list(_children(conversation, leaf))
    return {**conversation, "leaf": leaf}


def markdown(conversation: Conversation) -> str:
    """What is shown, to be read elsewhere."""
    names = {"user": "You", "assistant": "Assistant"}
    parts = [f"# {conversation['title'] or 'Conversation'}"]
    if conversation["system"]:
        parts.append(f"*{conversation['system']}*")
    parts += [f"**{names.get(node['role'], node['role'])}**\n\n{node['content']}" for node in path(conversation)]
    return "\n\n".join(parts) + "\n"


def _children(conversation: Conversation, node: str) -> Iterator[Node]:
    return (each for each in conversation["nodes"].values() if each["parent"] == node)
