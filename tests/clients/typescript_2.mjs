// The TypeScript client 2.x, which supports both eras.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { config, listChanged, runCommands, writeLine } from "./commands.mjs";

const transport = config.url
  ? new StreamableHTTPClientTransport(new URL(config.url))
  : new StdioClientTransport(config.stdio);
const client = new Client(
  { name: "matrix", version: "1" },
  { listChanged, versionNegotiation: { mode: config.mode } },
);
client.onerror = (error) => console.error(error);
await client.connect(transport);
writeLine({
  ready: {
    version: client.getNegotiatedProtocolVersion(),
    listChanged: client.getServerCapabilities().tools?.listChanged,
  },
});
await runCommands(client);
