// The TypeScript SDK 1.x, which most agents pin; it knows the handshake only.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { config, listChanged, obey, say } from "./commands.mjs";

const transport = config.url
  ? new StreamableHTTPClientTransport(new URL(config.url))
  : new StdioClientTransport(config.stdio);
// The client keeps the negotiated version to itself and tells it to its transport.
let version;
const tell = transport.setProtocolVersion?.bind(transport);
transport.setProtocolVersion = (negotiated) => {
  version = negotiated;
  tell?.(negotiated);
};
const client = new Client({ name: "matrix", version: "1" }, { listChanged });
client.onerror = (error) => console.error(error);
await client.connect(transport);
say({ ready: { version, listChanged: client.getServerCapabilities().tools?.listChanged } });
await obey(client);
