"""What 2026-07-28 puts into `_meta`, and what it says of its methods (specification, `basic/index` and `schema`)."""

from __future__ import annotations

from mcpgateway.protocol.revisions import LEGACY, MODERN

SERVED = (*reversed(MODERN), *reversed(LEGACY))
"""What clients may choose from, the best first."""

VERSION_META = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_META = "io.modelcontextprotocol/clientCapabilities"
CLIENT_INFO_META = "io.modelcontextprotocol/clientInfo"
LOG_LEVEL_META = "io.modelcontextprotocol/logLevel"
SERVER_INFO_META = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_META = "io.modelcontextprotocol/subscriptionId"

ENVELOPE = frozenset({VERSION_META, CAPABILITIES_META, CLIENT_INFO_META, LOG_LEVEL_META})
"""What a request says of itself and of its client, rather than of what it asks for."""

WITH_ROUNDS = frozenset({"prompts/get", "resources/read", "tools/call"})
"""Methods whose answer may be a question."""

ASKABLE = {"elicitation/create": "elicitation", "roots/list": "roots", "sampling/createMessage": "sampling"}
"""What a client may be asked, and the capability with which it says that it answers."""

CACHEABLE = frozenset(
    {
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "server/discover",
        "tools/list",
    }
)
"""Methods whose results say how long they may be kept, and for whom."""

LISTEN = "subscriptions/listen"
DISCOVER = "server/discover"

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
UPDATED = "notifications/resources/updated"
"""What a listen stream says first, and what it says of a resource."""

TASKS = "io.modelcontextprotocol/tasks"
"""The extension for tasks, which have only the name in common with those of 2025-11-25."""

REMOVED = frozenset(
    {
        "initialize",
        "logging/setLevel",
        "ping",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/list",
        "tasks/result",
    }
)
"""Methods of legacy revisions that this one does not have."""

LISTED_FOR = {
    "completion/complete": "completions",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resources",
    "tools/list": "tools",
}
"""Methods that a server does not have without this capability, though the gateway could answer them."""

HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
