"""What the conformance fixtures offer, in the wire's own spelling: the names and shapes that the suite's scenarios ask for.

Both fixtures, on either line of the SDK, list exactly this.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

NOTHING: Json = {"type": "object", "properties": {}}
DIALECT = "https://json-schema.org/draft/2020-12/schema"

NEWER_SCHEMA: Json = {
    "$schema": DIALECT,
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
"""Keywords of JSON Schema 2020-12 that a server or gateway must not lose on the way."""

MIRRORED_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "priority": {"type": "integer", "x-mcp-header": "Priority"},
        "query": {"type": "string"},
    },
    "required": ["region"],
}
"""Arguments that a modern client repeats in `Mcp-Param-*` headers."""


def text_argument(name: str) -> Json:
    """The schema of a tool that takes one text."""
    return {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}


def _tool(name: str, description: str, schema: Json = NOTHING) -> Json:
    return {"name": name, "description": description, "inputSchema": schema}


# The suite calls the first one without arguments, to see what becomes of its headers.
TOOLS: list[Json] = [
    _tool("test_simple_text", "Answers with a text."),
    _tool("test_image_content", "Answers with an image."),
    _tool("test_audio_content", "Answers with a sound."),
    _tool("test_embedded_resource", "Answers with a resource."),
    _tool("test_multiple_content_types", "Answers with a text, an image and a resource."),
    _tool("test_error_handling", "Fails."),
    _tool("test_tool_with_logging", "Writes three log messages."),
    _tool("test_tool_with_progress", "Reports its progress three times."),
    _tool("test_sampling", "Asks the client's model.", text_argument("prompt")),
    _tool("test_elicitation", "Asks the user for a name and an address.", text_argument("message")),
    _tool("test_elicitation_sep1034_defaults", "Asks the user with defaults of every kind."),
    _tool("test_elicitation_sep1330_enums", "Asks the user to choose, in every form of choice."),
    _tool("test_reconnection", "Closes its stream before it answers."),
    _tool("json_schema_2020_12_tool", "Has a schema with newer keywords.", NEWER_SCHEMA),
    _tool("test_custom_header", "Has arguments that are repeated in headers.", MIRRORED_SCHEMA),
    _tool("test_missing_capability", "Works only for clients that declare sampling."),
    _tool("test_streaming_elicitation", "Asks the user while its stream is open."),
    _tool("test_logging_tool", "Writes one log message."),
    _tool("test_trigger_tool_change", "Says that the list of tools has changed."),
    _tool("test_trigger_prompt_change", "Says that the list of prompts has changed."),
    _tool("test_input_required_result_elicitation", "Asks the user for a name."),
    _tool("test_input_required_result_sampling", "Asks the client's model for a capital."),
    _tool("test_input_required_result_list_roots", "Asks for the client's roots."),
    _tool("test_input_required_result_request_state", "Asks for a yes, and remembers that it asked."),
    _tool("test_input_required_result_multiple_inputs", "Asks three things at once."),
    _tool("test_input_required_result_multi_round", "Asks two things, one after the other."),
    _tool("test_input_required_result_tampered_state", "Asks for a yes, and takes no state but its own."),
    _tool("test_input_required_result_capabilities", "Asks only what the client can answer."),
]

SCHEMAS: dict[str, Json] = {tool["name"]: tool["inputSchema"] for tool in TOOLS}


def _prompt(name: str, description: str, **arguments: str) -> Json:
    wanted = [{"name": each, "description": about, "required": True} for each, about in arguments.items()]
    return {"name": name, "description": description, **({"arguments": wanted} if wanted else {})}


PROMPTS: list[Json] = [
    _prompt("test_simple_prompt", "One message."),
    _prompt("test_prompt_with_arguments", "A message with both arguments.", arg1="The first", arg2="The second"),
    _prompt("test_prompt_with_embedded_resource", "A message with a resource.", resourceUri="What to embed"),
    _prompt("test_prompt_with_image", "A message with an image."),
    _prompt("test_input_required_result_prompt", "A message about what the user says."),
]

STATIC_TEXT = "test://static-text"
STATIC_BINARY = "test://static-binary"
WATCHED = "test://watched-resource"
TEMPLATE = "test://template/{id}/data"

RESOURCES: list[Json] = [
    {"uri": STATIC_TEXT, "name": "static text", "description": "A text.", "mimeType": "text/plain"},
    {"uri": STATIC_BINARY, "name": "static binary", "description": "An image.", "mimeType": "image/png"},
    {"uri": WATCHED, "name": "watched resource", "description": "A text to subscribe to.", "mimeType": "text/plain"},
]

TEMPLATES: list[Json] = [
    {"uriTemplate": TEMPLATE, "name": "template", "description": "Data by id.", "mimeType": "application/json"},
]
