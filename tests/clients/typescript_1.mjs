// The TypeScript SDK 1.x, which most agents pin; it supports only the handshake era.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { config, listChanged, runCommands, writeLine } from "./commands.mjs";

const transport = config.url
  ? new StreamableHTTPClientTransport(new URL(config.url))
  : new StdioClientTransport(config.stdio);
// The client does not expose the negotiated version; it only passes it to its transport.
let version;
const setVersion = transport.setProtocolVersion?.bind(transport);
transport.setProtocolVersion = (negotiated) => {
  version = negotiated;
  setVersion?.(negotiated);
};
const client = new Client({ name: "matrix", version: "1" }, { listChanged });
client.onerror = (error) => console.error(error);
await client.connect(transport);
writeLine({ ready: { version, listChanged: client.getServerCapabilities().tools?.listChanged } });
await runCommands(client);
