// The TypeScript client 2.x, which speaks both eras.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { config, listChanged, obey, say } from "./commands.mjs";

const transport = config.url
  ? new StreamableHTTPClientTransport(new URL(config.url))
  : new StdioClientTransport(config.stdio);
const client = new Client(
  { name: "matrix", version: "1" },
  { listChanged, versionNegotiation: { mode: config.mode } },
);
client.onerror = (error) => console.error(error);
await client.connect(transport);
say({
  ready: {
    version: client.getNegotiatedProtocolVersion(),
    listChanged: client.getServerCapabilities().tools?.listChanged,
  },
});
await obey(client);
