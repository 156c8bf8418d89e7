// A client on the TypeScript SDK's v2 line: `node client.mjs '[{"url": …, "mode": "legacy" | "auto" | {"pin": …}}, …]'`.
// It visits each URL with each kind of question that the conformance fixtures ask, and prints what came of all as one JSON line.
import { Client, SSEClientTransport, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const capabilities = { elicitation: {}, sampling: {}, roots: {} };

function newClient(mode, heard) {
  const client = new Client({ name: "typescript", version: "1" }, { capabilities, versionNegotiation: { mode } });
  client.setRequestHandler("elicitation/create", async ({ params }) => {
    heard.asked.push(params.message);
    return { action: "accept", content: { name: "Ada", color: "red", username: "ada", email: "ada@example.com" } };
  });
  client.setRequestHandler("sampling/createMessage", async ({ params }) => {
    heard.asked.push(params.messages[0].content.text);
    return { role: "assistant", model: "test-model", content: { type: "text", text: "sampled" } };
  });
  client.setRequestHandler("roots/list", async () => {
    heard.asked.push("roots");
    return { roots: [{ uri: "file:///srv/ada", name: "ada" }] };
  });
  return client;
}

async function visit({ url, transport, mode }) {
  const heard = { asked: [], progress: [] };
  const client = newClient(mode, heard);
  const Transport = transport === "sse" ? SSEClientTransport : StreamableHTTPClientTransport;
  try {
    await client.connect(new Transport(new URL(url)));
    const text = async (name, args = {}) => (await client.callTool({ name, arguments: args })).content[0].text;
    const onprogress = ({ progress }) => heard.progress.push(progress);
    const texts = {
      plain: await text("test_simple_text"),
      elicited: await text("test_input_required_result_elicitation"),
      sampled: await text("test_sampling", { prompt: "Say something" }),
      roots: await text("test_input_required_result_list_roots"),
      rounds: await text("test_input_required_result_multi_round"),
    };
    await client.callTool({ name: "test_tool_with_progress", arguments: {} }, { onprogress });
    const tools = (await client.listTools()).tools.length;
    const read = (await client.readResource({ uri: "test://static-text" })).contents[0].text;
    return { version: client.getNegotiatedProtocolVersion(), texts, tools, read, ...heard };
  } catch (error) {
    return { error: `${error?.name}: ${error?.message}`, ...heard };
  } finally {
    await client.close();
  }
}

const visits = JSON.parse(process.argv[2]);
console.log(JSON.stringify(await Promise.all(visits.map(visit))));
process.exit(0);
